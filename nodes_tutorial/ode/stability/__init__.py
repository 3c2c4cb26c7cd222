"""Stable architectures: deep networks whose signals neither die out nor explode.

Read ``networks`` first, with ``base`` for what they share and ``sweeps`` for the passes through all
layers. ``conv`` has layers of images, ``symplectic`` the integrators, ``depth`` the weights as
curves. ``ode.multilevel`` trains.
"""

from nodes_tutorial.ode.stability.base import Linearization, StableNet
from nodes_tutorial.ode.stability.conv import ConvStableNet
from nodes_tutorial.ode.stability.depth import prolong, smoothness_penalty, tikhonov_penalty
from nodes_tutorial.ode.stability.networks import AntisymmetricNet, LeapfrogNet, PlainNet, VerletNet
from nodes_tutorial.ode.stability.symplectic import (
    leapfrog,
    oscillator_energies,
    verlet,
    verlet_step,
)

__all__ = [
    "AntisymmetricNet",
    "ConvStableNet",
    "LeapfrogNet",
    "Linearization",
    "PlainNet",
    "StableNet",
    "VerletNet",
    "leapfrog",
    "oscillator_energies",
    "prolong",
    "smoothness_penalty",
    "tikhonov_penalty",
    "verlet",
    "verlet_step",
]
