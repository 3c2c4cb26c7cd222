"""The differential equation and the loss that steps of gradient descent really follow."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jacrev, vmap

from nodes_tutorial.checks import check_number, check_points

SAMPLINGS = ("shuffled", "replacement", "in_order")
Losses = Callable[[Float[Tensor, " dim"]], Float[Tensor, "..."]]


def modified_flow(
    losses: Losses, step_size: float, *, sampling: str = "shuffled"
) -> Callable[[Tensor | float, Float[Tensor, "*batch dim"]], Float[Tensor, "*batch dim"]]:
    r"""The vector field whose flow is one order closer to gradient descent than gradient flow.

    .. math:: \dot w = -\nabla C(w) - \frac hm \sum_l \nabla^2 C_l(w) \sum_k B_{lk} \nabla C_k(w)

    One epoch of m steps of size h is a time of mh. The matrix B is one half minus how often step k
    comes before step l, on average: half the identity for shuffled steps, 1 / (2m) everywhere for
    steps drawn with replacement. One loss, m = 1, is gradient descent on the whole data.

    Args:
        losses: maps weights (dim) to one loss, or to the losses (m) of the minibatches; the whole
            loss C is their mean. Twice differentiable, and written in PyTorch.
        step_size: h, the step of gradient descent.
        sampling: ``"shuffled"`` (the mean over all orders of an epoch), ``"replacement"`` (the
            mean over m independent draws), or ``"in_order"`` (the one order 0 … m − 1).

    Returns:
        The field as a function of time, which it ignores, and of weights (\*batch, dim), for
        ``odeint``.

    Raises:
        TypeError: ``step_size`` is no number; later, weights or losses that are no floating-point
            tensors.
        ValueError: ``step_size`` is not positive and finite, or an unknown ``sampling``; later,
            losses that are neither one number nor a vector.

    Chapter: thm-implicit-orders

    References: Barrett and Dherin (2021), theorem 3.1; Smith, Dherin, Barrett and De (2021), eq. 4.

    >>> import torch
    >>> from nodes_tutorial.generalization import modified_flow
    >>> field = modified_flow(lambda w: w.square().sum() / 2, 0.1)
    >>> field(0.0, torch.tensor([1.0]))
    tensor([-1.0500])
    """
    _check_step(step_size)
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}")
    slopes = jacrev(lambda w: _vector(losses, w))

    def at_one(w: Tensor) -> Tensor:
        g = slopes(w)
        m = len(g)
        ahead = _pairs_missing(m, sampling).to(g) @ g
        bend = grad(lambda u: (slopes(u) * ahead).sum())(w)
        return -g.mean(0) - step_size / m * bend

    def field(t: Tensor | float, w: Tensor) -> Tensor:
        check_points("w", w)
        if w.ndim == 0:
            raise ValueError("w must have an axis of its coordinates, got a single number")
        if w.ndim == 1:
            return at_one(w)
        return vmap(at_one)(w.reshape(-1, w.shape[-1])).reshape(w.shape)

    return field


def modified_loss(
    losses: Losses, step_size: float, *, sampling: str = "shuffled"
) -> Callable[[Float[Tensor, " dim"]], Float[Tensor, ""]]:
    r"""The loss that gradient descent with finite steps goes down.

    .. math::
        \tilde C = C + \frac h{4m}\sum_k\lVert\nabla C_k\rVert^2 \quad\text{(shuffled)},\qquad
        \tilde C = C + \frac h4\lVert\nabla C\rVert^2 \quad\text{(with replacement, or } m = 1)

    Its negative gradient is ``modified_flow``. One fixed order has no such loss, because its field
    is no gradient.

    Args:
        losses: maps weights (dim) to one loss, or to the losses (m) of the minibatches.
        step_size: h, the step of gradient descent.
        sampling: ``"shuffled"`` or ``"replacement"``.

    Returns:
        The modified loss, a function of weights (dim).

    Raises:
        TypeError: ``step_size`` is no number; later, losses that are no floating-point tensor.
        ValueError: ``step_size`` is not positive and finite, or another ``sampling``; later,
            losses that are neither one number nor a vector.

    Chapter: thm-implicit-gd

    References: Barrett and Dherin (2021), theorem 3.1; Smith, Dherin, Barrett and De (2021), eq. 4.

    >>> import torch
    >>> from nodes_tutorial.generalization import modified_loss
    >>> modified_loss(lambda w: w.square().sum() / 2, 0.1)(torch.tensor([1.0]))
    tensor(0.5250)
    """
    _check_step(step_size)
    if sampling not in SAMPLINGS[:2]:
        raise ValueError(
            f"sampling must be shuffled or replacement, got {sampling!r}: "
            "the field of one fixed order is no gradient"
        )
    slopes = jacrev(lambda w: _vector(losses, w))

    def loss(w: Tensor) -> Tensor:
        check_points("w", w)
        g = slopes(w)
        penalty = g.square().sum(1).mean() if sampling == "shuffled" else g.mean(0).square().sum()
        return _vector(losses, w).mean() + step_size / 4 * penalty

    return loss


def _pairs_missing(m: int, sampling: str) -> Tensor:
    """B: one half minus the expected number of pairs of steps with k before l, at row l."""
    if sampling == "replacement":
        return torch.full((m, m), 1 / (2 * m))
    if sampling == "shuffled":
        return torch.eye(m) / 2
    return torch.full((m, m), 0.5) - torch.ones(m, m).tril(-1)


def _vector(losses: Losses, w: Tensor) -> Tensor:
    values = losses(w)
    check_points("losses(w)", values)
    if values.ndim > 1 or values.numel() == 0:
        raise ValueError(f"losses must return one loss or (m,), got shape {tuple(values.shape)}")
    return values.reshape(-1)


def _check_step(step_size: float) -> None:
    check_number("step_size", step_size, "a positive number", lambda h: 0 < h < math.inf)
