"""Densities of images: from integer pixels to real numbers and back, and bits per dimension."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nodes_tutorial.checks import check_count, check_number, check_points, draw
from nodes_tutorial.flows.flow import Transform


def dequantize(
    k: Int[Tensor, "*shape"],
    levels: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Spread integer pixels over their cells: :math:`y = (k + u)/\text{levels}` with u uniform.

    Args:
        k: pixels in 0 … levels - 1.
        levels: number of values that a pixel can have.
        generator: source of u; None means PyTorch's global one.
        dtype: dtype of y; None means PyTorch's default.

    Returns:
        Numbers in [0, 1).

    Raises:
        TypeError: ``k`` holds no integers, ``levels`` is none, or ``generator`` is not a generator.
        ValueError: a pixel outside 0 … levels - 1.

    Chapter: prop-coupling-bits

    References: Theis, van den Oord and Bethge (2016), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows import dequantize
    >>> y = dequantize(torch.tensor([0, 16]), 17)
    >>> (y * 17).floor()
    tensor([ 0., 16.])
    """
    check_count("levels", levels, least=1)
    if not isinstance(k, Tensor) or k.is_floating_point() or k.is_complex():
        raise TypeError(f"k must be a tensor of integers, got {getattr(k, 'dtype', type(k))}")
    if k.numel() and (k.min() < 0 or k.max() >= levels):
        raise ValueError(f"k must lie in 0 ... {levels - 1}, got {k.min()} ... {k.max()}")
    dtype = dtype or torch.get_default_dtype()
    u = draw(torch.rand, k.shape, generator, dtype=dtype, device=k.device)
    # rounding may carry the largest u into the next cell
    return torch.minimum((k + u) / levels, torch.nextafter((k + 1.0) / levels, k.to(dtype)))


def quantize(y: Float[Tensor, "*shape"], levels: int) -> Int[Tensor, "*shape"]:
    """The cells in which numbers of [0, 1] lie; those outside go to the nearest.

    Args:
        y: numbers of any shape.
        levels: number of cells.

    Returns:
        The number of the cell of each, from 0 to ``levels - 1``.

    Raises:
        TypeError: ``y`` does not hold floating-point numbers, or ``levels`` is not an integer.
        ValueError: ``levels`` below 1, or a NaN, which lies in no cell.

    >>> import torch
    >>> from nodes_tutorial.flows import quantize
    >>> quantize(torch.tensor([-0.1, 0.5, 1.0]), 4)
    tensor([0, 2, 3])
    """
    check_count("levels", levels, least=1)
    check_points("y", y)
    if y.isnan().any():
        raise ValueError("y must be numbers, got NaN")
    return (y * levels).floor().clamp(0, levels - 1).long()


def bits_per_dim(
    log_prob: Float[Tensor, "*batch"], dims: int, levels: int
) -> Float[Tensor, "*batch"]:
    r"""Bits per dimension of integer pixels from the log-density of their dequantized values.

    .. math:: b = -\frac{\log p(y)}{D\log 2} + \log_2(\text{levels})

    Its mean over u is an upper bound on the code length under the discrete model
    :math:`P(k)=\int_{\text{cell}}p`.

    Args:
        log_prob: log-density in nats of y in the unit cube, as ``dequantize`` gives it.
        dims: number D of pixels times channels.
        levels: number of values that a pixel can have.

    Returns:
        Bits for each dimension.

    Raises:
        TypeError: ``dims`` or ``levels`` is not an integer.
        ValueError: one of them below 1.

    Chapter: prop-coupling-bits

    References: Papamakarios, Pavlakou and Murray (2017).

    >>> import torch
    >>> from nodes_tutorial.flows import bits_per_dim
    >>> bits_per_dim(torch.zeros(1), 64, 256)  # the uniform density
    tensor([8.])
    """
    check_count("dims", dims, least=1)
    check_count("levels", levels, least=1)
    return -log_prob / (dims * math.log(2)) + math.log2(levels)


class Logit(Transform):
    r"""From noise on the line to pixels, entry by entry.

    .. math:: x = \frac{\sigma(z) - \alpha}{1 - 2\alpha}, \qquad
        z = \operatorname{logit}\bigl(\alpha + (1 - 2\alpha)x\bigr)

    With :math:`\alpha>0` pixels 0 and 1 have finite z. Put last in a flow, it
    makes the densities those of pixels in [0, 1].

    Args:
        event_dims: 1 for vectors, 3 for images.
        alpha: distance that the ends keep from 0 and 1.

    Raises:
        TypeError: ``event_dims`` is not an integer or ``alpha`` no number.
        ValueError: ``event_dims`` below 1, or ``alpha`` not in [0, 1/2).

    Chapter: prop-coupling-bits

    References: Dinh, Sohl-Dickstein and Bengio (2017), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.flows import Logit
    >>> Logit(event_dims=1).inverse(torch.tensor([0.0, 0.5, 1.0]))[0]
    tensor([-2.9444,  0.0000,  2.9444])
    """

    def __init__(self, event_dims: int = 3, alpha: float | int = 0.05) -> None:
        super().__init__()
        self.event_dims = check_count("event_dims", event_dims, least=1)
        self.alpha = check_number("alpha", alpha, "in [0, 1/2)", lambda a: 0 <= a < 0.5)

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to pixels."""
        return (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha), self._ladj(z)

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map pixels to noise."""
        z = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        return z, -self._ladj(z)

    def _ladj(self, z: Tensor) -> Tensor:
        each = -F.softplus(z) - F.softplus(-z) - math.log1p(-2 * self.alpha)
        return each.flatten(z.ndim - self.event_dims).sum(-1)
