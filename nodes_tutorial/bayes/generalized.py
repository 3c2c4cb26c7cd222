"""Posteriors from a loss instead of a likelihood."""

import math
from collections.abc import Callable
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_number, check_points

_HALVINGS = 100  # of an interval no longer than the range of the losses: beyond rounding


@overload
def gibbs_posterior(
    loss: Float[Tensor, "*batch k"], log_prior: Float[Tensor, "*batch k"], *, scale: float = 1.0
) -> Float[Tensor, "*batch k"]: ...


@overload
def gibbs_posterior(
    loss: Callable[[Tensor], Tensor], log_prior: Callable[[Tensor], Tensor], *, scale: float = 1.0
) -> Callable[[Tensor], Tensor]: ...


def gibbs_posterior(
    loss: Tensor | Callable[[Tensor], Tensor],
    log_prior: Tensor | Callable[[Tensor], Tensor],
    *,
    scale: float = 1.0,
) -> Tensor | Callable[[Tensor], Tensor]:
    r"""The Gibbs posterior of a total loss: the update of a belief without a likelihood.

    .. math:: \pi_w(\theta) \propto \pi(\theta)\,e^{-w\,\ell(\theta)}

    On a finite set of parameters (or a grid) give two tensors: the result is normalized along the
    last axis. Over a continuum give two functions: the result is a function for a sampler, the
    log-density up to a constant. It is a density only if its integral is finite; with a flat prior
    and a bounded loss it is not.

    Args:
        loss: total loss of each parameter, summed over the observations; a tensor or a function.
        log_prior: logarithm of the prior, up to a constant; of the same kind as ``loss``.
        scale: w, the weight of the loss against the prior.

    Returns:
        The log-probabilities, or the function that computes the log-density up to a constant.

    Raises:
        TypeError: one argument is a tensor and the other is not, or a tensor is none of real
            numbers.
        ValueError: ``scale`` is not positive and finite, or nothing is left to normalize, because
            every loss is infinite where the prior is not zero, or one number is NaN.

    Chapter: def-generalized-gibbs

    References: Bissiri, Holmes and Walker (2016).

    >>> import torch
    >>> from nodes_tutorial.bayes import gibbs_posterior
    >>> gibbs_posterior(torch.tensor([0.0, 1.0]), torch.zeros(2)).exp()
    tensor([0.7311, 0.2689])
    """
    check_number("scale", scale, "a positive number", lambda w: 0 < w < math.inf)
    if isinstance(loss, Tensor) and isinstance(log_prior, Tensor):
        return _normalized(log_prior, loss, scale)
    if isinstance(loss, Tensor) or isinstance(log_prior, Tensor):
        raise TypeError("loss and log_prior must both be tensors or both be functions")
    return lambda theta: log_prior(theta) - scale * loss(theta)


def gibbs_objective(
    log_q: Float[Tensor, "*batch k"],
    loss: Float[Tensor, "*batch k"],
    log_prior: Float[Tensor, "*batch k"],
    *,
    scale: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""What the Gibbs posterior minimizes: mean loss plus divergence from the prior.

    .. math:: w\,\E_{\theta\sim\nu}\ell(\theta) + \mathrm{KL}(\nu\,\|\,\pi)

    Args:
        log_q: log-probabilities of ν on a finite set, up to a constant.
        loss: total loss of each parameter.
        log_prior: log-probabilities of π, up to a constant.
        scale: w, the weight of the loss against the prior.

    Returns:
        The value, in nats; infinite where ν has mass and the prior has none.

    Raises:
        TypeError: a tensor is none of real numbers.
        ValueError: ``scale`` is not positive and finite, or a law has no mass.

    Chapter: thm-generalized-variational

    References: Bissiri, Holmes and Walker (2016).

    >>> import torch
    >>> from nodes_tutorial.bayes import gibbs_objective
    >>> gibbs_objective(torch.zeros(2), torch.tensor([0.0, 1.0]), torch.zeros(2))
    tensor(0.5000)
    """
    check_number("scale", scale, "a positive number", lambda w: 0 < w < math.inf)
    log_q, log_prior = _normalized(log_q), _normalized(log_prior)
    q = log_q.exp()
    terms = q * (scale * loss + log_q - log_prior)
    return torch.where(q > 0, terms, torch.zeros_like(terms)).sum(-1)


def _reverse_kl(u: Tensor) -> Tensor:
    return torch.where(u < 1, 1 / (1 - u.clamp(max=1)), math.inf)


def _hellinger(u: Tensor) -> Tensor:
    return torch.where(u < 2, (1 - u.clamp(max=2) / 2) ** -2, math.inf)


# the inverse of the slope of the generator, which is 0 at 1; infinite beyond the largest slope
INVERSE_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": torch.exp,
    "reverse_kl": _reverse_kl,
    "hellinger": _hellinger,
}


def divergence_posterior(
    loss: Float[Tensor, "*batch k"],
    log_prior: Float[Tensor, "*batch k"],
    divergence: str | Callable[[Tensor], Tensor] = "kl",
) -> Float[Tensor, "*batch k"]:
    r"""The law that minimizes the mean loss plus an f-divergence from the prior.

    .. math:: \nu_i = \pi_i\,g(\lambda - \ell_i), \qquad g = (\varphi')^{-1},
        \qquad \sum_i\nu_i = 1

    It minimizes :math:`\sum_i\nu_i\ell_i + \sum_i\pi_i\varphi(\nu_i/\pi_i)`. For ``"kl"`` it is the
    Gibbs posterior; for every other generator two updates in a row are not one with the sum.

    Args:
        loss: total loss of each parameter of a finite set, finite.
        log_prior: log-probabilities of the prior, up to a constant.
        divergence: ``"kl"``, ``"reverse_kl"`` (generator t − 1 − log t), ``"hellinger"``
            (2(√t − 1)²), or g itself: increasing, g(0) = 1, from 0 to infinity, and infinite
            where no slope of the generator is as large.

    Returns:
        The log-probabilities.

    Raises:
        TypeError: a tensor is none of real numbers.
        ValueError: an unknown ``divergence``, or a prior without mass.

    Chapter: thm-generalized-divergence

    References: Bissiri, Holmes and Walker (2016).

    >>> import torch
    >>> from nodes_tutorial.bayes import divergence_posterior
    >>> divergence_posterior(torch.tensor([0.0, 1.0]), torch.zeros(2), "hellinger").exp()
    tensor([0.7190, 0.2810])
    """
    check_points("loss", loss)
    if isinstance(divergence, str):
        if divergence not in INVERSE_SLOPES:
            known = ", ".join(map(repr, INVERSE_SLOPES))
            raise ValueError(f"divergence must be {known} or a function, got {divergence!r}")
        divergence = INVERSE_SLOPES[divergence]
    prior = _normalized(log_prior).exp()
    low, high = loss.amin(-1, keepdim=True), loss.amax(-1, keepdim=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_much = (prior * divergence(middle - loss)).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, low, middle), torch.where(too_much, middle, high)
    return _normalized((prior * divergence(low - loss)).log())


def _normalized(log_weight: Tensor, loss: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Log-probabilities along the last axis of log_weight − scale · loss."""
    check_points("log_prior" if loss is not None else "log-probabilities", log_weight)
    if loss is not None:
        check_points("loss", loss)
        log_weight = log_weight - scale * loss
    total = log_weight.logsumexp(-1, keepdim=True)
    if not bool(total.isfinite().all()):
        raise ValueError("loss and log_prior must leave a total mass that is positive and finite")
    return log_weight - total
