"""Flow matching: the field of a continuous flow, learned by regression, without a solver."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_filled, check_number, check_points, draw
from nodes_tutorial.flows.transport import optimal_pairs

COUPLINGS = ("independent", "ot")


def flow_matching_loss(
    field: Callable[[Tensor, Tensor], Tensor],
    x1: Float[Tensor, "n *event"],
    x0: Float[Tensor, "..."] | None = None,
    coupling: str = "independent",
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Squared error of a field against the velocities of random straight lines.

    .. math:: L = \frac1n\sum_i \|f(t_i, (1-t_i)\,x_0^{(i)} + t_i\,x_1^{(i)})
        - (x_1^{(i)} - x_0^{(i)})\|^2, \qquad t_i \sim U[0, 1]

    Its expectation is the error of the field plus a constant that no field can undercut, so its
    value says little about the quality of a fit. The field carries the law of ``x0`` at time 0 to
    that of ``x1`` at time 1: ``Flow(StandardNormal(dim), [CNF(field)])`` samples from it and
    knows its likelihood.

    Args:
        field: ``f(t, x)``; t comes with shape (n, 1, …, 1), one time for each point.
        x1: points of the data, shape (n, \*event).
        x0: noise of the same shape; None draws it from the standard normal law.
        coupling: ``"independent"`` pairs the rows as they are, ``"ot"`` by ``optimal_pairs``,
            exactly and on the host. It is the noise that changes places: row i of x stays on the
            way to row i of ``x1``, so that the field may know more about that row, as its label.
        generator: source of noise and times; None means PyTorch's global one.

    Returns:
        The loss, summed over the entries of a point and averaged over the batch.

    Raises:
        TypeError: ``x1`` or ``x0`` is not a floating-point tensor, or ``generator`` is not a
            generator.
        ValueError: unknown ``coupling``, no points, samples of different shapes, or a field that
            does not keep the shape.

    Chapter: thm-matching-gradient

    References: Lipman et al. (2023); Tong et al. (2024).

    >>> import torch
    >>> from nodes_tutorial.flows import flow_matching_loss
    >>> data = torch.full((4, 2), 3.0)
    >>> flow_matching_loss(lambda t, x: (3 - x) / (1 - t), data).item() < 1e-6  # one data point
    True
    """
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling must be one of {COUPLINGS}, got {coupling!r}")
    check_points("x1", x1)
    check_filled("x1", x1)
    if x0 is None:
        x0 = draw(torch.randn, x1.shape, generator, dtype=x1.dtype, device=x1.device)
    check_points("x0", x0, like=x1)
    if x0.shape != x1.shape:
        raise ValueError(f"x0 must have the shape of x1, {tuple(x1.shape)}, got {tuple(x0.shape)}")
    if coupling == "ot":
        x0 = x0[optimal_pairs(x1, x0)]
    return _loss_on_lines(field, x0, x1, generator)


def _loss_on_lines(
    field: Callable, x0: Tensor, x1: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Mean squared error of the field at random times on the lines from x0 to x1."""
    size = (len(x1), *[1] * (x1.ndim - 1))
    t = draw(torch.rand, size, generator, dtype=x1.dtype, device=x1.device)
    velocity = x1 - x0
    guess = field(t, x0 + t * velocity)
    if guess.shape != x1.shape:
        raise ValueError(
            f"field must return the shape of x1, {tuple(x1.shape)}, got {tuple(guess.shape)}"
        )
    return (guess - velocity).square().flatten(1).sum(-1).mean()


def checkerboard_floor(side: float, *, nodes: int = 24, cells: int = 240) -> float:
    r"""The least matching loss per entry, for a checkerboard of four by four squares.

    Given one square, the noise on the lines through a point is a pair of independent truncated
    normals, whose moments are known. So

    .. math:: F = \int_0^1 t^{-2}\,E\operatorname{tr}\operatorname{Cov}(x_0 \mid x_t)\,dt

    is an integral over times and a grid of the plane. Noise and data are independent.

    Args:
        side: length of the side of a square; the board lies around the origin.
        nodes: times of Gauss's rule.
        cells: cells of the grid along each axis.

    Returns:
        Half of the loss that no field on the plane can undercut.

    Raises:
        TypeError: ``side``, ``nodes`` or ``cells`` is no number.
        ValueError: ``side`` is not positive and finite, or ``nodes`` or ``cells`` below 1.

    Chapter: prop-matching-floor

    >>> from nodes_tutorial.flows.matching import checkerboard_floor
    >>> round(checkerboard_floor(1 / 0.45), 2)
    3.75
    """
    side = check_number("side", side, "a positive number", lambda side: 0 < side < math.inf)
    nodes = check_count("nodes", nodes, 1)
    cells = check_count("cells", cells, 1)
    times, weights = np.polynomial.legendre.leggauss(nodes)
    t = torch.from_numpy((times + 1) / 2)[:, None, None]
    weight = torch.from_numpy(weights / 2)
    left = side * torch.arange(-2, 2, dtype=torch.float64)[:, None]
    edge = 2 * side * t + 6 * (1 - t)
    x = edge * ((torch.arange(cells, dtype=torch.float64) + 0.5) * 2 / cells - 1)
    low, high = (x - t * (left + side)) / (1 - t), (x - t * left) / (1 - t)

    def bell(z: Tensor) -> Tensor:
        return torch.exp(-(z**2) / 2) / math.sqrt(math.tau)

    m0 = torch.special.ndtr(high) - torch.special.ndtr(low)
    m1 = bell(low) - bell(high)
    m2 = m0 + low * bell(low) - high * bell(high)
    board = ((torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0).to(m0) / 8

    def joint(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("tix,ij,tjy->txy", a, board, b) / (side * t) ** 2

    p = joint(m0, m0)
    squared_mean = (joint(m1, m0) ** 2 + joint(m0, m1) ** 2) / p
    spread = joint(m2, m0) + joint(m0, m2) - squared_mean
    inside = torch.where(p > 1e-14, spread, 0.0).sum((1, 2))
    return float((weight * inside * (2 * edge / cells / t).flatten() ** 2).sum() / 2)


class PosteriorVelocity(nn.Module):
    r"""The field that minimizes the matching loss, for data :math:`x_1 = y + \sigma\varepsilon`.

    With y one of the centers, noise :math:`x_0 \sim N(0, I)` independent of
    :math:`\varepsilon \sim N(0, I)` and of y, and :math:`a_t = (1-t)^2 + t^2\sigma^2`,

    .. math:: v^*(t, x) = \frac{t\sigma^2 - (1-t)}{a_t}\,x + \frac{1-t}{a_t}\,E[y \mid x_t = x],

    where the posterior weight of a center is proportional to
    :math:`w\,e^{-\|x - ty\|^2/2a_t}`. It is exact for a mixture of Gaussians and for an
    empirical distribution (:math:`\sigma = 0`); with samples of a law for centers it is a
    Monte-Carlo estimate of that law's field. Time and memory are proportional to
    points times centers.

    Args:
        centers: the values of y.
        sd: σ. With σ = 0 the field has no value at t = 1: solve up to a smaller time.
        weights: probabilities of the centers, up to a factor; None means equal ones.

    Raises:
        TypeError: ``centers`` is not a floating-point tensor, or ``sd`` no number.
        ValueError: no centers, ``sd`` negative, or ``weights`` that are not positive and finite,
            one for each center.

    Chapter: lem-matching-posterior

    References: Lipman et al. (2023).

    >>> import torch
    >>> from nodes_tutorial.flows import PosteriorVelocity
    >>> field = PosteriorVelocity(torch.tensor([[2.0, 0.0]]))
    >>> field(torch.tensor(0.5), torch.zeros(1, 2))  # straight at the only center
    tensor([[4., 0.]])
    """

    centers: Tensor
    log_weights: Tensor

    def __init__(
        self,
        centers: Float[Tensor, "centers dim"],
        sd: float | int = 0.0,
        weights: Float[Tensor, "..."] | None = None,
    ) -> None:
        super().__init__()
        check_points("centers", centers)
        if centers.ndim != 2 or len(centers) == 0:
            raise ValueError(f"centers must be rows, one or more, got {tuple(centers.shape)}")
        self.sd = check_number("sd", sd, "at least 0", lambda sd: 0 <= sd < math.inf)
        if weights is None:
            weights = centers.new_ones(len(centers))
        if weights.shape != (len(centers),) or not (weights > 0).all() or weights.isinf().any():
            raise ValueError("weights must be positive and finite, one for each of the centers")
        self.register_buffer("centers", centers)
        self.register_buffer("log_weights", weights.log())

    def posterior_mean(
        self, t: Float[Tensor, "*times"], x: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        r"""The mean of the center, :math:`E[y \mid x_t = x]`."""
        t = t.to(x.dtype)
        half = 0.5 * self.centers.square().sum(-1)
        scores = (t * (x @ self.centers.mT) - t**2 * half) / self.variance(t)
        return torch.softmax(scores + self.log_weights, -1) @ self.centers

    def variance(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        r"""The variance :math:`a_t` of one entry of :math:`x_t` given the center."""
        return (1 - t) ** 2 + (t * self.sd) ** 2

    def forward(
        self, t: Float[Tensor, "*times"], x: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """The velocity at time t, 0-d or one time for each point with shape (batch, 1)."""
        t = t.to(x.dtype)
        pull = (t * self.sd**2 - (1 - t)) * x + (1 - t) * self.posterior_mean(t, x)
        return pull / self.variance(t)
