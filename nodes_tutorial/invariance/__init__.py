"""What a prediction should not depend on: orders of sets, environments, policies, time.

The part is flat. Read the modules of a chapter in the order of its line:

deep_sets: ``pooling`` ``sets`` ``symmetric``
irm: ``penalties`` ``prediction``
partial_models: ``worlds`` ``partial_models`` ``planning``
straightening: ``straightness`` ``slow`` ``vision``
"""

from nodes_tutorial.invariance.partial_models import (
    KEEPS,
    Moments,
    adjust,
    empirical,
    importance_moments,
    logged,
)
from nodes_tutorial.invariance.penalties import irm_penalty, rex_penalty
from nodes_tutorial.invariance.planning import Plan, count_model, expectimax
from nodes_tutorial.invariance.pooling import POOLS, attend, pad, pool
from nodes_tutorial.invariance.prediction import CausalPrediction, icp
from nodes_tutorial.invariance.sets import DeepSets, Equivariant
from nodes_tutorial.invariance.slow import SlowFeatures, sfa
from nodes_tutorial.invariance.straightness import curvature
from nodes_tutorial.invariance.symmetric import elementary, from_power_sums, power_sums
from nodes_tutorial.invariance.vision import center_surround, oriented_energy
from nodes_tutorial.invariance.worlds import POMDP, bear_world, do_values, episode_law

__all__ = [
    "KEEPS",
    "POMDP",
    "POOLS",
    "CausalPrediction",
    "DeepSets",
    "Equivariant",
    "Moments",
    "Plan",
    "SlowFeatures",
    "adjust",
    "attend",
    "bear_world",
    "center_surround",
    "count_model",
    "curvature",
    "do_values",
    "elementary",
    "empirical",
    "episode_law",
    "expectimax",
    "from_power_sums",
    "icp",
    "importance_moments",
    "irm_penalty",
    "logged",
    "oriented_energy",
    "pad",
    "pool",
    "power_sums",
    "rex_penalty",
    "sfa",
]
