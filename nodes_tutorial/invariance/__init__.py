"""What a prediction should not depend on: orders of sets, environments, policies, time.

The part is flat. Read the modules of a chapter in the order of its line:

deep_sets: ``pooling`` ``sets`` ``symmetric``
irm: ``penalties`` ``prediction``
"""

from nodes_tutorial.invariance.penalties import irm_penalty, rex_penalty
from nodes_tutorial.invariance.pooling import POOLS, attend, pad, pool
from nodes_tutorial.invariance.prediction import CausalPrediction, icp
from nodes_tutorial.invariance.sets import DeepSets, Equivariant
from nodes_tutorial.invariance.symmetric import elementary, from_power_sums, power_sums

__all__ = [
    "POOLS",
    "CausalPrediction",
    "DeepSets",
    "Equivariant",
    "attend",
    "elementary",
    "from_power_sums",
    "icp",
    "irm_penalty",
    "pad",
    "pool",
    "power_sums",
    "rex_penalty",
]
