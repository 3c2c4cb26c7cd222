"""Picard's iteration: the map whose fixed point is the solution of a differential equation."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["picard_step"]

Field = Callable[[Tensor, Tensor], Tensor]


def picard_step(
    field: Field,
    u: Float[Tensor, "times *state"],
    t: Float[Tensor, " times"],
) -> Float[Tensor, "times *state"]:
    r"""One Picard iteration on a grid, the integral by the trapezoidal sum.

    .. math:: \Phi(u)(t) = u(t_0) + \int_{t_0}^t f(s, u(s)) \, ds

    Args:
        field: f(t, y); the grid is its batch, t of shape (times, 1, ..., 1).
        u: the current curve, one state per grid point, the start first.
        t: the grid, increasing.

    Returns:
        The next curve on the same grid.

    Chapter: thm-residual-picard

    >>> import torch
    >>> from nodes_tutorial.ode.residual import picard_step
    >>> t = torch.linspace(0, 1, 3)
    >>> picard_step(lambda t, y: y, torch.ones(3, 1), t).flatten()
    tensor([1.0000, 1.5000, 2.0000])
    """
    column = t.reshape(-1, *[1] * (u.dim() - 1))
    rates = field(column, u)
    pieces = (rates[1:] + rates[:-1]) / 2 * column.diff(dim=0)
    return torch.cat([u[:1], u[:1] + pieces.cumsum(0)])
