"""Autoregressive flows: entry i is moved as the entries before it say."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.flows.density import StandardNormal
from nodes_tutorial.flows.flow import Flow, Inverse, Transform
from nodes_tutorial.flows.linear import check_bound, stack_layers
from nodes_tutorial.flows.made import MADE


class AutoregressiveAffine(Transform):
    r"""Scale and shift each entry as the data before it say: one layer of MAF.

    .. math:: x_i = z_i\,e^{s_i(x_{<i})} + m_i(x_{<i}), \qquad
        \log\Bigl|\det\frac{\partial z}{\partial x}\Bigr| = -\sum_i s_i(x_{<i})

    ``inverse``, and so a density, takes one pass through the network. ``forward`` takes a pass for
    each entry, since entry i needs those before it. The log-scale is :math:`s = c\tanh(a)` with
    the bound c.

    Args:
        dim: number of features.
        hidden: width of each hidden layer of the ``MADE``.
        reverse: take the entries from the last to the first.
        activation: as for ``MADE``.
        generator: source of the initial weights; None means PyTorch's global one.
        bound: the bound c, positive.
        context: entries of a context; 0 for a layer that takes none.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``MADE``, or ``bound`` is no number.
        ValueError: as for ``MADE``, or ``bound`` not positive.

    Chapter: thm-coupling-autoregressive

    References: Papamakarios, Pavlakou and Murray (2017).

    >>> import torch
    >>> from nodes_tutorial.flows import AutoregressiveAffine
    >>> layer = AutoregressiveAffine(3)
    >>> z, ladj = layer.inverse(torch.ones(5, 3))
    >>> torch.allclose(layer(z)[0], torch.ones(5, 3), atol=1e-5)
    True
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        reverse: bool = False,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        bound: float | int = 2.0,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        like = {"dtype": dtype, "device": device}
        self.net = MADE(dim, hidden, 2, reverse, activation, generator, context=context, **like)
        self.dim, self.bound, self.context = dim, check_bound(bound), context

    def forward(
        self, z: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map noise to data: after pass i the first i entries are right, and stay so."""
        x = torch.zeros_like(z)
        for _ in range(self.dim):
            shift, a = self.net(x, context).chunk(2, -1)
            s = torch.tanh(a) * self.bound
            x = z * s.exp() + shift
        return x, s.sum(-1)

    def inverse(
        self, x: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map data to noise: all x are known, so one pass gives every shift and scale."""
        shift, a = self.net(x, context).chunk(2, -1)
        s = torch.tanh(a) * -self.bound
        return (x - shift) * s.exp(), s.sum(-1)


class MAF(Flow):
    """Masked autoregressive flow: fast densities, sampling in as many passes as there are entries.

    The layers take the entries in turn from first to last and from last to first.

    Args:
        dim: number of features.
        layers: number of autoregressive layers.
        hidden: width of each hidden layer.
        activation: as for ``MADE``.
        generator: source of the initial weights; None means PyTorch's global one.
        actnorm: whether an ``ActNorm`` follows each layer; see ``data_init``.
        bound: largest absolute log-scale of a layer.
        context: entries of a context; 0 for a flow that takes none.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``AutoregressiveAffine``, or ``layers`` is not an integer.
        ValueError: as for ``AutoregressiveAffine``, or ``layers`` below 1.

    Chapter: thm-coupling-autoregressive

    References: Papamakarios, Pavlakou and Murray (2017).

    >>> import torch
    >>> from nodes_tutorial.flows import MAF
    >>> MAF(2).log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        dim: int,
        layers: int = 5,
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

        def layer(i: int) -> Transform:
            how = (dim, hidden, i % 2 == 1, activation, generator)
            return AutoregressiveAffine(*how, bound=bound, context=context, **like)

        transforms = stack_layers(layer, layers, 1, dim, actnorm, **like)
        super().__init__(StandardNormal(dim, **like), transforms)


class IAF(Flow):
    """Inverse autoregressive flow: the transforms of a ``MAF`` run the other way.

    Samples and their densities take one pass a layer; the density of other points takes as many
    as there are entries.

    Args:
        dim: number of features.
        **options: those of ``MAF``.

    Chapter: thm-coupling-autoregressive

    References: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016).

    >>> from nodes_tutorial.flows import IAF
    >>> IAF(2).sample(5).shape
    torch.Size([5, 2])
    """

    def __init__(self, dim: int, **options) -> None:
        maf = MAF(dim, **options)
        super().__init__(maf.base, [Inverse(transform) for transform in maf.transforms])
