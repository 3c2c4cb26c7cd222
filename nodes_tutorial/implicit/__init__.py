"""Gradients through an optimum, a root or a fixed point, by the implicit function theorem.

The part is flat. Read the modules of a chapter in the order of its line:

imaml: ``tasks`` ``proximal`` ``anchored`` ``meta_gradient`` ``errors``
"""

from nodes_tutorial.implicit.anchored import through_anchor
from nodes_tutorial.implicit.errors import ImplicitError, StationarityError
from nodes_tutorial.implicit.meta_gradient import IMAMLReport, adapt, imaml
from nodes_tutorial.implicit.proximal import Proximal, moreau_envelope, proximal_point

__all__ = [
    "IMAMLReport",
    "ImplicitError",
    "Proximal",
    "StationarityError",
    "adapt",
    "imaml",
    "moreau_envelope",
    "proximal_point",
    "through_anchor",
]
