"""Learning to learn from a few examples: prototypes, initial weights, hypernetworks, posteriors.

The part is flat. Read the modules of a chapter in the order of its line:

few_shot: ``prototypes``
maml: ``batched`` ``descent`` ``adapted`` ``unrolled`` ``interpolated`` ``particles``
hypermaml: ``heads`` ``hypernetworks`` ``warm_up`` ``hypermaml``
bayesian_hypermaml: ``posteriors`` ``averages`` ``bayesian_hypermaml`` ``dkt``
"""

from nodes_tutorial.meta.adapted import Adapted, adapt, predict
from nodes_tutorial.meta.averages import averaged_loss
from nodes_tutorial.meta.bayesian_hypermaml import (
    BayesianHyperMAML,
    MetaLoss,
    adapt_further,
    bayesian_meta_loss,
)
from nodes_tutorial.meta.dkt import DKT, JitterError, Prediction, cholesky_with_jitter
from nodes_tutorial.meta.heads import GradientHead, head_gradient, head_logits
from nodes_tutorial.meta.hypermaml import HyperMAML, released_hypermaml
from nodes_tutorial.meta.hypernetworks import SupportRows, support_rows
from nodes_tutorial.meta.interpolated import ReptileReport, reptile
from nodes_tutorial.meta.particles import (
    ChaserReport,
    bayesian_maml,
    chaser_loss,
    svgd,
    svgd_direction,
)
from nodes_tutorial.meta.posteriors import FlowWeights, GaussianWeights, normal_kl
from nodes_tutorial.meta.prototypes import ProtoNet, class_means, linear_head, prototype_logits
from nodes_tutorial.meta.unrolled import MAMLReport, maml, unrolled_loss
from nodes_tutorial.meta.warm_up import WarmUp

__all__ = [
    "DKT",
    "Adapted",
    "BayesianHyperMAML",
    "ChaserReport",
    "FlowWeights",
    "GaussianWeights",
    "GradientHead",
    "HyperMAML",
    "JitterError",
    "MAMLReport",
    "MetaLoss",
    "Prediction",
    "ProtoNet",
    "ReptileReport",
    "SupportRows",
    "WarmUp",
    "adapt",
    "adapt_further",
    "averaged_loss",
    "bayesian_maml",
    "bayesian_meta_loss",
    "chaser_loss",
    "cholesky_with_jitter",
    "class_means",
    "head_gradient",
    "head_logits",
    "linear_head",
    "maml",
    "normal_kl",
    "predict",
    "prototype_logits",
    "released_hypermaml",
    "reptile",
    "support_rows",
    "svgd",
    "svgd_direction",
    "unrolled_loss",
]
