"""Adaptive steps under masks: every sample at its own pace, without a decision on the host."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nodes_tutorial.ode.control import SolverError, error_ratio, initial_step, step_factor
from nodes_tutorial.ode.loops import Settings, rms, wants_graph
from nodes_tutorial.ode.step import (
    Field,
    StageBuffer,
    StageList,
    Step,
    new_stages,
    rk_step,
)


class Carry(NamedTuple):
    """State of the loop, one entry a sample, or one for all under a common step.

    Times are float64 and count from the start, in the direction of the solve, so that they grow
    from 0 to the length of the interval.
    """

    s: Tensor
    y: Tensor
    k: Tensor
    h: Tensor
    previous: Tensor
    accepted: Tensor
    rejected: Tensor


class Span(NamedTuple):
    """The interval of a solve: where it starts, which way it goes, how long it is.

    The method's nodes and the absolute tolerance are here as tensors too.
    """

    start: Tensor
    sign: float
    length: Tensor
    nodes: Tensor
    atol: Tensor

    def time(self, s: Tensor) -> Tensor:
        return torch.add(self.start, s, alpha=self.sign)


class MaskedStep(Step):
    """A step that each sample takes from its own time; rejected samples do not move."""

    __slots__ = ("s0", "s1", "span")

    def __init__(self, span, s0, s1, h, y0, y1, ks, accept):
        self.span, self.s0, self.s1 = span, s0, s1
        self.h, self.y0, self.y1, self.ks, self.accept = h, y0, y1, ks, accept

    @property
    def t(self) -> Tensor:
        return self.span.time(self.s0)

    @property
    def t1(self) -> Tensor:
        return self.span.time(self.s1)


def begin(
    field: Field, y: Tensor, start: Tensor, end: Tensor, sign: float, settings: Settings
) -> tuple[Carry, Span]:
    """First slopes and first steps; ``start`` and ``end`` are 0-d and float64."""
    norm = settings.norm
    shape = (len(y), *(1 for _ in y.shape[1:])) if norm.per_sample else ()
    s = torch.zeros(shape, dtype=torch.float64, device=y.device)
    nodes = s.new_tensor(settings.tableau.c).view(-1, *(1 for _ in shape))
    atol = y.new_tensor(settings.atol)
    span = Span(s + start, sign, (end - start).abs() + s, nodes, atol)
    t = span.start
    k = field(t.to(y.dtype), y)
    if settings.first_step is None:
        with torch.no_grad():
            order = settings.tableau.error_order
            h = initial_step(field, t, y, k, sign, order, settings.rtol, atol, norm).abs()
    else:
        h = torch.full_like(s, settings.first_step)
    zeros = torch.zeros_like(s, dtype=torch.int64)
    return Carry(s, y, k, h, torch.zeros_like(s), zeros, zeros.clone()), span


def attempt(
    field: Field, ks: StageList | StageBuffer, carry: Carry, span: Span, settings: Settings
) -> tuple[Carry, Tensor, Tensor]:
    """Try one step; samples whose error is too large stay where they are and shorten theirs.

    Returns:
        The new carry, the signed steps tried, and which were accepted. A sample that has arrived
        takes steps of length zero.
    """
    tableau, y = settings.tableau, carry.y
    remaining = span.length - carry.s
    step = torch.minimum(carry.h, remaining)
    signed = step * span.sign
    times = torch.addcmul(span.time(carry.s), span.nodes, signed).to(y.dtype).unbind()
    h = signed.to(y.dtype)
    y1 = rk_step(field, times, y, h, ks)
    with torch.no_grad():
        ratio = error_ratio(ks, y, y1, h, settings.rtol, span.atol, settings.norm).double()
        accept = ratio <= 1.0
        grown = step * step_factor(ratio, carry.previous, tableau.error_order)
        arrived = accept & (step == remaining)
        next_h = torch.where(arrived, torch.maximum(grown, carry.h), grown)
        s = torch.where(arrived, span.length, torch.where(accept, carry.s + step, carry.s))
        previous = torch.where(accept, ratio, carry.previous)
        moved = s > carry.s
        accepted, rejected = carry.accepted + moved, carry.rejected + ~accept
    y = torch.where(accept, y1, y)
    k = (
        torch.where(accept, ks.last(), carry.k)
        if tableau.fsal
        else field(span.time(s).to(y.dtype), y)
    )
    return Carry(s, y, k, next_h, previous, accepted, rejected), h, accept


def per_sample_steps(
    field: Field, y: Tensor, t0: float, t1: float, settings: Settings, counts: dict
) -> Iterator[Step]:
    """Rounds of one attempted step for every sample, until all have arrived at t1.

    One flag a round crosses from device to host, because the host decides whether to go on.
    """
    start, end = torch.tensor([t0, t1], dtype=torch.float64, device=y.device)
    carry, span = begin(field, y, start, end, 1.0 if t1 > t0 else -1.0, settings)
    smallest = 8 * sys.float_info.epsilon * max(abs(t0), abs(t1))
    graph = settings.term_by_term or wants_graph(y, carry.k)
    ks = new_stages(settings.tableau, carry.k, graph)
    for attempts in range(1, settings.max_steps + 1):
        before = carry
        carry, h, accept = attempt(field, ks, before, span, settings)
        counts["accepted"], counts["rejected"] = carry.accepted, carry.rejected
        yield MaskedStep(span, before.s, carry.s, h, before.y, carry.y, ks, accept)
        ks.put(0, carry.k)
        if not (carry.s < span.length).any().item():
            return
        if attempts % 16 == 0 and not carry.h.min().item() > smallest:
            reason = "step size underflow, or a field that returned NaN or Inf,"
            raise SolverError(reason, *slowest(carry, span), rms(carry.y))
    reason = f"max_steps = {settings.max_steps} exceeded"
    raise SolverError(reason, *slowest(carry, span), rms(carry.y))


def slowest(carry: Carry, span: Span) -> tuple[float, float]:
    """Time and step of the sample that is farthest from the end."""
    index = carry.s.flatten().argmin()
    return span.time(carry.s).flatten()[index].item(), carry.h.flatten()[index].item() * span.sign
