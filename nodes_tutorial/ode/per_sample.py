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
    stage_times,
)


class Carry(NamedTuple):
    """State of the loop: the samples' times, states, slopes, next steps and history.

    Times and steps are float64, of shape ``(batch, 1, …)`` or, for one common step, ``()``.
    """

    t: Tensor
    y: Tensor
    k: Tensor
    h: Tensor
    previous: Tensor
    accepted: Tensor
    rejected: Tensor


def begin(field: Field, y: Tensor, t0: float, t1: float, settings: Settings) -> Carry:
    """First slopes and first steps."""
    norm = settings.norm
    shape = (len(y), *(1 for _ in y.shape[1:])) if norm.per_sample else ()
    t = torch.full(shape, t0, dtype=torch.float64, device=y.device)
    k = field(t.to(y.dtype), y)
    direction = 1.0 if t1 > t0 else -1.0
    if settings.first_step is None:
        with torch.no_grad():
            order = settings.tableau.error_order
            h = initial_step(
                field, t, y, k, direction, order, settings.rtol, settings.atol, norm
            )
    else:
        h = torch.full_like(t, direction * settings.first_step)
    zeros = torch.zeros(shape, dtype=torch.int64, device=y.device)
    return Carry(t, y, k, h, torch.ones_like(t), zeros, zeros)


def attempt(
    field: Field, ks: StageList | StageBuffer, carry: Carry, t1: Tensor, settings: Settings
) -> tuple[Carry, Tensor, Tensor]:
    """Try one step; samples whose error is too large stay where they are and shorten theirs.

    Returns:
        The new carry, the steps tried, and which were accepted. A sample that has arrived takes
        steps of length zero.
    """
    tableau = settings.tableau
    remaining = t1 - carry.t
    ends = 1.01 * carry.h.abs() >= remaining.abs()
    step = torch.where(ends, remaining, carry.h)
    h = step.to(carry.y.dtype)
    y1 = rk_step(field, stage_times(carry.t, step, tableau.c, carry.y), carry.y, h, ks)
    with torch.no_grad():
        ratio = error_ratio(
            ks, carry.y, y1, h, settings.rtol, settings.atol, settings.norm
        ).double()
        accept = ratio <= 1.0
        grown = step * step_factor(ratio, carry.previous, tableau.error_order)
        longer = torch.where(grown.abs() > carry.h.abs(), grown, carry.h)
        next_h = torch.where(accept & ends, longer, grown)
        moving = remaining != 0.0
        t = torch.where(accept, torch.where(ends, t1, carry.t + step), carry.t)
        accepted = carry.accepted + (accept & moving)
        rejected = carry.rejected + ~accept
        previous = torch.where(accept & moving, ratio, carry.previous)
    y = torch.where(accept, y1, carry.y)
    if tableau.fsal:
        k = torch.where(accept, ks.last(), carry.k)
    else:
        k = field(t.to(y.dtype), y)
    return Carry(t, y, k, next_h, previous, accepted, rejected), step, accept


def per_sample_steps(
    field: Field, y: Tensor, t0: float, t1: float, settings: Settings, counts: dict
) -> Iterator[Step]:
    """Rounds of one attempted step for every sample, until all have arrived at t1.

    Two flags a round cross from device to host, because the host decides whether to go on.
    """
    carry = begin(field, y, t0, t1, settings)
    end = torch.tensor(t1, dtype=torch.float64, device=y.device)
    tiny = 8 * sys.float_info.epsilon * max(abs(t0), abs(t1))
    ks = new_stages(settings.tableau, carry.k, wants_graph(y, carry.k))
    for _ in range(settings.max_steps):
        before = carry
        carry, step, accept = attempt(field, ks, before, end, settings)
        counts["accepted"], counts["rejected"] = carry.accepted, carry.rejected
        yield Step(before.t, carry.t, step.to(y.dtype), before.y, carry.y, ks, accept)
        ks.put(0, carry.k)
        arrived, stuck = torch.stack(
            [(carry.t == end).all(), ~(carry.h.abs() > tiny).all()]
        ).tolist()
        if arrived:
            return
        if stuck:
            raise stuck_error(carry, end)
    raise SolverError(
        f"max_steps = {settings.max_steps} exceeded", *_slowest(carry, end), rms(carry.y)
    )


def _slowest(carry: Carry, end: Tensor) -> tuple[float, float]:
    """Time and step of the sample that is farthest from the end."""
    index = (end - carry.t).abs().flatten().argmax()
    return carry.t.flatten()[index].item(), carry.h.flatten()[index].item()


def stuck_error(carry: Carry, end: Tensor) -> SolverError:
    reason = "step size underflow, or a field that returned NaN or Inf,"
    return SolverError(reason, *_slowest(carry, end), rms(carry.y))
