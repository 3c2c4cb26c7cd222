"""Lower bounds of the evidence from an approximate posterior."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.bayes.weights import checked_values
from nodes_tutorial.checks import check_count, check_generator


@runtime_checkable
class Posterior(Protocol):
    """What can stand for a posterior: the Gaussians of this part, and every flow."""

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]: ...


def elbo(
    log_joint: Callable[[Tensor], Tensor],
    q: Posterior,
    n: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Estimate the evidence lower bound from n draws of q, with gradients to its parameters.

    .. math:: \frac1n\sum_{i=1}^n \log p(D, w_i) - \log q(w_i), \qquad w_i \sim q

    Its mean is :math:`\log p(D) - KL(q\,\|\,p(\cdot\mid D))`.

    Args:
        log_joint: maps draws of shape (n, \*event) to :math:`\log p(D\mid w) + \log p(w)`, of
            shape (n,).
        q: the approximate posterior, such as ``MeanFieldGaussian`` or a ``Flow``.
        n: number of draws.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The estimate, in nats.

    Raises:
        TypeError: ``n`` is not an integer, ``generator`` is not a generator, ``q`` cannot be
            sampled, or ``log_joint`` returns no floating-point tensor.
        ValueError: ``n`` below 1, or ``log_joint`` returns another shape than (n,).

    Chapter: thm-inference-elbo

    References: Jordan et al. (1999), section 6; Kingma and Welling (2014), equation 5.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, elbo
    >>> q = MeanFieldGaussian(torch.zeros(2))
    >>> elbo(q.log_prob, q, 10).abs().item() < 1e-6
    True
    """
    return _log_weights(log_joint, q, n, generator).mean()


def importance_weighted_bound(
    log_joint: Callable[[Tensor], Tensor],
    q: Posterior,
    n: int,
    k: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Estimate the importance-weighted bound of k draws from n groups of draws of q.

    .. math:: \frac1n\sum_{i=1}^n \log\frac1k\sum_{j=1}^k \frac{p(D, w_{ij})}{q(w_{ij})}

    For k = 1 it is the evidence lower bound; its mean grows with k towards :math:`\log p(D)`.

    Args:
        log_joint: as for ``elbo``; it is called once with all n·k draws.
        q: the approximate posterior.
        n: number of groups.
        k: draws in a group.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The estimate, in nats, with gradients to the parameters of ``q``.

    Raises:
        TypeError: as for ``elbo``.
        ValueError: ``n`` or ``k`` below 1, or ``log_joint`` returns another shape than (n k,).

    Chapter: prop-inference-weighted

    References: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, importance_weighted_bound
    >>> q = MeanFieldGaussian(torch.zeros(2))
    >>> importance_weighted_bound(q.log_prob, q, 10, 5).abs().item() < 1e-6
    True
    """
    check_count("n", n, least=1)
    check_count("k", k, least=1)
    log_weights = _log_weights(log_joint, q, n * k, generator).view(n, k)
    return (log_weights.logsumexp(1) - math.log(k)).mean()


def _log_weights(
    log_joint: Callable[[Tensor], Tensor],
    q: Posterior,
    n: int,
    generator: torch.Generator | None,
) -> Tensor:
    check_count("n", n, least=1)
    check_generator(generator)
    if not isinstance(q, Posterior):
        raise TypeError(f"q must have a method rsample_and_log_prob, got {type(q).__name__}")
    w, log_q = q.rsample_and_log_prob(n, generator)
    return checked_values("log_joint", log_joint, w) - log_q
