r"""Networks whose kernels have a limit, and the limits in closed form."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_filled, check_points, draw


class WideKernels(NamedTuple):
    """Covariance of the outputs at the start, and tangent kernel, of an infinitely wide network."""

    nngp: Float[Tensor, "..."]
    """Covariance of an output at two inputs, before training."""
    ntk: Float[Tensor, "..."]
    """Tangent kernel of one output."""


Moments = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def relu_ntk(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"] | None = None, *, depth: int = 1
) -> WideKernels:
    r"""The kernels of an infinitely wide network of ``wide_net`` with ReLU.

    .. math:: S_{l+1}=\|x\|\|y\|\,\kappa_1(u_l),\qquad
        \Theta_{l+1}=S_{l+1}+\Theta_l\,\kappa_0(u_l),\qquad
        \kappa_0(u)=\frac{\pi-\arccos u}\pi,\qquad
        \kappa_1(u)=\frac{u(\pi-\arccos u)+\sqrt{1-u^2}}\pi

    with :math:`S_0=\Theta_0=x\cdot y` and :math:`u_l=S_l/(\|x\|\|y\|)`.

    Args:
        x: inputs, one in a row.
        y: a second set; None means x.
        depth: number of hidden layers, at least 1.

    Returns:
        The covariance S and the tangent kernel Θ of one output, of shape (n, m) each.

    Raises:
        TypeError: no tensors of floating-point numbers, or ``depth`` is no integer.
        ValueError: shapes that do not fit, or ``depth`` below 1.

    Chapter: prop-ntk-relu

    References: Cho and Saul (2009), equation 6; Jacot, Gabriel and Hongler (2018), theorem 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import relu_ntk
    >>> relu_ntk(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    WideKernels(nngp=tensor([[0.3183]]), ntk=tensor([[0.3183]]))
    """

    def moments(s: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        size = (p * q).sqrt()
        u = torch.where(size > 0, s / size, 0.0).clamp(-1, 1)
        angle = math.pi - u.arccos()
        return size * (u * angle + (1 - u * u).sqrt()) / math.pi, angle / math.pi

    return _recursion(x, y, depth, moments)


def erf_ntk(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"] | None = None, *, depth: int = 1
) -> WideKernels:
    r"""The kernels of an infinitely wide network of ``wide_net`` with the error function.

    .. math:: S_{l+1}=\frac2\pi\arcsin\frac{2S_l}{\sqrt{(1+2p_l)(1+2q_l)}},\qquad
        \Theta_{l+1}=S_{l+1}+\Theta_l\,\frac4\pi\frac1{\sqrt{(1+2p_l)(1+2q_l)-4S_l^2}}

    with :math:`S_0=\Theta_0=x\cdot y`; p and q are the values of S at (x, x) and (y, y).

    Args:
        x: inputs, one in a row.
        y: a second set; None means x.
        depth: number of hidden layers, at least 1.

    Returns:
        As ``relu_ntk``.

    Raises:
        TypeError: as for ``relu_ntk``.
        ValueError: as for ``relu_ntk``.

    Chapter: prop-ntk-relu

    References: Williams (1997), equation 11; Lee et al. (2019), appendix C.

    >>> import torch
    >>> from nodes_tutorial.generalization import erf_ntk
    >>> erf_ntk(torch.tensor([[1.0]]))
    WideKernels(nngp=tensor([[0.4646]]), ntk=tensor([[1.0340]]))
    """

    def moments(s: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        square = (1 + 2 * p) * (1 + 2 * q)
        value = (2 * s / square.sqrt()).clamp(-1, 1).arcsin() * (2 / math.pi)
        return value, 4 / math.pi / (square - 4 * s * s).sqrt()

    return _recursion(x, y, depth, moments)


def _recursion(x: Tensor, y: Tensor | None, depth: int, moments: Moments) -> WideKernels:
    check_points("x", x)
    check_filled("x", x)
    if x.ndim != 2:
        raise ValueError(f"x must have one input in a row, got shape {tuple(x.shape)}")
    if y is not None:
        check_points("y", y, x.shape[1:], x)
        if y.ndim != 2:
            raise ValueError(f"y must have one input in a row, got shape {tuple(y.shape)}")
    check_count("depth", depth, least=1)
    other = x if y is None else y
    p, q = x.square().sum(1)[:, None], other.square().sum(1)[None]
    nngp = ntk = x @ other.mT
    for _ in range(depth):
        nngp, slope = moments(nngp, p, q)
        ntk = nngp + ntk * slope
        p, q = moments(p, p, p)[0], moments(q, q, q)[0]
    return WideKernels(nngp, ntk)


class Scaled(nn.Module):
    """An activation times a constant.

    Args:
        activation: the function.
        factor: the constant.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor], factor: float) -> None:
        super().__init__()
        self.activation, self.factor = activation, factor

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function.

        Args:
            x: inputs of any shape.
        """
        return self.factor * self.activation(x)


# activation, and the constant c with c E phi(z)^2 = 1 for ReLU
ACTIVATIONS = {"relu": (torch.relu, 2.0), "erf": (torch.erf, 1.0), "tanh": (torch.tanh, 1.0)}


def wide_net(
    inputs: int,
    width: int,
    outputs: int = 1,
    *,
    depth: int = 1,
    activation: str = "relu",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""A network with standard normal weights, each hidden layer divided by the root of its width.

    .. math:: h_1=W_1x,\qquad h_{l+1}=\sqrt{c/m}\,W_{l+1}\varphi(h_l),\qquad
        f(x)=\sqrt{c/m}\,W_{L+1}\varphi(h_L)

    without biases, c = 2 for ReLU and 1 otherwise. A constant among the inputs acts as a bias of
    the first layer.

    Args:
        inputs: number of inputs.
        width: width m of the hidden layers.
        outputs: number of outputs.
        depth: number L of hidden layers.
        activation: "relu", "erf" or "tanh".
        generator: source of the weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.

    Returns:
        The network.

    Raises:
        TypeError: a size is no integer, or ``generator`` is none.
        ValueError: a size below 1, or an unknown ``activation``.

    Chapter: thm-ntk-limit

    References: Jacot, Gabriel and Hongler (2018), section 2.

    >>> import torch
    >>> from nodes_tutorial.generalization import wide_net
    >>> net = wide_net(2, 100, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """
    sizes = {"inputs": inputs, "width": width, "outputs": outputs, "depth": depth}
    for name, size in sizes.items():
        check_count(name, size, least=1)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
    function, c = ACTIVATIONS[activation]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *[width] * depth, outputs]):
        linear = nn.Linear(before, after, bias=False, dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(draw(torch.randn, linear.weight.shape, generator, dtype=dtype))
        layers += [linear, Scaled(function, math.sqrt(c / width))]
    return nn.Sequential(*layers[:-1])
