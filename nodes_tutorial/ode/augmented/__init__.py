"""Augmented neural ODEs: flows with extra dimensions, after which they can cross."""

from nodes_tutorial.ode.augmented.model import AugmentedODE, lift, pad, shear

__all__ = [
    "AugmentedODE",
    "lift",
    "pad",
    "shear",
]
