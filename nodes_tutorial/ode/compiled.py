"""``options={"compile": True}``: whole solves, or single steps, as compiled programs.

Without a gradient the loop itself is compiled. With one, each step is, and the loop stays in
Python: ``while_loop`` does not carry gradients. Either way it is the code of ``step``, ``control``
and ``per_sample`` that is compiled. The first solve with a field costs seconds.
"""

import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from nodes_tutorial.ode.control import SolverError, error_ratio
from nodes_tutorial.ode.loops import Settings, Trial, fixed_grid, rms
from nodes_tutorial.ode.per_sample import Carry, Span, attempt, begin, slowest
from nodes_tutorial.ode.problem import Problem
from nodes_tutorial.ode.step import Field, StageList, rk_step, stage_times

PROGRAMS = 256  # distinct fields, shapes and methods that may be compiled in one process


@cache
def _compiled(function: Callable) -> Callable:
    compiled = torch.compile(function, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})

    def call(*arguments):
        with torch._dynamo.config.patch(recompile_limit=PROGRAMS):
            return compiled(*arguments)

    return call


def _advance(field: Field, settings: Settings, carry: Carry, span: Span, limits: Tensor) -> Carry:
    """Steps until every sample has covered ``span.length``, or none can go on."""

    def going(*values):
        now = Carry(*values)
        tries = (now.accepted + now.rejected).max()
        alive = (now.h.min() > limits[0]) & (tries < limits[1])
        return (now.s < span.length).any() & alive

    def body(*values):
        now = Carry(*values)
        after, _, _ = attempt(field, StageList(settings.tableau, now.k), now, span, settings)
        return tuple(after)

    return Carry(*torch._higher_order_ops.while_loop(going, body, tuple(carry)))


def integrate_adaptive(problem: Problem, settings: Settings) -> Tensor:
    """States at the output times, shape ``(T, *y.shape)``; steps end at each of them."""
    times = problem.outputs
    carry, span = begin(problem.field, problem.y0, times[0], times[-1], settings)
    carry = Carry(*(x.clone() for x in carry))
    smallest = 8 * sys.float_info.epsilon * max(map(abs, times))
    limits = carry.s.new_tensor([smallest, settings.max_steps])
    rows = [problem.y0]
    for time in times[1:]:
        span = span._replace(length=torch.full_like(carry.s, abs(time - times[0])))
        carry = _compiled(_advance)(problem.bare, settings, carry, span, limits)
        if not bool((carry.s == span.length).all()):
            late = (carry.accepted + carry.rejected).max().item() >= settings.max_steps
            reason = (
                f"max_steps = {settings.max_steps} exceeded"
                if late
                else ("step size underflow, or a field that returned NaN or Inf,")
            )
            raise SolverError(reason, *slowest(carry, span), rms(carry.y))
        rows.append(carry.y)
    return torch.stack(rows)


def _advance_fixed(field: Field, settings: Settings, y: Tensor, times: Tensor) -> Tensor:
    """Equal steps; ``times`` holds the first, the step and how many."""

    def going(i, y):
        return i < times[2]

    def body(i, y):
        t, h = times[0] + i * times[1], times[1]
        nodes = stage_times(t, h, settings.tableau.c, y)
        ks = StageList(settings.tableau, field(nodes[0], y))
        return i + 1.0, rk_step(field, nodes, y, h, ks, last_stage=False)

    return torch._higher_order_ops.while_loop(going, body, (torch.zeros_like(times[0]), y))[1]


def integrate_fixed(problem: Problem, settings: Settings) -> Tensor:
    """States at the output times under a fixed grid, shape ``(T, *y.shape)``."""
    y, rows = problem.y0.clone(), [problem.y0]
    for i in range(1, len(problem.outputs)):
        grid = fixed_grid(problem.outputs[i - 1 : i + 1], settings.step_size)
        times = [grid[0], (grid[-1] - grid[0]) / (len(grid) - 1), len(grid) - 1.0]
        times = torch.tensor(times, dtype=torch.float64, device=y.device)
        y = _compiled(_advance_fixed)(problem.bare, settings, y, times)
        rows.append(y)
    return torch.stack(rows)


def _try_step(field, settings: Settings, y: Tensor, k: Tensor, t: Tensor, h: Tensor, atol: Tensor):
    ks = StageList(settings.tableau, k)
    y1 = rk_step(field, stage_times(t, h, settings.tableau.c, y), y, h.to(y.dtype), ks)
    with torch.no_grad():
        ratio = error_ratio(ks, y, y1, h, settings.rtol, atol, settings.norm)
    return y1, ks.last(), ratio


def compiled_trial(problem: Problem, settings: Settings) -> Trial:
    """One attempted step of the common loop, compiled, differentiable.

    Of its stages only the last comes back, so outputs must lie at the ends of steps.
    """

    def trial(ks, t, h, y, atol):
        at = torch.tensor([t, h], dtype=torch.float64, device=y.device).unbind()
        k = ks.ks[0]
        y1, last, ratio = _compiled(_try_step)(problem.bare, settings, y, k, *at, atol)
        ks.ks = [k] * (settings.tableau.stages - 1) + [last]
        problem.nfe += settings.tableau.stages - 1
        return y1, ratio.item()

    return trial
