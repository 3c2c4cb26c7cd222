"""``options={"compile": True}``: whole solves, or single steps, as compiled programs.

Without a gradient the loop itself is compiled. With one, each step is, and the loop stays in
Python: ``while_loop`` does not carry gradients. Either way it is the code of ``step``, ``control``
and ``per_sample`` that is compiled. The first solve with a field costs seconds.
"""

from collections.abc import Callable
from functools import cache
from inspect import signature

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import RESOLUTION, SolverError, error_ratio, rms
from nodes_tutorial.ode.solvers.fixed import fixed_grid
from nodes_tutorial.ode.solvers.loops import Trial
from nodes_tutorial.ode.solvers.measure import allowed
from nodes_tutorial.ode.solvers.per_sample import Carry, Span, attempt, begin, slowest
from nodes_tutorial.ode.solvers.problem import Field, Problem, check_slope
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import rk_step, stage_times

PROGRAMS = 256  # distinct fields, shapes and methods that may be compiled in one process


# The settings that programs were compiled for. A program is handed the key and looks them up while
# it is compiled; a later call then compares one string, and not each setting.
_SETTINGS_BY_KEY: dict[str, Settings] = {}


def _key(settings: Settings) -> str:
    """All that a program depends on; the tableau by its value, since names may be given twice."""
    norm, tableau = settings.norm, settings.tableau
    key = f"{tableau.name} {hash(tableau)} {settings.tolerance} {settings.first_step} "
    key += f"{norm.per_sample} {norm.size}"
    _SETTINGS_BY_KEY.setdefault(key, settings)
    return key


def _may_change(guards) -> list[bool]:
    """Which of its assumptions a program checks at each call: all but those on this package.

    They are a hundred, and checking them takes as long as a step.
    """
    own = "G['__import_nodes_tutorial_dot_ode"
    return [g.name[:2] != "G[" or ("__import_" in g.name and own not in g.name) for g in guards]


@cache
def _compiled(function: Callable, whole: bool = True) -> Callable:
    """The function as a program: a whole solve for one shape, or a step that is called often.

    A whole solve is compiled for one shape and without graph breaks. A step does without these two
    conditions, because their checks take ten microseconds a call.
    """
    options = {"cpp_wrapper": True}
    if hasattr(torch.compiler, "skip_guard_on_globals_unsafe"):
        options["guard_filter_fn"] = _may_change
    arguments = {"options": options}
    if whole:
        arguments |= {"fullgraph": True, "dynamic": False}
    if "recompile_limit" in signature(torch.compile).parameters:
        arguments["recompile_limit"] = PROGRAMS
    return torch.compile(function, **arguments)


def _checked(field: Field) -> Field:
    """The field with a check that happens only while a program is compiled."""

    def checked(t: Tensor, y: Tensor) -> Tensor:
        return check_slope(field(t, y), y)

    return checked


def _advance(
    field: Field, key: str, tries: Tensor, carry: Carry, span: Span, limits: Tensor
) -> tuple[Tensor, Carry]:
    """Steps until no sample has time left, or none can go on."""
    settings = _SETTINGS_BY_KEY[key]

    def going(tries, *values):
        now = Carry(*values)
        return (now.left > 0.0).any() & (now.step.min() > limits[0]) & (tries < limits[1])

    def body(tries, *values):
        now = Carry(*values)
        stages = StageList(settings.tableau, now.slope)
        t = span.time(now.left)
        return tries + 1.0, *attempt(_checked(field), stages, now, t, span, settings)[0]

    tries, *values = torch._higher_order_ops.while_loop(going, body, (tries, *carry))
    return tries, Carry(*values)


def _start(field: Field, key: str, y: Tensor, sign: float, times: Tensor, limits: Tensor):
    """The first slopes and steps, and the way from the first time to the second."""
    settings = _SETTINGS_BY_KEY[key]
    shape = (len(y), *(1 for _ in y.shape[1:])) if settings.norm.per_sample else ()
    start = (times.new_zeros(shape) + times[0]).to(y.dtype)
    slope = _checked(field)(start, y)
    carry, span = begin(field, y, slope, (times[0], times[1]), sign, settings)
    carry = carry._replace(y=y.clone(), trend=carry.trend.clone())
    tries = torch.zeros_like(limits[0])
    return *_advance(field, key, tries, carry, span, limits), span


def integrate_adaptive(problem: Problem, settings: Settings) -> Tensor:
    """States at the output times, shape ``(T, *y.shape)``; steps end at each of them."""
    y, outputs, field, key = problem.y0, problem.outputs, problem.call, _key(settings)
    smallest = RESOLUTION * max(map(abs, outputs))
    limits = torch.tensor([smallest, settings.max_steps], dtype=torch.float64, device=y.device)
    times = torch.tensor(outputs, dtype=torch.float64, device=y.device)
    sign = 1.0 if outputs[1] > outputs[0] else -1.0
    tries, carry, span = _compiled(_start)(field, key, y, sign, times[:2], limits)
    rows = [y, carry.y]
    for time in times[2:]:
        _check(tries, carry, span, settings)
        end = torch.zeros_like(span.end) + time
        left, span = (end - span.end).abs(), span._replace(end=end)
        carry = carry._replace(left=left, h=span.tried(carry.step, left, y))
        tries, carry = _compiled(_advance)(field, key, tries, carry, span, limits)
        rows.append(carry.y)
    _check(tries, carry, span, settings)
    return torch.stack(rows)


def _check(tries: Tensor, carry: Carry, span: Span, settings: Settings) -> None:
    if bool(carry.left.any()):
        reason = "step size underflow, or a field that returned NaN or Inf,"
        if tries.item() >= settings.max_steps:
            reason = f"max_steps = {settings.max_steps} exceeded"
        time, step, sample = slowest(carry, span)
        if settings.norm.per_sample:
            raise SolverError(reason, time, step, rms(carry.y[sample]), sample)
        raise SolverError(reason, time, step, rms(carry.y))


def _advance_fixed(field: Field, key: str, y: Tensor, times: Tensor) -> Tensor:
    """Equal steps; ``times`` holds the first, the step and how many."""
    tableau = _SETTINGS_BY_KEY[key].tableau

    def going(i, y):
        return i < times[2]

    def body(i, y):
        t, h = times[0] + i * times[1], times[1]
        nodes = stage_times(t, h, tableau.c, y)
        slope = _checked(field)
        stages = StageList(tableau, slope(nodes[0], y))
        return i + 1.0, rk_step(slope, nodes, y, h, stages, last_stage=False)

    return torch._higher_order_ops.while_loop(going, body, (torch.zeros_like(times[0]), y))[1]


def integrate_fixed(problem: Problem, settings: Settings) -> Tensor:
    """States at the output times under a fixed grid, shape ``(T, *y.shape)``."""
    y, rows, key = problem.y0.clone(), [problem.y0], _key(settings)
    for i in range(1, len(problem.outputs)):
        grid = fixed_grid(problem.outputs[i - 1 : i + 1], settings)
        times = [grid[0], (grid[-1] - grid[0]) / (len(grid) - 1), len(grid) - 1.0]
        times = torch.tensor(times, dtype=torch.float64, device=y.device)
        y = _compiled(_advance_fixed)(problem.call, key, y, times)
        rows.append(y)
    return torch.stack(rows)


def _try_step(field: Field, key: str, y: Tensor, slope: Tensor, at: Tensor):
    settings = _SETTINGS_BY_KEY[key]
    t, h = at.unbind()
    rtol, atol = settings.tolerance.rtol, settings.tolerance.absolute(y)
    stages = StageList(settings.tableau, slope)
    times = stage_times(t, h, settings.tableau.c, y)
    y1 = rk_step(_checked(field), times, y, h.to(y.dtype), stages)
    with torch.no_grad():
        scale = allowed(rtol, atol, torch.maximum(y.abs(), y1.abs()))
        ratio = error_ratio(stages, scale, settings.norm)
    return y1, stages.last(), ratio


def compiled_trial(problem: Problem, settings: Settings) -> Trial:
    """One attempted step of the common loop, compiled, differentiable.

    Of its slopes only the last comes back, so outputs must lie at the ends of steps.
    """
    try_step, key = _compiled(_try_step, whole=False), _key(settings)
    field, last = problem.call, settings.tableau.stages - 1

    def trial(stages, t, h, y, abs_y, atol):
        at = torch.tensor([t, h], dtype=torch.float64, device=y.device)
        slope = stages.slopes[0]
        y1, last_slope, ratio = try_step(field, key, y, slope, at)
        stages.slopes = [slope] * last + [last_slope]
        return y1, abs_y, ratio.item()

    return trial
