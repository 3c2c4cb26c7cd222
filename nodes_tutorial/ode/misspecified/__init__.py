"""When the equation is not the world's: missing terms, another solver, and a circulation.

Read ``partly_known`` first: a known field plus a network. ``circulation`` has the equations of
the circulation and the signals that they make. Everything else is the chapter's before,
``known_unknowns``; its ``identify`` and ``semi_implicit_pendulum`` are repeated here.
"""

from nodes_tutorial.ode.known_unknowns.identifiability import identify
from nodes_tutorial.ode.known_unknowns.systems import semi_implicit_pendulum
from nodes_tutorial.ode.misspecified.circulation import (
    cardiovascular,
    cardiovascular_sequences,
    cardiovascular_signals,
)
from nodes_tutorial.ode.misspecified.partly_known import PartlyKnown

__all__ = [
    "PartlyKnown",
    "cardiovascular",
    "cardiovascular_sequences",
    "cardiovascular_signals",
    "identify",
    "semi_implicit_pendulum",
]
