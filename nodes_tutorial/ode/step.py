"""One step of an explicit Runge–Kutta method, its stages, and the solution inside it."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.tableaus import Tableau

Field = Callable[[Tensor, Tensor], Tensor]


def rk_step(
    field: Field,
    times: Sequence[Tensor],
    y: Tensor,
    h: float | Tensor,
    ks: "StageList | StageBuffer",
    *,
    last_stage: bool = True,
) -> Tensor:
    r"""State at the end of one step, :math:`y_1 = y + h \sum_i b_i k_i`.

    The first stage, ``f(t, y)``, must already be in ``ks``; the others are put there.

    Args:
        field: ``f(t, y)``.
        times: the stage times ``t + c_i h``.
        y: state at the start of the step.
        h: step, a float or a tensor that broadcasts against ``y``.
        ks: the store of the stage derivatives k.
        last_stage: whether the stage ``f(t + h, y_1)`` of a method whose last stage is the first
            of the next step is wanted too.

    Chapter: def-runge-kutta
    """
    tableau, base = ks.tableau, ks.base(y, h)
    stages, fsal = tableau.stages, tableau.fsal
    final = stages - 1 if fsal else stages
    put, combine = ks.put, ks.combine
    for i in range(1, final):
        put(i, field(times[i], combine(base, h, i)))
    y1 = combine(base, h, final)
    if fsal and last_stage:
        ks.put(final, field(times[final], y1))
    return y1


class StageList:
    """Stage derivatives in a list, combined term by term.

    Every combination is an ordinary differentiable operation, so this store serves backpropagation,
    function transforms and the compiler.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        self.tableau = tableau
        self.ks = [first]

    def put(self, i: int, k: Tensor) -> None:
        self.ks[i:] = [k]

    def last(self) -> Tensor:
        return self.ks[self.tableau.stages - 1]

    def roll(self) -> None:
        """Begin the next step with the last stage of this one."""
        self.ks = [self.last()]

    @staticmethod
    def base(y: Tensor, h: float | Tensor) -> Tensor:
        return y

    def combine(self, base: Tensor, h: float | Tensor, i: int) -> Tensor:
        """``base + h * (row i of the tableau) @ k``."""
        ks = self.ks
        if isinstance(h, float):
            for j, weight in self.tableau.terms[i]:
                base = torch.add(base, ks[j], alpha=h * weight)
            return base
        total = torch.zeros_like(base)
        for j, weight in self.tableau.terms[i]:
            total = torch.add(total, ks[j], alpha=weight)
        return base + h * total

    def weighted(self, weights: Sequence[float]) -> Tensor:
        """``weights @ k``."""
        total = torch.zeros_like(self.ks[0])
        for weight, k in zip(weights, self.ks, strict=False):
            if weight:
                total = torch.add(total, k, alpha=weight)
        return total

    def stacked(self) -> Tensor:
        return torch.stack(self.ks)


class StageBuffer:
    """Stage derivatives as the rows of one matrix: a combination is one matrix–vector product.

    A third of the operations of :class:`StageList` where the tableau is dense, but written in
    place, so without a graph.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        self.tableau, self.like = tableau, first
        size, rows = first.numel(), tableau.stages + len(tableau.extra_c)
        self.matrix = first.new_empty((rows, size))
        self.views = self.matrix.view(rows, *first.shape).unbind()
        self.rows = {  # the stages that a row weighs as columns, and the row
            key: (self.matrix.as_strided((size, count), (1, size)), row)
            for key, count, row in _weights(tableau, first.dtype, first.device)
        }
        self.views[0].copy_(first)

    def put(self, i: int, k: Tensor) -> None:
        self.views[i].copy_(k)

    def last(self) -> Tensor:
        return self.views[self.tableau.stages - 1]

    def roll(self) -> None:
        self.views[0].copy_(self.last())

    @staticmethod
    def base(y: Tensor, h: float | Tensor) -> Tensor:
        return y.reshape(-1) if isinstance(h, float) else y

    def combine(self, base: Tensor, h: float | Tensor, i: int) -> Tensor:
        columns, row = self.rows[i]
        if isinstance(h, float):
            return torch.addmv(base, columns, row, alpha=h).view_as(self.like)
        return torch.addcmul(base, torch.mv(columns, row).view_as(self.like), h)

    def weighted(self, weights: tuple[float, ...]) -> Tensor:
        columns, row = self.rows[weights]
        return torch.mv(columns, row).view_as(self.like)

    def stacked(self) -> Tensor:
        return self.matrix.view(-1, *self.like.shape)


@lru_cache(maxsize=64)
def _weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> list[tuple]:
    """Rows of the tableau as tensors: by place those of stages, by themselves those of errors."""
    rows = dict(enumerate(((), *tableau.a, tableau.b, *tableau.extra_a)))
    rows |= {row: row for row in (tableau.b_error, tableau.b_error_low) if row is not None}
    return [
        (key, len(row), torch.tensor(row, dtype=dtype, device=device)) for key, row in rows.items()
    ]


def new_stages(tableau: Tableau, first: Tensor, graph: bool) -> StageList | StageBuffer:
    """The cheaper store: a matrix unless a graph is wanted or the tableau has few entries."""
    sparse = sum(map(len, tableau.terms)) <= 2 * tableau.stages
    return (StageList if graph or sparse else StageBuffer)(tableau, first)


def stage_times(t: float | Tensor, h: float | Tensor, nodes: Sequence[float], like: Tensor):
    """The times ``t + c_i h``, computed in float64 and handed on in the state's dtype."""
    if isinstance(t, float):
        times = [t + node * h for node in nodes]
        return torch.tensor(times, dtype=like.dtype, device=like.device).unbind()
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
            base = ks.base(y, self.h)
            times = stage_times(self.t, self.h, tableau.extra_c, y)
            for i, time in enumerate(times):
                stage = ks.combine(base, self.h, tableau.stages + 1 + i)
                ks.put(tableau.stages + i, field(time, stage))
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
