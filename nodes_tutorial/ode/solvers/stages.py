"""Stores of the stage derivatives of a step, which also combine them."""

from functools import lru_cache, partial

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.tableaus import Tableau


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

    def start(self, y: Tensor, h: float | Tensor) -> Tensor:
        """Begin a step of length h at y; the state that its second stage looks at."""
        self.y, self.h = y, h
        return self.combine(1)

    def follow(self, i: int, k: Tensor) -> Tensor:
        """Keep the slope of stage i; the state that the stage after it looks at."""
        self.ks[i:] = [k]
        return self.combine(i + 1)

    def combine(self, i: int) -> Tensor:
        """``y + h * (row i of the tableau) @ k``."""
        ks, y, h, terms = self.ks, self.y, self.h, self.tableau.terms[i]
        if isinstance(h, float):
            j, weight = terms[0]
            total = torch.add(y, ks[j], alpha=h * weight)
            for j, weight in terms[1:]:
                total.add_(ks[j], alpha=h * weight)
            return total
        total = torch.zeros_like(y)
        for j, weight in terms:
            total = torch.add(total, ks[j], alpha=weight)
        return y + h * total

    def error(self, which: int) -> Tensor:
        """An error estimate of the tableau, ``h * (b - b_hat) @ k``."""
        ks, h, row = self.ks, self.h, self.tableau.error_rows[which]
        scale = h if isinstance(h, float) else 1.0
        total = torch.zeros_like(ks[0])
        for weight, k in zip(row, ks, strict=False):
            if weight:
                total = torch.add(total, k, alpha=scale * weight)
        return total if isinstance(h, float) else total * h

    def stacked(self) -> Tensor:
        return torch.stack(self.ks)


class StageBuffer:
    """State and stage derivatives in one array: a combination is one matrix–vector product.

    A third of the operations of :class:`StageList` where the tableau is dense, but written in
    place, so without a graph. The state has the weight 1, and the step is multiplied to the weights
    of the stages, once for all rows.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        self.tableau, stages = tableau, tableau.stages + len(tableau.extra_c)
        self.array = first.new_empty((1 + stages, *first.shape))
        self.state, *self.views = self.array.unbind()
        self.views[0].copy_(first)
        self.ones, self.scaled, counts = _weights(tableau, first.dtype, first.device)
        self.weights = self.ones + self.scaled
        size, (row, *inner) = first.shape, self.array.stride()

        def columns(count: int) -> Tensor:
            return self.array.as_strided((*size, count), (*inner, row))

        parts = zip(counts, self.weights.split(counts), strict=True)
        rows = [(columns(count), weights) for count, weights in parts]
        cut = len(rows) - len(tableau.error_rows)
        self.rows, self.error_rows = [None, None, *rows[:cut]], rows[cut:]

    def put(self, i: int, k: Tensor) -> None:
        self.views[i].copy_(k)

    def last(self) -> Tensor:
        return self.views[self.tableau.stages - 1]

    def roll(self) -> None:
        self.views[0].copy_(self.last())

    def start(self, y: Tensor, h: float) -> Tensor:
        self.h = h
        self.state.copy_(y)
        torch.add(self.ones, self.scaled, alpha=h, out=self.weights)
        return torch.add(y, self.views[0], alpha=h * self.tableau.a[0][0])

    def follow(self, i: int, k: Tensor) -> Tensor:
        self.views[i].copy_(k)
        columns, row = self.rows[i + 1]
        return torch.matmul(columns, row)

    def combine(self, i: int) -> Tensor:
        columns, row = self.rows[i]
        return torch.matmul(columns, row)

    def error(self, which: int) -> Tensor:
        columns, row = self.error_rows[which]
        return torch.matmul(columns, row)

    def stacked(self) -> Tensor:
        return self.array[1:]


class OwnStepBuffer(StageBuffer):
    """Stages of samples with a step each, stored as h k; so the weights never change.

    The step has the shape of the state.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        super().__init__(tableau, first)
        self.first = first

    def put(self, i: int, k: Tensor) -> None:
        if i == 0:
            self.first = k
            return
        self.latest = k
        torch.mul(k, self.h, out=self.views[i])

    def last(self) -> Tensor:
        return self.latest

    def start(self, y: Tensor, h: Tensor) -> Tensor:
        self.h = h
        self.state.copy_(y)
        torch.mul(self.first, h, out=self.views[0])
        return torch.add(y, self.views[0], alpha=self.tableau.a[0][0])

    def follow(self, i: int, k: Tensor) -> Tensor:
        torch.mul(k, self.h, out=self.views[i])
        columns, row = self.rows[i + 1]
        return torch.matmul(columns, row)

    def stacked(self) -> Tensor:
        return self.array[1:] / self.h


@lru_cache(maxsize=64)
def _weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> tuple:
    """Weights of the combinations from the third on, then of the error estimates, in one vector.

    First what a step leaves alone, then what it scales; and how many weights each has.
    """
    rows = [*tableau.a[1:], tableau.b, *tableau.extra_a]
    if tableau.fsal and not tableau.extra_a:
        rows.remove(tableau.b)  # the last row of a once more
    ones = [float(i == 0) for row in rows for i in range(1 + len(row))]
    rows += tableau.error_rows
    scaled = [weight for row in rows for weight in (0.0, *row)]
    ones += [0.0] * (len(scaled) - len(ones))
    new = partial(torch.tensor, dtype=dtype, device=device)
    return new(ones), new(scaled), [1 + len(row) for row in rows]


def new_stages(
    tableau: Tableau, first: Tensor, graph: bool, own_steps: bool = False
) -> StageList | StageBuffer:
    """The cheaper store: an array unless a graph is wanted or the tableau has few entries."""
    if graph or sum(map(len, tableau.terms)) <= 2 * tableau.stages:
        return StageList(tableau, first)
    return (OwnStepBuffer if own_steps else StageBuffer)(tableau, first)
