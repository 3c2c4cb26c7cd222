"""Laws of the weights of a head: a Gaussian, and a flow of noise; each with its divergence."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points, draw
from nodes_tutorial.flows.density import LOG_TAU
from nodes_tutorial.flows.flow import Transform


def normal_kl(
    mean: Float[Tensor, "*batch dim"], log_variance: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    r"""The divergence of independent normal weights from the prior :math:`N(0, I)`.

    .. math:: KL\bigl(N(\mu, \mathrm{diag}\,e^{\ell})\,\|\,N(0, I)\bigr)
        = \tfrac12\sum_j\bigl(\mu_j^2 + e^{\ell_j} - 1 - \ell_j\bigr)

    Args:
        mean: the means μ of the weights themselves, not of what is added to a start.
        log_variance: logarithms ℓ of the variances.

    Returns:
        One divergence in nats for each row, 0 or more.

    Raises:
        TypeError: an argument is no floating-point tensor, or their dtypes differ.
        ValueError: the last axes differ.

    Chapter: prop-bayesian-gaussian

    References: Kingma and Welling (2014), appendix B.

    >>> import torch
    >>> from nodes_tutorial.meta import normal_kl
    >>> normal_kl(torch.ones(4), torch.zeros(4))
    tensor(2.)
    """
    check_points("mean", mean)
    check_points("log_variance", log_variance, mean.shape[-1:], mean)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


class GaussianWeights:
    r"""Independent normal weights, :math:`w = \mu + e^{\ell/2}\varepsilon`.

    Args:
        mean: the means μ, shape (\*batch, dim).
        log_variance: logarithms ℓ of the variances, of the same shape.

    Raises:
        TypeError: as for ``normal_kl``.
        ValueError: the shapes differ.

    Chapter: prop-bayesian-gaussian

    References: Borycki et al. (2022).

    >>> import torch
    >>> from nodes_tutorial.meta import GaussianWeights
    >>> law = GaussianWeights(torch.zeros(5, 3), torch.zeros(5, 3))
    >>> weights, kl = law.rsample_and_kl(20, torch.Generator().manual_seed(0))
    >>> weights.shape, kl
    (torch.Size([20, 5, 3]), tensor([0., 0., 0., 0., 0.]))
    """

    def __init__(
        self, mean: Float[Tensor, "*batch dim"], log_variance: Float[Tensor, "*batch dim"]
    ) -> None:
        check_points("mean", mean)
        check_points("log_variance", log_variance, mean.shape, mean)
        self.mean, self.log_variance = mean, log_variance

    def rsample(
        self, draws: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "draws *batch dim"]:
        """Draw weights, with gradients to the means and the variances."""
        noise = _noise(draws, self.mean, generator)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def rsample_and_kl(
        self, draws: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "draws *batch dim"], Float[Tensor, "*batch"]]:
        """As ``rsample``, and the exact divergences from the prior N(0, I)."""
        return self.rsample(draws, generator), normal_kl(self.mean, self.log_variance)

    def numbers(self) -> tuple[Tensor, Tensor]:
        """What further steps on a support may change: means and logarithms of variances."""
        return self.mean, self.log_variance

    def with_numbers(self, mean: Tensor, log_variance: Tensor) -> "GaussianWeights":
        """A law of the same kind with other numbers."""
        return GaussianWeights(mean, log_variance)


class FlowWeights:
    r"""A start plus noise that a flow has moved: :math:`w = \theta + F(z, c)`.

    .. math:: z\sim N(0, tI), \qquad KL = E_z\Bigl[\log N(z; 0, tI)
        - \log\Bigl|\det\frac{\partial F}{\partial z}\Bigr| - \log N(\theta + F(z); 0, I)\Bigr]

    Args:
        start: the weights θ that the flow's result is added to, shape (dim,) or (\*batch, dim).
        flow: the invertible map F with its log-determinant, such as ``flows.CNF``.
        context: what F hangs on, shape (\*batch, c); None for a map that takes nothing.
        t: variance of the noise, positive.

    Raises:
        TypeError: ``start`` or ``context`` is no floating-point tensor, ``flow`` is no
            ``Transform``, or ``t`` no number.
        ValueError: ``t`` is not positive, or ``context`` is given to a map that takes none or
            missing for one that does.

    Chapter: thm-bayesian-flow

    References: Borycki et al. (2022); Grathwohl et al. (2019).

    >>> import torch
    >>> from nodes_tutorial.flows import CNF
    >>> from nodes_tutorial.meta import FlowWeights
    >>> law = FlowWeights(torch.zeros(5, 3), CNF(lambda t, x: 0.5 * x), t=0.1)
    >>> weights, kl = law.rsample_and_kl(20, torch.Generator().manual_seed(0))
    >>> weights.shape, kl.shape
    (torch.Size([20, 5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        start: Float[Tensor, "*batch dim"],
        flow: Transform,
        context: Float[Tensor, "*batch2 c"] | None = None,
        *,
        t: float | int = 1.0,
    ) -> None:
        check_points("start", start)
        if not isinstance(flow, Transform):
            raise TypeError(f"flow must be a Transform, got {type(flow).__name__}")
        if (context is not None) != bool(flow.context):
            wanted = f"{flow.context} entries" if flow.context else "None"
            raise ValueError(f"context must be {wanted} for this flow")
        if context is not None:
            check_points("context", context, (flow.context,), start)
        self.t = check_number("t", t, "a positive number", lambda t: 0 < t < math.inf)
        self.start, self.flow, self.context = start, flow, context

    def rsample(
        self, draws: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "draws *batch dim"]:
        """Draw weights, with gradients to the start, the flow and the context."""
        given = {} if self.context is None else {"context": self.context}
        return self.start + self.flow.push(self.noise(draws, generator), **given)

    def rsample_and_kl(
        self, draws: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "draws *batch dim"], Float[Tensor, "*batch"]]:
        """As ``rsample``, and an unbiased estimate of the divergences from N(0, I).

        The estimate is the mean of ``weights_and_terms`` over the draws. It can be negative.
        """
        weights, terms = self.weights_and_terms(self.noise(draws, generator))
        return weights, terms.mean(0)

    def numbers(self) -> tuple[Tensor, ...]:
        """What further steps on a support may change: the start, and the context if there is one.

        The start gets the batch axes of the context, so that each row has its own.
        """
        if self.context is None:
            return (self.start,)
        rows = torch.broadcast_shapes(self.context.shape[:-1], self.start.shape[:-1])
        return self.start.expand(*rows, self.start.shape[-1]), self.context

    def with_numbers(self, start: Tensor, context: Tensor | None = None) -> "FlowWeights":
        """A law of the same flow with other numbers."""
        return FlowWeights(start, self.flow, context, t=self.t)

    def weights_and_terms(
        self, z: Float[Tensor, "draws *batch dim"]
    ) -> tuple[Float[Tensor, "draws *batch dim"], Float[Tensor, "draws *batch"]]:
        """Weights of given noise, and the terms whose expectation is the divergence."""
        given = {} if self.context is None else {"context": self.context}
        moved, log_det = self.flow(z, **given)
        weights = self.start + moved
        return weights, _log_normal(z, self.t) - log_det - _log_normal(weights, 1.0)

    def noise(
        self, draws: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "draws *batch dim"]:
        """Draw z from N(0, tI)."""
        return math.sqrt(self.t) * _noise(draws, self.numbers()[0], generator)


def _log_normal(x: Tensor, variance: float) -> Tensor:
    """Log-density of N(0, variance I)."""
    dim = x.shape[-1]
    return -0.5 * (x.square().sum(-1) / variance + dim * (LOG_TAU + math.log(variance)))


def _noise(draws: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    check_count("draws", draws, least=1)
    shape = (draws, *like.shape)
    return draw(torch.randn, shape, generator, dtype=like.dtype, device=like.device)
