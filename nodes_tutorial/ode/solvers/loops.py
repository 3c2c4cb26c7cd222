"""The loop over adaptive steps when the whole batch shares one step."""

from collections.abc import Callable, Iterator
from math import isfinite
from operator import itemgetter

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import (
    RESOLUTION,
    SMALLEST_RATIO,
    SolverError,
    error_ratio,
    failure,
    initial_step,
    rms,
    step_factor,
)
from nodes_tutorial.ode.solvers.measure import allowed
from nodes_tutorial.ode.solvers.problem import Field, Problem, under_transform
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import Stages, new_stages
from nodes_tutorial.ode.solvers.step import Step, rk_step, stage_times

STRETCH = 1.1  # a step is stretched by up to ten percent to reach the end
WATCHED_STEPS = 2  # a field that reuses its memory does so from the first step on

Trial = Callable[[Stages, float, float, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, float]]


def eager_trial(field: Field, settings: Settings, graph: bool) -> Trial:
    """One attempted step: its end, and without a graph its absolute value and error ratio."""
    rtol, norm = settings.tolerance.rtol, settings.norm
    nodes = settings.tableau.distinct_c  # a time that two stages share is made once
    for_stages = itemgetter(*settings.tableau.c_index)

    def error_of(stages, abs_y, y1, atol):
        abs_y1 = y1.abs()
        scale = allowed(rtol, atol, torch.maximum(abs_y, abs_y1))
        return abs_y1, error_ratio(stages, scale, norm)

    if graph:
        error_of = torch.no_grad()(error_of)

    def trial(stages, t, h, y, abs_y, atol):
        y1 = rk_step(field, for_stages(stage_times(t, h, nodes, y)), y, h, stages)
        return y1, *error_of(stages, abs_y, y1, atol)

    return trial


def slope_store(problem: Problem, settings: Settings, slope: Tensor, **kind) -> Stages:
    """A store for the slopes of a solve, with the first one."""
    sure = problem.copies or under_transform() or slope.numel() == 0
    watch = 0 if sure else WATCHED_STEPS
    return new_stages(
        settings.tableau, slope, problem.graph or settings.term_by_term, watch, **kind
    )


def adaptive_steps(
    problem: Problem, span: list[float], settings: Settings, trial: Trial | None = None
) -> Iterator[Step]:
    """Accepted steps through the times of ``span``: a step ends at each of them but the first.

    Step sizes are floats and error estimates have no graph: differentiation holds the steps fixed.
    One number a step, the error ratio, crosses to the host, which decides on the next step.

    Raises:
        SolverError: NaN or Inf, step size underflow, or ``max_steps`` exceeded.

    Chapter: prop-pi-controller
    """
    tableau, y, limits = settings.tableau, problem.y0, settings.limits
    t, *stops = span
    direction = 1.0 if stops[0] > t else -1.0
    smallest = RESOLUTION * max(map(abs, span))
    slope = problem.first_slope()
    tolerance = settings.tolerance
    atol = tolerance.absolute(y)
    at_begin, field = problem.sides(problem.evaluator())
    tell = problem.tell
    stages = slope_store(problem, settings, slope)
    trial = trial or eager_trial(field, settings, problem.graph)
    abs_y = y.detach().abs()
    if settings.first_step is None:
        with torch.no_grad():
            order, norm = tableau.error_order, settings.norm
            scale = allowed(tolerance.rtol, atol, abs_y)
            h = float(initial_step(field, t, y, slope, direction, order, scale, norm))
    else:
        h = direction * settings.first_step
    if not isfinite(h):
        raise failure(y, slope, t, h, tolerance, "the field returned NaN or Inf")
    previous_ratio = 0.0  # there is no accepted step yet
    rejected = 0  # attempts since the last accepted step
    first_slope_valid = True
    for _ in range(settings.max_steps):
        if not limits.least <= abs(h) <= limits.most:
            h = limits.nearest(h)
        h_wanted = h
        # Stretch or cut a step to end exactly at the stop; no tiny step is left over.
        hits_stop = (t + STRETCH * h - stops[0]) * direction > 0.0 and limits.allow(stops[0] - t)
        t_next = stops[0] if hits_stop else t + h
        h = t_next - t
        if not first_slope_valid:
            stages.put(0, at_begin(stage_times(t, h, (0.0,), y)[0], y))
            first_slope_valid = True
        if tell:
            tell("step", t, y, h)
        y1, abs_y1, ratio = trial(stages, t, h, y, abs_y, atol)
        factor = step_factor(ratio, previous_ratio, tableau.error_order)
        if ratio <= 1.0 or limits.forces(h_wanted, ratio):
            if tell:
                tell("accept_step", t, y, h)
            yield Step(t, t_next, h, y, y1, stages, rejected)
            if hits_stop and len(stops) == 1:
                return
            t, y, abs_y = t_next, y1, abs_y1
            previous_ratio = max(ratio, SMALLEST_RATIO)
            # the last slope is the first of the next step, unless the field jumps there
            first_slope_valid = tableau.fsal and t not in problem.jumps
            if first_slope_valid:
                stages.roll()
            # The step after a rejected one does not grow: the estimate was wrong just now.
            h *= min(factor, 1.0) if rejected else factor
            if hits_stop:
                h = max(h, h_wanted, key=abs)  # a cut step says nothing against the longer one
                stops = stops[1:]
            rejected = 0
        else:
            if tell:
                tell("reject_step", t, y, h)
            h *= factor  # the first slope still serves: neither t nor y has moved
            rejected += 1
            if abs(h) < smallest:
                reason = (
                    "step size underflow" if isfinite(ratio) else "the field returned NaN or Inf"
                )
                raise failure(y, stages.stacked()[0], t, h, tolerance, reason)
    raise SolverError(f"max_steps = {settings.max_steps} exceeded", t, h, rms(y))
