"""Recurrent networks that a latent ODE is measured against: RNN-Δt and RNN-VAE."""

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.nets.stack import Stack, sources
from nodes_tutorial.ode.latent.model import LatentODE, Path
from nodes_tutorial.ode.latent.odernn import GRU, ODERNN


class DeltaRNN(ODERNN):
    r"""RNN-Δt: the state waits between observations, and is told how long.

    .. math:: h \leftarrow \operatorname{GRU}(h, (x_i, m_i, t_i - t_{i-1})), \qquad
        \hat x(t) = g(h(t^-),\, t - t_{\text{last}})

    The arguments are those of ``ODERNN``; those that concern the differential equation have no
    effect. As the encoder of a ``LatentODE`` it makes the model called "latent ODE with RNN
    encoder".

    Args:
        dim: number of features of a series.
        hidden: size of the state.
        width: width of the hidden layers.
        step_size: without effect, because there is no equation.
        method: without effect, because there is no equation.
        readout: whether there is a readout g; an encoder needs none.
        generator: as for ``ODERNN``.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: def-latent-odernn

    References: Rubanova, Chen and Duvenaud (2019), section 4.

    >>> import torch
    >>> from nodes_tutorial.ode.irregular import DeltaRNN
    >>> from nodes_tutorial.data.timeseries import periodic
    >>> whole, _ = periodic(3, torch.Generator().manual_seed(0))
    >>> DeltaRNN(1, generator=torch.Generator().manual_seed(0))(whole, whole.times).shape
    torch.Size([3, 100, 1])
    """

    elapsed = 1

    @staticmethod
    def _field(hidden, width, generators, kind):
        return None

    def evolve(
        self, h: Float[Tensor, "copies n hidden"], gaps: Float[Tensor, "*copies n 1"]
    ) -> Float[Tensor, "copies n hidden"]:
        """Return the state unchanged."""
        return h

    def _advance(self, h: Tensor, gaps: Tensor, cuts: int) -> Tensor:
        return h


class RNNVAE(LatentODE):
    r"""RNN-VAE: encoder and decoder are recurrent networks that are told the gaps.

    .. math:: h_0 = z_0, \qquad h_j = \operatorname{GRU}(h_{j-1},
        (\hat x_{j-1}, t_j - t_{j-1})), \qquad \hat x_j = g(h_j)

    The decoder goes through all times of the grid one by one.

    Args:
        dim: number of features of a series.
        latent: size of :math:`z_0` and of the decoder's state.
        hidden: size of the encoder's state.
        width: width of the hidden layers.
        noise: standard deviation of an observation.
        generator: as for ``LatentODE``.
        **kind: ``dtype`` and ``device`` of the weights; None means PyTorch's default.

    Chapter: def-irregular-vae

    References: Rubanova, Chen and Duvenaud (2019), section 4.

    >>> import torch
    >>> from nodes_tutorial.ode.irregular import RNNVAE
    >>> from nodes_tutorial.data.timeseries import periodic
    >>> whole, _ = periodic(3, torch.Generator().manual_seed(0), points=20)
    >>> RNNVAE(1, 4, generator=torch.Generator().manual_seed(0))(whole, whole.times).shape
    torch.Size([3, 20, 1])
    """

    def __init__(
        self, dim, latent=10, *, hidden=20, width=50, noise=0.1, generator=None, **kind
    ) -> None:
        sizes = {"hidden": hidden, "width": width, "readout": False}
        encoder = DeltaRNN(dim, **sizes, generator=generator, **kind)
        super().__init__(
            dim, latent, encoder=encoder, width=width, noise=noise, generator=generator, **kind
        )
        generators, _ = sources(generator)
        self.field = GRU(dim + 1, latent, generators, **kind)
        self.emission = Stack([latent, width, dim], generators, **kind)

    def decode(
        self, z: Float[Tensor, "samples copies n latent"], times: Float[Tensor, " grid"]
    ) -> Path:
        """Paths from latent starts at ``times[0]``, one recurrence for all."""
        samples, _, n, _ = z.shape
        h = z.transpose(0, 1).flatten(1, 2)
        rows = [self.emission(h)]
        for gap in times.diff().to(h.dtype):
            step = torch.cat([rows[-1], gap.expand_as(rows[-1][..., :1])], -1)
            h = self.field(h, self.field.inputs(step))
            rows.append(self.emission(h))
        x = torch.stack(rows).unflatten(2, (samples, n)).movedim((2, 0), (0, 3))
        return Path(x, None, None)
