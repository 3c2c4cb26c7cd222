"""Deep kernel transfer: a Gaussian process as the head of a network, for many tasks at once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.flows.density import LOG_TAU
from nodes_tutorial.linalg import LinalgError
from nodes_tutorial.meta.heads import check_labels, indicators

JITTERS = (0.0, 1e-8, 1e-6, 1e-4)  # shares of the mean diagonal that are tried in turn
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda x: normalize(x, dim=-1),
    "linear": lambda x: x / math.sqrt(x.shape[-1]),
}


class JitterError(LinalgError):
    """A covariance is not positive definite, whatever jitter was tried."""


def cholesky_with_jitter(
    matrix: Float[Tensor, "*batch n n"], jitters: tuple[float, ...] = JITTERS
) -> Float[Tensor, "*batch n n"]:
    r"""The Cholesky factors of matrices that rounding may have made indefinite.

    Args:
        matrix: symmetric matrices.
        jitters: numbers to add to the diagonals, as shares of their means; tried in turn, and
            each for all matrices.

    Returns:
        The lower factors, of the matrices with the first jitter that serves them all.

    Raises:
        JitterError: no jitter serves; the message has the least eigenvalue.

    Chapter: prop-bayesian-dkt

    >>> import torch
    >>> from nodes_tutorial.meta import cholesky_with_jitter
    >>> cholesky_with_jitter(torch.ones(2, 2)).shape
    torch.Size([2, 2])
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    mean = diagonal.mean(-1)[..., None, None]
    for jitter in jitters:
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * mean * unit)
        if bool((info == 0).all() & factor.isfinite().all()):
            return factor
    finite = bool(matrix.isfinite().all())
    least = float(torch.linalg.eigvalsh(matrix.detach()).min()) if finite else math.nan
    raise JitterError(
        f"matrix must be positive definite; its least eigenvalue is {least:.3g}, and a jitter of "
        f"{max(jitters, default=0):g} times the mean diagonal does not mend it"
    )


class Prediction(NamedTuple):
    """What a head of Gaussian processes says about queries.

    Attributes:
        mean: posterior means of the functions, one a class.
        variance: posterior variance of a function, the same for all classes.
    """

    mean: Float[Tensor, "... query ways"]
    variance: Float[Tensor, "... query"]


class DKT(nn.Module):
    r"""A Gaussian process for each class, with targets +1 for its support and -1 for the others.

    .. math:: f_c\sim\mathrm{GP}(0, s^2k), \qquad y_{ic} = \pm1 = f_c(x_i) + e_{ic},
        \qquad e_{ic}\sim N(0, \sigma^2)

    Classification is treated as regression, so that all is exact: one Cholesky factor of
    :math:`K=s^2k(x,x)+\sigma^2I` a task serves all its classes. Scale and noise are trained by the
    evidence, together with the features if these have gradients.

    Args:
        kernel: ``"cosine"``, the product of unit vectors, or ``"linear"``, the scaled product.
        scale: where s starts, positive.
        noise: where σ starts, positive.
        dtype: dtype of the two numbers; None means PyTorch's default.
        device: their device; None means PyTorch's default.

    Raises:
        TypeError: ``scale`` or ``noise`` is no number.
        ValueError: unknown ``kernel``, or ``scale`` or ``noise`` not positive.

    Chapter: prop-bayesian-dkt

    References: Patacchiola et al. (2020), section 3; Rasmussen and Williams (2006), algorithm 2.1.

    >>> import torch
    >>> from nodes_tutorial.meta import DKT
    >>> x, y = torch.eye(3)[None], torch.arange(3)[None]  # one task of three images
    >>> DKT()(x, y, x, ways=3).mean.argmax(-1)
    tensor([[0, 1, 2]])
    """

    def __init__(
        self,
        kernel: str = "cosine",
        *,
        scale: float | int = 1.0,
        noise: float | int = 0.3,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
        self.kernel = kernel
        start = [
            check_number(name, value, "a positive number", lambda v: 0 < v < math.inf)
            for name, value in (("scale", scale), ("noise", noise))
        ]
        logs = [math.log(value) for value in start]
        self.logs = nn.Parameter(torch.tensor(logs, dtype=dtype, device=device))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Standard deviation s of a function at a point where the kernel is 1."""
        return self.logs[0].exp()

    @property
    def noise(self) -> Float[Tensor, ""]:
        """Standard deviation σ of a target."""
        return self.logs[1].exp()

    def log_evidence(
        self, x: Float[Tensor, "*tasks n features"], y: Tensor, ways: int
    ) -> Float[Tensor, "*tasks"]:
        """The log-evidence of the targets of all classes, in nats.

        Args:
            x: features of the examples.
            y: their classes, shape (\\*tasks, n).
            ways: number of classes.

        Raises:
            TypeError: features of another kind, or labels that are no integers.
            ValueError: shapes that do not fit, or a label out of range.
            JitterError: a covariance is not positive definite.
        """
        targets, factor = self._solve(x, y, ways)
        white = torch.linalg.solve_triangular(factor, targets, upper=False)
        logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        n, classes = targets.shape[-2:]
        return -0.5 * white.square().sum((-2, -1)) - classes * (logs + n * LOG_TAU / 2)

    def forward(
        self,
        support_x: Float[Tensor, "*tasks n features"],
        support_y: Tensor,
        query_x: Float[Tensor, "*tasks m features"],
        ways: int,
    ) -> Prediction:
        """Posterior means and variances at the queries, without the noise.

        Args:
            support_x: features of the support.
            support_y: its classes, shape (\\*tasks, n).
            query_x: features of the queries.
            ways: as for ``log_evidence``.

        Raises:
            TypeError: as for ``log_evidence``.
            ValueError: as for ``log_evidence``.
            JitterError: as for ``log_evidence``.
        """
        targets, factor = self._solve(support_x, support_y, ways)
        check_points("query_x", query_x, support_x.shape[-1:], support_x)
        at, new = (KERNELS[self.kernel](x) for x in (support_x, query_x))
        cross = self.scale**2 * at @ new.mT
        white = torch.linalg.solve_triangular(factor, cross, upper=False)
        mean = white.mT @ torch.linalg.solve_triangular(factor, targets, upper=False)
        prior = self.scale**2 * new.square().sum(-1)
        return Prediction(mean, prior - white.square().sum(-2))

    def _solve(self, x: Tensor, y: Tensor, ways: int) -> tuple[Tensor, Tensor]:
        """Targets and the factor of their covariance."""
        check_points("x", x, like=self.logs)
        if x.ndim < 2:
            raise ValueError(f"x must have a row for each example, got shape {tuple(x.shape)}")
        check_labels("y", y, x.shape[:-1], check_count("ways", ways, least=1))
        rows = KERNELS[self.kernel](x)
        unit = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        covariance = self.scale**2 * rows @ rows.mT + self.noise**2 * unit
        return 2 * indicators(y, ways, x) - 1, cholesky_with_jitter(covariance)
