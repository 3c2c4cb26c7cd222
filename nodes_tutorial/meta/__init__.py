"""Learning to learn from a few examples: prototypes, initial weights, hypernetworks, posteriors.

The part is flat. Read the modules of a chapter in the order of its line:

few_shot: ``prototypes``
hypermaml: ``heads`` ``hypernetworks`` ``warm_up`` ``hypermaml``
bayesian_hypermaml: ``posteriors`` ``averages`` ``bayesian_hypermaml`` ``dkt``
"""

from nodes_tutorial.meta.averages import averaged_loss
from nodes_tutorial.meta.bayesian_hypermaml import (
    BayesianHyperMAML,
    MetaLoss,
    adapt_further,
    bayesian_meta_loss,
)
from nodes_tutorial.meta.dkt import DKT, JitterError, Prediction, cholesky_with_jitter
from nodes_tutorial.meta.heads import head_gradient, head_logits
from nodes_tutorial.meta.hypermaml import HyperMAML, released_hypermaml
from nodes_tutorial.meta.hypernetworks import SupportRows, support_rows
from nodes_tutorial.meta.posteriors import FlowWeights, GaussianWeights, normal_kl
from nodes_tutorial.meta.prototypes import ProtoNet, class_means, linear_head, prototype_logits
from nodes_tutorial.meta.warm_up import WarmUp

__all__ = [
    "DKT",
    "BayesianHyperMAML",
    "FlowWeights",
    "GaussianWeights",
    "HyperMAML",
    "JitterError",
    "MetaLoss",
    "Prediction",
    "ProtoNet",
    "SupportRows",
    "WarmUp",
    "adapt_further",
    "averaged_loss",
    "bayesian_meta_loss",
    "cholesky_with_jitter",
    "class_means",
    "head_gradient",
    "head_logits",
    "linear_head",
    "normal_kl",
    "prototype_logits",
    "released_hypermaml",
    "support_rows",
]
