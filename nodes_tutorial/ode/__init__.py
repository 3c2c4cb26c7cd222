"""Ordinary differential equations: solvers, their gradients, and networks made of them."""

from nodes_tutorial.ode.block import ODEBlock
from nodes_tutorial.ode.control import SolverError
from nodes_tutorial.ode.nets import ODENet, ResNet, RKNet
from nodes_tutorial.ode.odeint import odeint, odeint_adjoint
from nodes_tutorial.ode.residual import ResidualNet
from nodes_tutorial.ode.solve import Solution, solve
from nodes_tutorial.ode.tableaus import METHODS, Tableau

__all__ = [
    "METHODS",
    "ODEBlock",
    "ODENet",
    "RKNet",
    "ResNet",
    "ResidualNet",
    "Solution",
    "SolverError",
    "Tableau",
    "odeint",
    "odeint_adjoint",
    "solve",
]
