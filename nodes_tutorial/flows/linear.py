"""Linear layers of a flow: scales, actnorm, and an invertible matrix by its LU factors."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.flows.flow import Flow, Transform


class Diagonal(Transform):
    r"""One scale for each entry: :math:`x_i = e^{s_i} z_i`, with :math:`\log\det = \sum_i s_i`.

    NICE ends with it, because its couplings keep volumes.

    Args:
        dim: length of the vectors.
        dtype: dtype of the scales; None means PyTorch's default.
        device: device of the scales; None means PyTorch's default.

    Chapter: thm-normalizing-coupling

    References: Dinh, Krueger and Bengio (2015), section 3.3.

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
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=dtype, device=device))

    def forward(
        self, z: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Noise to data."""
        return z * self.log_scale.exp(), self.log_scale.sum().expand(z.shape[:-1])

    def inverse(
        self, x: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Data to noise."""
        return x * (-self.log_scale).exp(), -self.log_scale.sum().expand(x.shape[:-1])


class ActNorm(Transform):
    r"""Scale and shift each channel: :math:`x_c = e^{s_c} z_c + b_c`.

    It starts as the identity. ``data_init`` sets it so that the noise it makes of a batch of
    data has mean 0 and variance 1 in each channel. From then on s and b are ordinary parameters: a
    state dict holds all there is, and loading one never triggers a second initialization.

    Args:
        channels: entries of a vector, or channels of an image.
        event_dims: 1 for vectors, 3 for images.
        dtype: dtype of the parameters; None means PyTorch's default.
        device: device of the parameters; None means PyTorch's default.

    Chapter: prop-normalizing-lu

    References: Kingma and Dhariwal (2018), section 3.1.

    >>> ActNorm(3)(torch.zeros(5, 3))[1].shape
    torch.Size([5])
    """

    def __init__(
        self,
        channels: int,
        *,
        event_dims: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = event_dims
        shape = (channels,) + (1,) * (event_dims - 1)
        self.log_scale = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self.shift = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self.listening = False

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Noise to data."""
        return z * self.log_scale.exp() + self.shift, self._ladj(z)

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Data to noise."""
        if self.listening:
            self._fit(x)
        return (x - self.shift) * (-self.log_scale).exp(), -self._ladj(x)

    def _ladj(self, x: Tensor) -> Tensor:
        pixels = x.shape[x.ndim - self.event_dims + 1 :].numel()
        return (self.log_scale.sum() * pixels).expand(x.shape[: x.ndim - self.event_dims])

    @torch.no_grad()
    def _fit(self, x: Tensor) -> None:
        rows = x.movedim(-self.event_dims, 0).flatten(1)
        self.shift.copy_(rows.mean(1).view_as(self.shift))
        spread = rows.std(1, correction=0).clamp_min(1e-6)
        self.log_scale.copy_(spread.log().view_as(self.shift))


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
        layers: how many.
        least: the smallest number that makes sense.
        dim: length of the vectors.
        actnorm: whether the norms are wanted.
        **like: dtype and device of the norms.

    Raises:
        ValueError: ``layers`` below ``least``.

    >>> [type(layer).__name__ for layer in stack_layers(lambda i: Diagonal(2), 1, 1, 2, True)]
    ['Diagonal', 'ActNorm']
    """
    if layers < least:
        raise ValueError(f"layers must be at least {least}, got {layers}")
    made: list[Transform] = []
    for i in range(layers):
        made += [make(i), ActNorm(dim, **like)] if actnorm else [make(i)]
    return made


@torch.no_grad()
def data_init(flow: Flow, x: Float[Tensor, "n ..."]) -> None:
    """Initialize every ``ActNorm`` of a flow, from data to noise, by one pass over a batch.

    Args:
        flow: the flow; its other parameters stay as they are.
        x: a batch of data, the larger the better.

    Raises:
        ValueError: fewer than two points.

    Chapter: prop-normalizing-lu

    References: Kingma and Dhariwal (2018), section 3.1.

    >>> from nodes_tutorial.flows import StandardNormal
    >>> flow = Flow(StandardNormal(2), [ActNorm(2)])
    >>> data_init(flow, torch.tensor([[0.0, 1.0], [4.0, 1.5]]))
    >>> flow.transforms[0].shift.data, flow.transforms[0].log_scale.exp().data
    (tensor([2.0000, 1.2500]), tensor([2.0000, 0.2500]))
    """
    if len(x) < 2:
        raise ValueError(f"x must hold at least two points, got {len(x)}")
    norms = [module for module in flow.modules() if isinstance(module, ActNorm)]
    try:
        for norm in norms:
            norm.listening = True
        flow.log_prob(x)
    finally:
        for norm in norms:
            norm.listening = False


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

    Chapter: prop-normalizing-lu

    References: Kingma and Dhariwal (2018), section 3.2.

    >>> _, ladj = InvertibleLinear(3)(torch.zeros(3))
    >>> bool(ladj.abs() < 1e-5)  # a rotation keeps the volume
    True
    """

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
        self.event_dims = event_dims
        where = device if generator is None else generator.device
        noise = torch.randn(channels, channels, generator=generator, dtype=dtype, device=where)
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
