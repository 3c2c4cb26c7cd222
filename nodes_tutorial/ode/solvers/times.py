"""Solutions as functions of their times: what gives t a derivative."""

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.step import explicit_step
from nodes_tutorial.ode.solvers.tableaus import METHODS


def _flow(problem: Problem, t: Tensor, y: Tensor, dt: Tensor) -> Tensor:
    """y after a time ``dt`` that is zero but has a derivative.

    One step of ``rk4`` has the right derivatives with respect to ``dt`` up to the fourth.
    """

    def field(t, y):
        return evaluate(problem.field_time(t), y)

    before, problem.graph = problem.graph, True
    evaluate = problem.evaluator()
    with problem.arithmetic():
        y = explicit_step(METHODS["rk4"], field, t, y, dt)
    problem.graph = before
    return y


def move_start(problem: Problem) -> None:
    """Make y0 a function of t0: to start later by dt is to start at the flow of ``-dt``."""
    t0 = problem.t[0]
    problem.y0 = _flow(problem, t0, problem.y0, t0.detach() - t0)
    problem.graph = problem.graph or (torch.is_grad_enabled() and problem.y0.requires_grad)


def moved_outputs(problem: Problem, t: Tensor, y: Tensor) -> Tensor:
    """Outputs as functions of their times: later by dt is on by the flow of dt."""
    times = t.to(y.device)
    pairs = zip(times.unbind(), times.detach().unbind(), y.unbind(), strict=True)
    return torch.stack([_flow(problem, at, state, time - at) for time, at, state in pairs])
