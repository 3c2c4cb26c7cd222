"""Solving initial value problems with Runge-Kutta methods.

``tableaus`` holds the methods as data and ``step`` makes one step. ``loops`` repeats it, with the
step sizes of ``control``; ``gather`` picks the outputs; ``run`` joins them. ``options`` and
``problem`` check what was asked for, and ``solution`` keeps the record. ``order`` and ``trees``
derive the order conditions. ``adams`` has the one multistep method.
"""

from nodes_tutorial.ode.solvers.adams import adams_integrals, adams_step
from nodes_tutorial.ode.solvers.control import SolverError
from nodes_tutorial.ode.solvers.order import (
    dense_conditions,
    elementary_weight,
    error_constant,
    order_conditions,
    order_of,
)
from nodes_tutorial.ode.solvers.solution import Solution, solve
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import explicit_step, rk_step, stage_times
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.tableaus import METHODS
from nodes_tutorial.ode.solvers.trees import (
    density,
    elementary_differential,
    rooted_trees,
    symmetry,
    tree_field,
    tree_order,
    tree_string,
)

__all__ = [
    "METHODS",
    "Solution",
    "SolverError",
    "StageList",
    "Tableau",
    "adams_integrals",
    "adams_step",
    "dense_conditions",
    "density",
    "elementary_differential",
    "elementary_weight",
    "error_constant",
    "explicit_step",
    "order_conditions",
    "order_of",
    "rk_step",
    "rooted_trees",
    "solve",
    "stage_times",
    "symmetry",
    "tree_field",
    "tree_order",
    "tree_string",
]
