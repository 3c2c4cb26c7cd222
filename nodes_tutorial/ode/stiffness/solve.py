"""``odeint_stiff``: initial value problems whose explicit steps would be too short."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.solvers.control import SolverError, rms
from nodes_tutorial.ode.stiffness.checks import check_numbers, check_problem, named_method
from nodes_tutorial.ode.stiffness.implicit import with_gradient
from nodes_tutorial.ode.stiffness.iteration import NewtonError, newton, row_jacobian
from nodes_tutorial.ode.stiffness.tableaus import DiagonallyImplicit

NEWTON_SHARE = 0.01  # of the tolerance: what Newton may leave, so that it hides in no estimate
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0  # as usual in step control
AFTER_FAILURE = 0.25  # a step on which Newton failed is tried again with this share of it


class StiffSolution(NamedTuple):
    """States at the output times, and what they cost."""

    y: Tensor
    """States, shape ``(T, *y0.shape)``."""
    steps: int
    """Number of accepted steps."""
    rejected: int
    """Steps that were tried again, for their error or because Newton failed."""
    nfe: int
    """Evaluations of the field, without those inside Jacobians and gradients."""
    jacobians: int
    """Number of Jacobians, each as dear as one evaluation for each dimension."""
    step_ends: list[float]
    """Times at which the accepted steps end."""


@dataclass
class _Step:
    """One attempt: the new state, its slope, the error, or None for the state."""

    y: Tensor | None
    slope: Tensor | None
    error: Tensor | None
    nfe: int
    jacobians: int


def _attempt(func, method: DiagonallyImplicit, t: float, y, slope, h: float, tol) -> _Step:
    """All stages of one step; ``slope`` is the first stage's, or None."""
    rtol, atol = tol
    start = y.detach()
    scale = NEWTON_SHARE * (atol + rtol * start.abs())
    weight = h * method.gamma
    nodes = [torch.tensor(t + c * h, dtype=y.dtype, device=y.device) for c in method.c]
    slopes = [slope] if method.explicit_first else []
    with torch.no_grad():
        jacobian = row_jacobian(lambda x: func(nodes[0], x), start)
    nfe, jacobians = 0, 1
    for row, node in list(zip(method.a, nodes, strict=True))[len(slopes) :]:

        def field(x: Tensor, node: Tensor = node) -> Tensor:
            return func(node, x)

        known = y + sum((h * a * k for a, k in zip(row, slopes, strict=False) if a), 0.0)
        with torch.no_grad():
            found, evaluated, fresh = newton(field, known, weight, start, scale, jacobian)
        nfe, jacobians = nfe + evaluated, jacobians + fresh
        if found is None:
            return _Step(None, None, None, nfe, jacobians)
        stage = with_gradient(field, known, weight, found)
        slopes.append((stage - known) / weight)
    error = None
    if method.b_error is not None:
        with torch.no_grad():
            weights = torch.tensor(method.b_error, dtype=y.dtype, device=y.device)
            rough = h * torch.tensordot(weights, torch.stack(slopes), 1)
            matrix = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device) - weight * jacobian
            error = torch.linalg.solve_ex(matrix, rough.unsqueeze(-1))[0].squeeze(-1)
    return _Step(stage, slopes[-1], error, nfe, jacobians)


def _ratio(error: Tensor, y: Tensor, new: Tensor, rtol: float, atol: float) -> float:
    """The largest error ratio of the rows."""
    scale = atol + rtol * torch.maximum(y.detach().abs(), new.detach().abs())
    ratio = float((error / scale).square().mean(-1).sqrt().max())
    return ratio if isfinite(ratio) else float("inf")


def _first_step(y: Tensor, slope: Tensor, span: float, rtol: float, atol: float) -> float:
    """A hundredth of the time in which the state changes by its own size."""
    scale = atol + rtol * y.abs()
    size, speed = (float((v / scale).square().mean(-1).sqrt().max()) for v in (y, slope))
    return min(span, 0.01 * size / speed if size > 1e-5 and speed > 1e-5 else 1e-6 * span)


def solve_stiff(
    func: Callable,
    y0: Float[Tensor, "*batch dim"],
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    method: str | DiagonallyImplicit = "tr_bdf2",
    step_size: float | None = None,
    max_steps: int = 100_000,
) -> StiffSolution:
    r"""As :func:`odeint_stiff`, with the counts of steps, evaluations and Jacobians.

    Args:
        func: the field, ``func(t, y)``, with t a 0-d tensor; each row of y by itself.
        y0: state at ``t[0]``, one problem a row; the last axis is the state's.
        t: output times, shape ``(T,)``, strictly increasing or decreasing.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, positive.
        method: a key of ``IMPLICIT``, or a tableau.
        step_size: fixed steps no longer than this; None for adaptive ones.
        max_steps: largest number of attempted steps.

    Returns:
        The states and the counts.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: an argument or what the field returns does not fit, or an adaptive solve is
            asked of a method without an error estimate.
        NewtonError: with fixed steps, the equation of a stage was not solved.
        SolverError: NaN or Inf, step size underflow or ``max_steps`` exceeded.

    Chapter: def-stiffness-dirk

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import solve_stiff
    >>> times = torch.tensor([0.0, 1.0]).double()
    >>> found = solve_stiff(lambda t, y: -1e6 * (y - t.cos()), torch.ones(1).double(), times)
    >>> f"{found.y[-1].item():.3f}", found.steps < 100
    ('0.540', True)
    """
    numbers = {"rtol": rtol, "atol": atol, "step_size": step_size}
    check_problem(func, y0, t)
    check_numbers(numbers, max_steps)
    method = named_method(method, adaptive=step_size is None)
    times = t.detach().double().tolist()
    way = 1.0 if times[-1] > times[0] else -1.0
    now, y, states, step_ends = times[0], y0, [y0], []
    slope = func(torch.tensor(now, dtype=y.dtype, device=y.device), y)
    if not isinstance(slope, Tensor) or slope.shape != y.shape or slope.dtype != y.dtype:
        shown = (tuple(slope.shape), slope.dtype) if isinstance(slope, Tensor) else type(slope)
        raise ValueError(f"func must return a tensor like y0, {tuple(y.shape)} {y.dtype}: {shown}")
    if not bool(y.isfinite().all() & slope.isfinite().all()):
        raise SolverError("y0 or the field there is NaN or Inf", now, 0.0, rms(y))
    rejected, nfe, jacobians = 0, 1, 0
    size = step_size
    if size is None:
        span = abs(times[-1] - now)
        size = _first_step(y.detach(), slope.detach(), span, rtol, atol)
    for begin, end in pairwise(times):
        if step_size is not None:  # equal steps, no longer than step_size
            size = abs(end - begin) / ceil(abs(end - begin) / step_size * (1 - 1e-12))
        while (end - now) * way > 0:
            if len(step_ends) + rejected >= max_steps:
                raise SolverError(f"max_steps = {max_steps} reached", now, size, rms(y))
            if size <= 16 * torch.finfo(torch.float64).eps * max(abs(now), abs(end)):
                raise SolverError("the step size underflows", now, size, rms(y))
            last = size >= abs(end - now) * (1 - 1e-9)
            h = end - now if last else way * size
            made = _attempt(func, method, now, y, slope, h, (rtol, atol))
            nfe, jacobians = nfe + made.nfe, jacobians + made.jacobians
            if made.y is None or made.slope is None:
                if step_size is not None:
                    raise NewtonError("Newton's method does not converge", now, h, rms(y))
                size, rejected = AFTER_FAILURE * abs(h), rejected + 1
                continue
            if made.error is not None and step_size is None:
                ratio = _ratio(made.error, y, made.y, rtol, atol)
                power = -1 / (method.error_order + 1)
                factor = min(GROW, max(SHRINK, SAFETY * max(ratio, 1e-10) ** power))
                if ratio > 1:
                    size, rejected = factor * abs(h), rejected + 1
                    continue
                size = max(size, factor * abs(h)) if last else factor * abs(h)
            now, y, slope = end if last else now + h, made.y, made.slope
            step_ends.append(now)
        states.append(y)
    y = torch.stack(states)
    return StiffSolution(y, len(step_ends), rejected, nfe, jacobians, step_ends)


def odeint_stiff(
    func: Callable,
    y0: Float[Tensor, "*batch dim"],
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    method: str | DiagonallyImplicit = "tr_bdf2",
    step_size: float | None = None,
    max_steps: int = 100_000,
) -> Float[Tensor, "times *batch dim"]:
    r"""Solve a stiff problem :math:`\dot y = f(t, y),\; y(t_0) = y_0` at the times t.

    The call is that of :func:`nodes_tutorial.ode.odeint`, with other methods. All rows of a batch
    make the same steps, which the worst row decides. Every output time ends a step. Adaptive
    control waits for the device once in each iteration of Newton's method.

    Args:
        func: the field, ``func(t, y)``, with t a 0-d tensor; each row of y by itself. It must be
            differentiable in forward mode.
        y0: state at ``t[0]``, one problem a row; the last axis is the state's.
        t: output times, shape ``(T,)``, strictly increasing or decreasing.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, positive.
        method: ``"tr_bdf2"``, ``"implicit_euler"``; with a ``step_size`` also ``"sdirk2"`` and
            ``"trapezoid"``; or a tableau.
        step_size: fixed steps no longer than this; None for adaptive ones.
        max_steps: largest number of attempted steps.

    Returns:
        States at the times, shape ``(T, *y0.shape)``. First derivatives with respect to ``y0`` and
        to the parameters of the field are those of the steps made, to the tolerance of Newton's
        method.

    Raises:
        TypeError: an argument is of the wrong type or dtype, or ``t`` requires a gradient.
        ValueError: an argument or what the field returns does not fit, or an adaptive solve is
            asked of a method without an error estimate.
        NewtonError: with fixed steps, the equation of a stage was not solved.
        SolverError: NaN or Inf, step size underflow or ``max_steps`` exceeded.
        RuntimeError: a second derivative is asked for.

    Chapter: thm-stiffness-gradient

    References: Hairer and Wanner (1996), chapter IV.

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import odeint_stiff
    >>> times = torch.tensor([0.0, 1.0]).double()
    >>> y = odeint_stiff(lambda t, y: -1e6 * (y - t.cos()), torch.ones(1).double(), times)
    >>> f"{y[-1].item():.3f}"
    '0.540'
    """
    how = {"rtol": rtol, "atol": atol, "method": method}
    return solve_stiff(func, y0, t, **how, step_size=step_size, max_steps=max_steps).y
