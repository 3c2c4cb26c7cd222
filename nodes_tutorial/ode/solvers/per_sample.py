"""Adaptive steps under masks: every sample at its own pace, without a decision on the host."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import (
    RESOLUTION,
    SolverError,
    error_ratio,
    failure,
    initial_step,
    rms,
    step_factors,
)
from nodes_tutorial.ode.solvers.loops import slope_store
from nodes_tutorial.ode.solvers.measure import allowed
from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import Stages
from nodes_tutorial.ode.solvers.step import Field, Step, rk_step

CHECK_EVERY = 16  # rounds between two looks at the step sizes, each of which waits for the device


class Carry(NamedTuple):
    """State of the loop, one entry a sample, or one for all under a common step.

    Attributes:
        left: the time to go; counted down, it is exactly zero at the end.
        y: states at the present times.
        slope: values of the field there.
        step: the step that the controller wants.
        h: the step that is tried next. It is not more than ``left``, has the sign of the
            direction and the dtype of the state, and the state's shape where each sample has its
            own.
        gain: exponent of the controller, see
            :func:`~nodes_tutorial.ode.solvers.control.step_factors`.
        trend: memory of the controller, see there.
    """

    left: Tensor
    y: Tensor
    slope: Tensor
    step: Tensor
    h: Tensor
    gain: Tensor
    trend: Tensor


class Span(NamedTuple):
    """The interval of a solve: where it ends and which way it goes.

    Attributes:
        end: the last time, one for each sample.
        sign: 1 forwards in time, -1 backwards.
        nodes: the nodes of the method times the sign.
        atol: the absolute tolerance as a tensor.
    """

    end: Tensor
    sign: float
    nodes: Tensor
    atol: Tensor

    def time(self, left: Tensor) -> Tensor:
        return torch.sub(self.end, left, alpha=self.sign)

    def tried(self, step: Tensor, left: Tensor, y: Tensor) -> Tensor:
        """The field ``h`` of a carry. Products with a tensor of the state's shape are cheaper."""
        h = torch.minimum(step, left)
        h = h if self.sign > 0.0 else -h
        return torch.empty_like(y).copy_(h) if h.dim() else h.to(y.dtype)


def begin(
    field: Field, y: Tensor, slope: Tensor, ends: tuple[Tensor, Tensor], sign: float, settings
) -> tuple[Carry, Span]:
    """First steps, from the first slopes; ``ends`` are two times, 0-d and float64."""
    start, end = ends
    tableau, norm = settings.tableau, settings.norm
    shape = (len(y), *(1 for _ in y.shape[1:])) if norm.per_sample else ()
    zeros = torch.zeros(shape, dtype=torch.float64, device=y.device)
    nodes = zeros.new_tensor([sign * node for node in tableau.c]).view(-1, *(1 for _ in shape))
    atol = settings.tolerance.absolute(y)
    span = Span(zeros + end, sign, nodes, atol)
    t = zeros + start
    left = (end - start).abs() + zeros
    if settings.first_step is None:
        with torch.no_grad():
            order = tableau.error_order
            scale = allowed(settings.tolerance.rtol, atol, y.abs())
            h = torch.abs(cast(Tensor, initial_step(field, t, y, slope, sign, order, scale, norm)))
    else:
        h = torch.full_like(zeros, settings.first_step)
    gain = torch.full_like(zeros, -1.0 / (tableau.error_order + 1))
    return Carry(left, y, slope, h, span.tried(h, left, y), gain, zeros), span


def attempt(
    field: Field, stages: Stages, carry: Carry, t: Tensor, span: Span, settings: Settings
) -> tuple[Carry, Tensor]:
    """Try one step from t; samples whose error is too large stay where they are and shorten theirs.

    Returns:
        The new carry, and which steps were accepted. A sample that has arrived takes steps of
        length zero.
    """
    tableau, y = settings.tableau, carry.y
    step = torch.minimum(carry.step, carry.left)
    times = torch.addcmul(t, span.nodes, step).to(y.dtype).unbind()
    y1 = rk_step(field, times, y, carry.h, stages)
    with torch.no_grad():
        size = torch.maximum(y.abs(), y1.abs())
        scale = allowed(settings.tolerance.rtol, span.atol, size)
        ratio = cast(Tensor, error_ratio(stages, scale, settings.norm)).double()
        accept = ratio <= 1.0
        factor, gain, trend = step_factors(ratio, carry.gain, carry.trend, tableau.error_order)
        grown = step * factor
        cut_short = accept & (step < carry.step)
        wanted = torch.where(cut_short, torch.maximum(grown, carry.step), grown)
        left = torch.where(accept, carry.left - step, carry.left)
        h = span.tried(wanted, left, y)
        gain = torch.where(accept, gain, carry.gain)
        trend = torch.where(accept, trend, carry.trend)
    y = torch.where(accept, y1, y)
    if tableau.fsal:
        slope = torch.where(accept, stages.last(), carry.slope)
    else:
        slope = field(span.time(left).to(y.dtype), y)
    return Carry(left, y, slope, wanted, h, gain, trend), accept


def per_sample_steps(problem: Problem, settings: Settings) -> Iterator[Step]:
    """Rounds of one attempted step for every sample, until all have arrived at the last time.

    One flag a round crosses from device to host, because the host decides whether to go on.

    Raises:
        SolverError: NaN or Inf, step size underflow, or ``max_steps`` exceeded.
    """
    y, t0, t1 = problem.y0, problem.outputs[0], problem.outputs[-1]
    ends = torch.tensor([t0, t1], dtype=torch.float64, device=y.device).unbind()
    slope = problem.first_slope()
    field = problem.evaluator()
    carry, span = begin(field, y, slope, ends, 1.0 if t1 > t0 else -1.0, settings)
    smallest = RESOLUTION * max(abs(t0), abs(t1))
    stages = slope_store(problem, settings, slope, own_steps=True)
    t = span.time(carry.left)
    for attempts in range(1, settings.max_steps + 1):
        before, start = carry, t
        carry, accept = attempt(field, stages, before, start, span, settings)
        t = span.time(carry.left)
        yield Step(start, t, before.h, before.y, carry.y, stages, accept=accept)
        stages.put(0, carry.slope)
        if not carry.left.any().item():
            return
        if attempts % CHECK_EVERY == 0 and not carry.step.min().item() > smallest:
            raise _stuck(carry, span, settings)
    reason = f"max_steps = {settings.max_steps} exceeded"
    time, step, sample = slowest(carry, span)
    raise SolverError(reason, time, step, rms(carry.y[sample]), sample)


def _stuck(carry: Carry, span: Span, settings: Settings) -> SolverError:
    """The error of the sample that cannot go on."""
    well = carry.y.isfinite() & carry.slope.isfinite()
    sick = ~well.reshape(len(well), -1).all(1)
    sample = int(sick.nonzero()[0] if sick.any() else carry.step.flatten().argmin())
    time, step = _at(carry, span, sample)
    y, slope, tolerance = carry.y[sample], carry.slope[sample], settings.tolerance.of(sample)
    reason = "step size underflow, or a field that returned NaN or Inf,"
    return failure(y, slope, time, step, tolerance, reason, sample)


def _at(carry: Carry, span: Span, sample: int) -> tuple[float, float]:
    """Time and step of a sample."""
    time, step = span.time(carry.left).flatten()[sample], carry.step.flatten()[sample]
    return time.item(), step.item() * span.sign


def slowest(carry: Carry, span: Span) -> tuple[float, float, int]:
    """Time and step of the sample that is farthest from the end, and which it is."""
    sample = int(carry.left.flatten().argmax())
    return *_at(carry, span, sample), sample
