"""Stores of the slopes of a step, which also combine them."""

from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.tableau import Tableau


@runtime_checkable
class Stages(Protocol):
    """What a store of slopes can do. Slope i is :math:`k_{i+1}` of the tableau.

    Once a step is begun, its length is ``h``.
    """

    tableau: Tableau

    def put(self, i: int, slope: Tensor) -> None:
        """Keep slope i."""

    def last(self) -> Tensor:
        """The slope of the last stage."""

    def roll(self) -> None:
        """Begin the next step with the last slope of this one."""

    def start(self, y: Tensor, h: float | Tensor) -> Tensor:
        """Begin a step of length h at y; the state at which the second slope is taken."""

    def follow(self, i: int, slope: Tensor) -> Tensor:
        """Keep slope i; the state at which the next one is taken, or the end of the step."""

    def combine(self, i: int) -> Tensor:
        """``y + h * (row i of the tableau) @ slopes``."""

    def error(self, which: int) -> Tensor:
        """An error estimate of the tableau, ``h * (b - b_hat) @ slopes``."""

    def stacked(self) -> Tensor:
        """All slopes, shape ``(stages, *y.shape)``."""


class ReusedSlope(Exception):
    """The field wrote a slope into the memory of an earlier one, which is lost."""


class StageList:
    """Slopes in a list, combined term by term.

    Every combination is an ordinary differentiable operation, so this store serves backpropagation,
    function transforms and the compiler. Slopes are kept as the field made them. The methods are
    those of :class:`Stages`.

    Args:
        tableau: the method whose weights combine the slopes.
        first: the first slope of the first step.
        watch: for so many steps, a slope in the memory of an earlier one raises
            :class:`ReusedSlope`.
    """

    def __init__(self, tableau: Tableau, first: Tensor, watch: int = 0):
        self.tableau = tableau
        self.slopes = [first]
        self.watch = watch
        self.places = [first.data_ptr()] if watch else []

    def put(self, i: int, slope: Tensor) -> None:
        self.slopes[i:] = [slope]
        if self.watch:
            self.watch -= i == 0
            self._look(i, slope)

    def last(self) -> Tensor:
        return self.slopes[self.tableau.stages - 1]

    def roll(self) -> None:
        self.slopes = [self.last()]
        if self.watch:
            self.watch -= 1
            self.places = self.places[self.tableau.stages - 1 :]

    def start(self, y: Tensor, h: float | Tensor) -> Tensor:
        self.y = y
        self.h = h
        return self.combine(1)

    def follow(self, i: int, slope: Tensor) -> Tensor:
        self.slopes[i:] = [slope]
        if self.watch:
            self._look(i, slope)
        return self.combine(i + 1)

    def _look(self, i: int, slope: Tensor) -> None:
        """Compare addresses with the slopes before; they are held, so a new tensor has its own."""
        place = slope.data_ptr()
        del self.places[i:]
        if place in self.places:
            raise ReusedSlope
        self.places.append(place)

    def combine(self, i: int) -> Tensor:
        slopes, y, h, terms = self.slopes, self.y, self.h, self.tableau.terms[i]
        if isinstance(h, float):
            j, weight = terms[0]
            total = torch.add(y, slopes[j], alpha=h * weight)
            for j, weight in terms[1:]:
                total.add_(slopes[j], alpha=h * weight)
            return total
        total = torch.zeros_like(y)
        for j, weight in terms:
            total = torch.add(total, slopes[j], alpha=weight)
        return y + h * total

    def error(self, which: int) -> Tensor:
        slopes, h, row = self.slopes, self.h, self.tableau.error_rows[which]
        scale = h if isinstance(h, float) else 1.0
        total = torch.zeros_like(slopes[0])
        for weight, slope in zip(row, slopes, strict=False):
            if weight:
                total = torch.add(total, slope, alpha=scale * weight)
        return total if isinstance(h, float) else total * h

    def stacked(self) -> Tensor:
        return torch.stack(self.slopes)


class StageBuffer:
    """State and slopes in one array: a combination is one matrix–vector product.

    For a dense tableau this needs a third of the operations of :class:`StageList`. It writes in
    place, so it cannot be used when autograd records a graph. Row 0 of the array is the state y,
    with the weight 1; row 1 + i is slope i, with the weight ``h * a_ij``. ``start`` multiplies all
    weights by h at once.

    Args:
        tableau: the method whose weights combine the slopes.
        first: the first slope of the first step.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        self.tableau = tableau
        count = tableau.stages + len(tableau.extra_c)
        self.array = first.new_empty((1 + count, *first.shape))
        self.state, *self.views = self.array.unbind()
        self.views[0].copy_(first)
        self.ones, self.scaled, lengths = _weights(tableau, first.dtype, first.device)
        self.weights = self.ones + self.scaled
        row, *inner = self.array.stride()

        def leading(length: int) -> Tensor:
            """The first rows as columns, shape ``(*y.shape, length)``: the same memory, no copy."""
            return self.array.as_strided((*first.shape, length), (*inner, row))

        pairs = [
            (leading(length), weights)
            for length, weights in zip(lengths, self.weights.split(lengths), strict=True)
        ]
        errors = len(pairs) - len(tableau.error_rows)
        # Rows of the tableau are counted from 0: the first is empty, the second is in `start`.
        self.rows = [(first, self.weights)] * 2 + pairs[:errors]
        self.error_rows = pairs[errors:]

    def put(self, i: int, slope: Tensor) -> None:
        self.views[i].copy_(slope)

    def last(self) -> Tensor:
        return self.views[self.tableau.stages - 1]

    def roll(self) -> None:
        self.views[0].copy_(self.views[self.tableau.stages - 1])

    def start(self, y: Tensor, h: float) -> Tensor:
        self.h = h
        self.state.copy_(y)
        torch.add(self.ones, self.scaled, alpha=h, out=self.weights)
        return torch.add(y, self.views[0], alpha=h * self.tableau.a[0][0])

    def follow(self, i: int, slope: Tensor) -> Tensor:
        self.views[i].copy_(slope)
        columns, weights = self.rows[i + 1]
        return torch.matmul(columns, weights)

    def combine(self, i: int) -> Tensor:
        columns, weights = self.rows[i]
        return torch.matmul(columns, weights)

    def error(self, which: int) -> Tensor:
        columns, weights = self.error_rows[which]
        return torch.matmul(columns, weights)

    def stacked(self) -> Tensor:
        return self.array[1:]


class OwnStepBuffer(StageBuffer):
    """Slopes of samples with a step each, stored as h k; so the weights never change.

    The step has the shape of the state.

    Args:
        tableau: the method whose weights combine the slopes.
        first: the first slope of the first step.
    """

    def __init__(self, tableau: Tableau, first: Tensor):
        super().__init__(tableau, first)
        self.first = first

    def put(self, i: int, slope: Tensor) -> None:
        if i == 0:
            self.first = slope
            return
        self.latest = slope
        torch.mul(slope, self.h, out=self.views[i])

    def last(self) -> Tensor:
        return self.latest

    def start(self, y: Tensor, h: Tensor) -> Tensor:
        self.h = h
        self.state.copy_(y)
        torch.mul(self.first, h, out=self.views[0])
        return torch.add(y, self.views[0], alpha=self.tableau.a[0][0])

    def follow(self, i: int, slope: Tensor) -> Tensor:
        torch.mul(slope, self.h, out=self.views[i])
        columns, weights = self.rows[i + 1]
        return torch.matmul(columns, weights)

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
    tableau: Tableau, first: Tensor, graph: bool, watch: int, own_steps: bool = False
) -> Stages:
    """The cheaper store: an array unless a graph is wanted or the tableau has few entries."""
    if graph or sum(map(len, tableau.terms)) <= 2 * tableau.stages:
        return StageList(tableau, first, watch)
    return (OwnStepBuffer if own_steps else StageBuffer)(tableau, first)
