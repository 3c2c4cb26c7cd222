"""Coupling layers: one part of a point moves the other, so the Jacobian is triangular."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count
from nodes_tutorial.flows.density import StandardNormal
from nodes_tutorial.flows.flow import Flow, Transform
from nodes_tutorial.flows.linear import Diagonal, check_bound, stack_layers
from nodes_tutorial.flows.masks import Coupling, conditioner, least_dim


class AffineCoupling(Coupling):
    r"""Scale and shift one part of a point, as the other part says.

    .. math:: x_A = z_A, \qquad x_B = z_B \odot e^{s(z_A)} + t(z_A), \qquad
        \log\Bigl|\det\frac{\partial x}{\partial z}\Bigr| = \sum_i s_i(z_A)

    The log-scale is :math:`s = c\tanh(a)` with the bound c, so that no entry is scaled by more than
    :math:`e^{c}`. With ``scale=False`` there is only the shift, and the volume is kept.

    Args:
        mask: true on A, the part that is kept. With one axis it splits the first axis of a point:
            the entries of a vector or the channels of an image. With the three axes of an
            image it may be any pattern, such as a checkerboard.
        net: gives t and a, one after the other along the first axis of a point. A mask of one axis
            hands it A alone and asks for values on B alone. A mask of three axes hands it the
            image with B set to zero and asks for values everywhere; those on A are not used.
            A context stands after A.
        event_dims: 1 for vectors, 3 for images.
        scale: whether to scale as well as to shift.
        bound: the bound c, positive.
        context: entries of the context that s and t hang on as well; 0 for none. With a context
            the mask may keep nothing.

    Raises:
        TypeError: ``event_dims`` or ``context`` is not an integer or ``bound`` no number.
        ValueError: a mask that keeps all or nothing, or whose axes do not fit ``event_dims``;
            ``bound`` not positive; a context for images.

    Chapter: thm-coupling-affine

    References: Dinh, Krueger and Bengio (2015), section 3; Dinh, Sohl-Dickstein and Bengio
        (2017), section 3.

    >>> import torch
    >>> from nodes_tutorial.flows import AffineCoupling, half_mask
    >>> from nodes_tutorial.nets import MLP
    >>> layer = AffineCoupling(half_mask(2), MLP([1, 8, 2]))
    >>> x, ladj = layer(torch.tensor([[1.0, 2.0]]))
    >>> x[0, 0].item(), ladj.shape
    (1.0, torch.Size([1]))
    """

    def __init__(
        self,
        mask: Bool[Tensor, "..."],
        net: nn.Module,
        *,
        event_dims: int = 1,
        scale: bool = True,
        bound: float | int = 2.0,
        context: int = 0,
    ) -> None:
        super().__init__(mask, net, event_dims=event_dims, context=context)
        self.scale, self.bound = scale, check_bound(bound)

    def forward(
        self, z: Float[Tensor, "*shape"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data: scale, then shift."""
        a, b = self.split(z)
        s, t = self._scale_and_shift(a, self.bound, context)
        if s is None:
            return self.merge(a, b + t), z.new_zeros(z.shape[: z.ndim - self.event_dims])
        return self.merge(a, b * s.exp() + t), s.flatten(s.ndim - self.event_dims).sum(-1)

    def inverse(
        self, x: Float[Tensor, "*shape"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise: the same s and t, since A is the same on both sides."""
        a, b = self.split(x)
        s, t = self._scale_and_shift(a, -self.bound, context)
        if s is None:
            return self.merge(a, b - t), x.new_zeros(x.shape[: x.ndim - self.event_dims])
        return self.merge(a, (b - t) * s.exp()), s.flatten(s.ndim - self.event_dims).sum(-1)

    def _scale_and_shift(
        self, a: Tensor, bound: float | int, context: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        values = self.values(a, context)
        if not self.by_parts:  # values on A must not matter
            changed = ~self.mask
            values = values * (torch.cat([changed, changed]) if self.scale else changed)
        if not self.scale:
            return None, values
        t, s = values.chunk(2, -self.event_dims)
        return torch.tanh(s) * bound, t


class NICE(Flow):
    r"""Additive couplings, which keep the volume, and one diagonal scale at the end.

    The halves that are kept take turns. The log-determinant is the same at every point:
    :math:`\sum_i s_i` of the scale.

    Args:
        dim: number of features, at least 2.
        layers: number of couplings, at least 2: with one, half of the features stay normal.
        hidden: width of each hidden layer of the shifts.
        activation: a key of ``nets.ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        context: entries of the context; 0 for a flow that takes none. With a context one feature
            is enough.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``dim`` or ``layers`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``dim`` or ``layers`` below 2.

    Chapter: thm-coupling-affine

    References: Dinh, Krueger and Bengio (2015), section 3.

    >>> import torch
    >>> from nodes_tutorial.flows import NICE
    >>> NICE(3).log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        dim: int,
        layers: int = 4,
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        like = {"dtype": dtype, "device": device}
        check_count("dim", dim, least=least_dim(context))

        def layer(i: int) -> Transform:
            mask, net = conditioner(dim, i, hidden, activation, generator, 1, context, **like)
            return AffineCoupling(mask, net, scale=False, context=context)

        couplings = stack_layers(layer, layers, 2, dim)
        super().__init__(StandardNormal(dim, **like), [*couplings, Diagonal(dim, **like)])


class RealNVP(Flow):
    r"""Affine couplings, with the halves that are kept taking turns.

    Args:
        dim: number of features, at least 2.
        layers: number of couplings, at least 2: with one, half of the features stay normal.
        hidden: width of each hidden layer of the scales and shifts.
        activation: a key of ``nets.ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        actnorm: whether an ``ActNorm`` follows each coupling; see ``data_init``.
        bound: largest absolute log-scale of a coupling.
        context: entries of the context; 0 for a flow that takes none. With a context one feature
            is enough.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``dim`` or ``layers`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``dim`` or ``layers`` below 2, or ``bound`` not positive.

    Chapter: thm-coupling-affine

    References: Dinh, Sohl-Dickstein and Bengio (2017), sections 3.2 to 3.5.

    >>> import torch
    >>> from nodes_tutorial.flows import RealNVP
    >>> flow = RealNVP(2, layers=4)
    >>> flow.sample(5).shape, flow.log_prob(torch.zeros(2)).shape
    (torch.Size([5, 2]), torch.Size([]))
    """

    def __init__(
        self,
        dim: int,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        actnorm: bool = False,
        bound: float | int = 2.0,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        like = {"dtype": dtype, "device": device}
        check_count("dim", dim, least=least_dim(context))

        def layer(i: int) -> Transform:
            mask, net = conditioner(dim, i, hidden, activation, generator, 2, context, **like)
            return AffineCoupling(mask, net, bound=bound, context=context)

        transforms = stack_layers(layer, layers, 2, dim, actnorm, **like)
        super().__init__(StandardNormal(dim, **like), transforms)
