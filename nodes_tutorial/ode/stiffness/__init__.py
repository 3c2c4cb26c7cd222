"""Stiff equations: implicit methods, whose step is not limited by stability.

``tableaus`` holds the methods as data, and ``regions`` their stability functions. ``iteration``
solves the equation of a stage, for all rows of a batch; ``implicit`` gives its solution the exact
derivative. ``checks`` names bad input, ``solve`` makes the steps. Read :func:`odeint_stiff` first.
"""

from nodes_tutorial.ode.stiffness.implicit import with_gradient
from nodes_tutorial.ode.stiffness.iteration import NewtonError, newton, row_jacobian
from nodes_tutorial.ode.stiffness.regions import limit_at_infinity, stability_function
from nodes_tutorial.ode.stiffness.solve import StiffSolution, odeint_stiff, solve_stiff
from nodes_tutorial.ode.stiffness.tableaus import IMPLICIT, DiagonallyImplicit

__all__ = [
    "IMPLICIT",
    "DiagonallyImplicit",
    "NewtonError",
    "StiffSolution",
    "limit_at_infinity",
    "newton",
    "odeint_stiff",
    "row_jacobian",
    "solve_stiff",
    "stability_function",
    "with_gradient",
]
