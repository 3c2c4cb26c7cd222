"""The rate of a Gaussian code, and the two parts of its mean over a data set."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points, draw

PAIRS_AT_ONCE = 2**22  # entries of a table of densities, to bound the memory


def gaussian_rates(
    mean: Float[Tensor, "*batch"], scale: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""Divergence of one-dimensional Gaussians from the standard normal law, in nats.

    .. math:: \tfrac12\bigl(\mu^2 + s^2 - 1 - \log s^2\bigr)

    Args:
        mean: means μ of the Gaussians.
        scale: their standard deviations s, positive.

    Returns:
        One divergence for each.

    Chapter: def-vae-loss

    References: Kingma and Welling (2014), appendix B.

    >>> import torch
    >>> from nodes_tutorial.bayes import gaussian_rates
    >>> gaussian_rates(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor([0.0000, 0.5000])
    """
    return 0.5 * (mean.square() + scale.square() - 1) - scale.log()


class RateParts(NamedTuple):
    """The two parts of the mean rate, in nats.

    Attributes:
        information: mutual information of example and code.
        marginal: divergence of the aggregate posterior from the prior.
    """

    information: Float[Tensor, "..."]
    marginal: Float[Tensor, "..."]


def rate_parts(
    mean: Float[Tensor, "*copies n latent"],
    scale: Float[Tensor, "*copies n latent"],
    draws: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> RateParts:
    r"""Split the mean rate on a data set into information and the divergence of the marginal.

    .. math:: I = \mathbb E\log\frac{q(z\mid x)}{q(z)}, \qquad
        \mathrm{KL}(q(z)\,\|\,p(z)) = \mathbb E\log\frac{q(z)}{p(z)}, \qquad
        q(z) = \frac1n\sum_i q(z\mid x_i)

    The expectations are means over draws from each :math:`q(z\mid x_i)`; the mixture q(z) is
    summed over all examples, so the cost grows with the square of their number.

    Args:
        mean: means of the codes of all examples.
        scale: their standard deviations.
        draws: draws from the law of each code.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        Both parts, one number for each copy. Their sum is an estimate of the mean rate.

    Raises:
        TypeError: no floating-point tensors, or ``draws`` not an integer.
        ValueError: shapes that differ, or ``draws`` below 1.

    Chapter: prop-vae-rate

    References: Hoffman and Johnson (2016), section 3.

    >>> import torch
    >>> from nodes_tutorial.bayes import rate_parts
    >>> far = torch.tensor([[-50.0], [50.0]])
    >>> rate_parts(far, torch.ones(2, 1), generator=torch.Generator().manual_seed(0)).information
    tensor(0.6931)
    """
    check_count("draws", draws, least=1)
    check_points("mean", mean)
    check_points("scale", scale, like=mean)
    if mean.ndim < 2 or mean.shape != scale.shape:
        raise ValueError(
            f"mean and scale must both be (…, n, latent), got {tuple(mean.shape)} "
            f"and {tuple(scale.shape)}"
        )
    rows = max(1, PAIRS_AT_ONCE // max(1, mean[..., 0].numel()))
    information, marginal = torch.zeros((2, *mean.shape[:-2]), dtype=mean.dtype, device=mean.device)
    for _ in range(draws):
        noise = draw(torch.randn, mean.shape, generator, dtype=mean.dtype, device=mean.device)
        z = mean + scale * noise
        own = _log_normal(noise) - scale.log().sum(-1)
        mixture = torch.cat([_log_mixture(part, mean, scale) for part in z.split(rows, -2)], -1)
        information = information + (own - mixture).mean(-1) / draws
        marginal = marginal + (mixture - _log_normal(z)).mean(-1) / draws
    return RateParts(information, marginal)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(math.tau))


def _log_mixture(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log-density at each z of the equal mixture of all codes' laws."""
    square = torch.zeros((), dtype=z.dtype, device=z.device)
    for at, centre, width in zip(z.unbind(-1), mean.unbind(-1), scale.unbind(-1), strict=True):
        gap = (at[..., :, None] - centre[..., None, :]) / width[..., None, :]
        square = square + gap.square()
    log_density = -0.5 * square - scale.log().sum(-1)[..., None, :]
    constant = 0.5 * mean.shape[-1] * math.log(math.tau) + math.log(mean.shape[-2])
    return log_density.logsumexp(-1) - constant
