"""Gaussian process regression, exact."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_filled, check_number, check_points
from nodes_tutorial.flows.density import LOG_TAU

Kernel = Callable[[Tensor, Tensor], Tensor]


class GaussianProcess:
    r"""Regression with a Gaussian process as the prior of the function.

    .. math:: f\sim\mathrm{GP}(0, k), \qquad y = f(x) + e, \qquad e\sim N(0, \sigma^2I)

    With :math:`K=k(x,x)+\sigma^2I` the posterior at new points has the mean
    :math:`k_*^\top K^{-1}y` and the covariance :math:`k_{**}-k_*^\top K^{-1}k_*`. The evidence is
    :math:`N(y;0,K)`.

    Args:
        x: the inputs, one row an observation.
        y: the observations.
        kernel: maps inputs of shapes (n, d) and (m, d) to the covariances (n, m).
        noise: the standard deviation σ of an observation, 0 or more.
        jitter: what is added to the diagonal of K, as a fraction of its mean.

    Attributes:
        factor: the Cholesky factor of K with its jitter.

    Raises:
        TypeError: ``x`` or ``y`` is not a floating-point tensor, their dtypes differ, or ``noise``
            or ``jitter`` is no number.
        ValueError: shapes that do not fit, no observation, ``noise`` or ``jitter`` negative, or a
            matrix K that is not positive definite.

    Chapter: prop-inference-linear

    References: Rasmussen and Williams (2006), algorithm 2.1.

    >>> import torch
    >>> from nodes_tutorial.bayes import GaussianProcess, squared_exponential
    >>> x = torch.tensor([[0.0]])
    >>> process = GaussianProcess(x, torch.tensor([1.0]), squared_exponential(), noise=1.0)
    >>> mean, variance = process.predict(x)
    >>> mean, variance
    (tensor([0.5000]), tensor([[0.5000]]))
    """

    def __init__(
        self,
        x: Float[Tensor, "n dim"],
        y: Float[Tensor, " n2"],
        kernel: Kernel,
        *,
        noise: float | int,
        jitter: float | int = 0.0,
    ) -> None:
        check_points("x", x)
        check_points("y", y, like=x)
        check_filled("x", x)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(
                "y must hold one number for each row of x, "
                f"got shapes {tuple(y.shape)} and {tuple(x.shape)}"
            )
        self.x, self.y, self.kernel = x, y, kernel
        self.noise = check_number("noise", noise, "a number of at least 0", _not_negative)
        jitter = check_number("jitter", jitter, "a number of at least 0", _not_negative)
        covariance = kernel(x, x)
        if covariance.shape != (len(x), len(x)):
            raise ValueError(
                f"kernel must return shape {(len(x), len(x))} here, got {tuple(covariance.shape)}"
            )
        more = self.noise**2 + jitter * covariance.diagonal().mean()
        covariance = covariance + more * torch.eye(len(x), dtype=x.dtype, device=x.device)
        self.factor, info = torch.linalg.cholesky_ex(covariance)
        if info or not self.factor.isfinite().all():
            raise ValueError(
                "kernel must give a positive definite matrix with the noise and the jitter, its "
                f"leading minor of order {int(info)} is not; a jitter of 1e-10 may help"
            )
        self.weights = torch.cholesky_solve(y[:, None], self.factor)[:, 0]

    def predict(
        self, x: Float[Tensor, "m dim"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Mean and covariance of the function at new points, without the noise."""
        check_points("x", x, self.x.shape[1:], self.x)
        cross = self.kernel(self.x, x)
        white = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        return cross.mT @ self.weights, self.kernel(x, x) - white.mT @ white

    def log_evidence(self) -> Float[Tensor, ""]:
        """The log-evidence in nats."""
        logs = self.factor.diagonal().log().sum()
        return -0.5 * (self.y @ self.weights + len(self.y) * LOG_TAU) - logs


def squared_exponential(length: float | int = 1.0, scale: float | int = 1.0) -> Kernel:
    r"""The kernel :math:`s^2\exp(-\|x-x'\|^2/(2\ell^2))`.

    Args:
        length: the distance ℓ over which the function changes, positive.
        scale: the standard deviation s of the function at one point, positive.

    Returns:
        A function of two sets of inputs, (n, d) and (m, d), that gives their covariances (n, m).

    Raises:
        TypeError: ``length`` or ``scale`` is no number.
        ValueError: ``length`` or ``scale`` is not positive.

    Chapter: prop-inference-linear

    References: Rasmussen and Williams (2006), section 4.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import squared_exponential
    >>> squared_exponential()(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[0.3679]])
    """
    length = check_number("length", length, "a positive number", _positive)
    scale = check_number("scale", scale, "a positive number", _positive)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, None] - b).square().sum(-1)
        return scale**2 * (-square / (2 * length**2)).exp()

    return kernel


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf
