"""One step of an explicit Runge–Kutta method, its slopes, and the solution inside it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.stages import StageList, Stages
from nodes_tutorial.ode.solvers.tableau import Tableau

Field = Callable[[Tensor, Tensor], Tensor]


def explicit_step(tableau: Tableau, field: Field, t, y: Tensor, h) -> Tensor:
    """Make one step as the definition says; :func:`rk_step` does the same, and keeps the slopes.

    Args:
        tableau: the coefficients of the method.
        field: the right-hand side, called as ``field(t, y)``.
        t: time at the start of the step.
        y: state at the start of the step.
        h: length of the step.

    Returns:
        The state at the end of the step.

    Chapter: def-runge-kutta
    """
    slopes = [field(t, y)]
    for c, row in zip(tableau.c[1:], tableau.a, strict=True):
        y_stage = y + h * sum(a * k for a, k in zip(row, slopes, strict=True))
        slopes.append(field(t + c * h, y_stage))
    return y + h * sum(b * k for b, k in zip(tableau.b, slopes, strict=True))


def rk_step(
    field: Field,
    times: Sequence[Tensor],
    y: Tensor,
    h: float | Tensor,
    stages: Stages,
    *,
    last_stage: bool = True,
) -> Tensor:
    r"""State at the end of one step, :math:`y_1 = y + h \sum_i b_i k_i`.

    The first slope, ``f(t, y)``, must already be in ``stages``; the others are put there.

    Args:
        field: the right-hand side, called as ``field(t, y)``.
        times: the stage times ``t + c_i h``; the first is not used.
        y: state at the start of the step.
        h: step, a float or a tensor that broadcasts against ``y``.
        stages: the store of the slopes k.
        last_stage: whether the slope ``f(t + h, y_1)`` of a method whose last slope is the first
            of the next step is wanted too.

    Returns:
        The state at the end of the step, of the shape of ``y``.

    Chapter: def-runge-kutta
    """
    tableau = stages.tableau
    last = tableau.stages - 1 if tableau.fsal else tableau.stages
    follow = stages.follow
    y_stage = stages.start(y, h)
    for i in range(1, last):
        y_stage = follow(i, field(times[i], y_stage))
    if tableau.fsal and last_stage:
        stages.put(last, field(times[last], y_stage))
    return y_stage


def stage_times(t: float | Tensor, h: float | Tensor, nodes: Sequence[float], like: Tensor):
    """The times ``t + c_i h``, computed in float64 and handed on in the state's dtype.

    Args:
        t: time at the start of the step, or one for each sample.
        h: length of the step, or one for each sample.
        nodes: the fractions c_i of the step.
        like: a tensor with the dtype and the device that the times shall have.

    Returns:
        One tensor for each node.
    """
    if isinstance(t, float):
        new, dtype, device = torch.scalar_tensor, like.dtype, like.device
        return [new(t + node * h, dtype=dtype, device=device) for node in nodes]
    nodes = torch.tensor(nodes, dtype=t.dtype, device=t.device)
    return (t + nodes.view(-1, *(1 for _ in t.shape)) * h).to(like.dtype).unbind()


class Step:
    """An accepted step: where it began, how long it was, its states and its slopes.

    The slopes of a running solve are overwritten by the next step; :meth:`copy` keeps them.

    Attributes:
        t: time at its start.
        t1: time at its end.
        h: its length, signed.
        y0: state at its start.
        y1: state at its end.
        stages: the store of its slopes; None where they are not kept.
        rejected: attempts that failed before it.
        accept: with ``per_sample``, which samples moved.
    """

    __slots__ = ("accept", "h", "rejected", "stages", "t", "t1", "y0", "y1")

    def __init__(self, t, t1, h, y0, y1, stages, rejected=0, accept=None):
        self.t, self.t1, self.h = t, t1, h
        self.y0, self.y1 = y0, y1
        self.stages, self.rejected, self.accept = stages, rejected, accept

    def copy(self) -> "Step":
        """The same step with slopes of its own."""
        stages = StageList(self.stages.tableau, self.y0)
        stages.slopes = list(self.stages.stacked().clone())
        return Step(self.t, self.t1, self.h, self.y0, self.y1, stages, self.rejected, self.accept)

    def without_slopes(self) -> "Step":
        """The same step without its slopes, which take most of its memory."""
        return Step(self.t, self.t1, self.h, self.y0, self.y1, None, self.rejected, self.accept)

    def interpolate(self, field: Field, theta: np.ndarray | Tensor) -> Tensor:
        r"""Dense output :math:`y_0 + h \sum_i b_i(\theta) k_i`.

        Args:
            field: ``f(t, y)``, for the slopes that only the dense output needs.
            theta: fractions of the step, float64, an array of shape ``(m,)``, or a tensor of
                shape ``(m, batch)`` where each sample has its own step.

        Returns:
            States, shape ``(m, *y.shape)``.

        Raises:
            ValueError: the tableau has no dense output.
        """
        stages, y = self.stages, self.y0
        tableau = stages.tableau
        if not tableau.dense:
            raise ValueError(
                f"the tableau {tableau.name!r} has no dense output, which times inside a step need"
            )
        if tableau.extra_c:
            stages.start(y, self.h)
            times = stage_times(self.t, self.t1 - self.t, tableau.extra_c, y)
            for i, time in enumerate(times, tableau.stages):
                stages.put(i, field(time, stages.combine(i + 1)))
        slopes = stages.stacked()
        if isinstance(theta, np.ndarray):
            powers = theta[:, None] ** np.arange(1, 1 + len(tableau.dense[0]))
            weights = torch.from_numpy(powers @ tableau.dense_matrix.T).to(y)
            total = weights @ slopes.reshape(len(slopes), y.numel())
            total = total.view(len(theta), *y.shape)
        else:  # one by one: sums whose order does not depend on the size of the batch
            total = torch.zeros_like(y)
            for row, slope in zip(tableau.dense, slopes, strict=True):
                weight = torch.zeros_like(theta)
                for coefficient in reversed(row):
                    weight = (weight + coefficient) * theta
                weight = weight.view(*theta.shape, *(1 for _ in y.shape[1:]))
                total = total + weight.to(y.dtype) * slope
        return y + self.h * total
