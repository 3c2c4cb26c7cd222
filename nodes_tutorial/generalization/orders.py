"""Gradient descent on minibatches in given orders, and lists of all orders."""

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.generalization.modified import Losses, _vector

_MOST = 10**7  # indices in a list of orders


def minibatch_descent(
    losses: Losses,
    w: Float[Tensor, "*#batch dim"],
    step_size: float,
    orders: Int[Tensor, "*#batch steps"],
) -> Float[Tensor, "*batch points dim"]:
    r"""All iterates of gradient descent that takes minibatches in given orders.

    .. math:: w_{n+1} = w_n - h\,\nabla C_{i_n}(w_n)

    Args:
        losses: maps weights (dim) to one loss, or to the losses (m) of the minibatches.
        w: where to start; its batch and that of ``orders`` are broadcast.
        step_size: h, the length of a step.
        orders: i, which minibatch each step takes, from 0 to m − 1; zeros for a single loss.

    Returns:
        The starting point and the iterates, steps + 1 points.

    Raises:
        TypeError: weights that are no floating-point tensor, or orders that are no integers.
        ValueError: ``step_size`` is not positive and finite, a single number for ``w``, or an
            order with an index outside 0 … m − 1.

    Chapter: thm-implicit-orders

    >>> import torch
    >>> from nodes_tutorial.generalization import minibatch_descent
    >>> pull = lambda w: (w - torch.tensor([0.0, 2.0])).square() / 2
    >>> minibatch_descent(pull, torch.ones(1), 0.5, torch.tensor([0, 1])).squeeze()
    tensor([1.0000, 0.5000, 1.2500])
    """
    check_points("w", w)
    check_number("step_size", step_size, "a positive number", lambda h: 0 < h < math.inf)
    if not isinstance(orders, Tensor) or orders.is_floating_point() or orders.dtype == torch.bool:
        raise TypeError("orders must be a tensor of integers")
    if w.ndim == 0 or orders.ndim == 0:
        raise ValueError("w needs an axis of coordinates and orders one of steps")
    batch = torch.broadcast_shapes(w.shape[:-1], orders.shape[:-1])
    w = w.expand(*batch, w.shape[-1])
    flat = w.reshape(-1, w.shape[-1])
    indices = orders.long().expand(*batch, orders.shape[-1]).reshape(-1, orders.shape[-1])
    if indices.numel() and flat.numel():
        m = _vector(losses, flat[0]).numel()
        if int(indices.min()) < 0 or int(indices.max()) >= m:
            raise ValueError(f"orders must hold indices from 0 to {m - 1}")

    def of_one(u: Tensor, i: Tensor) -> Tensor:
        return _vector(losses, u).gather(0, i[None])[0]

    slope = vmap(grad(of_one))
    path = [flat]
    for i in indices.unbind(-1):
        path.append(path[-1] - step_size * slope(path[-1], i))
    return torch.stack(path, 1).reshape(*batch, len(path), w.shape[-1])


def all_orders(m: int) -> Int[Tensor, "orders m"]:
    """All m! orders of one epoch.

    Args:
        m: number of minibatches.

    Returns:
        One order a row.

    Raises:
        TypeError: ``m`` is no integer.
        ValueError: ``m`` is below 1, or the list would be longer than ten million numbers.

    Chapter: thm-implicit-orders

    >>> from nodes_tutorial.generalization import all_orders
    >>> all_orders(2).tolist()
    [[0, 1], [1, 0]]
    """
    check_count("m", m, least=1)
    if math.factorial(min(m, 20)) * m > _MOST:
        raise ValueError(f"m must be small enough to list all orders, got {m}")
    return torch.tensor(list(itertools.permutations(range(m))))


def all_draws(m: int, steps: int) -> Int[Tensor, "draws steps"]:
    """All sequences of a number of draws with replacement.

    Args:
        m: number of minibatches.
        steps: number of draws.

    Returns:
        One sequence a row, m to the power of ``steps`` rows.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number is below 1, or the list would be longer than ten million numbers.

    Chapter: thm-implicit-orders

    >>> from nodes_tutorial.generalization import all_draws
    >>> all_draws(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    check_count("m", m, least=1)
    check_count("steps", steps, least=1)
    if steps * math.log(m) + math.log(steps) > math.log(_MOST):
        raise ValueError(f"m ** steps must be small enough to list, got {m} ** {steps}")
    every = torch.cartesian_prod(*[torch.arange(m)] * steps)
    return every.reshape(-1, steps)
