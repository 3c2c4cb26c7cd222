"""Gaussians with parameters to be trained."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from nodes_tutorial.checks import check_count, check_points, draw
from nodes_tutorial.flows.density import LOG_TAU, Gaussian


class MeanFieldGaussian(nn.Module):
    r"""The normal law with independent entries, whose means and scales are trained.

    .. math:: w = \mu + \sigma\odot\varepsilon, \qquad \sigma = \log(1 + e^\rho),
        \qquad \varepsilon\sim N(0, I)

    Args:
        mean: where μ starts, shape (d,).
        scale: where the standard deviations σ start; one number, or one for each entry.

    Attributes:
        event_shape: shape of one point.

    Raises:
        TypeError: ``mean`` is not a floating-point tensor, or ``scale`` has another dtype.
        ValueError: ``mean`` is not one finite vector, or ``scale`` is not positive and finite.

    Chapter: prop-inference-meanfield

    References: Blundell et al. (2015), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.zeros(2), 0.5)
    >>> q.rsample(3, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 2])
    """

    def __init__(self, mean: Float[Tensor, " dim"], scale: Tensor | float | int = 1.0) -> None:
        super().__init__()
        _check_mean(mean)
        if not isinstance(scale, Tensor):
            scale = torch.as_tensor(scale, dtype=mean.dtype, device=mean.device)
        check_points("scale", scale, like=mean)
        if scale.shape not in ((), mean.shape) or not (scale > 0).all() or scale.isinf().any():
            raise ValueError(
                "scale must hold positive finite numbers, one or one for each entry of the mean, "
                f"got shape {tuple(scale.shape)}"
            )
        self.event_shape = tuple(mean.shape)
        self.mean = nn.Parameter(mean.detach().clone())
        self.rho = nn.Parameter(_inverse_softplus(scale.detach()).expand_as(mean).clone())

    @property
    def scale(self) -> Float[Tensor, " dim"]:
        """The standard deviations σ."""
        return softplus(self.rho)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance, a diagonal matrix."""
        return self.scale.square().diag_embed()

    def entropy(self) -> Float[Tensor, ""]:
        """Differential entropy in nats."""
        return self.scale.log().sum() + len(self.mean) / 2 * (1 + LOG_TAU)

    def log_prob(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        check_points("x", x, self.event_shape, self.mean)
        return self._log_prob_of_noise((x - self.mean) / self.scale)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points, without a graph."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points with gradients to the parameters."""
        return self.mean + self.scale * _noise(n, self.mean, generator)

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, " n"]]:
        """As ``rsample``, and return the log-densities of the points too."""
        noise = _noise(n, self.mean, generator)
        return self.mean + self.scale * noise, self._log_prob_of_noise(noise)

    def _log_prob_of_noise(self, noise: Tensor) -> Tensor:
        square = noise.square().sum(-1)
        return -0.5 * (square + len(self.mean) * LOG_TAU) - self.scale.log().sum()


class FullRankGaussian(nn.Module):
    r"""The normal law :math:`N(\mu, LL^\top)`, whose mean and Cholesky factor are trained.

    .. math:: w = \mu + L\varepsilon, \qquad \varepsilon\sim N(0, I)

    L is lower triangular. Its diagonal is :math:`\log(1+e^\rho)`, so it stays positive.

    Args:
        mean: where μ starts, shape (d,).
        covariance: where the covariance starts, symmetric and positive definite; only its lower
            triangle is read. None means I.

    Attributes:
        event_shape: shape of one point.

    Raises:
        TypeError: ``mean`` or ``covariance`` is not a floating-point tensor, or their
            dtypes differ.
        ValueError: shapes that do not fit, numbers that are not finite, or a covariance that is
            not positive definite.

    Chapter: thm-inference-elbo

    References: Kucukelbir et al. (2017), section 2.4.

    >>> import torch
    >>> from nodes_tutorial.bayes import FullRankGaussian
    >>> FullRankGaussian(torch.zeros(2)).log_prob(torch.zeros(2)).item()
    -1.8378...
    """

    def __init__(
        self, mean: Float[Tensor, " dim"], covariance: Float[Tensor, "dim2 dim3"] | None = None
    ) -> None:
        super().__init__()
        _check_mean(mean)
        if covariance is None:
            covariance = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        factor = Gaussian(mean, covariance).factor.detach()
        self.event_shape = tuple(mean.shape)
        self.mean = nn.Parameter(mean.detach().clone())
        self.below = nn.Parameter(factor.tril(-1))
        self.rho = nn.Parameter(_inverse_softplus(factor.diagonal()))

    @property
    def factor(self) -> Float[Tensor, "dim dim"]:
        """The Cholesky factor L of the covariance."""
        return self.below.tril(-1) + softplus(self.rho).diag_embed()

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance."""
        factor = self.factor
        return factor @ factor.mT

    def entropy(self) -> Float[Tensor, ""]:
        """Differential entropy in nats."""
        return softplus(self.rho).log().sum() + len(self.mean) / 2 * (1 + LOG_TAU)

    def log_prob(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        check_points("x", x, self.event_shape, self.mean)
        rows = (x - self.mean).reshape(-1, len(self.mean))
        noise = torch.linalg.solve_triangular(self.factor.mT, rows, upper=True, left=False)
        return self._log_prob_of_noise(noise).reshape(x.shape[:-1])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points, without a graph."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points with gradients to the parameters."""
        return self.mean + _noise(n, self.mean, generator) @ self.factor.mT

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, " n"]]:
        """As ``rsample``, and return the log-densities of the points too."""
        noise = _noise(n, self.mean, generator)
        return self.mean + noise @ self.factor.mT, self._log_prob_of_noise(noise)

    def _log_prob_of_noise(self, noise: Tensor) -> Tensor:
        square = noise.square().sum(-1)
        return -0.5 * (square + len(self.mean) * LOG_TAU) - softplus(self.rho).log().sum()


def _check_mean(mean: Tensor) -> None:
    check_points("mean", mean)
    if mean.ndim != 1 or not mean.isfinite().all():
        raise ValueError(f"mean must be one finite vector, got shape {tuple(mean.shape)}")


def _inverse_softplus(scale: Tensor) -> Tensor:
    return scale + (-torch.expm1(-scale)).log()


def _noise(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    check_count("n", n)
    return draw(torch.randn, (n, len(like)), generator, dtype=like.dtype, device=like.device)
