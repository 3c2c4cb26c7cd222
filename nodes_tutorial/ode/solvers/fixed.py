"""Steps on a fixed grid."""

from collections.abc import Iterator
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.loops import slope_store
from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.step import Step, rk_step

GRID_SLACK = 1e-9  # an interval of 3.0000000001 steps is cut into three


def _cuts(t: float, t_next: float, step_size: float | None) -> int:
    """Into how many equal steps an interval between outputs is cut."""
    if step_size is None:
        return 1
    return max(1, ceil(abs(t_next - t) / step_size - GRID_SLACK))


def fixed_grid(outputs: list[float], settings: Settings) -> list[float]:
    """The user's grid, or output times with each interval cut into steps of up to ``step_size``.

    Raises:
        ValueError: the grid has more than ``max_steps`` steps.
    """
    if settings.grid is not None:
        return list(settings.grid)
    cuts = [_cuts(*pair, settings.step_size) for pair in pairwise(outputs)]
    if sum(cuts) > settings.max_steps:
        raise ValueError(
            f"options['max_steps'] = {settings.max_steps}, but the grid has {sum(cuts)} steps"
        )
    grid = outputs[:1]
    for count, (t, t_next) in zip(cuts, pairwise(outputs), strict=True):
        grid += [t + (t_next - t) * i / count for i in range(1, count)] + [t_next]
    return grid


def stage_rows(problem: Problem, settings: Settings, grid: list[float]) -> list[tuple[Tensor, ...]]:
    """The times of all stages, a row for each step of the grid."""
    tableau, y = settings.tableau, problem.y0
    steps = torch.tensor(grid, dtype=torch.float64)
    nodes = torch.tensor(tableau.c, dtype=torch.float64)
    times = (steps[:-1, None] + steps.diff()[:, None] * nodes).to(y.dtype)
    if settings.perturb:
        way = torch.where(nodes == 0.0, 1.0, torch.where(nodes == 1.0, -1.0, 0.0)).to(y.dtype)
        times = torch.nextafter(times, times + way * steps.diff().sign()[:, None].to(y.dtype))
    flat = times.flatten().to(y.device).unbind()
    return [flat[i : i + tableau.stages] for i in range(0, len(flat), tableau.stages)]


def fixed_steps(problem: Problem, settings: Settings) -> Iterator[Step]:
    """Steps over :func:`fixed_grid`; nothing crosses to the host, so a GPU runs ahead."""
    tableau, y = settings.tableau, problem.y0
    grid = fixed_grid(problem.outputs, settings)
    rows = stage_rows(problem, settings, grid)
    slope = problem.first_slope(rows[0][0] if settings.perturb else None)
    stages = slope_store(problem, settings, slope)
    field, tell = problem.evaluator(), problem.tell
    first = True
    for row, (t, t_next) in zip(rows, pairwise(grid), strict=True):
        if first:
            first = False
        elif tableau.fsal and not settings.perturb:
            stages.roll()
        else:
            stages.put(0, field(row[0], y))
        h = t_next - t
        if tell:
            tell("step", t, y, h)
        y1 = rk_step(field, row, y, h, stages)
        yield Step(t, t_next, h, y, y1, stages)
        y = y1
