"""Events: solve until a function of the state is zero, with the derivatives of time and state.

Read ``event`` first: :func:`odeint_event` joins the ``search`` on the dense output with a solve
that has a gradient; ``crossing`` finds one zero.
"""

from nodes_tutorial.ode.events.crossing import bracketed_root, crossings, slope_along
from nodes_tutorial.ode.events.event import odeint_event
from nodes_tutorial.ode.events.search import (
    Event,
    NoEventError,
    find_event,
)

__all__ = [
    "Event",
    "NoEventError",
    "bracketed_root",
    "crossings",
    "find_event",
    "odeint_event",
    "slope_along",
]
