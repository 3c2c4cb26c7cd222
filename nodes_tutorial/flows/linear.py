"""Linear layers of a flow: scales, and an invertible matrix by its LU factors."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_number, check_points, draw
from nodes_tutorial.flows.actnorm import ActNorm
from nodes_tutorial.flows.flow import Transform


class Diagonal(Transform):
    r"""One scale for each entry: :math:`x_i = e^{s_i} z_i`, with :math:`\log\det = \sum_i s_i`.

    NICE ends with it, because its couplings keep volumes.

    Args:
        dim: length of the vectors.
        dtype: dtype of the scales; None means PyTorch's default.
        device: device of the scales; None means PyTorch's default.

    Raises:
        TypeError: ``dim`` is not an integer.
        ValueError: ``dim`` below 1, or points of another length.

    Chapter: thm-coupling-affine

    References: Dinh, Krueger and Bengio (2015), section 3.3.

    >>> import torch
    >>> from nodes_tutorial.flows import Diagonal
    >>> Diagonal(2)(torch.ones(2))[0]
    tensor([1., 1.], grad_fn=<MulBackward0>)
    """

    def __init__(
        self,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("dim", dim, least=1)
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=dtype, device=device))

    def forward(
        self, z: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map noise to data."""
        check_points("z", z, self.log_scale.shape)
        return z * self.log_scale.exp(), self.log_scale.sum().expand(z.shape[:-1])

    def inverse(
        self, x: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map data to noise."""
        check_points("x", x, self.log_scale.shape)
        return x * (-self.log_scale).exp(), -self.log_scale.sum().expand(x.shape[:-1])


def stack_layers(
    make: Callable[[int], Transform],
    layers: int,
    least: int,
    dim: int,
    actnorm: bool = False,
    **like: torch.dtype | torch.device | str | None,
) -> list[Transform]:
    """The layers ``make(0), make(1), …`` of a flow on vectors, with an ``ActNorm`` after each.

    Args:
        make: builds the layer of a number.
        layers: number of layers.
        least: the smallest number that makes sense.
        dim: length of the vectors.
        actnorm: whether the norms are wanted.
        **like: dtype and device of the norms.

    Returns:
        The layers and norms, in the order of sampling.

    Raises:
        TypeError: ``layers`` is not an integer.
        ValueError: ``layers`` below ``least``.

    >>> from nodes_tutorial.flows import Diagonal
    >>> from nodes_tutorial.flows.linear import stack_layers
    >>> [type(layer).__name__ for layer in stack_layers(lambda i: Diagonal(2), 1, 1, 2, True)]
    ['Diagonal', 'ActNorm']
    """
    check_count("layers", layers, least)
    made: list[Transform] = []
    for i in range(layers):
        made += [make(i), ActNorm(dim, **like)] if actnorm else [make(i)]
    return made


def check_bound(bound: float | int) -> float:
    """Refuse a bound of log-scales that is not positive, since a negative one would mirror it.

    Args:
        bound: the largest absolute value of a log-scale.

    Returns:
        The bound as a ``float``.

    Raises:
        TypeError: no number.
        ValueError: not positive, or infinite.

    >>> from nodes_tutorial.flows.linear import check_bound
    >>> check_bound(2)
    2.0
    """
    return check_number("bound", bound, "a positive number", lambda c: 0 < c < math.inf)


class InvertibleLinear(Transform):
    r"""An invertible matrix by its factors; on the channels of an image a 1×1 convolution.

    .. math:: x = Wz, \qquad W = P\,L\,(U + \operatorname{diag}(\sigma_i e^{s_i})), \qquad
        \log|\det W| = \sum_i s_i

    P is a permutation and :math:`\sigma_i` a sign, both fixed. L is lower triangular with a unit
    diagonal and U strictly upper triangular. The start is a random rotation.

    Args:
        channels: entries of a vector, or channels of an image.
        event_dims: 1 for vectors, 3 for images.
        generator: source of the initial rotation; None means PyTorch's global one.
        dtype: dtype of the parameters; None means PyTorch's default.
        device: device of the parameters; None means PyTorch's default.

    Raises:
        TypeError: ``channels`` or ``event_dims`` is not an integer, or ``generator``
            is not a generator.
        ValueError: ``channels`` or ``event_dims`` below 1.

    Chapter: prop-coupling-lu

    References: Kingma and Dhariwal (2018), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.flows import InvertibleLinear
    >>> _, ladj = InvertibleLinear(3)(torch.zeros(3))
    >>> bool(ladj.abs() < 1e-5)  # a rotation keeps the volume
    True
    """

    permutation: Tensor
    sign: Tensor

    def __init__(
        self,
        channels: int,
        *,
        event_dims: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = check_count("event_dims", event_dims, least=1)
        check_count("channels", channels, least=1)
        where = device if generator is None else None  # the rotation is made where it is drawn
        noise = draw(torch.randn, (channels, channels), generator, dtype=dtype, device=where)
        p, lower, upper = (m.to(device) for m in torch.linalg.lu(torch.linalg.qr(noise).Q))
        diagonal = upper.diagonal()
        scale = torch.diag_embed(diagonal.abs().log())
        # L below the diagonal, U above it, and the log-scales on it
        self.lu = nn.Parameter(lower.tril(-1) + upper.triu(1) + scale)
        self.register_buffer("permutation", p)
        self.register_buffer("sign", diagonal.sign())

    def factors(self) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c c"]]:
        """The triangular factors L, with ones on its diagonal, and U with its own."""
        ones = torch.diag_embed(torch.ones_like(self.sign))
        diagonal = torch.diag_embed(self.sign * self.lu.diagonal().exp())
        return self.lu.tril(-1) + ones, self.lu.triu(1) + diagonal

    def matrix(self) -> Float[Tensor, "c c"]:
        """The matrix W."""
        lower, upper = self.factors()
        return self.permutation @ lower @ upper

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Multiply by W."""
        x = z.movedim(-self.event_dims, -1) @ self.matrix().mT
        return x.movedim(-1, -self.event_dims), self._ladj(z)

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Solve with L, then with U; the inverse of W is never formed."""
        lower, upper = self.factors()
        rows = x.movedim(-self.event_dims, -1) @ self.permutation
        flat = rows.reshape(-1, len(self.sign))
        for factor, is_upper in ((lower.mT, True), (upper.mT, False)):
            flat = torch.linalg.solve_triangular(factor, flat, upper=is_upper, left=False)
        return flat.reshape(rows.shape).movedim(-1, -self.event_dims), -self._ladj(x)

    def _ladj(self, x: Tensor) -> Tensor:
        pixels = x.shape[x.ndim - self.event_dims + 1 :].numel()
        return (self.lu.diagonal().sum() * pixels).expand(x.shape[: x.ndim - self.event_dims])
