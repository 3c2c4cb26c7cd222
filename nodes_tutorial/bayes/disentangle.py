"""What latents know about the factors of the data: active units, information, and its gap."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points

WIDEST = 4.0  # inner bins of a latent cover [-4, 4]; two outer bins take the rest


def active_units(
    mean: Float[Tensor, "*copies n latent"], threshold: float = 0.01
) -> Int[Tensor, "*copies"]:
    r"""How many latents move with the example.

    A latent counts when the variance over the data of its posterior mean exceeds the threshold.

    Args:
        mean: means of the codes of all examples.
        threshold: smallest variance of an active unit, not negative.

    Returns:
        Their number, for each copy.

    Raises:
        TypeError: ``mean`` is no floating-point tensor, or ``threshold`` no number.
        ValueError: ``mean`` without two examples, or a negative ``threshold``.

    Chapter: obs-vae-rate

    References: Burda, Grosse and Salakhutdinov (2016), section 5.1.

    >>> import torch
    >>> from nodes_tutorial.bayes import active_units
    >>> active_units(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    tensor(1)
    """
    check_points("mean", mean)
    if mean.ndim < 2 or mean.shape[-2] < 2:
        raise ValueError(f"mean must hold two examples or more, got shape {tuple(mean.shape)}")
    check_number("threshold", threshold, "a number from 0 on", lambda value: value >= 0)
    return (mean.var(-2, correction=0) > threshold).sum(-1)


def factor_information(
    mean: Float[Tensor, "*copies n latent"],
    scale: Float[Tensor, "*copies n latent"],
    factors: Int[Tensor, "n factors"],
    bins: int = 100,
) -> tuple[Float[Tensor, "*copies latent factors"], Float[Tensor, " factors"]]:
    r"""Mutual information of each latent, put into bins, with each factor, and the entropies.

    .. math:: I(b(z_j); v_k) = \sum_v p(v)\sum_b p(b\mid v)\log\frac{p(b\mid v)}{p(b)}

    The probabilities of the bins come from the normal law of each code, so nothing is drawn. Bins
    can only lose information: the result lies between 0 and :math:`I(z_j; v_k)`.

    Args:
        mean: means of the codes of all examples.
        scale: their standard deviations.
        factors: for each example the value of each factor, counted from 0.
        bins: number of bins of a latent.

    Returns:
        The information in nats, and the entropy of each factor.

    Raises:
        TypeError: ``mean`` or ``scale`` is no floating-point tensor, ``factors`` holds no
            integers, or ``bins`` is none.
        ValueError: shapes that do not fit, a negative factor, or ``bins`` below 2.

    Chapter: def-vae-mig

    References: Chen, Li, Grosse and Duvenaud (2018), section 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import factor_information
    >>> mean = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    >>> found, entropy = factor_information(mean, 0.01 + 0 * mean, torch.tensor([[0], [1]]))
    >>> found.flatten(), entropy
    (tensor([0.6931, 0.0000]), tensor([0.6931]))
    """
    check_points("mean", mean)
    check_points("scale", scale, like=mean)
    check_count("bins", bins, least=2)
    if factors.is_floating_point() or factors.is_complex():
        raise TypeError(f"factors must hold integers, got {factors.dtype}")
    if mean.ndim < 2 or mean.shape != scale.shape or mean.shape[-2:-1] != factors.shape[:1]:
        raise ValueError(
            "mean and scale must be (…, n, latent) and factors (n, factors), got "
            f"{tuple(mean.shape)}, {tuple(scale.shape)} and {tuple(factors.shape)}"
        )
    if factors.ndim != 2 or (factors < 0).any():
        raise ValueError("factors must be a table of indices from 0 on")
    edges = torch.linspace(-WIDEST, WIDEST, bins - 1, dtype=mean.dtype, device=mean.device)
    below = torch.special.ndtr((edges - mean[..., None]) / scale[..., None])
    ends = torch.zeros_like(below[..., :1])
    chance = torch.cat([ends, below, ends + 1], -1).diff(dim=-1)
    marginal = chance.mean(-3)
    found, entropy = [], []
    for factor in factors.T:
        one_hot = torch.nn.functional.one_hot(factor.long()).to(mean.dtype)
        share = one_hot.mean(0)
        given = torch.einsum("nv,...nlb->...vlb", one_hot, chance) / len(factor)
        part = given / share[:, None, None].clamp_min(1 / len(factor))
        gain = torch.xlogy(given, part) - torch.xlogy(given, marginal[..., None, :, :])
        found.append(gain.sum((-1, -3)).clamp_min(0))
        entropy.append(-torch.xlogy(share, share).sum())
    return torch.stack(found, -1), torch.stack(entropy)


def mutual_information_gap(
    information: Float[Tensor, "*copies latent factors"], entropy: Float[Tensor, " factors"]
) -> Float[Tensor, "*copies factors"]:
    r"""By how much the latent that knows most of a factor is ahead of the next one.

    .. math:: \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    It lies in [0, 1], and its mean over the factors is the score known as MIG.

    Args:
        information: in nats, of each latent with each factor; two latents at least.
        entropy: of each factor, positive.

    Returns:
        The gap of each factor.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: one latent only, shapes that do not fit, or an entropy that is not positive.

    Chapter: def-vae-mig

    References: Chen, Li, Grosse and Duvenaud (2018), equation 6.

    >>> import math, torch
    >>> from nodes_tutorial.bayes import mutual_information_gap
    >>> known = torch.tensor([[0.5, 0.2], [0.1, 0.2]])
    >>> mutual_information_gap(known, torch.tensor([0.8, 0.4]))
    tensor([0.5000, 0.0000])
    """
    check_points("information", information)
    check_points("entropy", entropy, like=information)
    if information.ndim < 2 or information.shape[-2] < 2:
        raise ValueError(
            f"information must have two latents or more, got shape {tuple(information.shape)}"
        )
    if entropy.shape != information.shape[-1:] or not (entropy > 0).all():
        raise ValueError("entropy must hold a positive number for each factor")
    first, second = information.topk(2, -2).values.unbind(-2)
    return (first - second) / entropy
