"""The search for an event: steps until a sign changes, then the root on the dense output."""

from collections.abc import Callable, Iterator
from math import ceil, copysign, inf
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.events.crossing import bracketed_root, crossings, slope_along, values_of
from nodes_tutorial.ode.solvers.control import SolverError, rms
from nodes_tutorial.ode.solvers.prepare import prepare
from nodes_tutorial.ode.solvers.problem import Problem, State
from nodes_tutorial.ode.solvers.run import is_fixed, iterate
from nodes_tutorial.ode.solvers.step import Step
from nodes_tutorial.ode.solvers.tableau import Tableau

WINDOW = 64  # fixed steps that are prepared at a time


class NoEventError(SolverError):
    """The solve reached its horizon without an event."""


class Event(NamedTuple):
    """Where a solve met an event.

    Attributes:
        t: time of the event.
        component: which component of the event function, in flat order, is zero there.
        step: signed length of the solver's step that met it.
    """

    t: float
    component: int
    step: float


class _Watch:
    """The event function along a solve."""

    def __init__(self, problem: Problem, event_fn: Callable):
        self.problem, self.event_fn = problem, event_fn

    def at(self, t: float, y: Tensor) -> np.ndarray:
        problem = self.problem
        time = torch.tensor(t, dtype=torch.float64, device=y.device)
        values = values_of(self.event_fn, problem.field_time(time), problem.unpack(y))
        found = values.double().cpu().numpy()
        if not np.isfinite(found).all():
            raise SolverError("event_fn returned NaN or Inf", t, 0.0, rms(y))
        return found

    def inside(self, step: Step, theta: float) -> np.ndarray:
        if theta == 0.0 or theta == 1.0:
            return self.at(*((step.t, step.y0) if theta == 0.0 else (step.t1, step.y1)))
        with self.problem.arithmetic():
            y = step.interpolate(self.problem.evaluator(), np.array([theta]))[0]
        return self.at(step.t + theta * step.h, y)

    def root(self, step: Step, a: float, b: float, component: int) -> float:
        """The zero of one component, as a fraction of the step."""
        width = 2 * torch.finfo(step.y0.dtype).eps
        return bracketed_root(lambda x: float(self.inside(step, x)[component]), a, b, width)


def _steps(func, y0, t0, end, arguments) -> Iterator[tuple[Problem, Step]]:
    """The steps of a solve, made one by one, so that none is made far beyond the event."""
    sign = copysign(1.0, end - t0)
    made, t, y = 0, t0, y0
    while t != end:
        times = torch.tensor([t, end], dtype=torch.float64)
        problem, settings = prepare(func, y, times, **arguments, gradient="direct")
        if is_fixed(settings):
            if settings.step_size is None:
                raise ValueError(f"method {settings.tableau.name!r} needs options['step_size']")
            left = settings.max_steps - made
            if left < 1:
                norm = rms(problem.y0)
                raise SolverError(
                    f"max_steps = {made} exceeded without an event", t, settings.step_size, norm
                )
            count = min(WINDOW, left, ceil(abs(end - t) / settings.step_size))
            made += count
            reach = t0 + sign * made * settings.step_size
            t = end if (end - reach) * sign <= 0.0 else reach
            problem.outputs[-1] = t
        else:
            t = end
        problem.copies = True  # a field that reuses its memory needs no second start
        with problem.arithmetic():
            for step in iterate(problem, settings):
                yield problem, step
        y = problem.unpack(step.y1)


@torch.no_grad()
def find_event(
    func: Callable,
    y0: State,
    t0: float,
    event_fn: Callable,
    *,
    direction: int = 0,
    horizon: float = 1e4,
    looks: int = 4,
    reverse_time: bool = False,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
    options: dict[str, Any] | None = None,
) -> Event:
    """The first event of a solve, without derivatives; :func:`odeint_event` adds them.

    Args:
        func: the field, ``func(t, y)``.
        y0: state at ``t0``, a tensor or a tuple of tensors.
        t0: time of the start.
        event_fn: ``event_fn(t, y)``, a tensor of any shape; its first zero is the event.
        direction: +1 for zeros at which a component rises along the solve, -1 where it falls, 0
            for both.
        horizon: length of time that is searched.
        looks: places in each step at which signs are compared.
        reverse_time: whether the solve goes backwards from ``t0``.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step.
        method: a key of ``METHODS``, or a :class:`Tableau`.
        options: as for :func:`odeint`, without ``per_sample`` and ``compile``.

    Returns:
        Time, component and step of the event.

    Raises:
        TypeError: ``event_fn`` returns no real tensor; or as :func:`odeint`.
        ValueError: an argument does not fit; or the event is already there at the start.
        NoEventError: there is no event before the horizon.
        SolverError: as :func:`odeint`, or ``event_fn`` is NaN or Inf.

    Chapter: def-events-event

    >>> from nodes_tutorial.ode.events import find_event
    >>> import torch
    >>> decay = find_event(lambda t, y: -y, torch.ones(1).double(), 0.0, lambda t, y: y - 0.5)
    >>> f"{decay.t:.6f}"
    '0.693147'
    """
    _check(direction, horizon, looks, options)
    end = t0 - horizon if reverse_time else t0 + horizon
    arguments = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    places = np.arange(1, looks + 1) / looks
    before = None
    for problem, step in _steps(func, y0, t0, end, arguments):
        watch = _Watch(problem, event_fn)
        if not bool(step.y1.isfinite().all()):
            raise SolverError("the state became NaN or Inf", step.t1, step.h, rms(step.y0))
        if before is None:
            before = watch.at(step.t, step.y0)
            _check_start(watch, step, before, direction)
        a = 0.0
        for b in places.tolist():
            now = watch.inside(step, b)
            found = crossings(before, now, direction)
            if len(found):
                roots = [watch.root(step, a, b, int(i)) for i in found]
                first = int(np.argmin(roots))
                return Event(step.t + roots[first] * step.h, int(found[first]), step.h)
            a, before = b, now
    raise NoEventError(
        f"event_fn had no zero in direction {direction} within the horizon {horizon:g}",
        step.t1,
        step.h,
        rms(step.y1),
    )


def _check_start(watch: _Watch, step: Step, values: np.ndarray, direction: int) -> None:
    """Refuse a start at which the event is already there."""
    problem = watch.problem
    time = problem.field_time(torch.tensor(step.t, dtype=torch.float64, device=step.y0.device))
    y = problem.unpack(step.y0)
    for i in np.flatnonzero(values == 0.0):
        speed = None
        if direction != 0:
            slope = problem.unpack(problem.evaluator()(time, step.y0))
            speed = slope_along(watch.event_fn, int(i), time, y, slope)
        leaves = speed is not None and float(speed) * copysign(1.0, step.h) * direction < 0.0
        if not leaves:
            raise ValueError(
                f"event_fn is already zero at t0 = {step.t:g} (component {i}); start off the "
                "event, or give the direction in which it shall be crossed"
            )


def _check(direction, horizon, looks, options) -> None:
    if isinstance(direction, bool) or direction not in (-1, 0, 1):
        raise ValueError(f"direction must be -1, 0 or 1, got {direction!r}")
    if not isinstance(horizon, Real) or not 0.0 < float(horizon) < inf:
        raise ValueError(f"horizon must be a positive finite number, got {horizon!r}")
    if not isinstance(looks, int) or isinstance(looks, bool) or looks < 1:
        raise ValueError(f"looks must be a whole number, at least 1, got {looks!r}")
    for name in ("per_sample", "compile"):
        if isinstance(options, dict) and options.get(name):
            raise ValueError(f"options[{name!r}] does not work with events")
