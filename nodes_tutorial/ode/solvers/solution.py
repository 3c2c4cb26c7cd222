"""Initial value problems: the steps of a solve, gathered at the output times."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import SolverError
from nodes_tutorial.ode.solvers.gather import Gather
from nodes_tutorial.ode.solvers.loops import Settings, adaptive_steps, fixed_steps, rms, wants_graph
from nodes_tutorial.ode.solvers.per_sample import per_sample_steps
from nodes_tutorial.ode.solvers.problem import Problem, State, make_settings
from nodes_tutorial.ode.solvers.step import Step


def iterate(problem: Problem, settings: Settings, counts: dict[str, Any]) -> Iterator[Step]:
    """The accepted steps of a solve, whichever loop makes them."""
    counts.update(accepted=0, rejected=0)
    outputs = problem.outputs
    if settings.compile and (settings.fixed or settings.norm.per_sample):
        raise ValueError(
            "options['compile'] with per_sample or fixed steps serves solves without a gradient"
        )
    if settings.fixed:
        return fixed_steps(problem.field, problem.y0, outputs, settings, counts)
    if settings.norm.per_sample:
        ends = outputs[0], outputs[-1]
        return per_sample_steps(problem.field, problem.y0, *ends, settings)
    if settings.compile:
        from nodes_tutorial.ode.solvers.compiled import compiled_trial

        trial = compiled_trial(problem, settings)
        return adaptive_steps(problem.field, problem.y0, outputs, settings, counts, trial)
    ends = [outputs[0], outputs[-1]]
    return adaptive_steps(problem.field, problem.y0, ends, settings, counts)


def integrate(problem: Problem, settings: Settings, counts: dict[str, Any]) -> Tensor:
    """Run a solve and return the joined states at the output times."""
    if settings.compile and not _differentiable(problem):
        from nodes_tutorial.ode.solvers import compiled

        whole = compiled.integrate_fixed if settings.fixed else compiled.integrate_adaptive
        try:
            y = whole(problem, settings)
        except SolverError:
            raise
        except Exception:
            problem.first_slope()  # says what is wrong with the field, if that is it
            raise
        if settings.fixed:
            check_finite(y, problem, settings)
        return y
    gather = Gather(problem, problem.outputs[1:])
    for step in iterate(problem, settings, counts):
        gather.add(step)
    y = gather.result()
    if settings.fixed:
        check_finite(y, problem, settings)
    return y


def _differentiable(problem: Problem) -> bool:
    """Whether a gradient may be wanted; to know that takes an evaluation where one could be."""
    if not torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is None:
        return False
    return wants_graph(problem.y0, problem.first_slope())


def check_finite(y: Tensor, problem: Problem, settings: Settings) -> None:
    """A fixed grid has no error estimate that a NaN could fail; look at the outputs."""
    if torch._C._functorch.peek_interpreter_stack() is None and not bool(y.isfinite().all()):
        bad = (~y.isfinite()).flatten(1).any(1).nonzero()[0].item()
        step = settings.step_size or abs(problem.outputs[bad] - problem.outputs[bad - 1])
        last = rms(y[bad - 1]) if bad else float("nan")
        raise SolverError("the state became NaN or Inf", problem.outputs[bad], step, last)


@dataclass(frozen=True)
class Solution:
    """What a solve found and what it cost.

    Attributes:
        t: output times, shape ``(T,)``.
        y: states there, shape ``(T, *y0.shape)``, or a tuple of such tensors.
        nfe: evaluations of the field.
        accepted: accepted steps; with ``per_sample`` of shape ``(batch,)``.
        rejected: rejected steps, likewise.
        step_times: where each step began, float64, shape ``(steps,)``, or ``(steps, batch)``.
        step_sizes: how long it was, signed, likewise; zero where a sample did not move.

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
            States, shape ``(m, *y0.shape)``, or a tuple of such tensors.

        Raises:
            ValueError: a time lies outside the solve.
        """
        times = t.detach().double()
        low, high = sorted((self.t[0].item(), self.t[-1].item()))
        if times.dim() != 1 or not bool(((times >= low) & (times <= high)).all()):
            raise ValueError(f"t must be 1-D with times in [{low:g}, {high:g}]")
        order = times.argsort(descending=bool(self.t[-1] < self.t[0]))
        gather = Gather(self._problem, times[order].tolist())
        for step in self._steps:
            gather.add(step)
        return self._problem.unpack(gather.result()[1:][order.argsort()])


def solve(
    func: Callable,
    y0: State,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str = "dopri5",
    options: dict[str, Any] | None = None,
) -> Solution:
    """Solve an initial value problem and keep the record: evaluations, steps, dense output.

    Args:
        func: the field, ``func(t, y)``.
        y0: state at ``t[0]``, a tensor or a tuple of tensors.
        t: output times, shape ``(T,)``, strictly monotone.
        rtol: relative tolerance.
        atol: absolute tolerance, in units of the state.
        method: a key of ``METHODS``.
        options: as for :func:`odeint`, without ``compile``; ``adjoint_norm`` has no effect.

    Returns:
        The solution. Its record holds every step's stages: ``stages`` times the state a step.

    Raises:
        ValueError, TypeError, SolverError: as :func:`odeint`.

    Example:
        >>> import torch
        >>> sol = solve(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
        >>> sol.nfe == 2 + 6 * (sol.accepted + sol.rejected)
        True
        >>> sol.interpolate(torch.tensor([0.5])).shape
        torch.Size([1, 1])

    Chapter: def-runge-kutta
    """
    settings = make_settings(method, rtol, atol, options, "direct")
    if settings.compile:
        raise ValueError("options['compile'] keeps no record of steps; use odeint")
    nfe = 0

    def counted(t: Tensor, y: State) -> State:
        nonlocal nfe
        nfe += 1
        return func(t, y)

    problem = Problem(counted if callable(func) else func, y0, t, settings.norm.per_sample)
    settings = problem.control(settings)
    counts: dict[str, Any] = {}
    gather, kept = Gather(problem, problem.outputs[1:]), []
    for step in iterate(problem, settings, counts):
        gather.add(step)
        kept.append(step.kept())
    y = gather.result()
    accepted, rejected = counts["accepted"], counts["rejected"]
    if settings.fixed:
        check_finite(y, problem, settings)
    if problem.per_sample:
        times = torch.stack([step.t.flatten() for step in kept])
        sizes = torch.stack([(step.t1 - step.t).flatten() for step in kept])
        accepted = (sizes != 0.0).sum(0)
        rejected = sum(~step.accept.flatten() for step in kept)
    else:
        times, sizes = torch.tensor([(s.t, s.h) for s in kept], dtype=torch.float64).unbind(-1)
    return Solution(
        problem.t, problem.unpack(y), nfe, accepted, rejected, times, sizes, problem, kept
    )
