"""Residual networks are Euler steps.

``network`` has the layers and their states, ``convergence`` the constants of the error bound,
``picard`` the iteration that proves existence, ``width`` the universal net of one hidden layer.
"""

from nodes_tutorial.ode.invertible import invert_layer
from nodes_tutorial.ode.residual.convergence import Constants, euler_error_bound, field_constants
from nodes_tutorial.ode.residual.network import (
    ResidualNet,
    residual_states,
    sample_layers,
)
from nodes_tutorial.ode.residual.picard import picard_step
from nodes_tutorial.ode.residual.width import interpolating_net

__all__ = [
    "Constants",
    "ResidualNet",
    "euler_error_bound",
    "field_constants",
    "interpolating_net",
    "invert_layer",
    "picard_step",
    "residual_states",
    "sample_layers",
]
