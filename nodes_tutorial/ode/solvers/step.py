"""One step of an explicit Runge–Kutta method, its stages, and the solution inside it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.stages import StageBuffer, StageList

Field = Callable[[Tensor, Tensor], Tensor]


def rk_step(
    field: Field,
    times: Sequence[Tensor],
    y: Tensor,
    h: float | Tensor,
    ks: StageList | StageBuffer,
    *,
    last_stage: bool = True,
) -> Tensor:
    r"""State at the end of one step, :math:`y_1 = y + h \sum_i b_i k_i`.

    The first stage, ``f(t, y)``, must already be in ``ks``; the others are put there.

    Args:
        field: ``f(t, y)``.
        times: the stage times ``t + c_i h``; the first is not looked at.
        y: state at the start of the step.
        h: step, a float or a tensor that broadcasts against ``y``.
        ks: the store of the stage derivatives k.
        last_stage: whether the stage ``f(t + h, y_1)`` of a method whose last stage is the first
            of the next step is wanted too.

    Chapter: def-runge-kutta
    """
    tableau = ks.tableau
    stages, fsal = tableau.stages, tableau.fsal
    final = stages - 1 if fsal else stages
    stage, follow = ks.start(y, h), ks.follow
    for i in range(1, final):
        stage = follow(i, field(times[i], stage))
    if fsal and last_stage:
        ks.put(final, field(times[final], stage))
    return stage


def check_slope(k: object, y: Tensor) -> Tensor:
    """The first slope, checked to fit the state."""
    if not isinstance(k, Tensor):
        raise TypeError(f"func must return tensors, got {type(k).__name__}")
    if k.shape != y.shape:
        raise ValueError(f"func must return the shape of y: {tuple(y.shape)}, got {tuple(k.shape)}")
    if k.dtype != y.dtype:
        raise TypeError(f"func must return the dtype of y: {y.dtype}, got {k.dtype}")
    return k


def stage_times(t: float | Tensor, h: float | Tensor, nodes: Sequence[float], like: Tensor):
    """The times ``t + c_i h``, computed in float64 and handed on in the state's dtype."""
    if isinstance(t, float):
        new, dtype, device = torch.scalar_tensor, like.dtype, like.device
        return [new(t + node * h, dtype=dtype, device=device) for node in nodes]
    nodes = torch.tensor(nodes, dtype=t.dtype, device=t.device)
    return (t + nodes.view(-1, *(1 for _ in t.shape)) * h).to(like.dtype).unbind()


class Step:
    """An accepted step: where it began, how long it was, its states and its stages.

    The stages of a running solve are overwritten by the next step; :meth:`kept` copies them.
    """

    __slots__ = ("accept", "h", "ks", "t", "t1", "y0", "y1")

    def __init__(self, t, t1, h, y0, y1, ks, accept=None):
        self.t, self.t1, self.h, self.y0, self.y1, self.ks = t, t1, h, y0, y1, ks
        self.accept = accept

    def kept(self) -> "Step":
        ks = StageList(self.ks.tableau, self.y0)
        ks.ks = list(self.ks.stacked().clone())
        self.ks = ks
        return self

    def interpolate(self, field: Field, theta: np.ndarray | Tensor) -> Tensor:
        r"""Dense output :math:`y_0 + h \sum_i b_i(\theta) k_i`.

        Args:
            field: ``f(t, y)``, for the stages that only the dense output needs.
            theta: fractions of the step, float64, an array of shape ``(m,)``, or a tensor of
                shape ``(m, batch)`` where each sample has its own step.

        Returns:
            States, shape ``(m, *y.shape)``.
        """
        ks, tableau, y = self.ks, self.ks.tableau, self.y0
        if tableau.extra_c:
            ks.start(y, self.h)
            times = stage_times(self.t, self.t1 - self.t, tableau.extra_c, y)
            for i, time in enumerate(times):
                ks.put(tableau.stages + i, field(time, ks.combine(tableau.stages + 1 + i)))
        stages = ks.stacked()
        if isinstance(theta, np.ndarray):
            powers = theta[:, None] ** np.arange(1, 1 + len(tableau.dense[0]))
            weights = torch.from_numpy(powers @ tableau.dense_matrix.T).to(y)
            total = (weights @ stages.reshape(len(stages), -1)).view(-1, *y.shape)
        else:  # one by one: sums whose order does not depend on the size of the batch
            total = torch.zeros_like(y)
            for row, k in zip(tableau.dense, stages, strict=True):
                weight = torch.zeros_like(theta)
                for coefficient in reversed(row):
                    weight = (weight + coefficient) * theta
                weight = weight.view(*theta.shape, *(1 for _ in y.shape[1:]))
                total = total + weight.to(y.dtype) * k
        return y + self.h * total
