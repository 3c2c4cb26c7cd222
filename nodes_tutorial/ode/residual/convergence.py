"""How far a residual network is from its differential equation: an explicit first-order bound."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nodes_tutorial.ode.residual.network import ResidualNet

__all__ = ["Constants", "euler_error_bound", "field_constants"]


class Constants(NamedTuple):
    """The three numbers that ``euler_error_bound`` needs."""

    K: float
    """Lipschitz constant of f in y."""
    lam: float
    """Lipschitz constant of f in t, on the ball that the solutions stay in."""
    M: float
    """Bound of the norm of f."""


def euler_error_bound(constants: Constants, depth: int, T: float = 1.0) -> float:
    r"""Largest possible distance between the residual network and its differential equation.

    .. math:: \max_l |y_l - y(t_l)| \le
        \frac{T}{L} \, \frac{\Lambda + K M}{2} \, \frac{e^{KT} - 1}{K}

    For K = 0 the last factor is T.

    Args:
        constants: K, lam (the Λ of the formula) and M of the field.
        depth: number of layers L.
        T: length of the time interval.

    Returns:
        The bound, in the units of the state.

    Chapter: thm-residual-euler

    References: Hairer, Nørsett, Wanner (1993), Solving Ordinary Differential Equations I, I.7.

    >>> from nodes_tutorial.ode.residual import Constants, euler_error_bound
    >>> euler_error_bound(Constants(K=0.0, lam=1.0, M=1.0), depth=10)
    0.05
    """
    K, lam, M = constants
    growth = math.expm1(K * T) / K if K > 0 else T
    return T / depth * (lam + K * M) / 2 * growth


@torch.no_grad()
def field_constants(net: ResidualNet, radius: float, grid: int = 2001) -> Constants:
    r"""The constants of the field of a residual network with smooth weights, on a ball.

    .. math:: K = |V| |W|, \quad M = |V| \sqrt m, \quad
        \Lambda = |V|' \sqrt m + |V| (|W|' R + |b|')

    Here :math:`|A|` is the maximum over [0, T] of the norm of A(t), :math:`|A|'` a Lipschitz
    constant of A, m the width and R the radius. The maxima are taken on a grid and raised by the
    most that the curve can rise between two grid points, so they are true upper bounds.

    Args:
        net: a network with ``modes``.
        radius: bound of the norm of the solutions; that of the start plus MT always serves.
        grid: number of grid points.

    Returns:
        The constants for ``euler_error_bound``.

    Chapter: lem-residual-constants

    >>> import torch
    >>> from nodes_tutorial.ode import ResidualNet
    >>> from nodes_tutorial.ode.residual import field_constants
    >>> net = ResidualNet(1, 1, depth=1, modes=1)
    >>> for p in net.parameters():
    ...     _ = torch.nn.init.constant_(p, 2.0)
    >>> field_constants(net, radius=1.0)
    Constants(K=4.0, lam=0.0, M=2.0)
    """
    t = torch.linspace(0, net.T, grid, dtype=net.W.dtype, device=net.W.device)
    top, slope = [], []
    for curve, p in zip(net.weights(t), (net.V, net.W, net.b), strict=True):
        k = torch.arange(len(p), dtype=p.dtype, device=p.device)
        slope.append(float((math.pi / net.T * k * _norms(p)).sum()))
        top.append(float(_norms(curve).max()) + slope[-1] * net.T / (2 * (grid - 1)))
    (V, W, _), (dV, dW, db), root = top, slope, math.sqrt(net.W.shape[1])
    return Constants(K=V * W, lam=dV * root + V * (dW * radius + db), M=V * root)


def _norms(p: Tensor) -> Tensor:
    """Spectral norm of each matrix, Euclidean norm of each vector, along the first axis."""
    return torch.linalg.matrix_norm(p, 2) if p.dim() == 3 else torch.linalg.vector_norm(p, dim=-1)
