"""Actnorm: scales and shifts that a first batch of data sets."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.flows.flow import Flow, Transform


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

    Raises:
        TypeError: ``channels`` or ``event_dims`` is not an integer.
        ValueError: one of them below 1, or points of another number of channels.

    Chapter: prop-coupling-lu

    References: Kingma and Dhariwal (2018), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows import ActNorm
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
        self.event_dims = check_count("event_dims", event_dims, least=1)
        shape = (check_count("channels", channels, least=1),) + (1,) * (event_dims - 1)
        self.log_scale = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self.shift = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self.listening = False

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data."""
        self._check(z)
        return z * self.log_scale.exp() + self.shift, self._ladj(z)

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise."""
        self._check(x)
        if self.listening:
            self._fit(x)
        return (x - self.shift) * (-self.log_scale).exp(), -self._ladj(x)

    def _check(self, x: Tensor) -> None:
        """One channel would pass for several, since it broadcasts."""
        if x.ndim < self.event_dims or x.shape[-self.event_dims] != len(self.shift):
            raise ValueError(
                f"the points must have {len(self.shift)} channels and {self.event_dims} axes, "
                f"got shape {tuple(x.shape)}"
            )

    def _ladj(self, x: Tensor) -> Tensor:
        pixels = x.shape[x.ndim - self.event_dims + 1 :].numel()
        return (self.log_scale.sum() * pixels).expand(x.shape[: x.ndim - self.event_dims])

    @torch.no_grad()
    def _fit(self, x: Tensor) -> None:
        rows = x.movedim(-self.event_dims, 0).flatten(1)
        self.shift.copy_(rows.mean(1).view_as(self.shift))
        spread = rows.std(1, correction=0).clamp_min(1e-6)
        self.log_scale.copy_(spread.log().view_as(self.shift))


@torch.no_grad()
def data_init(
    flow: Flow, x: Float[Tensor, "n ..."], context: Float[Tensor, "..."] | None = None
) -> None:
    """Initialize every ``ActNorm`` of a flow, from data to noise, by one pass over a batch.

    Args:
        flow: the flow; its other parameters stay as they are.
        x: a batch of data, the larger the better.
        context: as for ``Flow.log_prob``.

    Raises:
        TypeError: as for ``Flow.log_prob``.
        ValueError: fewer than two points, one that is not finite, or as for ``Flow.log_prob``.

    Chapter: prop-coupling-lu

    References: Kingma and Dhariwal (2018), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.flows import ActNorm, Flow, data_init
    >>> from nodes_tutorial.flows import StandardNormal
    >>> flow = Flow(StandardNormal(2), [ActNorm(2)])
    >>> data_init(flow, torch.tensor([[0.0, 1.0], [4.0, 1.5]]))
    >>> flow.transforms[0].shift.data, flow.transforms[0].log_scale.exp().data
    (tensor([2.0000, 1.2500]), tensor([2.0000, 0.2500]))
    """
    check_points("x", x, flow.event_shape)
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(f"x must hold at least two points, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x must be finite, got NaN or infinite numbers")
    norms = [module for module in flow.modules() if isinstance(module, ActNorm)]
    try:
        for norm in norms:
            norm.listening = True
        flow.log_prob(x, context)
    finally:
        for norm in norms:
            norm.listening = False
