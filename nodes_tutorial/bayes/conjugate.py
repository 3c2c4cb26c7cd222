"""Models whose posterior and evidence are known in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_filled, check_number, check_points
from nodes_tutorial.flows.density import LOG_TAU, Gaussian


class LinearRegression:
    r"""Linear regression with a Gaussian prior on the weights and known noise.

    .. math:: y = Xw + e, \qquad w\sim N(m_0, S_0), \qquad e\sim N(0, \sigma^2I)

    The posterior has the precision :math:`P=S_0^{-1}+X^\top X/\sigma^2` and the mean
    :math:`P^{-1}(S_0^{-1}m_0+X^\top y/\sigma^2)`. The evidence is
    :math:`N(y;\ Xm_0,\ \sigma^2I+XS_0X^\top)`.

    Args:
        x: the features X, one row an observation.
        y: the observations.
        prior: the law of the weights.
        noise: the standard deviation σ of an observation.

    Attributes:
        prior: the law of the weights before the data.
        posterior: the law of the weights after the data.

    Raises:
        TypeError: ``x`` or ``y`` is not a floating-point tensor of the prior's dtype, or ``noise``
            is no number.
        ValueError: shapes that do not fit, no observation, or ``noise`` not positive.

    Chapter: prop-inference-linear

    References: Bishop (2006), sections 3.3 and 3.5.

    >>> import torch
    >>> from nodes_tutorial.bayes import LinearRegression
    >>> from nodes_tutorial.flows import Gaussian
    >>> prior = Gaussian(torch.zeros(1), torch.eye(1))
    >>> model = LinearRegression(torch.ones(3, 1), torch.ones(3), prior=prior, noise=1.0)
    >>> model.posterior.mean, model.posterior.covariance
    (tensor([0.7500]), tensor([[0.2500]]))
    """

    def __init__(
        self,
        x: Float[Tensor, "n dim"],
        y: Float[Tensor, " n2"],
        *,
        prior: Gaussian,
        noise: float | int,
    ) -> None:
        check_points("x", x, prior.event_shape, prior.mean)
        check_points("y", y, like=prior.mean)
        check_filled("x", x)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(
                "y must hold one number for each row of x, "
                f"got shapes {tuple(y.shape)} and {tuple(x.shape)}"
            )
        self.x, self.y, self.prior = x, y, prior
        self.noise = check_number("noise", noise, "a positive number", _positive)
        # with w = m + Lz the precision of z is I + A'A, which is well conditioned where S is not
        features = x @ prior.factor / self.noise
        rest = (y - x @ prior.mean) / self.noise
        inner = features.mT @ features + torch.eye(len(prior.mean), dtype=x.dtype, device=x.device)
        root = torch.linalg.cholesky(inner)
        mean = torch.cholesky_solve((features.mT @ rest)[:, None], root)[:, 0]
        spread = torch.linalg.solve_triangular(root, prior.factor.mT, upper=False)
        self.posterior = Gaussian(prior.mean + prior.factor @ mean, spread.mT @ spread)

    def log_lik(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        r"""The log-likelihood :math:`\log p(y\mid w)` in nats."""
        check_points("w", w, self.prior.event_shape, self.prior.mean)
        square = ((self.y - w @ self.x.mT) / self.noise).square().sum(-1)
        return -0.5 * square - len(self.y) * (LOG_TAU / 2 + math.log(self.noise))

    def log_joint(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        r"""The joint :math:`\log p(y\mid w) + \log p(w)` in nats."""
        return self.log_lik(w) + self.prior.log_prob(w)

    def log_evidence(self) -> Float[Tensor, ""]:
        """The log-evidence, as the density of y under its marginal law."""
        features = self.x @ self.prior.factor
        return Gaussian(
            self.x @ self.prior.mean, features @ features.mT + self.noise**2 * _eye(self.y)
        ).log_prob(self.y)

    def predict(self, x: Float[Tensor, "m dim"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Mean and variance of the regression at new rows, without the noise."""
        check_points("x", x, self.prior.event_shape, self.prior.mean)
        return x @ self.posterior.mean, (x @ self.posterior.factor).square().sum(-1)


class GaussianMean:
    r"""The unknown mean of Gaussian vectors whose covariance is known.

    .. math:: w\sim N(m_0, S_0), \qquad x_i\sim N(w, R), \quad i=1,\dots,n

    The posterior has the precision :math:`S_0^{-1}+nR^{-1}`.

    Args:
        x: the observations, one row each.
        prior: the law of the mean.
        noise: the covariance R of one observation.

    Attributes:
        prior: the law of the mean before the data.
        posterior: the law of the mean after the data.

    Raises:
        TypeError: ``x`` is not a floating-point tensor of the prior's dtype.
        ValueError: shapes that do not fit, no observation, or ``noise`` not positive definite.

    Chapter: prop-inference-linear

    References: Bishop (2006), section 2.3.6.

    >>> import torch
    >>> from nodes_tutorial.bayes import GaussianMean
    >>> from nodes_tutorial.flows import Gaussian
    >>> prior = Gaussian(torch.zeros(2), torch.eye(2))
    >>> GaussianMean(torch.ones(3, 2), prior=prior, noise=torch.eye(2)).posterior.mean
    tensor([0.7500, 0.7500])
    """

    def __init__(
        self, x: Float[Tensor, "n dim"], *, prior: Gaussian, noise: Float[Tensor, "dim2 dim3"]
    ) -> None:
        check_points("x", x, prior.event_shape, prior.mean)
        check_filled("x", x)
        if x.ndim != 2:
            raise ValueError(
                f"x must have one row for each observation, got shape {tuple(x.shape)}"
            )
        try:
            self.error = Gaussian(torch.zeros_like(prior.mean), noise)
        except ValueError as reason:
            raise ValueError(f"noise must be the covariance of one row: {reason}") from reason
        self.x, self.prior = x, prior
        white = torch.linalg.solve_triangular(self.error.factor, _eye(prior.mean), upper=False)
        self._regression = LinearRegression(
            white.repeat(len(x), 1), (x @ white.mT).flatten(), prior=prior, noise=1.0
        )
        self.posterior = self._regression.posterior

    def log_lik(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        r"""The log-likelihood :math:`\sum_i\log p(x_i\mid w)` in nats."""
        check_points("w", w, self.prior.event_shape, self.prior.mean)
        return self.error.log_prob(self.x - w[..., None, :]).sum(-1)

    def log_joint(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The joint of the data and the mean, in nats."""
        return self.log_lik(w) + self.prior.log_prob(w)

    def log_evidence(self) -> Float[Tensor, ""]:
        """The log-evidence in nats."""
        return (
            self._regression.log_evidence() - len(self.x) * self.error.factor.diagonal().log().sum()
        )


class BetaBernoulli:
    r"""Tosses of a coin whose probability of heads has a beta law.

    .. math:: \theta\sim\mathrm{Beta}(a,b), \qquad p(D) = \frac{B(a+h,\,b+t)}{B(a,b)}

    h and t count the heads and the tails. The posterior is :math:`\mathrm{Beta}(a+h,b+t)`.

    Args:
        x: the tosses, 1 for heads and 0 for tails, in order; floating-point numbers.
        a: first parameter of the prior.
        b: second parameter of the prior.

    Attributes:
        a: first parameter of the posterior.
        b: second parameter of the posterior.

    Raises:
        TypeError: ``x`` is not a floating-point tensor, or ``a`` or ``b`` is no number.
        ValueError: a toss that is neither 0 nor 1, or ``a`` or ``b`` not positive.

    Chapter: prop-inference-map

    References: Bishop (2006), section 2.1.1.

    >>> import torch
    >>> from nodes_tutorial.bayes import BetaBernoulli
    >>> coin = BetaBernoulli(torch.tensor([1.0, 1.0, 0.0]))
    >>> coin.mean().item(), coin.mode().item()
    (0.6000..., 0.6666...)
    """

    def __init__(self, x: Float[Tensor, " n"], a: float | int = 1.0, b: float | int = 1.0) -> None:
        check_points("x", x)
        if x.ndim != 1 or not ((x == 0) | (x == 1)).all():
            raise ValueError("x must be one vector of zeros and ones")
        start = (
            check_number("a", a, "a positive number", _positive),
            check_number("b", b, "a positive number", _positive),
        )
        self.prior = tuple(x.new_tensor(value) for value in start)
        self.a, self.b = self.prior[0] + x.sum(), self.prior[1] + (1 - x).sum()

    def log_joint(self, theta: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The joint of the tosses and the probability of heads, in nats; a density in theta."""
        check_points("theta", theta)
        heads = torch.special.xlogy(self.a - 1, theta)
        tails = torch.special.xlog1py(self.b - 1, -theta)
        inside = (theta >= 0) & (theta <= 1)
        return torch.where(inside, heads + tails - _log_beta(*self.prior), -math.inf)

    def log_evidence(self) -> Float[Tensor, ""]:
        """The log-evidence of the tosses in this order, in nats."""
        return _log_beta(self.a, self.b) - _log_beta(*self.prior)

    def log_posterior(self, theta: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Log-density of the posterior."""
        return self.log_joint(theta) - self.log_evidence()

    def mean(self) -> Float[Tensor, ""]:
        """The posterior mean, which is the probability of heads in the next toss."""
        return self.a / (self.a + self.b)

    def mode(self) -> Float[Tensor, ""]:
        """The maximum of the posterior density; NaN where a or b is not above 1."""
        inside = (self.a > 1) & (self.b > 1)
        return torch.where(inside, (self.a - 1) / (self.a + self.b - 2), math.nan)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)
