"""GOKU-net: a known equation whose parameters and states are inferred from observations.

``goku`` is the model, ``systems`` has the equations and ``sequences`` the data they make.
``partly_known`` finds parameters in a field that is known in part; ``forecast`` is the rival.
"""

from nodes_tutorial.ode.known_unknowns.forecast import LSTMForecast
from nodes_tutorial.ode.known_unknowns.goku import GOKUNet
from nodes_tutorial.ode.known_unknowns.partly_known import PartlyKnown, grounding_loss, identify
from nodes_tutorial.ode.known_unknowns.sequences import (
    Sequences,
    cardiovascular_sequences,
    pendulum_sequences,
)
from nodes_tutorial.ode.known_unknowns.systems import (
    cardiovascular,
    cardiovascular_signals,
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)

__all__ = [
    "GOKUNet",
    "LSTMForecast",
    "PartlyKnown",
    "Sequences",
    "cardiovascular",
    "cardiovascular_sequences",
    "cardiovascular_signals",
    "grounding_loss",
    "identify",
    "pendulum",
    "pendulum_sequences",
    "render_rod",
    "semi_implicit_pendulum",
]
