"""The record of a solve: its steps, what they cost, and the solution between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.callbacks import CALLBACKS
from nodes_tutorial.ode.solvers.gather import Gather
from nodes_tutorial.ode.solvers.measure import Tolerances
from nodes_tutorial.ode.solvers.prepare import prepare
from nodes_tutorial.ode.solvers.problem import Problem, State, carries_derivative
from nodes_tutorial.ode.solvers.run import run
from nodes_tutorial.ode.solvers.step import Step
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.times import move_start, moved_outputs


@dataclass(frozen=True)
class Solution:
    """The result of a solve and its cost.

    Attributes:
        t: output times, shape ``(T,)``.
        y: states there, shape ``(T, *y0.shape)``, or a tuple of such tensors.
        nfe: evaluations of the field by the steps.
        accepted: accepted steps; with ``per_sample`` of shape ``(batch,)``.
        rejected: rejected steps, likewise.
        step_times: time at which each step began, float64, shape ``(steps,)`` or
            ``(steps, batch)``.
        step_sizes: signed length of each step, likewise; zero where a sample did not move.

    Chapter: def-runge-kutta
    """

    t: Tensor
    y: State
    nfe: int
    accepted: int | Tensor
    rejected: int | Tensor
    step_times: Tensor
    step_sizes: Tensor
    _problem: Problem = field(repr=False)
    _steps: list[Step] = field(repr=False)

    def interpolate(self, t: Tensor) -> State:
        """States at any times between the first and the last, from the dense output.

        Args:
            t: times, in any order, shape ``(m,)``.

        Returns:
            States, shape ``(m, *y0.shape)``, or a tuple of such tensors. The derivative with
            respect to ``t`` is the field there.

        Raises:
            TypeError: t is not a tensor of a floating-point dtype.
            ValueError: a time lies outside the solve, or the tableau has no dense output.
        """
        if not isinstance(t, Tensor) or not t.is_floating_point():
            kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"t must be a floating-point tensor, got {kind}")
        times = t.detach().double()
        problem = self._problem
        low, high = sorted((problem.outputs[0], problem.outputs[-1]))
        if times.dim() != 1 or not bool(((times >= low) & (times <= high)).all()):
            raise ValueError(f"t must be 1-D with times in [{low:g}, {high:g}]")
        order = times.argsort(descending=problem.outputs[-1] < problem.outputs[0])
        gather = Gather(problem, times[order].tolist())
        with problem.arithmetic():
            for step in self._steps:
                gather.add(step)
        y = gather.result()[1:][order.argsort()]
        if carries_derivative(t):
            y = moved_outputs(problem, t, y)
        return problem.unpack(y)


class _Counted:
    """A field that counts its evaluations."""

    def __init__(self, func: Callable):
        self.func, self.calls = func, 0
        for name in CALLBACKS:
            setattr(self, name, getattr(func, name, None))

    def __call__(self, t: Tensor, y: State) -> State:
        self.calls += 1
        return self.func(t, y)


def solve(
    func: Callable,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerances = 1e-7,
    atol: Tolerances = 1e-9,
    method: str | Tableau | None = "dopri5",
    options: dict[str, Any] | None = None,
) -> Solution:
    """Solve an initial value problem and keep the record: evaluations, steps, dense output.

    Args:
        func: the field, ``func(t, y)``.
        y0: state at ``t[0]``, a tensor or a tuple of tensors.
        t: output times, shape ``(T,)``, strictly monotone.
        rtol: relative tolerance of one step, as for :func:`odeint`.
        atol: absolute tolerance of one step, in units of the state, likewise.
        method: as for :func:`odeint`.
        options: as for :func:`odeint`, without ``compile``; ``adjoint_norm`` has no effect.

    Returns:
        The solution with its record. The record keeps all stages of every step, so its memory is
        that of the state times stages times steps.

    Raises:
        ValueError, TypeError, SolverError: as :func:`odeint`.

    Chapter: def-runge-kutta

    >>> from nodes_tutorial.ode import solve
    >>> import torch
    >>> sol = solve(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
    >>> sol.nfe == 2 + 6 * (sol.accepted + sol.rejected)
    True
    >>> sol.interpolate(torch.tensor([0.5])).shape
    torch.Size([1, 1])
    """
    counted = _Counted(func) if callable(func) else func
    problem, settings = prepare(counted, y0, t, method, rtol, atol, options, "direct")
    if len(problem.outputs) < 2:
        raise ValueError("t must have at least two times, got one")
    if settings.compile:
        raise ValueError("options['compile'] keeps no record of steps; use odeint")
    if carries_derivative(t):
        move_start(problem)
    before = counted.calls
    y, steps = run(problem, settings, lambda step, wanted: step.copy())
    nfe = counted.calls - before
    if carries_derivative(t):
        y = moved_outputs(problem, problem.t, y)
    if problem.per_sample:
        times = torch.stack([step.t.flatten() for step in steps])
        sizes = torch.stack([(step.t1 - step.t).flatten() for step in steps])
        accepted = (sizes != 0.0).sum(0)
        rejected = sum(~step.accept.flatten() for step in steps)
    else:
        times, sizes = torch.tensor([(s.t, s.h) for s in steps], dtype=torch.float64).unbind(-1)
        accepted = len(steps)
        rejected = sum(step.rejected for step in steps)
    return Solution(
        problem.t, problem.unpack(y), nfe, accepted, rejected, times, sizes, problem, steps
    )
