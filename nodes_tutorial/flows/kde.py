"""Kernel density estimates with a Gaussian kernel, and their bandwidth."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_generator, check_number, check_points, draw
from nodes_tutorial.flows.density import LOG_TAU, fit_gaussian

_PAIRS = 2**22  # most pairs of points that are held at a time: 32 MiB in double precision
_CANDIDATES = 5


class KernelDensity(nn.Module):
    r"""A Gaussian bump on every point, all of one shape.

    .. math:: \hat p(x) = \frac1n\sum_{i=1}^n N(x;\ x_i,\ h^2\hat\Sigma)

    The bumps have the shape of the sample covariance :math:`\hat\Sigma` (with 1/(n-1)), so the
    bandwidth h has no unit. Scott's rule is :math:`h=n^{-1/(d+4)}` and Silverman's
    :math:`h=(n(d+2)/4)^{-1/(d+4)}`, the same number when d = 2. ``"cv"`` maximises the
    leave-one-out log-likelihood (``select_bandwidth``).

    Args:
        x: the points, at least dim + 1 in general position.
        bandwidth: ``"scott"``, ``"silverman"``, ``"cv"`` or a positive number.

    Attributes:
        bandwidth: the number h that was chosen.
        event_shape: shape of one point.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: unknown or non-positive ``bandwidth``; points in a hyperplane; ``"cv"`` when
            every point is repeated, so that no bandwidth is best.

    Chapter: def-density-kernel

    References: Silverman (1986), sections 4.2 and 4.3; Scott (2015), section 6.5.

    >>> import torch
    >>> from nodes_tutorial.flows import KernelDensity
    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> KernelDensity(x).log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    mean: Tensor
    factor: Tensor
    points: Tensor
    bandwidth: Tensor

    def __init__(self, x: Float[Tensor, "n dim"], bandwidth: str | float = "scott") -> None:
        super().__init__()
        fit = fit_gaussian(x)
        self.event_shape = fit.event_shape
        factor = fit.factor * math.sqrt(len(x) / (len(x) - 1))
        points = torch.linalg.solve_triangular(factor.mT, x - fit.mean, upper=True, left=False)
        self.register_buffer("mean", fit.mean)
        self.register_buffer("factor", factor)
        self.register_buffer("points", points)
        self.register_buffer("bandwidth", points.new_tensor(_bandwidth(bandwidth, points)))

    def log_prob(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats, by chunks of rows: memory does not grow with the batch."""
        check_points("x", x, self.event_shape)
        rows = (x - self.mean).reshape(-1, x.shape[-1])
        white = torch.linalg.solve_triangular(self.factor.mT, rows, upper=True, left=False)
        size = max(1, _PAIRS // len(self.points))
        rate = 0.5 / self.bandwidth.square()
        sums = [
            log_bumps(squared_distances(chunk, self.points), rate) for chunk in white.split(size)
        ]
        return torch.cat(sums).reshape(x.shape[:-1]) - self._log_norm()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw n points: one of the data each, and noise of the kernel's shape."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """``sample`` with a graph."""
        check_count("n", n)
        check_generator(generator)
        points, device = self.points, self.points.device
        source = device if generator is None else generator.device
        which = torch.randint(len(points), (n,), generator=generator, device=source)
        size = (n, points.shape[1])
        noise = draw(torch.randn, size, generator, dtype=points.dtype, device=device)
        white = points[which.to(device)] + self.bandwidth * noise
        return self.mean + white @ self.factor.mT

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, " n"]]:
        """Draw n points and return them with their log-densities."""
        x = self.rsample(n, generator)
        return x, self.log_prob(x)

    def _log_norm(self) -> Tensor:
        n, dim = self.points.shape
        scale = dim * (self.bandwidth.log() + LOG_TAU / 2) + math.log(n)
        return self.factor.diagonal().log().sum() + scale


def squared_distances(
    a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]
) -> Float[Tensor, "rows columns"]:
    r"""Pairwise :math:`\|a_i-b_j\|^2` from differences, exact where a product would cancel.

    Args:
        a: points of the first set.
        b: points of the second set.

    Returns:
        The table of squared distances.

    >>> import torch
    >>> from nodes_tutorial.flows.kde import squared_distances
    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def log_bumps(
    square: Float[Tensor, "rows n"], rate: Float[Tensor, ""] | Float[Tensor, "m 1 1"]
) -> Float[Tensor, "*m rows"]:
    r"""Row by row :math:`\log\sum_j e^{-r D_{ij}}`, faster than ``logsumexp`` and as exact.

    The smallest entry of a row is taken out, so that one term is 1. Terms below :math:`e^{-60}`
    are lost in rounding; they are cut there, because numbers that underflow are slow.

    Args:
        square: squared distances D.
        rate: r, one or several.

    Returns:
        The logarithms.

    >>> import torch
    >>> from nodes_tutorial.flows.kde import log_bumps
    >>> log_bumps(torch.tensor([[0.0, 0.0]]), torch.tensor(1.0))
    tensor([0.6931])
    """
    nearest = square.amin(-1, keepdim=True)
    bumps = ((nearest - square) * rate).clamp(min=-60.0).exp().sum(-1)
    return bumps.log() - (nearest * rate).squeeze(-1)


def loo_log_likelihood(
    x: Float[Tensor, "n dim"], bandwidths: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    r"""Mean leave-one-out log-likelihood of n points, for m bandwidths at once.

    .. math:: \ell(h) = \frac1n\sum_i \log\frac1{n-1}\sum_{j\ne i} N(x_i;\ x_j,\ h^2I)

    Args:
        x: the points, one a row.
        bandwidths: the candidates h.

    Returns:
        :math:`\ell(h)` for each candidate, in nats.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: fewer than two points, or a candidate that is not positive.

    Chapter: prop-density-loo

    References: Habbema, Hermans and van den Broek (1974); Silverman (1986), section 3.4.4.

    >>> import torch
    >>> from nodes_tutorial.flows import loo_log_likelihood
    >>> loo_log_likelihood(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0]))
    tensor([-1.4189])
    """
    check_points("x", x)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x must be two points or more, got shape {tuple(x.shape)}")
    if not (bandwidths > 0).all():
        raise ValueError(f"bandwidths must be positive, got {bandwidths.tolist()}")
    n, dim = x.shape
    total = torch.zeros_like(bandwidths)
    size = max(1, _PAIRS // (n * len(bandwidths)))
    rates = 0.5 / bandwidths.square()
    for start in range(0, n, size):
        rows = torch.arange(start, min(start + size, n), device=x.device)
        square = squared_distances(x[rows], x)
        square[rows - start, rows] = math.inf
        total = total + log_bumps(square, rates[:, None, None]).sum(-1)
    return total / n - math.log(n - 1) - dim * (bandwidths.log() + LOG_TAU / 2)


def select_bandwidth(x: Float[Tensor, "n dim"]) -> float:
    r"""The bandwidth with the largest leave-one-out log-likelihood.

    Five candidates, each twice the one before, around half of Scott's bandwidth move until their
    best is inside. They are then drawn together around it twice, to a third of their spacing in
    :math:`\log h`, and the vertex of the parabola through the best three is taken.

    Args:
        x: the points, scaled so that their covariance is about the identity.

    Returns:
        The bandwidth.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: fewer than two points, one that is not finite, or a likelihood that grows
            without end as h goes to 0, as it does when every point is repeated.

    Chapter: prop-density-loo

    References: Silverman (1986), section 3.4.4.

    >>> import torch
    >>> from nodes_tutorial.flows import select_bandwidth
    >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    >>> 0.1 < select_bandwidth(x) < 0.8
    True
    """
    check_points("x", x)
    if x.ndim != 2 or len(x) < 2 or not x.isfinite().all():
        raise ValueError(f"x must be two finite points or more, got shape {tuple(x.shape)}")
    n, dim = x.shape
    center, spacing, refinements = -math.log(n) / (dim + 4) - math.log(2), math.log(2), 2
    steps = torch.arange(_CANDIDATES, dtype=x.dtype, device=x.device) - _CANDIDATES // 2
    while True:
        scores = loo_log_likelihood(x, (center + spacing * steps).exp())
        best = int(scores.argmax())
        center += spacing * float(steps[best])
        if center < math.log(1e-6):
            raise ValueError("x must not repeat every point: then no bandwidth is best")
        if 0 < best < _CANDIDATES - 1:
            if refinements == 0:
                low, top, high = scores[best - 1 : best + 2].tolist()
                bend = low - 2 * top + high
                return math.exp(center + (spacing * (low - high) / (2 * bend) if bend else 0.0))
            refinements, spacing = refinements - 1, spacing / 3


def _bandwidth(rule: str | float, points: Tensor) -> float:
    n, dim = points.shape
    if rule == "scott":
        return n ** (-1 / (dim + 4))
    if rule == "silverman":
        return (n * (dim + 2) / 4) ** (-1 / (dim + 4))
    if rule == "cv":
        return select_bandwidth(points)
    wanted = "'scott', 'silverman', 'cv' or a positive number"
    if isinstance(rule, str):
        raise ValueError(f"bandwidth must be {wanted}, got {rule!r}")
    return check_number("bandwidth", rule, wanted, lambda h: 0 < h < math.inf)
