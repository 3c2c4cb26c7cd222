"""Rooted trees, their numbers, their elementary differentials.

A tree is a sorted tuple of the subtrees at its root, so the single vertex is ``()`` and the chain
of two vertices is ``((),)``. Every rooted tree has exactly one such tuple.

Chapter: def-solvers-trees

References: Butcher (2016), chapter 3; Hairer, Nørsett and Wanner (1993), section II.2.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "density",
    "elementary_differential",
    "rooted_trees",
    "symmetry",
    "tree_field",
    "tree_order",
    "tree_string",
]


@cache
def rooted_trees(order: int) -> tuple[tuple, ...]:
    r"""All rooted trees with a given number of vertices.

    The counts are 1, 1, 2, 4, 9, 20, 48, 115 for orders 1 to 8.

    Args:
        order: number of vertices, at least 1.

    Returns:
        The trees, each a sorted tuple of its subtrees.

    Raises:
        ValueError: if ``order`` is smaller than 1.

    Chapter: def-solvers-trees

    >>> from nodes_tutorial.ode.solvers import rooted_trees
    >>> rooted_trees(3)
    (((), ()), (((),),))
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    return tuple(sorted(_forests(order - 1, order - 1)))


@cache
def _forests(total: int, largest: int) -> tuple[tuple, ...]:
    """Sorted tuples of trees with ``total`` vertices in all, none with more than ``largest``."""
    if total == 0:
        return ((),)
    found = set()
    for size in range(1, min(total, largest) + 1):
        for tree in rooted_trees(size):
            for rest in _forests(total - size, size):
                found.add(tuple(sorted((*rest, tree))))
    return tuple(found)


def tree_order(tree: tuple) -> int:
    r"""The order :math:`|\tau|`, the number of vertices.

    Args:
        tree: a rooted tree, as the tuple of its subtrees.

    Returns:
        The number of vertices.

    Chapter: def-solvers-trees

    >>> from nodes_tutorial.ode.solvers import tree_order
    >>> tree_order(((), ((),)))
    4
    """
    return 1 + sum(map(tree_order, tree))


def density(tree: tuple) -> int:
    r"""The density :math:`\gamma(\tau) = |\tau| \prod_i \gamma(\tau_i)`.

    Args:
        tree: a rooted tree, as the tuple of its subtrees.

    Returns:
        The density, an integer of at least 1.

    Chapter: def-solvers-trees

    >>> from nodes_tutorial.ode.solvers import density
    >>> density((((),),))  # the chain of three vertices: 3!
    6
    """
    return tree_order(tree) * math.prod(map(density, tree))


def symmetry(tree: tuple) -> int:
    r"""The symmetry :math:`\sigma(\tau) = \prod_j \mu_j!\,\sigma(\tau_j)^{\mu_j}`.

    The product runs over the different subtrees of the root; :math:`\mu_j` counts how often
    each occurs.

    Args:
        tree: a rooted tree, as the tuple of its subtrees.

    Returns:
        The symmetry, an integer of at least 1.

    Chapter: def-solvers-trees

    >>> from nodes_tutorial.ode.solvers import symmetry
    >>> symmetry(((), (), ()))
    6
    """
    return math.prod(
        math.factorial(count) * symmetry(child) ** count for child, count in Counter(tree).items()
    )


def tree_string(tree: tuple) -> str:
    """Bracket notation of a tree.

    Args:
        tree: a rooted tree, as the tuple of its subtrees.

    Returns:
        The notation, with a dot for a leaf.

    Chapter: def-solvers-trees

    >>> from nodes_tutorial.ode.solvers import tree_string
    >>> tree_string(((), ((),)))
    '[•,[•]]'
    """
    return f"[{','.join(map(tree_string, tree))}]" if tree else "•"


def elementary_differential(
    tree: tuple, func: Callable[[Tensor], Tensor], y: Float[Tensor, " dim"]
) -> Float[Tensor, " dim"]:
    r"""The elementary differential of a field for a tree, at a point.

    .. math:: F([\tau_1,\dots,\tau_m])(y) = f^{(m)}(y)[F(\tau_1)(y),\dots,F(\tau_m)(y)]

    The m-th derivative is taken by m nested forward-mode derivatives along fixed directions.

    Args:
        tree: a rooted tree, as the tuple of its subtrees.
        func: an autonomous field, ``(dim,) -> (dim,)``.
        y: the point at which it is taken, shape (dim,).

    Returns:
        A vector of the state's shape.

    Chapter: def-solvers-trees

    >>> import torch
    >>> from nodes_tutorial.ode.solvers import elementary_differential
    >>> y = torch.tensor([2.0])
    >>> elementary_differential(((),), lambda y: y**2, y)  # f'f = 2 y * y^2
    tensor([16.])
    """
    directions = [elementary_differential(child, func, y) for child in tree]
    for direction in directions:
        func = _along(func, direction)
    return func(y)


def _along(func: Callable, direction: Tensor) -> Callable:
    return lambda y: torch.func.jvp(func, (y,), (direction,))[1]


def tree_field(tree: tuple) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    r"""The differential equation that isolates one tree.

    With the vertices numbered from the root, 0, each vertex i has
    :math:`\dot y_i = \prod_{j\ \text{child of}\ i} y_j` and :math:`y(0) = 0`. Then
    :math:`y_0(t) = t^{|\tau|}/\gamma(\tau)`, and one Runge-Kutta step of size h returns
    :math:`h^{|\tau|}\,\Phi(\tau)` there: the method reports its own elementary weight.

    Args:
        tree: a rooted tree.

    Returns:
        The field ``func(t, y)`` and the number of components of its state, the tree's order.

    Chapter: thm-solvers-order

    >>> import torch
    >>> from nodes_tutorial.ode.solvers import tree_field
    >>> func, dim = tree_field(((),))
    >>> func(0.0, torch.tensor([0.0, 3.0])), dim
    (tensor([3., 1.]), 2)
    """
    children: list[list[int]] = []

    def number(node: tuple) -> int:
        mine = len(children)
        children.append([])
        children[mine].extend([number(child) for child in node])
        return mine

    number(tree)

    def func(t, y: Tensor) -> Tensor:
        return torch.stack([y[..., below].prod(-1) for below in children], -1)

    return func, len(children)
