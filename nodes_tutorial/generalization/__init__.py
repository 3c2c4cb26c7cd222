"""Why gradient descent generalizes: what the step, the order of the data and the noise do.

The part is flat. Read the modules of a chapter in the order of its line:

implicit_regularization: ``modified`` ``orders``
fisher: ``likelihoods`` ``rows`` ``curvature`` ``fisher``
"""

from nodes_tutorial.generalization.curvature import Curvature
from nodes_tutorial.generalization.fisher import empirical_fisher, fisher_matrix, gauss_newton
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
    "Likelihood",
    "all_draws",
    "all_orders",
    "bernoulli",
    "categorical",
    "empirical_fisher",
    "fisher_matrix",
    "gauss_newton",
    "gaussian",
    "gaussian_scale",
    "minibatch_descent",
    "modified_flow",
    "modified_loss",
]
