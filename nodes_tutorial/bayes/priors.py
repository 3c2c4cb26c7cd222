"""Priors of the weights of a network: the same law for each, independently."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.bayes.gaussians import MeanFieldGaussian
from nodes_tutorial.checks import check_number, check_points
from nodes_tutorial.flows.density import LOG_TAU


@runtime_checkable
class Prior(Protocol):
    """What can stand for the prior of the weights; ``kl`` is used where there is one."""

    def log_prob(self, w: Tensor) -> Tensor: ...


class NormalPrior:
    r"""Independent weights :math:`w_j\sim N(0, s^2)`.

    Args:
        scale: the standard deviation s, positive.

    Raises:
        TypeError: ``scale`` is no number.
        ValueError: ``scale`` is not positive and finite.

    Chapter: prop-networks-bbb

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, NormalPrior
    >>> NormalPrior(1.0).kl(MeanFieldGaussian(torch.zeros(3), 1.0)).abs().item() < 1e-6
    True
    """

    def __init__(self, scale: float | int = 1.0) -> None:
        self.scale = check_number("scale", scale, "a positive number", _positive)

    def log_prob(self, w: Float[Tensor, "*draws dim"]) -> Float[Tensor, "*draws"]:
        """Log-density in nats."""
        check_points("w", w)
        constant = w.shape[-1] * (LOG_TAU / 2 + math.log(self.scale))
        return -0.5 * (w / self.scale).square().sum(-1) - constant

    def kl(self, q: MeanFieldGaussian) -> Float[Tensor, ""]:
        r"""The divergence of q from the prior in nats, with gradients to the parameters of q.

        .. math:: \sum_j \tfrac12\Bigl(\frac{\mu_j^2+\sigma_j^2}{s^2} - 1\Bigr)
            - \log\frac{\sigma_j}{s}
        """
        ratio = q.scale / self.scale
        return (0.5 * ((q.mean / self.scale).square() + ratio.square() - 1) - ratio.log()).sum()


class ScaleMixture:
    r"""Independent weights, each from a wide or from a narrow normal law.

    .. math:: p(w_j) = \pi\,N(w_j; 0, s_1^2) + (1-\pi)\,N(w_j; 0, s_2^2)

    The logarithm is that of a sum of two exponentials, computed from their logarithms: far out,
    both densities underflow. The divergence of a Gaussian from this law has no closed form.

    Args:
        wide: the standard deviation s₁.
        narrow: the standard deviation s₂.
        weight: the probability π of the wide law, between 0 and 1.

    Raises:
        TypeError: an argument is no number.
        ValueError: a standard deviation is not positive and finite, or ``weight`` not inside
            (0, 1).

    Chapter: prop-networks-bbb

    References: Blundell et al. (2015), equation 7.

    >>> import torch
    >>> from nodes_tutorial.bayes import ScaleMixture
    >>> ScaleMixture(1.0, 0.002, 0.5).log_prob(torch.tensor([[0.0], [40.0]]))
    tensor([   4.6045, -801.6121])
    """

    def __init__(self, wide: float | int, narrow: float | int, weight: float | int = 0.5) -> None:
        self.wide = check_number("wide", wide, "a positive number", _positive)
        self.narrow = check_number("narrow", narrow, "a positive number", _positive)
        self.weight = check_number("weight", weight, "a number inside (0, 1)", lambda p: 0 < p < 1)

    def log_prob(self, w: Float[Tensor, "*draws dim"]) -> Float[Tensor, "*draws"]:
        """Log-density in nats."""
        check_points("w", w)
        laws = ((self.weight, self.wide), (1 - self.weight, self.narrow))
        logs = [
            math.log(share / scale) - LOG_TAU / 2 - 0.5 * (w / scale).square()
            for share, scale in laws
        ]
        return torch.logaddexp(*logs).sum(-1)


def _positive(value: float) -> bool:
    return 0 < value < math.inf
