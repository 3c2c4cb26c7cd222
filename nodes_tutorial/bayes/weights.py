"""The evidence, and means under the posterior, from weighted draws."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_generator, check_points
from nodes_tutorial.flows.weights import evidence


@runtime_checkable
class Sampler(Protocol):
    """What can be sampled: a prior."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


class PriorEvidence(NamedTuple):
    """An estimate of the evidence from draws of the prior.

    Chapter: prop-inference-prior
    """

    log_Z: Float[Tensor, ""]
    """Logarithm of the estimate, in nats; its mean is below the true value."""
    se: Float[Tensor, ""]
    """Estimated standard error of ``log_Z``, at most 1; infinite for a single draw."""
    ess: Float[Tensor, ""]
    """Effective number of draws, between 1 and n."""


def evidence_prior_sampling(
    log_lik: Callable[[Tensor], Tensor],
    prior: Sampler,
    n: int,
    *,
    generator: torch.Generator | None,
) -> PriorEvidence:
    r"""Estimate the evidence as the mean likelihood of n draws from the prior.

    .. math:: \hat Z = \frac1n\sum_i p(D\mid w_i), \qquad
        \mathrm{ess} = \frac{(\sum_i p(D\mid w_i))^2}{\sum_i p(D\mid w_i)^2}, \qquad
        \mathrm{se}^2 = \frac{n/\mathrm{ess} - 1}{n - 1}

    ``se`` is the relative standard error of :math:`\hat Z`, and so that of its logarithm where it
    is small. It is itself an estimate. Whatever the truth, it is at most 1. With an
    effective number of draws below about 10, both it and the estimate mean little.

    Args:
        log_lik: maps draws of shape (n, \*event) to :math:`\log p(D\mid w)`, of shape (n,).
        prior: the prior, with a method ``sample(n, generator)``.
        n: number of draws.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The estimate with its standard error and its effective number of draws.

    Raises:
        TypeError: ``n`` is not an integer, ``generator`` is not a generator, ``prior`` cannot be
            sampled, or ``log_lik`` returns no floating-point tensor.
        ValueError: ``n`` below 1; ``log_lik`` returns another shape than (n,), -inf at every draw,
            or +inf or NaN.

    Chapter: prop-inference-prior

    References: Owen (2013), chapter 9.

    >>> import torch
    >>> from nodes_tutorial.bayes import evidence_prior_sampling
    >>> from nodes_tutorial.flows import StandardNormal
    >>> source = torch.Generator().manual_seed(0)
    >>> found = evidence_prior_sampling(
    ...     lambda w: -w.square().sum(-1), StandardNormal(2), 10_000, generator=source
    ... )
    >>> abs(found.log_Z.exp().item() - 1 / 3) < 0.01
    True
    """
    check_count("n", n, least=1)
    check_generator(generator)
    if not isinstance(prior, Sampler):
        raise TypeError(f"prior must have a method sample, got {type(prior).__name__}")
    w = prior.sample(n, generator)
    values = checked_values("log_lik", log_lik, w)
    if not values.amax().isfinite():
        raise ValueError("log_lik must be a number at one draw or more, and +inf or NaN at none")
    if n == 1:
        return PriorEvidence(
            values[0], torch.full_like(values[0], math.inf), torch.ones_like(values[0])
        )
    return PriorEvidence(*evidence(values))


def importance_mean(
    values: Float[Tensor, "n *shape"], log_weights: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""Estimate a mean under the posterior by self-normalized importance sampling.

    .. math:: \hat h = \sum_i \bar w_i h_i, \qquad \bar w_i = \frac{w_i}{\sum_j w_j}, \qquad
        \mathrm{se}^2 = \sum_i \bar w_i^2 (h_i - \hat h)^2

    Draws from the prior have the weights :math:`p(D\mid w_i)`. Bias and squared error are both of
    the order 1/n.

    Args:
        values: the numbers :math:`h_i` to be averaged, one row a draw.
        log_weights: logarithms of the weights, up to a constant.

    Returns:
        The estimate and its standard error, each of the shape of one row.

    Raises:
        TypeError: ``values`` or ``log_weights`` is not a floating-point tensor.
        ValueError: no weight, more than one axis of weights, or another number of values.

    Chapter: prop-inference-prior

    References: Owen (2013), section 9.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import importance_mean
    >>> importance_mean(torch.tensor([1.0, 3.0]), torch.zeros(2))
    (tensor(2.), tensor(0.7071))
    """
    check_points("log_weights", log_weights)
    check_points("values", values)
    n = _check_weights(log_weights)
    if values.shape[:1] != (n,):
        raise ValueError(
            f"values must have {n} rows, one a weight, got shape {tuple(values.shape)}"
        )
    weights = log_weights.softmax(0).view(-1, *[1] * (values.ndim - 1))
    mean = (weights * values).sum(0)
    return mean, (weights * (values - mean)).square().sum(0).sqrt()


def checked_values(name: str, f: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    r"""Values of a function at n draws, which must be one number each.

    Args:
        name: name of the function, for the message.
        f: the function.
        w: the draws, shape (n, \*event).

    Returns:
        The values, shape (n,).

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape.
    """
    values = f(w)
    check_points(f"the value of {name}", values)
    if values.shape != w.shape[:1]:
        raise ValueError(
            f"{name} must return one number for each of the {len(w)} draws, shape ({len(w)},), "
            f"got {tuple(values.shape)}"
        )
    return values


def _check_weights(log_weights: Tensor) -> int:
    if log_weights.ndim != 1 or len(log_weights) == 0:
        raise ValueError(
            f"log_weights must be one vector with an entry, got shape {tuple(log_weights.shape)}"
        )
    return len(log_weights)
