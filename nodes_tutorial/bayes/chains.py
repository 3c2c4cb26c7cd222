"""Whether chains have mixed, and how many independent draws they are worth."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_points


def r_hat(x: Float[Tensor, "steps chains *event"]) -> Float[Tensor, "*event"]:
    r"""Split R-hat: the spread of all draws over the spread inside half chains.

    .. math:: \hat R = \sqrt{\frac{\frac{n-1}{n} W + \frac1n B}{W}}

    W is the mean of the variances of the half chains of n steps, and B/n is the variance of their
    means. Chains that agree have a value near 1; above 1.01 they should run longer. Half
    chains that never move have no spread: the value is then infinite, or NaN if all stand at
    one place.

    Args:
        x: draws of at least two chains, at least four steps.

    Returns:
        The value for each entry of a draw.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: fewer than two chains or four steps.

    References: Gelman and Rubin (1992); Vehtari et al. (2021), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.bayes import r_hat
    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> r_hat(x) < 1.01, r_hat(x + torch.arange(4.0)) > 1.3
    (tensor(True), tensor(True))
    """
    _check_chains(x, least=2)
    halves = _halves(x)
    within = halves.var(0).mean(0)
    return (_pooled_variance(halves) / within).sqrt()


def effective_sample_size(x: Float[Tensor, "steps chains *event"]) -> Float[Tensor, "*event"]:
    r"""Bulk effective sample size: how many independent draws give as good a mean of the ranks.

    .. math:: \frac{S}{1 + 2\sum_{k\ge1}\hat\rho_k}

    S is the number of draws. The draws are replaced by the normal quantiles of their ranks, so
    that an infinite variance does not spoil the estimate. The autocorrelations
    :math:`\hat\rho_k` count both the steps inside half chains and the differences between them;
    their sum ends where a sum of two neighbours is negative, and such sums may not grow.

    Args:
        x: draws of one chain or more, at least four steps.

    Returns:
        The number for each entry of a draw; NaN where all draws are equal.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: no chain, or fewer than four steps.

    References: Geyer (1992), section 3.3; Vehtari et al. (2021), sections 3.2 and 4.1.

    >>> import torch
    >>> from nodes_tutorial.bayes import effective_sample_size
    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(1500 < effective_sample_size(x) < 2600)
    True
    """
    _check_chains(x, least=1)
    halves = _halves(_normal_scores(x))
    n = len(halves)
    rows = halves - halves.mean(0)
    spectrum = torch.fft.rfft(rows, 2 * n, dim=0).abs().square()  # padded, so nothing wraps around
    lagged = torch.fft.irfft(spectrum, 2 * n, dim=0)[:n].mean(1) / (n - 1)
    total = _pooled_variance(halves)
    correlation = 1 - (halves.var(0).mean(0) - lagged) / total
    correlation[0] = 1
    pairs = correlation[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    first = (pairs > 0).long().cumprod(0)  # 1 until a pair is negative
    falling = (pairs.cummin(0).values * first).sum(0)
    draws = x.shape[0] * x.shape[1]
    # chains with negative correlations can beat independence, but their estimate has a limit
    share = (2 * falling - 1).clamp(min=1 / math.log10(draws))
    return torch.where(total == 0, math.nan, draws / share)


def _check_chains(x: Tensor, least: int) -> None:
    check_points("x", x)
    if x.ndim < 2 or x.shape[0] < 4 or x.shape[1] < least:
        raise ValueError(
            f"x must have the shape (steps, chains, ...) with at least 4 steps and {least} or more "
            f"chains, got {tuple(x.shape)}"
        )


def _halves(x: Tensor) -> Tensor:
    """The first and the last half of each chain as chains; of an odd number the middle is out."""
    half = len(x) // 2
    return torch.cat([x[:half], x[-half:]], 1)


def _pooled_variance(halves: Tensor) -> Tensor:
    n = len(halves)
    return (n - 1) / n * halves.var(0).mean(0) + halves.mean(0).var(0)


def _normal_scores(x: Tensor) -> Tensor:
    """Normal quantiles of the ranks among all draws; ties have their mean rank."""
    rows = x.flatten(0, 1).movedim(0, -1).contiguous()
    ordered = rows.sort(-1).values
    below = torch.searchsorted(ordered, rows)
    up_to = torch.searchsorted(ordered, rows, right=True)
    rank = (below + up_to + 1).to(x.dtype) / 2
    level = (rank - 3 / 8) / (rows.shape[-1] + 1 / 4)
    return torch.special.ndtri(level).movedim(-1, 0).reshape(x.shape)
