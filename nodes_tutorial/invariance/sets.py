"""Networks of sets: sum-decomposed functions and layers that commute with permutations."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nodes_tutorial.invariance.pooling import POOLS, check_mask, hidden, pool
from nodes_tutorial.nets.mlp import reset_parameters


class DeepSets(nn.Module):
    r"""A function of a set, :math:`f(X)=\rho\bigl(\sum_{x\in X}\varphi(x)\bigr)`, or another pool.

    The value of a set depends neither on the order of its elements nor on what else is in the
    batch: padded rows are replaced by zeros before :math:`\varphi` and left out behind it.

    Args:
        phi: maps the last axis of its input, the features of an element, to latent features.
        rho: maps latent features to the outputs.
        pool: one of ``"sum"``, ``"mean"``, ``"max"`` and ``"logsumexp"``.

    Raises:
        ValueError: unknown ``pool``.

    Chapter: def-sets-decomposition

    References: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov and Smola (2017), theorem 2.

    >>> import torch
    >>> from nodes_tutorial.invariance import DeepSets
    >>> from nodes_tutorial.nets import MLP
    >>> net = DeepSets(MLP([2, 16, 8]), MLP([8, 16, 1]))
    >>> x = torch.randn(5, 7, 2)  # five sets of seven points
    >>> net(x).shape, torch.allclose(net(x), net(x.flip(1)), atol=1e-5)
    (torch.Size([5, 1]), True)
    """

    def __init__(self, phi: nn.Module, rho: nn.Module, pool: str = "sum") -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}")
        self.phi, self.rho, self.pool = phi, rho, pool

    def forward(
        self,
        x: Float[Tensor, "*batch elements features"],
        mask: Bool[Tensor, "*batch elements"] | None = None,
    ) -> Float[Tensor, "*batch outputs"]:
        """The value of each set.

        Args:
            x: one row for each element.
            mask: which rows belong to the set; None means all.

        Returns:
            One row for each set.

        Raises:
            ValueError: as for ``pool``; an empty set is allowed for sums only.
        """
        check_mask(x, mask)
        return self.rho(pool(self.phi(hidden(x, mask)), self.pool, mask))


class Equivariant(nn.Module):
    r"""The affine layers that commute with permutations: :math:`y_i=Ax_i+B\,\bar x+b`.

    :math:`\bar x` is the mean of the set, so that a layer serves sets of every size.

    Args:
        inputs: features of an element.
        outputs: features of an element of the result.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: prop-sets-equivariant

    References: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov and Smola (2017), lemma 3.

    >>> import torch
    >>> from nodes_tutorial.invariance import Equivariant
    >>> layer, x = Equivariant(2, 3), torch.randn(5, 7, 2)
    >>> torch.allclose(layer(x).flip(1), layer(x.flip(1)), atol=1e-5)
    True
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs, dtype=dtype, device=device)
        self.common = nn.Linear(inputs, outputs, bias=False, dtype=dtype, device=device)
        reset_parameters(self, generator)

    def forward(
        self,
        x: Float[Tensor, "*batch elements features"],
        mask: Bool[Tensor, "*batch elements"] | None = None,
    ) -> Float[Tensor, "*batch elements outputs"]:
        """Apply the layer; rows of the padding stay 0.

        Args:
            x: one row for each element.
            mask: which rows belong to the set; None means all.

        Returns:
            One row for each element.

        Raises:
            ValueError: as for ``pool``; an empty set has no mean.
        """
        mean = pool(x, "mean", mask).unsqueeze(-2)
        return hidden(self.own(hidden(x, mask)) + self.common(mean), mask)
