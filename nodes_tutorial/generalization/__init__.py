"""Why gradient descent generalizes: what the step, the order of the data and the noise do.

The part is flat. Read the modules of a chapter in the order of its line:

implicit_regularization: ``modified`` ``orders``
"""

from nodes_tutorial.generalization.modified import SAMPLINGS, modified_flow, modified_loss
from nodes_tutorial.generalization.orders import all_draws, all_orders, minibatch_descent

__all__ = [
    "SAMPLINGS",
    "all_draws",
    "all_orders",
    "minibatch_descent",
    "modified_flow",
    "modified_loss",
]
