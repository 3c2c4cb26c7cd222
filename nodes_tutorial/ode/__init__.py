"""Ordinary differential equations: solvers, their gradients, and networks made of them.

One folder for each chapter; ``adjoint``, ``coupled``, ``gradient_modes``, ``invertible`` and
``step_control`` are single modules. Read ``odeint`` first: it joins the solvers with their
gradients. :func:`odeint` returns the states, :func:`solve` also the steps and the dense output.
"""

import sys

from nodes_tutorial.ode import (
    adjoint,
    augmented,
    coupled,
    events,
    gradient_modes,
    invertible,
    irregular,
    known_unknowns,
    latent,
    misspecified,
    multilevel,
    odenet,
    residual,
    solvers,
    stability,
)
from nodes_tutorial.ode.convention import odeint_adjoint
from nodes_tutorial.ode.events import odeint_event
from nodes_tutorial.ode.known_unknowns import goku
from nodes_tutorial.ode.odeint import odeint
from nodes_tutorial.ode.odenet import ODEBlock, ODENet, ResNet, RKNet
from nodes_tutorial.ode.residual import ResidualNet
from nodes_tutorial.ode.solvers import METHODS, Solution, SolverError, Tableau, solve
from nodes_tutorial.ode.stability import networks as stable
from nodes_tutorial.ode.stability import symplectic

nets = odenet

# names under which these modules can be imported as well
for _name in ("goku", "nets", "stable", "symplectic"):
    sys.modules[f"{__name__}.{_name}"] = globals()[_name]

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
    "adjoint",
    "augmented",
    "coupled",
    "events",
    "goku",
    "gradient_modes",
    "invertible",
    "irregular",
    "known_unknowns",
    "latent",
    "misspecified",
    "multilevel",
    "nets",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "odenet",
    "residual",
    "solve",
    "solvers",
    "stability",
    "stable",
    "symplectic",
]
