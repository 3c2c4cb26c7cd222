r"""Adams–Bashforth methods: steps that use the slopes of the steps before.

The latest slopes are interpolated in time by a polynomial, which is integrated over the step. So a
step costs one evaluation of the field, whatever its order.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.fixed import fixed_grid, stage_rows
from nodes_tutorial.ode.solvers.loops import WATCHED_STEPS
from nodes_tutorial.ode.solvers.problem import Problem, under_transform
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import ReusedSlope, StageList
from nodes_tutorial.ode.solvers.step import Step, rk_step
from nodes_tutorial.ode.solvers.tableau import Row, Tableau

LEAST_ORDER, MOST_ORDER = 2, 12  # of the option max_order; torchdiffeq has the same default
FEWEST_SLOPES = 3  # with fewer, a Runge–Kutta step of order 4 is better
TIME_ROUNDINGS = 8  # steps that differ by so many roundings of the time are equal
LIKE = 1e-3  # and by no more than this share of the step

# Kutta's 3/8 rule makes the first steps. Its name is that of the method which they belong to.
EXPLICIT_ADAMS = Tableau(
    "explicit_adams",
    4,
    ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((1.0, -15 / 8, 1.0), (0.0, 15 / 8, -3 / 2), (0.0, 3 / 8, 0.0), (0.0, -3 / 8, 1 / 2)),
    3,
)


def adams_integrals(count: int) -> list[list[Fraction]]:
    r"""The integrals of the Lagrange polynomials of equally spaced slopes.

    .. math:: w_j(\theta) = \int_0^\theta \prod_{i \ne j} \frac{s + i}{i - j}\, ds,
        \qquad y(t + \theta h) \approx y + h \sum_{j=0}^{k-1} w_j(\theta)\, f_{n-j}

    Args:
        count: number k of slopes; the latest is j = 0, and slope j lies j steps back.

    Returns:
        For each j the coefficients of :math:`\theta, \theta^2, \dots, \theta^k` in
        :math:`w_j(\theta)`, exact.

    Raises:
        ValueError: ``count`` is below 1.

    Chapter: def-runge-kutta

    References: Hairer, Nørsett and Wanner (1993), section III.1.

    >>> from nodes_tutorial.ode.solvers import adams_integrals
    >>> [str(sum(row)) for row in adams_integrals(3)]
    ['23/12', '-4/3', '5/12']
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    rows = []
    for j in range(count):
        polynomial = [Fraction(1)]  # coefficients from the constant up
        for i in range(count):
            if i != j:
                by_root, by_s = [i * c for c in polynomial] + [0], [0, *polynomial]
                polynomial = [(a + b) / (i - j) for a, b in zip(by_root, by_s, strict=True)]
        rows.append([c / power for power, c in enumerate(polynomial, 1)])
    return rows


@dataclass(frozen=True)
class AdamsBashforth:
    """The formula for a number of slopes; its names are those of a :class:`Tableau`.

    Attributes:
        name: for messages.
        dense: row j holds the coefficients of θ, θ², … in the weight of slope j.
        dense_matrix: ``dense`` as an array.
        weights: the weights at the end of the step.
        extra_c: empty, as the dense output needs no further slopes.
    """

    name: str
    dense: tuple[Row, ...]
    weights: Row
    extra_c: Row = ()
    dense_matrix: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "dense_matrix", np.array(self.dense))


@cache
def adams_bashforth(count: int) -> AdamsBashforth:
    """The formula of order ``count``, whose weights are rounded once."""
    rows = adams_integrals(count)
    dense = tuple(tuple(map(float, row)) for row in rows)
    return AdamsBashforth("explicit_adams", dense, tuple(float(sum(row)) for row in rows))


def adams_step(weights: Row, y: Tensor, h: float, slopes: Sequence[Tensor]) -> Tensor:
    r"""State at the end of one step, :math:`y_{n+1} = y_n + h \sum_j w_j f_{n-j}`.

    Args:
        weights: the weights w.
        y: state at the start of the step.
        h: length of the step.
        slopes: the slopes :math:`f_n, f_{n-1}, \dots`, each of the shape of ``y``.

    Returns:
        The state at the end of the step, of the shape of ``y``.

    Chapter: def-runge-kutta

    References: Hairer, Nørsett and Wanner (1993), section III.1.
    """
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = torch.add(total, slope, alpha=weight)
    return torch.add(y, total, alpha=h)


class History:
    """The slopes at the begin of the latest steps of equal length, for the dense output of one.

    Args:
        slopes: the newest first.
    """

    def __init__(self, slopes: Sequence[Tensor]):
        self.slopes = slopes
        self.tableau = adams_bashforth(len(slopes))

    def stacked(self) -> Tensor:
        """All slopes, shape ``(slopes, *y.shape)``."""
        return torch.stack(list(self.slopes))


class AdamsStep(Step):
    """A step whose slopes no other step overwrites."""

    __slots__ = ()

    def copy(self) -> Step:
        """The step itself."""
        return self


def adams_steps(problem: Problem, settings: Settings) -> Iterator[Step]:
    """Steps over the grid; Runge–Kutta steps until there are three slopes of equal steps.

    One slope more is taken in each further step, up to one less than ``max_order``. Where the
    length of the steps changes, all begins anew, because the weights are those of equal steps.

    Raises:
        ReusedSlope: the field wrote a slope into the memory of one that is still needed.
    """
    grid = fixed_grid(problem.outputs, settings)
    rows = stage_rows(problem, settings, grid)
    y, slope = problem.y0, problem.first_slope(rows[0][0] if settings.perturb else None)
    evaluate = problem.evaluator()
    watch = not (problem.copies or under_transform() or slope.numel() == 0)
    stages = StageList(settings.tableau, slope, WATCHED_STEPS if watch else 0)
    kept, most = (), (settings.max_order or MOST_ORDER) - 1
    last_h = grid[1] - grid[0]
    rounding = TIME_ROUNDINGS * torch.finfo(problem.t.dtype).eps * max(map(abs, grid))
    for i, (row, (t, t_next)) in enumerate(zip(rows, pairwise(grid), strict=True)):
        h = t_next - t
        if i > 0:
            slope = evaluate(row[0], y)
        if abs(h - last_h) > min(rounding, LIKE * abs(h)):
            kept = ()
        if watch and slope.data_ptr() in [other.data_ptr() for other in kept]:
            raise ReusedSlope
        kept = (slope, *kept[: most - 1])
        if problem.tell:
            problem.tell("step", t, y, h)
        if len(kept) < FEWEST_SLOPES:
            if i > 0:
                stages.put(0, slope)
            y1 = rk_step(evaluate, row, y, h, stages)
            yield Step(t, t_next, h, y, y1, stages)
        else:
            history = History(kept)
            y1 = adams_step(history.tableau.weights, y, h, kept)
            yield AdamsStep(t, t_next, h, y, y1, history)
        y, last_h = y1, h


def check_multistep(tableau: Tableau, options: dict, gradient: str) -> None:
    """Refuse what does not go together with a multistep method, or needs one.

    Raises:
        ValueError: ``max_order`` for another method or out of range; or ``compile`` or
            ``gradient="checkpoint"`` for this one.
    """
    if tableau is not EXPLICIT_ADAMS:
        if "max_order" in options:
            raise ValueError("options['max_order'] needs method='explicit_adams'")
        return
    order = options.get("max_order", MOST_ORDER)
    if not LEAST_ORDER <= order <= MOST_ORDER:
        raise ValueError(
            f"options['max_order'] must be {LEAST_ORDER} to {MOST_ORDER}, got {order!r}"
        )
    if order <= FEWEST_SLOPES:
        message = f"with options['max_order'] = {order} all steps are Runge-Kutta steps"
        warnings.warn(message, UserWarning, stacklevel=4)
    if options.get("compile"):
        raise ValueError("options['compile'] does not work with method='explicit_adams'")
    if gradient == "checkpoint":
        raise ValueError(
            "gradient='checkpoint' does not work with method='explicit_adams': it rebuilds a step "
            "from its start, and this step uses slopes of the steps before; use 'direct' or "
            "'adjoint'"
        )
