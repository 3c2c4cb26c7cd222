"""What every density can do, and the Gaussians."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_points, draw

LOG_TAU = math.log(math.tau)


@runtime_checkable
class Density(Protocol):
    """A probability density that can be evaluated and sampled.

    ``log_prob`` maps (\\*batch, \\*event) to (\\*batch,). ``rsample`` draws n points with
    gradients to the parameters, ``sample`` draws them without a graph, and
    ``rsample_and_log_prob`` returns their log-densities too.

    Chapter: def-density-model
    """

    def log_prob(self, x: Tensor) -> Tensor: ...

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]: ...


class StandardNormal(nn.Module):
    r"""The normal law with mean 0 and covariance I on vectors or on arrays of any shape.

    .. math:: \log p(x) = -\tfrac12\|x\|^2 - \tfrac d2\log 2\pi

    Args:
        shape: shape of one point; a number d means vectors with d entries.
        dtype: dtype of the samples; None means PyTorch's default.
        device: device of the samples; None means PyTorch's default.

    Attributes:
        event_shape: shape of one point.

    Raises:
        TypeError: an axis of ``shape`` is not an integer.
        ValueError: an axis of ``shape`` is below 1, or ``dtype`` is none of real numbers.

    Chapter: def-density-model

    References: Bishop (2006), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.flows import StandardNormal
    >>> StandardNormal(2).log_prob(torch.zeros(3, 2))
    tensor([-1.8379, -1.8379, -1.8379])
    """

    origin: Tensor

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        for size in self.event_shape:
            check_count("shape", size, least=1)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be one of floating-point numbers, got {dtype}")
        self.register_buffer("origin", torch.zeros(self.event_shape, dtype=dtype, device=device))

    def log_prob(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The log-density in nats, shape (\\*batch,)."""
        axes = len(self.event_shape)
        check_points("x", x, self.event_shape)
        square = x.square().flatten(x.ndim - axes).sum(-1) if axes else x.square()
        return -0.5 * (square + math.prod(self.event_shape) * LOG_TAU)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n ..."]:
        """Draw n points."""
        return _noise((n, *self.event_shape), self.origin, generator)

    rsample = sample  # there are no parameters

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
        """Draw n points and return them with their log-densities."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)


class Gaussian(nn.Module):
    r"""The normal law :math:`N(\mu, \Sigma)` on vectors, by the Cholesky factor of its covariance.

    .. math:: \log p(x) = -\tfrac12\|L^{-1}(x-\mu)\|^2 - \sum_i\log L_{ii} - \tfrac d2\log 2\pi,
        \qquad \Sigma = LL^\top

    Args:
        mean: the vector μ, shape (d,).
        covariance: the matrix Σ, symmetric and positive definite; only its lower triangle is read.

    Attributes:
        event_shape: shape of one point.

    Raises:
        TypeError: ``mean`` or ``covariance`` is not a floating-point tensor, or their
            dtypes differ.
        ValueError: shapes that do not fit, numbers that are not finite, or a covariance that is
            not positive definite.

    Chapter: thm-density-gaussian

    References: Bishop (2006), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.flows import Gaussian
    >>> normal = Gaussian(torch.zeros(2), torch.eye(2))
    >>> normal.log_prob(torch.zeros(2)), normal.entropy()
    (tensor(-1.8379), tensor(2.8379))
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Float[Tensor, " dim"], covariance: Float[Tensor, "dim2 dim3"]) -> None:
        super().__init__()
        check_points("mean", mean)
        check_points("covariance", covariance, like=mean)
        if mean.ndim != 1 or not mean.isfinite().all():
            raise ValueError(f"mean must be one finite vector, got shape {tuple(mean.shape)}")
        dim = len(mean)
        if covariance.shape != (dim, dim):
            raise ValueError(
                f"covariance must have shape {(dim, dim)}, got {tuple(covariance.shape)}"
            )
        factor, info = torch.linalg.cholesky_ex(covariance)
        if info or not factor.isfinite().all():
            raise ValueError(
                "covariance must be positive definite and finite, its leading minor of order "
                f"{int(info)} is not"
            )
        self.event_shape = (dim,)
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance."""
        return self.factor @ self.factor.mT

    def entropy(self) -> Float[Tensor, ""]:
        r"""Differential entropy :math:`\frac12\log\det(2\pi e\Sigma)` in nats."""
        return self.factor.diagonal().log().sum() + len(self.mean) / 2 * (1 + LOG_TAU)

    def log_prob(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        check_points("x", x, self.event_shape)
        rows = (x - self.mean).reshape(-1, len(self.mean))
        white = torch.linalg.solve_triangular(self.factor.mT, rows, upper=True, left=False)
        square = white.square().sum(-1).reshape(x.shape[:-1])
        return -0.5 * (square + len(self.mean) * LOG_TAU) - self.factor.diagonal().log().sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points, without a graph."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        r"""Draw n points :math:`x=\mu+Lz`."""
        return self.mean + _noise((n, len(self.mean)), self.mean, generator) @ self.factor.mT

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, " n"]]:
        """Draw n points and return them with their log-densities."""
        x = self.rsample(n, generator)
        return x, self.log_prob(x)


def fit_gaussian(x: Float[Tensor, "n dim"]) -> Gaussian:
    r"""Fit a Gaussian by maximum likelihood.

    .. math:: \hat\mu = \frac1n\sum_i x_i, \qquad
        \hat\Sigma = \frac1n\sum_i (x_i-\hat\mu)(x_i-\hat\mu)^\top

    The mean negative log-likelihood of ``x`` is then the entropy of the result. Note 1/n, not
    1/(n-1).

    Args:
        x: the points, at least dim + 1 in general position.

    Returns:
        The Gaussian.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: the points lie in a hyperplane, or nearly so.

    Chapter: thm-density-gaussian

    References: Bishop (2006), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.flows import fit_gaussian
    >>> fit_gaussian(torch.tensor([[0.0], [2.0]])).covariance
    tensor([[1.]])
    """
    check_points("x", x)
    mean = x.mean(0)
    rows = x - mean
    covariance = rows.mT @ rows / len(x)
    _check_span(covariance)
    return Gaussian(mean, covariance)


def _check_span(covariance: Tensor) -> None:
    """Each coordinate must vary by more than rounding when those before it are given."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    rest = factor.diagonal().square() / covariance.diagonal()
    if info or not (rest > 10 * len(rest) * torch.finfo(rest.dtype).eps).all():
        raise ValueError(
            f"x must hold points that span all {len(rest)} dimensions; its sample covariance is "
            "singular"
        )


def _noise(size: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the dtype and on the device of a tensor."""
    check_count("n", size[0])
    return draw(torch.randn, size, generator, dtype=like.dtype, device=like.device)
