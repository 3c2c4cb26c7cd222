"""Importance weights: draws of one density that stand for another, known up to its constant."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.flows.density import Density


class Evidence(NamedTuple):
    """What importance weights say of a normalizing constant."""

    log_z: Tensor
    """Estimate of log Z, in nats."""
    se: Tensor
    """Its standard error, to first order."""
    ess: Tensor
    """Effective sample size, between 1 and the number of weights."""


class Weighted(NamedTuple):
    """Draws with their importance weights."""

    x: Tensor
    """The draws, the first axis has n entries."""
    log_weights: Tensor
    """Logarithms of the weights, shape (n,), not normalized."""
    evidence: Evidence
    """What the weights say of the normalizing constant."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean under the target of a function with these values at the draws, first axis n."""
        return torch.tensordot(self.log_weights.softmax(0).to(values.dtype), values, dims=1)


def evidence(log_weights: Float[Tensor, "n *batch"]) -> Evidence:
    r"""Normalizing constant and effective sample size from importance weights.

    .. math:: \hat Z = \frac1n\sum_i w_i, \qquad
        \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}, \qquad
        \mathrm{se}(\log\hat Z)^2 = \frac{n}{n-1}\Bigl(\frac1{\mathrm{ESS}}-\frac1n\Bigr)

    Args:
        log_weights: logarithms of the weights, draws along the first axis; -inf for a weight 0.

    Returns:
        The estimates, one for each entry of the batch.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: fewer than two weights, one that is NaN or infinite, or none that is positive.

    Chapter: prop-conditional-weights

    References: Owen (2013), chapter 9; Kong (1992).

    >>> import torch
    >>> from nodes_tutorial.flows import evidence
    >>> found = evidence(torch.tensor([1.0, 1.0, 1.0, 3.0]).log())
    >>> round(float(found.log_z.exp()), 4), round(float(found.ess), 4)
    (1.5, 3.0)
    """
    check_points("log_weights", log_weights)
    n = len(log_weights) if log_weights.ndim else 0
    if n < 2:
        raise ValueError(f"log_weights must hold two draws or more, got {tuple(log_weights.shape)}")
    log_z = log_weights.logsumexp(0) - math.log(n)
    if not log_z.isfinite().all():
        raise ValueError("log_weights must be numbers or -inf, and not all of them -inf")
    spread = torch.exp(log_weights - log_z).square().mean(0)  # 1 if all weights are the same
    se = ((spread - 1).clamp_min(0) / (n - 1)).sqrt()
    return Evidence(log_z, se, n / spread)


def importance(
    log_joint: Callable[[Tensor], Tensor],
    q: Density,
    n: int,
    *,
    generator: torch.Generator | None = None,
    context: Float[Tensor, "..."] | None = None,
) -> Weighted:
    r"""Draw from a density and weigh the draws towards another one, known up to its constant.

    .. math:: w_i = \frac{\tilde p(x_i)}{q(x_i)}, \qquad x_i \sim q, \qquad
        \mathbb E\,w = Z = \int\tilde p(x)\,dx

    The variance is finite only if :math:`\int\tilde p^2/q` is: q must have the heavier tails.

    Args:
        log_joint: :math:`\log\tilde p` of points of shape (n, \\*event); -inf where it is 0.
        q: the density that is drawn from, such as a flow.
        n: number of draws, two or more.
        generator: source of the draws; None means PyTorch's global one.
        context: for a conditional flow, one for all draws.

    Returns:
        The draws, their weights and what these say of Z; without a graph.

    Raises:
        TypeError: ``n`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``n`` below 2, log-densities of another shape, or as for ``evidence``.

    Chapter: prop-conditional-weights

    References: Owen (2013), chapter 9.

    >>> import torch
    >>> from nodes_tutorial.flows import StandardNormal, importance
    >>> found = importance(
    ...     lambda x: -x.square().sum(-1), StandardNormal(1), 1000,
    ...     generator=torch.Generator().manual_seed(0),
    ... )
    >>> abs(float(found.evidence.log_z) - 0.5724) < 0.05  # log sqrt(pi)
    True
    """
    check_count("n", n, least=2)
    given = {} if context is None else {"context": context}
    with torch.no_grad():
        x, log_q = q.rsample_and_log_prob(n, generator, **given)
        log_p = log_joint(x)
    if log_p.shape != log_q.shape:
        raise ValueError(
            f"log_joint must return shape {tuple(log_q.shape)}, got {tuple(log_p.shape)}"
        )
    log_weights = log_p - log_q
    return Weighted(x, log_weights, evidence(log_weights))
