"""GOKU-net: a known equation whose parameters and states are inferred from observations.

``goku`` is the model, ``systems`` has the pendulum, ``sequences`` and ``films`` its films and how
they are learned. ``identifiability`` says what a path tells of parameters; ``forecast`` is the
rival. What happens where the equation is wrong is in ``ode.misspecified``.
"""

from nodes_tutorial.ode.known_unknowns.films import FromAngle, fit_batches
from nodes_tutorial.ode.known_unknowns.forecast import LSTMForecast
from nodes_tutorial.ode.known_unknowns.goku import GOKUNet
from nodes_tutorial.ode.known_unknowns.identifiability import grounding_loss, identify
from nodes_tutorial.ode.known_unknowns.sequences import Sequences, pendulum_sequences
from nodes_tutorial.ode.known_unknowns.systems import (
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)

__all__ = [
    "FromAngle",
    "GOKUNet",
    "LSTMForecast",
    "Sequences",
    "fit_batches",
    "grounding_loss",
    "identify",
    "pendulum",
    "pendulum_sequences",
    "render_rod",
    "semi_implicit_pendulum",
]
