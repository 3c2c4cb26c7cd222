"""Further entries of torchdiffeq: ``odeint_adjoint``, and solves that end with an event."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.odeint import states
from nodes_tutorial.ode.solvers.adams import check_multistep
from nodes_tutorial.ode.solvers.measure import Tolerance, Tolerances
from nodes_tutorial.ode.solvers.options import check_options, number
from nodes_tutorial.ode.solvers.prepare import find_tableau, prepare
from nodes_tutorial.ode.solvers.problem import Problem, State
from nodes_tutorial.ode.solvers.settings import Limits, Settings
from nodes_tutorial.ode.solvers.tableau import Tableau


def until_event(
    func: Callable,
    y0: State,
    t: Tensor,
    event_fn: Callable,
    interface: Callable,
    arguments: dict[str, Any],
) -> tuple[Tensor, State]:
    """The time and the states of an event, for solves that are called with one.

    Args:
        func: the field, ``func(t, y)``.
        y0: state at ``t[0]``.
        t: the start and a time on the side of it to which the solve goes.
        event_fn: ``event_fn(t, y)``, zero at the event.
        interface: what solves up to the event, called as :func:`odeint`.
        arguments: further arguments of the interface, by name.

    Returns:
        As :func:`odeint_event`.

    Raises:
        ValueError: ``t`` does not have two times.
    """
    from nodes_tutorial.ode.events.event import odeint_event

    if not isinstance(t, Tensor) or t.dim() != 1 or len(t) != 2:
        raise ValueError("t must have two times where event_fn is given: the start and a side")
    backwards = bool(t[1] < t[0])
    return odeint_event(
        func,
        y0,
        t[0],
        event_fn=event_fn,
        reverse_time=backwards,
        odeint_interface=interface,
        **arguments,
    )


def odeint_adjoint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: Tolerances = 1e-7,
    atol: Tolerances = 1e-9,
    method: str | Tableau | None = "dopri5",
    options: dict[str, Any] | None = None,
    event_fn: Callable | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | Tableau | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
) -> Any:
    """:func:`odeint` with ``gradient="adjoint"``, under the name that torchdiffeq gives it.

    Args:
        func: as for :func:`odeint`.
        y0: as for :func:`odeint`.
        t: as for :func:`odeint`.
        rtol: relative tolerance, as for :func:`odeint`.
        atol: absolute tolerance, as for :func:`odeint`.
        method: a key of ``METHODS``, or a :class:`Tableau`.
        options: as for :func:`odeint`.
        event_fn: as for :func:`odeint`.
        adjoint_rtol: relative tolerance of the way back; None takes ``rtol``.
        adjoint_atol: absolute tolerance of the way back; None takes ``atol``.
        adjoint_method: method of the way back; None takes ``method``.
        adjoint_options: options of the way back, with ``norm`` for ``adjoint_norm``; None takes
            ``options`` without its ``norm``, which must be empty for another ``adjoint_method``.
        adjoint_params: as for :func:`odeint`.

    Returns:
        States at the times, shape ``(T, *y0.shape)``, or a tuple of such tensors.

    Raises:
        TypeError, ValueError, SolverError: as :func:`odeint`.

    Chapter: thm-adjoint-equation
    """
    arguments = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    if event_fn is not None:
        back = {"adjoint_rtol": adjoint_rtol, "adjoint_atol": adjoint_atol}
        back |= {"adjoint_method": adjoint_method, "adjoint_options": adjoint_options}
        back |= {"adjoint_params": adjoint_params}
        return until_event(func, y0, t, event_fn, odeint_adjoint, arguments | back)
    problem, settings = prepare(func, y0, t, **arguments, gradient="adjoint")
    backward = _backward(settings, adjoint_rtol, adjoint_atol, adjoint_method)
    if adjoint_options is not None:
        backward = _with_options(backward, problem, adjoint_options)
    elif options and backward.tableau != settings.tableau:
        raise ValueError("adjoint_options must be given with options and another adjoint_method")
    settings = replace(settings, backward=backward)
    return states(problem, settings, "adjoint", t, adjoint_params)


def _backward(settings: Settings, rtol, atol, method) -> Settings:
    """Settings of the adjoint equation, with the options of the way there."""
    given = settings.tolerance
    tolerance = Tolerance(
        given.rtol if rtol is None else number("adjoint_rtol", rtol, least=0.0),
        given.atol if atol is None else number("adjoint_atol", atol, least=0.0),
    )
    tableau = settings.tableau if method is None else find_tableau(method)
    return replace(settings, tableau=tableau, tolerance=tolerance)


def _with_options(settings: Settings, problem: Problem, options) -> Settings:
    """Settings with options of the adjoint equation's own, which leave nothing of the others."""
    if not isinstance(options, dict):
        raise TypeError(f"adjoint_options must be a dict or None, got {options!r}")
    names = {"norm": "adjoint_norm"}
    own = check_options({names.get(name, name): value for name, value in options.items()})
    check_multistep(settings.tableau, own, "adjoint")
    refused = {"per_sample", "controlled", "grid_constructor"} & set(own)
    if refused:
        raise ValueError(f"adjoint_options does not take {', '.join(sorted(refused))}")
    jumps = own.pop("jump_t", problem.jumps)
    problem.jumps_back = tuple(jumps)
    problem.stops_back = tuple({*jumps, *own.pop("step_t", ())})
    limits = Limits(own.pop("min_step", 0.0), own.pop("max_step", inf))
    return Settings(settings.tableau, settings.tolerance, settings.norm, limits, **own)
