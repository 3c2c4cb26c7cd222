"""A support set becomes one row of numbers for each class: the hypernetwork of HyperMAML."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.invariance import DeepSets
from nodes_tutorial.meta.heads import check_labels, indicators
from nodes_tutorial.nets import ACTIVATIONS, MLP

READS = ("class", "support", "released")


class SupportRows(nn.Module):
    r"""One row of numbers for each class: a Deep Set of the support, as that class sees it.

    The element that the row of class c gets for the support point i, with the embedding
    :math:`z_i`, the label :math:`y_i` and start probabilities :math:`p_{ic}`, is

    ==============  ==========================================  ========================  ========
    ``reads``       element                                     points                    length
    ==============  ==========================================  ========================  ========
    ``"class"``     :math:`z_i`                                 those of class c          d
    ``"support"``   :math:`(z_i,\ [y_i=c],\ p_{ic})`            all                       d + 2
    ``"released"``  :math:`(z_i,\ p_{i1},\dots,p_{in},\ c)`     those of class c          d + n + 1
    ==============  ==========================================  ========================  ========

    The first two treat all classes alike: rows permute with the labels. The third, of the
    authors' program, does not, since it is told the number of the class.

    Args:
        deep_set: maps sets of elements to rows; its pool is ``"sum"`` or ``"mean"``.
        reads: a key of the table.

    Raises:
        ValueError: unknown ``reads``; a pool of another kind.

    Chapter: def-hypermaml-rows

    References: Zaheer et al. (2017), theorem 2, for the Deep Set.

    >>> import torch
    >>> from nodes_tutorial.invariance import DeepSets
    >>> from nodes_tutorial.meta import SupportRows
    >>> from nodes_tutorial.nets import MLP
    >>> rows = SupportRows(DeepSets(MLP([4, 8, 8]), MLP([8, 8, 7]), "mean"))
    >>> features, labels = torch.randn(6, 10, 4), torch.arange(5).repeat(2).expand(6, 10)
    >>> rows(features, labels, ways=5).shape  # six tasks, two shots
    torch.Size([6, 5, 7])
    """

    def __init__(self, deep_set: DeepSets, reads: str = "class") -> None:
        super().__init__()
        if reads not in READS:
            raise ValueError(f"reads must be one of {', '.join(READS)}; got {reads!r}")
        if deep_set.pool not in ("sum", "mean"):
            raise ValueError(f"deep_set must pool by sum or mean, got {deep_set.pool!r}")
        self.deep_set, self.reads = deep_set, reads

    def forward(
        self,
        features: Float[Tensor, "*tasks support dim"],
        labels: Int[Tensor, "*tasks support"],
        ways: int,
        probabilities: Float[Tensor, "*tasks support ways"] | None = None,
    ) -> Float[Tensor, "*tasks ways outputs"]:
        """The rows of all classes of all tasks.

        Args:
            features: one row for each point of the support.
            labels: their classes, in any order; each class has a point, not all as many.
            ways: number of classes.
            probabilities: of the classes before adaptation; None means equal ones.

        Returns:
            One row for each class.

        Raises:
            TypeError: no floating-point ``features``, ``labels`` that are no integers.
            ValueError: shapes that do not fit, a label outside 0 … ways - 1, or a support that
                lacks a class; where these numbers are not looked at (on a GPU, under
                ``torch.func`` transforms), a class without a point gets NaN or the row of an
                empty set.
        """
        check_count("ways", ways, least=1)
        check_points("features", features)
        check_labels("labels", labels, features.shape[:-1], ways, every=True)
        if probabilities is None:
            probabilities = features.new_full((*labels.shape, ways), 1 / ways)
        check_points("probabilities", probabilities, (*labels.shape, ways), like=features)
        own = indicators(labels, ways, features)
        if self.reads == "support":
            # an element for each pair of a class and a point: [..., ways, support, d + 2]
            each = features.unsqueeze(-3)
            each = each.expand(*each.shape[:-3], ways, *each.shape[-2:])
            told = torch.stack([own.mT, probabilities.mT], -1)
            return self.deep_set(torch.cat([each, told], -1))
        if self.reads == "released":
            number = labels.unsqueeze(-1).to(features.dtype)
            features = torch.cat([features, probabilities, number], -1)
        # the pool of the points of a class is a product with their indicators
        pooled = own.mT @ self.deep_set.phi(features)
        if self.deep_set.pool == "mean":
            pooled = pooled / own.sum(-2).unsqueeze(-1)
        return self.deep_set.rho(pooled)


def support_rows(
    features: int,
    outputs: int,
    *,
    hidden: Sequence[int] = (128,),
    latent: int = 128,
    reads: str = "class",
    ways: int | None = None,
    activation: str = "relu",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> SupportRows:
    """A ``SupportRows`` of two perceptrons with a mean between them.

    Args:
        features: numbers of an embedding.
        outputs: numbers of a row.
        hidden: widths of the layers behind the mean.
        latent: width of the mean; the elements go through one layer of this width before it.
        reads: as for ``SupportRows``.
        ways: number of classes, which the elements of ``"released"`` hang on; else None.
        activation: as for ``MLP``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Returns:
        The module.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size below 1, unknown ``reads`` or ``activation``; ``ways`` is given where
            the elements do not hang on it, or missing where they do.

    Chapter: def-hypermaml-rows

    >>> from nodes_tutorial.meta import support_rows
    >>> from nodes_tutorial.nets import count_parameters
    >>> count_parameters(support_rows(128, 129)) == 2 * 129 * 128 + 129 * 129
    True
    """
    if reads not in READS:
        raise ValueError(f"reads must be one of {', '.join(READS)}; got {reads!r}")
    check_count("features", features, least=1)
    inputs = features
    if reads == "support":
        inputs += 2
    if reads == "released":
        if ways is None:
            raise ValueError("ways must be given for reads='released', got None")
        inputs += check_count("ways", ways, least=1) + 1
    elif ways is not None:
        raise ValueError(f"ways must be None for reads={reads!r}, which serves any number of them")
    first = MLP([inputs, latent], activation, generator, dtype=dtype, device=device)
    phi = nn.Sequential(first, ACTIVATIONS[activation]())
    rho = MLP([latent, *hidden, outputs], activation, generator, dtype=dtype, device=device)
    return SupportRows(DeepSets(phi, rho, "mean"), reads)
