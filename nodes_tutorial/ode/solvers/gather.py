"""Outputs of a solve, picked from its steps as they pass."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.problem import Field, Problem
from nodes_tutorial.ode.solvers.step import Step


class Wanted(NamedTuple):
    """Outputs that one step answers."""

    indices: Sequence[int]  # positions of the outputs among the times
    theta: np.ndarray | Tensor | None  # places in the step, as fractions of it; None: its end
    mask: Tensor | None  # for each output the samples that it is for; None: all


class Gather:
    """Collects the states at times inside a solve, in its order, from the steps as they pass."""

    def __init__(self, problem: Problem, times: list[float]):
        self.problem = problem
        self.sign = 1.0 if problem.outputs[-1] > problem.outputs[0] else -1.0
        self.at_end = times.count(problem.outputs[-1])
        self.times = times[: len(times) - self.at_end]
        self.waiting = len(self.times) > 0
        self.rows: list[Tensor] = [problem.y0] * len(times) if problem.per_sample else []
        self.final = problem.y0

    @cached_property
    def field(self) -> Field:
        """The field, for slopes that only the dense output needs."""
        return self.problem.evaluator()

    def add(self, step: Step) -> list[Wanted]:
        """Take the outputs that lie in a step, and return which they were."""
        self.final = step.y1
        if not self.waiting:
            return []
        wanted = self._masked(step) if self.problem.per_sample else self._inside(step)
        for part in wanted:
            if part.theta is None:
                self.rows += [step.y1] * len(part.indices)
                continue
            states = step.interpolate(self.field, part.theta)
            if part.mask is None:
                self.rows.extend(states)
                continue
            for i, mask, state in zip(part.indices, part.mask, states, strict=True):
                self.rows[i] = torch.where(mask, state, self.rows[i])
        return wanted

    def _inside(self, step: Step) -> list[Wanted]:
        first = last = len(self.rows)
        if (self.times[first] - step.t1) * self.sign > 0.0:
            return []
        while last < len(self.times) and (self.times[last] - step.t1) * self.sign < 0.0:
            last += 1
        end = last
        while end < len(self.times) and self.times[end] == step.t1:
            end += 1
        wanted = []
        if last > first:
            theta = (np.array(self.times[first:last]) - step.t) / step.h
            wanted.append(Wanted(range(first, last), theta, None))
        if end > last:
            wanted.append(Wanted(range(last, end), None, None))
        self.waiting = end < len(self.times)
        return wanted

    def _masked(self, step: Step) -> list[Wanted]:
        if step.t.numel() == 0:
            return []
        reach = torch.stack([(step.t * self.sign).min(), (step.t1 * self.sign).max()]).tolist()
        chosen = [i for i, time in enumerate(self.times) if reach[0] < time * self.sign <= reach[1]]
        if not chosen:
            return []
        time = step.t.new_tensor([self.times[i] for i in chosen])
        time = time.view(-1, *(1 for _ in step.t.shape))
        mask = ((time - step.t) * self.sign > 0.0) & ((time - step.t1) * self.sign <= 0.0)
        theta = ((time - step.t) / (step.t1 - step.t)).nan_to_num(0.0, 0.0, 0.0).flatten(1)
        return [Wanted(chosen, theta, mask)]

    def result(self) -> Tensor:
        """The first state and those at the times, shape ``(1 + len(times), *y.shape)``."""
        inside = self.rows[: len(self.times)]
        return torch.stack([self.problem.y0, *inside, *[self.final] * self.at_end])
