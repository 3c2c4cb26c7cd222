"""Order conditions: what a Runge-Kutta tableau must satisfy, tree by tree.

Everything here is arithmetic on the tableau's own numbers. Fractions stay fractions.

Chapter: thm-solvers-order

References: Butcher (2016), chapter 3; Hairer, Nørsett and Wanner (1993), section II.2.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import zip_longest

from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.trees import density, rooted_trees, symmetry, tree_order

__all__ = [
    "check_claims",
    "dense_conditions",
    "elementary_weight",
    "error_constant",
    "order_conditions",
    "order_of",
]


def _stage_weights(tree: tuple, a: list[tuple], seen: dict[tuple, list]) -> list:
    """Weights of one tree for every stage: phi_i([t_1..t_m]) = prod_l sum_j a_ij phi_j(t_l)."""
    if tree not in seen:
        weights = [1] * len(a)
        for child in tree:
            inner = _stage_weights(child, a, seen)
            weights = [
                weight * sum(x * y for x, y in zip(row, inner, strict=False))
                for weight, row in zip(weights, a, strict=True)
            ]
        seen[tree] = weights
    return seen[tree]


def _rows(a: Sequence[Sequence], stages: int) -> list[tuple]:
    """The rows of a tableau, one for each stage: an omitted first row is empty."""
    rows = [tuple(row) for row in a]
    if len(rows) == stages - 1:
        rows.insert(0, ())
    if len(rows) != stages:
        raise ValueError(f"a must have {stages} rows, one for each entry of b, got {len(rows)}")
    return rows


def elementary_weight(tree: tuple, a: Sequence[Sequence], b: Sequence):
    r"""The elementary weight :math:`\Phi(\tau) = \sum_i b_i \varphi_i(\tau)` of a method.

    .. math:: \varphi_i([\tau_1,\dots,\tau_m]) = \prod_{l=1}^m \sum_j a_{ij}\,\varphi_j(\tau_l)

    Args:
        tree: a rooted tree, as the tuple of its subtrees.
        a: rows of the tableau's matrix. Zeros at the end of a row may be left out.
        b: weights of the stages.

    Returns:
        A number of the kind that ``a`` and ``b`` hold; for fractions it is a fraction.

    Raises:
        ValueError: if ``a`` and ``b`` do not fit together.

    Chapter: thm-solvers-order

    >>> from nodes_tutorial.ode.solvers import elementary_weight
    >>> elementary_weight(((),), [[], [0.5]], [0.0, 1.0])  # the midpoint rule
    0.5
    """
    weights = _stage_weights(tree, _rows(a, len(b)), {})
    return sum(x * y for x, y in zip(b, weights, strict=True))


def order_conditions(
    tableau, order: int, *, embedded: bool = False
) -> dict[tuple, float | Fraction]:
    r"""Residuals :math:`\Phi(\tau) - 1/\gamma(\tau)` for all trees up to an order.

    Args:
        tableau: an object with the fields ``a``, ``b`` and, for ``embedded``, ``b_error``.
        order: largest number of vertices.
        embedded: test the companion formula ``b - b_error`` in place of ``b``.

    Returns:
        The residual of each tree, smallest trees first. All vanish when the method has this order.

    Raises:
        ValueError: if ``embedded`` is asked of a method that has no companion.

    Chapter: thm-solvers-order

    References: Hairer, Nørsett and Wanner (1993), theorem II.2.13.

    >>> from nodes_tutorial.ode.solvers import order_conditions
    >>> from types import SimpleNamespace
    >>> midpoint = SimpleNamespace(a=((), (0.5,)), b=(0.0, 1.0))
    >>> order_conditions(midpoint, 2)
    {(): 0.0, ((),): 0.0}
    """
    b = tuple(tableau.b)
    if embedded:
        if getattr(tableau, "b_error", None) is None:
            raise ValueError("tableau has no embedded formula: b_error is None")
        b = tuple(x - y for x, y in zip(b, tableau.b_error, strict=True))
    rows, seen = _rows(tableau.a, len(b)), {}
    return {
        tree: sum(x * y for x, y in zip(b, _stage_weights(tree, rows, seen), strict=True))
        - Fraction(1, density(tree))
        for size in range(1, order + 1)
        for tree in rooted_trees(size)
    }


def order_of(tableau, *, embedded: bool = False, tolerance: float = 1e-12, largest: int = 9) -> int:
    """The order of a tableau: the largest p for which all trees up to p have residual zero.

    Args:
        tableau: as for :func:`order_conditions`.
        embedded: the order of the companion formula.
        tolerance: largest residual that counts as zero.
        largest: stop looking here.

    Returns:
        The order, 0 for a method that is not consistent.

    Chapter: thm-solvers-order

    >>> from nodes_tutorial.ode.solvers import order_of
    >>> from types import SimpleNamespace
    >>> order_of(SimpleNamespace(a=((), (0.5,)), b=(0.0, 1.0)))
    2
    """
    residuals = order_conditions(tableau, largest, embedded=embedded)
    failed = [tree_order(tree) for tree, value in residuals.items() if abs(value) > tolerance]
    return min(failed, default=largest + 1) - 1


def dense_conditions(tableau, order: int) -> dict[tuple, tuple[float | Fraction, ...]]:
    r"""Residuals of the continuous order conditions, as polynomials in :math:`\theta`.

    .. math:: \sum_i b_i(\theta)\,\varphi_i(\tau) - \theta^{|\tau|}/\gamma(\tau)

    Args:
        tableau: an object with ``a`` and ``dense``, where ``dense[i][j]`` is the coefficient of
            :math:`\theta^{j+1}` in :math:`b_i(\theta)`. Stages that only the interpolant needs
            are the rows of ``extra_a``, where the object has it.
        order: largest number of vertices.

    Returns:
        For each tree the coefficients of :math:`\theta, \theta^2, \dots` of its residual. All
        vanish when the local error of the interpolant is of order ``order + 1`` at every point
        of the step.

    Chapter: thm-solvers-dense

    >>> from nodes_tutorial.ode.solvers import dense_conditions
    >>> from types import SimpleNamespace
    >>> dense_conditions(SimpleNamespace(a=(), b=(1.0,), dense=((1.0,),)), 1)
    {(): (0.0,)}
    """
    rows = [*_rows(tableau.a, len(tableau.b)), *getattr(tableau, "extra_a", ())]
    seen: dict = {}
    powers = list(zip_longest(*tableau.dense, fillvalue=0.0))
    residuals = {}
    for size in range(1, order + 1):
        wanted = max(size, len(powers))
        for tree in rooted_trees(size):
            weights = _stage_weights(tree, rows, seen)
            value = [sum(x * y for x, y in zip(row, weights, strict=True)) for row in powers]
            value += [0.0] * (wanted - len(value))
            value[size - 1] -= Fraction(1, density(tree))
            residuals[tree] = tuple(value)
    return residuals


def error_constant(tableau, order: int | None = None) -> float:
    r"""Euclidean norm of the leading error coefficients.

    .. math:: \Big(\sum_{|\tau| = p + 1} (\Phi(\tau) - 1/\gamma(\tau))^2 / \sigma(\tau)^2\Big)^{1/2}

    Args:
        tableau: as for :func:`order_conditions`, with ``order``.
        order: trees of this many vertices count, ``tableau.order + 1`` when None.

    Returns:
        The constant by which methods of equal order are compared.

    Chapter: thm-solvers-order

    >>> from nodes_tutorial.ode.solvers import error_constant
    >>> from types import SimpleNamespace
    >>> error_constant(SimpleNamespace(a=((),), b=(1.0,), order=1))  # Euler: 1/2 for the tree [•]
    0.5
    """
    order = tableau.order + 1 if order is None else order
    residuals = order_conditions(tableau, order)
    trees = rooted_trees(order)
    return math.sqrt(sum((float(residuals[tree]) / symmetry(tree)) ** 2 for tree in trees))


@lru_cache(maxsize=64)
def check_claims(tableau: Tableau) -> None:
    """Refuse a tableau without the orders that it states.

    Raises:
        ValueError: it does not have them.
    """
    claims = [("order", tableau.order, False)]
    if tableau.b_error is not None and tableau.b_error_low is None:
        claims.append(("error_order", min(tableau.error_order, tableau.order), True))
    for name, order, embedded in claims:
        if order < 1:
            raise ValueError(f"the tableau's {name} must be at least 1, got {order}")
        misses = order_conditions(tableau, order, embedded=embedded).values()
        if max(map(abs, misses)) > 1e-8:
            raise ValueError(
                f"the tableau {tableau.name!r} does not have the {name} {order} that it states"
            )
