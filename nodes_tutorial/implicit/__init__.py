"""Gradients through an optimum, a root or a fixed point, by the implicit function theorem.

The part is flat. Read the modules of a chapter in the order of its line:

hyperparameters: ``gradient``, ``inverse``, ``trees``, ``roots``, ``equilibrium``, ``descent``
"""

from nodes_tutorial.implicit.descent import newton_cg
from nodes_tutorial.implicit.equilibrium import fixed_point
from nodes_tutorial.implicit.errors import (
    ImplicitError,
    RootError,
    SingularError,
    StationarityError,
)
from nodes_tutorial.implicit.gradient import HypergradientReport, hypergradient
from nodes_tutorial.implicit.roots import argmin, root

__all__ = [
    "HypergradientReport",
    "ImplicitError",
    "RootError",
    "SingularError",
    "StationarityError",
    "argmin",
    "fixed_point",
    "hypergradient",
    "newton_cg",
    "root",
]
