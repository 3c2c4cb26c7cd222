"""The loops over steps when the whole batch shares one step: adaptive, and on a fixed grid."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import pairwise
from math import ceil, isfinite
from operator import itemgetter

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import (
    ErrorNorm,
    SolverError,
    error_ratio,
    initial_step,
    step_factor,
)
from nodes_tutorial.ode.solvers.stages import StageBuffer, StageList, new_stages
from nodes_tutorial.ode.solvers.step import Field, Step, check_slope, rk_step, stage_times
from nodes_tutorial.ode.solvers.tableaus import Tableau


@dataclass
class Settings:
    """What a loop needs to know beside the problem.

    ``term_by_term`` combines stages in the order of backpropagation even where no graph is wanted:
    a solve without a graph then takes, to the last bit, the steps of one with a graph.
    """

    tableau: Tableau
    rtol: float
    atol: float
    norm: ErrorNorm = dataclass_field(default_factory=ErrorNorm)
    step_size: float | None = None
    first_step: float | None = None
    max_steps: int = 100_000
    compile: bool = False
    adjoint_norm: str = "seminorm"
    term_by_term: bool = False
    controlled: int | None = None

    @property
    def fixed(self) -> bool:
        """Whether the steps are given beforehand."""
        return self.tableau.b_error is None or self.step_size is not None


def wants_graph(y: Tensor, k: Tensor) -> bool:
    """Whether the steps must be differentiable, by autograd or a ``torch.func`` transform."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return torch.is_grad_enabled() and (y.requires_grad or k.requires_grad)


def rms(y: Tensor) -> float:
    return float(ErrorNorm()(y.detach()))


EPSILON = sys.float_info.epsilon
Trial = Callable[
    [StageList | StageBuffer, float, float, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, float]
]


def eager_trial(field: Field, settings: Settings, graph: bool) -> Trial:
    """One attempted step: its end, the size of that, and its error ratio.

    Of these only the end is ever part of a graph.
    """
    rtol, norm = settings.rtol, settings.norm
    later = settings.tableau.c[1:]
    nodes = tuple(dict.fromkeys(later))  # a time that two stages share is made once
    shared = itemgetter(0, *map(nodes.index, later))

    def judge(ks, y1, size, atol):
        after = y1.abs()
        ratio = error_ratio(ks, torch.maximum(size, after), rtol, atol, norm)
        return after, ratio

    if graph:
        judge = torch.no_grad()(judge)

    def trial(ks, t, h, y, size, atol):
        y1 = rk_step(field, shared(stage_times(t, h, nodes, y)), y, h, ks)
        return y1, *judge(ks, y1, size, atol)

    return trial


def adaptive_steps(
    field: Field,
    y: Tensor,
    times: list[float],
    settings: Settings,
    counts: dict,
    trial: Trial | None = None,
) -> Iterator[Step]:
    """Accepted steps through the given times: the first is the start, at each other a step ends.

    Step sizes are floats and the error estimate is taken without a graph: the sequence of steps
    is held fixed under differentiation. One number a step crosses from device to host, the error
    ratio, because the host decides on the next step.

    Chapter: prop-pi-controller
    """
    tableau, (t, *stops) = settings.tableau, times
    direction, smallest = (1.0 if stops[0] > t else -1.0), 8 * EPSILON * max(map(abs, times))
    atol = torch.scalar_tensor(settings.atol, dtype=y.dtype, device=y.device)
    k = check_slope(field(stage_times(t, 0.0, (0.0,), y)[0], y), y)
    graph = wants_graph(y, k)
    ks = new_stages(tableau, k, graph or settings.term_by_term or trial is not None)
    trial = trial or eager_trial(field, settings, graph)
    size = y.detach().abs()
    if settings.first_step is None:
        with torch.no_grad():
            order, rtol, norm = tableau.error_order, settings.rtol, settings.norm
            h = initial_step(field, t, y, k, direction, order, rtol, atol, norm)
    else:
        h = direction * settings.first_step
    if not isfinite(h):
        raise SolverError("the field returned NaN or Inf", t, h, rms(y))
    previous, rejected, fresh = 0.0, False, True
    for _ in range(settings.max_steps):
        wish = h
        ends = (t + 1.1 * h - stops[0]) * direction > 0.0
        t_next = stops[0] if ends else t + h
        h = t_next - t
        if not fresh:
            ks.put(0, field(stage_times(t, h, (0.0,), y)[0], y))
            fresh = True
        y1, after, ratio = trial(ks, t, h, y, size, atol)
        factor = step_factor(ratio, previous, tableau.error_order)
        if ratio <= 1.0:
            counts["accepted"] += 1
            yield Step(t, t_next, h, y, y1, ks)
            if ends and len(stops) == 1:
                return
            t, y, size, previous = t_next, y1, after, max(ratio, 1e-10)
            fresh = tableau.fsal
            if fresh:
                ks.roll()
            h *= min(factor, 1.0) if rejected else factor
            if ends:
                h, stops = max(h, wish, key=abs), stops[1:]
            rejected = False
        else:
            counts["rejected"] += 1
            h *= factor
            rejected = True
            if abs(h) < smallest:
                bad = "step size underflow" if isfinite(ratio) else "the field returned NaN or Inf"
                raise SolverError(bad, t, h, rms(y))
    raise SolverError(f"max_steps = {settings.max_steps} exceeded", t, h, rms(y))


def fixed_grid(outputs: list[float], step_size: float | None) -> list[float]:
    """Output times with each interval cut into equal steps no longer than ``step_size``."""
    grid = outputs[:1]
    for t, t_next in pairwise(outputs):
        cuts = 1 if step_size is None else max(1, ceil(abs(t_next - t) / step_size - 1e-9))
        grid += [t + (t_next - t) * i / cuts for i in range(1, cuts)] + [t_next]
    return grid


def fixed_steps(
    field: Field, y: Tensor, outputs: list[float], settings: Settings, counts: dict
) -> Iterator[Step]:
    """Steps over :func:`fixed_grid`; nothing crosses to the host, so a GPU runs ahead."""
    tableau = settings.tableau
    grid = fixed_grid(outputs, settings.step_size)
    if len(grid) - 1 > settings.max_steps:
        raise ValueError(
            f"options['max_steps'] = {settings.max_steps}, but the grid has {len(grid) - 1} steps"
        )
    counts["accepted"] = len(grid) - 1
    steps = torch.tensor(grid, dtype=torch.float64)
    nodes = torch.tensor(tableau.c, dtype=torch.float64)
    times = steps[:-1, None] + steps.diff()[:, None] * nodes
    flat = times.flatten().to(device=y.device, dtype=y.dtype).unbind()
    rows = [flat[i : i + tableau.stages] for i in range(0, len(flat), tableau.stages)]
    ks = None
    for row, (t, t_next) in zip(rows, pairwise(grid), strict=True):
        if ks is None:
            k = check_slope(field(row[0], y), y)
            ks = new_stages(tableau, k, settings.term_by_term or wants_graph(y, k))
        elif tableau.fsal:
            ks.roll()
        else:
            ks.put(0, field(row[0], y))
        y1 = rk_step(field, row, y, t_next - t, ks)
        yield Step(t, t_next, t_next - t, y, y1, ks)
        y = y1
