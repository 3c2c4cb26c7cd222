"""One wide hidden layer approximates a function of one variable: the weights, written down."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["interpolating_net"]


def interpolating_net(values: Float[Tensor, " nodes"], activation: str = "tanh") -> nn.Sequential:
    r"""A network with n hidden units that follows given values at 0, 1/n, ..., 1, untrained.

    .. math:: g_n(x) = c + \sum_{i=1}^n v_i \sigma(w_i x + b_i)

    relu: the polygon through the values, with an error of at most :math:`\omega(1/n)`. tanh: a
    smoothed staircase, at most :math:`2.32\,\omega(1/n)`. Here :math:`\omega` is the modulus of
    continuity of the function behind the values.

    Args:
        values: the function at i/n, i = 0, ..., n.
        activation: "relu" or "tanh".

    Returns:
        ``Linear(1, n)``, the activation, ``Linear(n, 1)``.

    Raises:
        ValueError: another activation, or fewer than two values.

    Chapter: thm-residual-width

    >>> import torch
    >>> from nodes_tutorial.ode.residual import interpolating_net
    >>> net = interpolating_net(torch.tensor([0.0, 1.0, 0.0]), "relu")
    >>> net(torch.tensor([[0.25], [0.5], [1.0]])).flatten().tolist()
    [0.5, 1.0, 0.0]
    """
    n = len(values) - 1
    if n < 1:
        raise ValueError(f"values must hold at least two entries, got {len(values)}")
    weights = {"relu": _polygon, "tanh": _staircase}
    if activation not in weights:
        raise ValueError(f"activation must be 'relu' or 'tanh', got {activation!r}")
    act = nn.ReLU() if activation == "relu" else nn.Tanh()
    net = nn.Sequential(nn.Linear(1, n), act, nn.Linear(n, 1)).to(values)
    w, b, v, c = weights[activation](values)
    with torch.no_grad():
        for p, x in zip(net.parameters(), (w[:, None], b, v[None], c[None]), strict=True):
            p.copy_(x)
    return net


def _polygon(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = len(values) - 1
    slopes = n * values.diff()
    kinks = torch.arange(n).to(values) / n
    bends = slopes.diff(prepend=slopes.new_zeros(1))
    return torch.ones_like(kinks), -kinks, bends, values[0]


def _staircase(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = len(values) - 1
    steps = torch.arange(n).to(values) + 0.5
    middle = (values[0] + values[-1]) / 2
    return torch.full_like(steps, n), -steps, values.diff() / 2, middle
