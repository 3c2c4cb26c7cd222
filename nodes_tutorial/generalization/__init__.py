"""Why gradient descent generalizes: what the step, the order of the data and the noise do.

The part is flat. Read the modules of a chapter in the order of its line:

implicit_regularization: ``modified`` ``orders``
ntk: ``layer_rows`` ``ntk`` ``linearized`` ``wide`` ``wide_ensemble`` ``wide_gp``
exponential_lr: ``scale_invariance`` ``momentum``
fisher: ``likelihoods`` ``rows`` ``curvature`` ``fisher``
information: ``information`` ``bounds`` ``coin``
"""

from nodes_tutorial.generalization.bounds import (
    conditional_bound,
    individual_bound,
    sgld_information,
    xu_raginsky_bound,
)
from nodes_tutorial.generalization.coin import (
    InformationEstimate,
    classifier_information,
    gaussian_jensen_shannon,
)
from nodes_tutorial.generalization.curvature import Curvature
from nodes_tutorial.generalization.fisher import empirical_fisher, fisher_matrix, gauss_newton
from nodes_tutorial.generalization.information import (
    Generalization,
    conditional_information,
    exact_generalization,
    jensen_shannon,
    mutual_information,
)
from nodes_tutorial.generalization.likelihoods import (
    Likelihood,
    bernoulli,
    categorical,
    gaussian,
    gaussian_scale,
)
from nodes_tutorial.generalization.linearized import Linearized, linearize
from nodes_tutorial.generalization.modified import SAMPLINGS, modified_flow, modified_loss
from nodes_tutorial.generalization.momentum import heavy_ball, rescale
from nodes_tutorial.generalization.ntk import TangentKernel, empirical_ntk
from nodes_tutorial.generalization.orders import all_draws, all_orders, minibatch_descent
from nodes_tutorial.generalization.scale_invariance import (
    CONVENTIONS,
    Schedule,
    equivalent_schedule,
    radial_cosines,
    stationary_factor,
)
from nodes_tutorial.generalization.wide import WideKernels, erf_ntk, relu_ntk, wide_net
from nodes_tutorial.generalization.wide_ensemble import WideEnsemble
from nodes_tutorial.generalization.wide_gp import NTKPrediction, ntk_gp

__all__ = [
    "CONVENTIONS",
    "SAMPLINGS",
    "Curvature",
    "Generalization",
    "InformationEstimate",
    "Likelihood",
    "Linearized",
    "NTKPrediction",
    "Schedule",
    "TangentKernel",
    "WideEnsemble",
    "WideKernels",
    "all_draws",
    "all_orders",
    "bernoulli",
    "categorical",
    "classifier_information",
    "conditional_bound",
    "conditional_information",
    "empirical_fisher",
    "empirical_ntk",
    "equivalent_schedule",
    "erf_ntk",
    "exact_generalization",
    "fisher_matrix",
    "gauss_newton",
    "gaussian",
    "gaussian_jensen_shannon",
    "gaussian_scale",
    "heavy_ball",
    "individual_bound",
    "jensen_shannon",
    "linearize",
    "minibatch_descent",
    "modified_flow",
    "modified_loss",
    "mutual_information",
    "ntk_gp",
    "radial_cosines",
    "relu_ntk",
    "rescale",
    "sgld_information",
    "stationary_factor",
    "wide_net",
    "xu_raginsky_bound",
]
