"""Why gradient descent generalizes: what the step, the order of the data and the noise do.

The part is flat. Read the modules of a chapter in the order of its line:

implicit_regularization: ``modified`` ``orders``
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
from nodes_tutorial.generalization.modified import SAMPLINGS, modified_flow, modified_loss
from nodes_tutorial.generalization.orders import all_draws, all_orders, minibatch_descent

__all__ = [
    "SAMPLINGS",
    "Curvature",
    "Generalization",
    "InformationEstimate",
    "Likelihood",
    "all_draws",
    "all_orders",
    "bernoulli",
    "categorical",
    "classifier_information",
    "conditional_bound",
    "conditional_information",
    "empirical_fisher",
    "exact_generalization",
    "fisher_matrix",
    "gauss_newton",
    "gaussian",
    "gaussian_jensen_shannon",
    "gaussian_scale",
    "individual_bound",
    "jensen_shannon",
    "minibatch_descent",
    "modified_flow",
    "modified_loss",
    "mutual_information",
    "sgld_information",
    "xu_raginsky_bound",
]
