"""Learning to learn from a few examples: prototypes, initial weights, hypernetworks, posteriors.

The part is flat. Read the modules of a chapter in the order of its line:

few_shot: ``prototypes`` ``episodes`` ``encoders`` ``hausdorff`` ``transfer``
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
from nodes_tutorial.meta.encoders import have_encoder, load_encoder
from nodes_tutorial.meta.episodes import (
    Interval,
    VarianceParts,
    check_apart,
    embed,
    episode_accuracies,
    interval,
    variance_parts,
)
from nodes_tutorial.meta.hausdorff import hausdorff_table, ink_points, modified_hausdorff
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
from nodes_tutorial.meta.transfer import Baseline, fit_head, transfer_logits
from nodes_tutorial.meta.unrolled import MAMLReport, maml, unrolled_loss
from nodes_tutorial.meta.warm_up import WarmUp

__all__ = [
    "DKT",
    "Adapted",
    "Baseline",
    "BayesianHyperMAML",
    "ChaserReport",
    "FlowWeights",
    "GaussianWeights",
    "GradientHead",
    "HyperMAML",
    "Interval",
    "JitterError",
    "MAMLReport",
    "MetaLoss",
    "Prediction",
    "ProtoNet",
    "ReptileReport",
    "SupportRows",
    "VarianceParts",
    "WarmUp",
    "adapt",
    "adapt_further",
    "averaged_loss",
    "bayesian_maml",
    "bayesian_meta_loss",
    "chaser_loss",
    "check_apart",
    "cholesky_with_jitter",
    "class_means",
    "embed",
    "episode_accuracies",
    "fit_head",
    "hausdorff_table",
    "have_encoder",
    "head_gradient",
    "head_logits",
    "ink_points",
    "interval",
    "linear_head",
    "load_encoder",
    "maml",
    "modified_hausdorff",
    "normal_kl",
    "predict",
    "prototype_logits",
    "released_hypermaml",
    "reptile",
    "support_rows",
    "svgd",
    "svgd_direction",
    "transfer_logits",
    "unrolled_loss",
    "variance_parts",
]
