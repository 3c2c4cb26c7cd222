"""Gradients through an optimum, a root or a fixed point, by the implicit function theorem.

The part is flat. Read the modules of a chapter in the order of its line:

hyperparameters: ``gradient``, ``inverse``, ``roots``, ``equilibrium``, ``descent``, ``memory``
imaml: ``tasks``, ``proximal``, ``anchored``, ``meta_gradient``
"""

from nodes_tutorial.implicit.anchored import through_anchor
from nodes_tutorial.implicit.descent import newton_cg
from nodes_tutorial.implicit.equilibrium import fixed_point
from nodes_tutorial.implicit.errors import (
    ImplicitError,
    RootError,
    SingularError,
    StationarityError,
)
from nodes_tutorial.implicit.gradient import HypergradientReport, hypergradient
from nodes_tutorial.implicit.memory import GraphMemory
from nodes_tutorial.implicit.meta_gradient import IMAMLReport, adapt, imaml
from nodes_tutorial.implicit.proximal import Proximal, moreau_envelope, proximal_point
from nodes_tutorial.implicit.roots import argmin, root

__all__ = [
    "GraphMemory",
    "HypergradientReport",
    "IMAMLReport",
    "ImplicitError",
    "Proximal",
    "RootError",
    "SingularError",
    "StationarityError",
    "adapt",
    "argmin",
    "fixed_point",
    "hypergradient",
    "imaml",
    "moreau_envelope",
    "newton_cg",
    "proximal_point",
    "root",
    "through_anchor",
]
