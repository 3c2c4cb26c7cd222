"""Several networks for one: ensembles that train in one graph, and dropout at test time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.bayes.flat import FlatModule
from nodes_tutorial.checks import check_count, check_generator, check_number, check_points, draw
from nodes_tutorial.nets import MLP


class Ensemble(nn.Module):
    """Networks of one architecture, whose weights are the rows of one parameter.

    All members are applied in one call, and the sum of their losses trains all at once: the
    gradient of a member's loss is zero in the rows of the others.

    Args:
        members: the networks; where they are trained from.

    Attributes:
        weights: the weights, one row a member.
        flat: the architecture as a function of a row.

    Raises:
        TypeError: a member is no module.
        ValueError: no member, one with buffers, or architectures that differ.

    Chapter: prop-networks-ensemble

    References: Lakshminarayanan, Pritzel and Blundell (2017).

    >>> import torch
    >>> from nodes_tutorial.bayes import Ensemble
    >>> five = Ensemble([torch.nn.Linear(2, 1) for _ in range(5)])
    >>> five(torch.zeros(4, 2)).shape
    torch.Size([5, 4, 1])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        flat = [FlatModule(member) for member in members]
        if not flat:
            raise ValueError("members must hold at least one network, got none")
        if any(other.shapes != flat[0].shapes for other in flat):
            raise ValueError("members must have the same parameters, got networks that differ")
        self.flat = flat[0]
        self.weights = nn.Parameter(torch.stack([one.start for one in flat]))

    def forward(self, x: Tensor, *, paired: bool = False) -> Float[Tensor, "members ..."]:
        """Outputs of each member, at the same x or, with ``paired``, each at inputs of its own."""
        return self.flat.paired(self.weights, x) if paired else self.flat(self.weights, x)


class DropoutMLP(nn.Module):
    r"""A multilayer perceptron that drops hidden units, in training and at test time.

    .. math:: h \mapsto \frac{m\odot h}{1-p},\qquad m_k\sim\mathrm{Bernoulli}(1-p)

    Each draw and each example has masks of its own.

    Args:
        sizes: number of features of the input, of each hidden layer and of the output.
        rate: the probability p that a unit is dropped, in [0, 1).
        activation: a key of ``nets.mlp.ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``rate`` is no number; else as for ``nets.MLP``.
        ValueError: ``rate`` outside [0, 1); else as for ``nets.MLP``.

    Chapter: prop-networks-ensemble

    References: Gal and Ghahramani (2016), section 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import DropoutMLP
    >>> net = DropoutMLP([2, 16, 3], 0.1)
    >>> net(torch.zeros(5, 2)).shape, net(torch.zeros(5, 2), n=7).shape
    (torch.Size([5, 3]), torch.Size([7, 5, 3]))
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rate: float | int = 0.1,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.rate = check_number("rate", rate, "a number in [0, 1)", lambda p: 0 <= p < 1)
        self.layers = MLP(sizes, activation, generator, dtype=dtype, device=device).layers

    def forward(
        self,
        x: Float[Tensor, "*batch inputs"],
        n: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Outputs of n draws of the masks, as a first axis; with None of the whole network."""
        check_generator(generator)
        if n is None:
            return self.layers(x)
        check_count("n", n, least=1)
        h = x.expand(n, *x.shape)
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i % 2 == 1:
                kept = draw(torch.rand, h.shape, generator, device=h.device) >= self.rate
                h = h * kept / (1 - self.rate)
        return h


def mixture_moments(
    mean: Float[Tensor, "members *batch"], variance: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Mean and variance of an equal mixture, by the law of total variance.

    .. math:: \bar\mu = \frac1M\sum_m\mu_m,\qquad
        \bar v = \frac1M\sum_m v_m + \frac1M\sum_m(\mu_m-\bar\mu)^2

    Args:
        mean: means of the members.
        variance: their variances.

    Returns:
        Mean and variance of the mixture.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes that differ, no member, or a negative variance.

    Chapter: prop-networks-ensemble

    References: Lakshminarayanan, Pritzel and Blundell (2017), section 2.4.

    >>> import torch
    >>> from nodes_tutorial.bayes import mixture_moments
    >>> mixture_moments(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    (tensor(1.), tensor(3.))
    """
    check_points("mean", mean)
    check_points("variance", variance, like=mean)
    if mean.shape != variance.shape or mean.ndim == 0 or len(mean) == 0:
        raise ValueError(
            "variance must have the shape of mean, with at least one member, "
            f"got {tuple(variance.shape)} and {tuple(mean.shape)}"
        )
    if bool((variance < 0).any()):
        raise ValueError("variance must be 0 or more, got a negative one")
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)
