"""The adjoint equation between two outputs: its times, its norm, the parts of its state."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.measure import ErrorNorm, OwnNorm
from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.settings import Settings


def parts_of(
    problem: Problem, parameters: Sequence[Tensor], shape: torch.Size
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What brings a state of the backward solve to the form 0, y, a, gradients."""
    sizes = [shape.numel(), shape.numel(), *(p.numel() for p in parameters)]

    def parts(x: Tensor) -> tuple[Tensor, ...]:
        y, a, *totals = x.split(sizes)
        states = [problem.unpack(part.view(shape)) for part in (y, a)]
        rows = [s if isinstance(s, tuple) else (s,) for s in states]
        shaped = [total.view_as(p) for total, p in zip(totals, parameters, strict=True)]
        return (x.new_zeros(()), *rows[0], *rows[1], *shaped)

    return parts


def norm_of(kind: str | Callable, size: int, parts: Callable) -> ErrorNorm:
    """The error norm of the backward solve; ``size`` is that of y and a together."""
    if callable(kind):
        return OwnNorm(function=lambda x: kind(parts(x)))
    return ErrorNorm(size=None if kind == "full" else size)


def piece_of(problem: Problem, settings: Settings, i: int) -> tuple[Tensor, Settings]:
    """Times of the backward solve from one output to the one before, and its settings."""
    t1, t0 = problem.outputs[i], problem.outputs[i - 1]
    ends = torch.tensor([t1, t0], dtype=torch.float64, device=problem.y0.device)
    if settings.grid is None:
        return ends, settings
    between = [t for t in settings.grid if min(t0, t1) < t < max(t0, t1)]
    return ends, replace(settings, grid=(t1, *reversed(between), t0))
