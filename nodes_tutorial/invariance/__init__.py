"""What a prediction should not depend on: orders of sets, environments, policies, time.

The part is flat. Read the modules of a chapter in the order of its line:

deep_sets: ``pooling`` ``sets`` ``symmetric``
"""

from nodes_tutorial.invariance.pooling import POOLS, attend, pad, pool
from nodes_tutorial.invariance.sets import DeepSets, Equivariant
from nodes_tutorial.invariance.symmetric import elementary, from_power_sums, power_sums

__all__ = [
    "POOLS",
    "DeepSets",
    "Equivariant",
    "attend",
    "elementary",
    "from_power_sums",
    "pad",
    "pool",
    "power_sums",
]
