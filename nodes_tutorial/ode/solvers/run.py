"""Running a solve: the loop that fits, its steps gathered at the output times."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.adams import EXPLICIT_ADAMS, adams_steps
from nodes_tutorial.ode.solvers.control import SolverError, rms
from nodes_tutorial.ode.solvers.fixed import fixed_steps
from nodes_tutorial.ode.solvers.gather import Gather, Wanted
from nodes_tutorial.ode.solvers.loops import adaptive_steps
from nodes_tutorial.ode.solvers.per_sample import per_sample_steps
from nodes_tutorial.ode.solvers.problem import Again, Problem, under_transform
from nodes_tutorial.ode.solvers.recall import modules_behind
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import ReusedSlope
from nodes_tutorial.ode.solvers.step import Step


def is_fixed(settings: Settings) -> bool:
    """Whether the steps are given beforehand."""
    given = settings.step_size is not None or settings.grid is not None
    return given or settings.tableau.b_error is None


def iterate(problem: Problem, settings: Settings) -> Iterator[Step]:
    """The accepted steps of a solve, whichever loop makes them.

    Raises:
        ValueError: ``compile`` together with fixed steps or ``per_sample``.
    """
    if settings.compile and (is_fixed(settings) or settings.norm.per_sample):
        raise ValueError(
            "options['compile'] with per_sample or fixed steps serves solves without a gradient"
        )
    if settings.tableau is EXPLICIT_ADAMS:
        return adams_steps(problem, settings)
    if is_fixed(settings):
        return fixed_steps(problem, settings)
    if settings.norm.per_sample:
        return per_sample_steps(problem, settings)
    if settings.compile:
        from nodes_tutorial.ode.solvers.compiled import compiled_trial

        return adaptive_steps(
            problem,
            problem.outputs,
            replace(settings, term_by_term=True),
            compiled_trial(problem, settings),
        )
    return adaptive_steps(problem, _span(problem), settings)


def _span(problem: Problem) -> list[float]:
    """The first time, the stops between, and the last time, in the order of the solve."""
    t0, t1 = problem.outputs[0], problem.outputs[-1]
    between = {stop for stop in problem.stops if min(t0, t1) < stop < max(t0, t1)}
    return [t0, *sorted(between, reverse=t1 < t0), t1]


def run(
    problem: Problem,
    settings: Settings,
    keep: Callable[[Step, list[Wanted]], Any] | None = None,
) -> tuple[Tensor, list]:
    """Make all steps of a solve, and hand each to ``keep`` with what was gathered from it.

    The loop begins with the cheapest store of slopes. Where a later slope does not allow it, all
    is done again with one that does.

    Returns:
        The joined states at the output times, and what ``keep`` returned for each step.
    """
    while True:
        gather = Gather(problem, problem.outputs[1:])
        kept = []
        try:
            with problem.arithmetic():
                for step in iterate(problem, settings):
                    wanted = gather.add(step)
                    if keep is not None:
                        kept.append(keep(step, wanted))
                y = gather.result()
        except Again:
            continue
        except ReusedSlope:
            problem.copies = True
            continue
        if is_fixed(settings):
            check_finite(y, problem, settings)
        return y, kept


def integrate(problem: Problem, settings: Settings) -> Tensor:
    """Run a solve and return the joined states at the output times."""
    if settings.compile and problem.y0.numel() > 0 and not _differentiable(problem):
        return _compiled(problem, settings)
    return run(problem, settings)[0]


def _compiled(problem: Problem, settings: Settings) -> Tensor:
    from nodes_tutorial.ode.solvers import compiled

    whole = compiled.integrate_fixed if is_fixed(settings) else compiled.integrate_adaptive
    try:
        y = whole(problem, settings)
    except (SolverError, ValueError):
        raise
    except Exception:
        problem.first_slope()  # raises where the field is at fault
        raise
    if is_fixed(settings):
        check_finite(y, problem, settings)
    return y


def _differentiable(problem: Problem) -> bool:
    """Whether a gradient may be wanted: of y0, the first slope, or a parameter for a later one."""
    if problem.graph:
        return True
    if not torch.is_grad_enabled():
        return False
    modules = modules_behind(problem.func)
    problem.graph = any(p.requires_grad for module in modules for p in module.parameters())
    if not problem.graph:
        problem.first_slope()
    return problem.graph


def check_finite(y: Tensor, problem: Problem, settings: Settings) -> None:
    """Raise a SolverError for an output that is NaN or Inf; no error estimate fails on a grid."""
    if not under_transform() and not bool(y.isfinite().all()):
        bad = (~y.isfinite()).flatten(1).any(1).nonzero()[0].item()
        step = settings.step_size or abs(problem.outputs[bad] - problem.outputs[bad - 1])
        last = rms(y[bad - 1]) if bad else float("nan")
        raise SolverError("the state became NaN or Inf", problem.outputs[bad], step, last)
