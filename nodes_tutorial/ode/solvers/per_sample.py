"""Adaptive steps under masks: every sample at its own pace, without a decision on the host."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import SolverError, error_ratio, initial_step, step_factors
from nodes_tutorial.ode.solvers.loops import Settings, rms, wants_graph
from nodes_tutorial.ode.solvers.stages import StageBuffer, StageList, new_stages
from nodes_tutorial.ode.solvers.step import Field, Step, check_slope, rk_step


class Carry(NamedTuple):
    """State of the loop, one entry a sample, or one for all under a common step.

    ``left`` is the time to go: counted down, it is exactly zero at the end. ``step`` is what the
    controller wants, and ``h`` what is tried next: not more than ``left``, with its sign, in the
    state's dtype and, where each sample has its own, in the state's shape. ``gain`` and ``trend``
    are the controller's, see :func:`~nodes_tutorial.ode.solvers.control.step_factors`.
    """

    left: Tensor
    y: Tensor
    k: Tensor
    step: Tensor
    h: Tensor
    gain: Tensor
    trend: Tensor


class Span(NamedTuple):
    """The interval of a solve: where it ends and which way it goes.

    The method's nodes in that direction and the absolute tolerance are here as tensors too.
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


class MaskedStep(Step):
    """A step that each sample takes from its own time; rejected samples do not move."""

    __slots__ = ("before", "left", "span")

    def __init__(self, span, before, left, h, y0, y1, ks, accept):
        self.span, self.before, self.left = span, before, left
        self.h, self.y0, self.y1, self.ks, self.accept = h, y0, y1, ks, accept

    @property
    def t(self) -> Tensor:
        return self.span.time(self.before)

    @property
    def t1(self) -> Tensor:
        return self.span.time(self.left)


def begin(
    field: Field, y: Tensor, start: Tensor, end: Tensor, sign: float, settings: Settings
) -> tuple[Carry, Span]:
    """First slopes and first steps; ``start`` and ``end`` are 0-d and float64."""
    tableau, norm = settings.tableau, settings.norm
    shape = (len(y), *(1 for _ in y.shape[1:])) if norm.per_sample else ()
    zeros = torch.zeros(shape, dtype=torch.float64, device=y.device)
    nodes = zeros.new_tensor([sign * node for node in tableau.c]).view(-1, *(1 for _ in shape))
    atol = y.new_tensor(settings.atol)
    span = Span(zeros + end, sign, nodes, atol)
    t, left = zeros + start, (end - start).abs() + zeros
    k = check_slope(field(t.to(y.dtype), y), y)
    if settings.first_step is None:
        with torch.no_grad():
            order = tableau.error_order
            h = initial_step(field, t, y, k, sign, order, settings.rtol, atol, norm).abs()
    else:
        h = torch.full_like(zeros, settings.first_step)
    gain = torch.full_like(zeros, -1.0 / (tableau.error_order + 1))
    return Carry(left, y, k, h, span.tried(h, left, y), gain, zeros), span


def attempt(
    field: Field, ks: StageList | StageBuffer, carry: Carry, span: Span, settings: Settings
) -> tuple[Carry, Tensor]:
    """Try one step; samples whose error is too large stay where they are and shorten theirs.

    Returns:
        The new carry, and which steps were accepted. A sample that has arrived takes steps of
        length zero.
    """
    tableau, y = settings.tableau, carry.y
    step = torch.minimum(carry.step, carry.left)
    times = torch.addcmul(span.time(carry.left), span.nodes, step).to(y.dtype).unbind()
    y1 = rk_step(field, times, y, carry.h, ks)
    with torch.no_grad():
        size = torch.maximum(y.abs(), y1.abs())
        ratio = error_ratio(ks, size, settings.rtol, span.atol, settings.norm).double()
        accept = ratio <= 1.0
        factor, gain, trend = step_factors(ratio, carry.gain, carry.trend, tableau.error_order)
        grown, cut = step * factor, accept & (step < carry.step)
        wish = torch.where(cut, torch.maximum(grown, carry.step), grown)
        left = torch.where(accept, carry.left - step, carry.left)
        h = span.tried(wish, left, y)
        gain = torch.where(accept, gain, carry.gain)
        trend = torch.where(accept, trend, carry.trend)
    y = torch.where(accept, y1, y)
    k = (
        torch.where(accept, ks.last(), carry.k)
        if tableau.fsal
        else field(span.time(left).to(y.dtype), y)
    )
    return Carry(left, y, k, wish, h, gain, trend), accept


def per_sample_steps(
    field: Field, y: Tensor, t0: float, t1: float, settings: Settings
) -> Iterator[Step]:
    """Rounds of one attempted step for every sample, until all have arrived at t1.

    One flag a round crosses from device to host, because the host decides whether to go on.
    """
    start, end = torch.tensor([t0, t1], dtype=torch.float64, device=y.device)
    carry, span = begin(field, y, start, end, 1.0 if t1 > t0 else -1.0, settings)
    smallest = 8 * sys.float_info.epsilon * max(abs(t0), abs(t1))
    graph = settings.term_by_term or wants_graph(y, carry.k)
    ks = new_stages(settings.tableau, carry.k, graph, own_steps=True)
    for attempts in range(1, settings.max_steps + 1):
        before = carry
        carry, accept = attempt(field, ks, before, span, settings)
        yield MaskedStep(span, before.left, carry.left, before.h, before.y, carry.y, ks, accept)
        ks.put(0, carry.k)
        if not carry.left.any().item():
            return
        if attempts % 16 == 0 and not carry.step.min().item() > smallest:
            reason = "step size underflow, or a field that returned NaN or Inf,"
            raise SolverError(reason, *slowest(carry, span), rms(carry.y))
    reason = f"max_steps = {settings.max_steps} exceeded"
    raise SolverError(reason, *slowest(carry, span), rms(carry.y))


def slowest(carry: Carry, span: Span) -> tuple[float, float]:
    """Time and step of the sample that is farthest from the end."""
    index = carry.left.flatten().argmax()
    time, step = span.time(carry.left).flatten()[index], carry.step.flatten()[index]
    return time.item(), step.item() * span.sign
