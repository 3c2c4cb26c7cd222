"""``odeint_event``: solve until an event, and differentiate its time and state."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nodes_tutorial.ode.events.crossing import slope_along, values_of
from nodes_tutorial.ode.events.search import find_event
from nodes_tutorial.ode.odeint import odeint
from nodes_tutorial.ode.solvers.problem import State, under_transform

SEARCH = ("rtol", "atol", "method", "options")
NOT_CROSSED = (
    "the event has no derivative: the event function does not cross zero with a speed (it grazes "
    "zero, or autograd finds no derivative of event_fn)"
)


class _FirstOrder(Function):
    """The identity, which refuses second derivatives."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("odeint_event carries first derivatives only, not create_graph")
        return grad


class _NoDerivative(Function):
    """A value whose derivative does not exist; the carriers are what it would belong to."""

    @staticmethod
    def forward(ctx, value: Tensor, *carriers: Tensor) -> Tensor:
        return value.detach().clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        raise RuntimeError(NOT_CROSSED)


def odeint_event(
    func: Callable,
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable,
    reverse_time: bool = False,
    odeint_interface: Callable = odeint,
    direction: int = 0,
    horizon: float = 1e4,
    looks: int = 4,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    r"""Solve until an event function is zero; return the time and the states.

    The first zero t* of a component g of ``event_fn`` along the solution is sought on the dense
    output. Then the interface solves from t0 to t* with its own gradient mode, and a step of
    Newton's method is added, whose derivative is that of the event time:

    .. math:: \frac{dt^*}{d\theta} =
        -\frac{\partial_y g\,\partial_\theta y+\partial_\theta g}{\partial_t g+\partial_y g\,f}

    The calling convention is torchdiffeq's. With several components the event is where the first
    of them changes the sign that it had at the start. ``direction``, ``horizon`` and ``looks`` are
    additions.

    Args:
        func: the field, ``func(t, y)``.
        y0: state at ``t0``, a tensor or a tuple of tensors; a batch has one common event.
        t0: time of the start, a floating-point tensor with one element.
        event_fn: ``event_fn(t, y)``, a tensor of any shape, continuous in t and y.
        reverse_time: whether the solve goes backwards from ``t0``.
        odeint_interface: ``odeint``, ``odeint_adjoint``, or a function called like them.
        direction: +1 for zeros at which a component rises along the solve, -1 where it falls, 0
            for both.
        horizon: length of time that is searched.
        looks: places in each step at which signs are compared. An event function that changes its
            sign twice between two of them is stepped over.
        **kwargs: arguments for the interface; ``rtol``, ``atol``, ``method`` and ``options`` hold
            for the search too. Fixed steps need ``options["step_size"]``.

    Returns:
        The time of the event, 0-d in the dtype of ``t0``, and the states at ``t0`` and there,
        shape ``(2, *y0.shape)`` or a tuple of such tensors. Both carry first derivatives with
        respect to ``y0``, ``t0``, and the parameters of the field and of the event function.

    Raises:
        TypeError: an argument or what ``event_fn`` returns is of the wrong type.
        ValueError: an argument does not fit; or the event is already there at the start.
        NoEventError: there is no event before the horizon.
        SolverError: as :func:`odeint`, or ``event_fn`` is NaN or Inf.
        RuntimeError: a second derivative is asked for; the call is inside a ``torch.func``
            transform or forward mode; or, in the backward pass, the event has no derivative
            because ``event_fn`` touches zero without speed.

    Chapter: thm-events-derivative

    References: Chen, Amos and Nickel (2021), section 3.

    >>> from nodes_tutorial.ode.events import odeint_event
    >>> import torch
    >>> y0, level = torch.ones(1).double(), torch.tensor(0.5).double().requires_grad_()
    >>> start = torch.tensor(0.0).double()
    >>> t, y = odeint_event(lambda t, y: -y, y0, start, event_fn=lambda t, y: y - level)
    >>> f"{t.item():.6f}, {torch.autograd.grad(t, level)[0].item():.4f}"
    '0.693147, -2.0000'
    """
    _check(func, t0, event_fn, odeint_interface)
    search = {name: kwargs[name] for name in SEARCH if kwargs.get(name) is not None}
    found = find_event(
        func,
        y0,
        float(t0.detach()),
        event_fn,
        direction=direction,
        horizon=horizon,
        looks=looks,
        reverse_time=reverse_time,
        **search,
    )
    start = t0.reshape(1).double()  # times between those of float32 are needed
    times = torch.cat([start, start.new_tensor([found.t])])
    solution = odeint_interface(func, y0, times, **kwargs)
    is_tuple = isinstance(y0, tuple | list)
    ends = tuple(part[-1] for part in solution) if is_tuple else (solution[-1],)

    def as_given(parts):
        return tuple(parts) if is_tuple else parts[0]

    time = times[-1].detach().to(ends[0].dtype)
    with torch.no_grad():
        slope = func(time, as_given([end.detach() for end in ends]))
    slopes = tuple(slope) if is_tuple else (slope,)
    speed = slope_along(event_fn, found.component, time, as_given(ends), as_given(slopes))
    value = values_of(event_fn, time, as_given(ends))[found.component]
    carriers = [x for x in (value, *ends) if x.requires_grad]
    if speed is not None and isfinite(float(speed)) and float(speed) != 0.0:
        shift = -_FirstOrder.apply(value) / speed
        if not abs(float(shift.detach())) <= abs(found.step):
            shift = shift - shift.detach()  # Newton's step leads away, its derivative stands
        event_t = times[-1].detach() + shift.double()
        ends = [end + way * shift.to(end.dtype) for end, way in zip(ends, slopes, strict=True)]
    else:
        event_t = times[-1].detach()
        if torch.is_grad_enabled() and carriers:
            event_t = _NoDerivative.apply(event_t, *carriers)
            ends = [_NoDerivative.apply(end, *carriers) for end in ends]
    given = solution if is_tuple else (solution,)
    joined = [torch.cat([s[:1], end[None]]) for s, end in zip(given, ends, strict=True)]
    return event_t.to(t0.dtype), as_given(joined)


def _check(func, t0, event_fn, odeint_interface) -> None:
    for name, value in (
        ("func", func),
        ("event_fn", event_fn),
        ("odeint_interface", odeint_interface),
    ):
        if not callable(value):
            raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    if not isinstance(t0, Tensor) or not t0.is_floating_point():
        kind = t0.dtype if isinstance(t0, Tensor) else type(t0).__name__
        raise TypeError(f"t0 must be a floating-point tensor, got {kind}")
    if t0.numel() != 1:
        raise ValueError(f"t0 must have one element, got shape {tuple(t0.shape)}")
    if under_transform():
        raise RuntimeError("odeint_event works outside torch.func transforms and forward mode")
