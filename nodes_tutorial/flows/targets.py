"""Densities known up to a constant: four in the plane, a flow's distance, importance weights."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.flows.density import Density

EDGE = 4.0  # the box is [-4, 4] x [-4, 4]


def _ring(z: Tensor) -> Tensor:
    x, radius = z[..., 0], z.norm(dim=-1)
    bumps = [-0.5 * ((x - side) / 0.6) ** 2 for side in (2, -2)]
    return 0.5 * ((radius - 2) / 0.4) ** 2 - torch.logaddexp(*bumps)


def _wave(z: Tensor) -> Tensor:
    return z[..., 1] - torch.sin(math.tau * z[..., 0] / 4)


def _one_wave(z: Tensor) -> Tensor:
    return 0.5 * (_wave(z) / 0.4) ** 2


def _two_waves(z: Tensor) -> Tensor:
    upper, dip = _wave(z), 3 * torch.exp(-0.5 * ((z[..., 0] - 1) / 0.6) ** 2)
    return -torch.logaddexp(-0.5 * (upper / 0.35) ** 2, -0.5 * ((upper + dip) / 0.35) ** 2)


def _split_wave(z: Tensor) -> Tensor:
    upper, drop = _wave(z), 3 * logsigmoid((z[..., 0] - 1) / 0.3).exp()
    return -torch.logaddexp(-0.5 * (upper / 0.4) ** 2, -0.5 * ((upper + drop) / 0.35) ** 2)


ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "U1": _ring,
    "U2": _one_wave,
    "U3": _two_waves,
    "U4": _split_wave,
}


class BoxTarget(nn.Module):
    r"""The density proportional to :math:`e^{-U}` on the box, with thin Gaussian walls around it.

    .. math:: p(z) = \frac1Z \exp\Bigl(-U(\Pi z) - \frac{\|z-\Pi z\|^2}{2\sigma^2}\Bigr)

    :math:`\Pi` moves a point to the nearest one of the box. U2, U3 and U4 are constant or periodic
    along an axis, so :math:`e^{-U}` has no finite integral over the plane: without a box there is
    no density. A flow always has some mass outside, where the density of the box alone is 0 and the
    divergence infinite. The walls make it finite, and change nothing inside: given the box,
    p is the density of the box, and :math:`KL(\text{box}\,\|\,p)=\log(Z/Z_{box})` is known.

    .. math:: Z = \int_{box}e^{-U} + s\oint_{edges}e^{-U} + s^2\sum_{corners}e^{-U},
        \qquad s = \sigma\sqrt{\pi/2}

    Args:
        name: a key of ``ENERGIES``.
        wall: width :math:`\sigma` of the walls; 0 for the density of the box alone.
        dtype: dtype of the constants; None means PyTorch's default.
        device: device of the constants; None means PyTorch's default.

    Attributes:
        log_z: logarithm of the normalizing constant Z.
        log_z_box: logarithm of the constant for the box alone.
        entropy_box: differential entropy of the density of the box alone, in nats.

    Raises:
        TypeError: ``wall`` is not a number; points that are not a floating-point tensor.
        ValueError: unknown ``name`` or a negative ``wall``; points not in the plane.

    Chapter: prop-density-walls

    References: Rezende and Mohamed (2015), table 1.

    >>> from nodes_tutorial.flows import BoxTarget
    >>> target = BoxTarget("U1")
    >>> round(float(target.log_z_box), 4), round(float(target.entropy_box), 4)
    (1.8775, 2.66)
    """

    def __init__(
        self,
        name: str,
        wall: float | int = 0.1,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if name not in ENERGIES:
            raise ValueError(f"name must be one of {sorted(ENERGIES)}, got {name!r}")
        self.name = name
        self.wall = check_number("wall", wall, "0 or more", lambda w: 0 <= w < math.inf)
        values = _integrals(ENERGIES[name], self.wall)
        for key, value in zip(("log_z", "log_z_box", "entropy_box"), values, strict=True):
            dtype = dtype or torch.get_default_dtype()
            self.register_buffer(key, value.to(dtype=dtype, device=device))

    def energy(self, z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """The energy U, and beyond the box that of the walls; shape (\\*batch,)."""
        check_points("z", z, (2,))
        inside = z.clamp(-EDGE, EDGE)
        beyond = (z - inside).square().sum(-1)
        if self.wall == 0:
            beyond = torch.where(beyond > 0, math.inf, 0.0).to(z.dtype)
            return ENERGIES[self.name](inside) + beyond
        return ENERGIES[self.name](inside) + beyond / (2 * self.wall**2)

    def log_prob(self, z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        return -self.energy(z) - self.log_z


def reverse_kl(
    flow: Density, target: BoxTarget, n: int, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    r"""Estimate :math:`KL(q\|p)` from n draws of the flow, with gradients to its parameters.

    .. math:: \frac1n\sum_i \log q(z_i) - \log p(z_i) =
        \underbrace{\frac1n\sum_i\log q(z_i) + U(z_i)}_{\text{free energy}} + \log Z

    It is unbiased, and at least 0 in expectation, but single estimates may be negative. Given the
    box, the flow is no further from the density of the box than :math:`KL(q\|p)/q(\text{box})`.

    Args:
        flow: the density q.
        target: the density p.
        n: number of draws.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The estimate, in nats.

    Raises:
        TypeError: ``n`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``n`` below 1.

    Chapter: prop-density-walls

    References: Rezende and Mohamed (2015), equation 15.

    >>> import torch
    >>> from nodes_tutorial.flows import BoxTarget, reverse_kl
    >>> from nodes_tutorial.flows import StandardNormal
    >>> kl = reverse_kl(StandardNormal(2), BoxTarget("U1"), 1000, torch.Generator().manual_seed(0))
    >>> 3 < float(kl) < 6
    True
    """
    check_count("n", n, least=1)
    z, log_q = flow.rsample_and_log_prob(n, generator)
    return (log_q - target.log_prob(z)).mean()


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


def _integrals(
    energy: Callable[[Tensor], Tensor], wall: float | int
) -> tuple[Tensor, Tensor, Tensor]:
    """log Z with walls, log Z of the box and its entropy, by Gauss-Legendre rules.

    24 nodes in each of 16 panels an axis. The energies are analytic, but for U1 at the origin,
    where its weight is e^-18.
    """
    import numpy as np

    panels, order = 16, 24
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(order))
    half = EDGE / panels
    middle = half * (2 * torch.arange(panels, dtype=torch.float64) + 1) - EDGE
    x = (middle[:, None] + half * node).flatten()
    w = (half * weight).repeat(panels)
    z = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    u = energy(z)
    mass = torch.exp(-u) * w[:, None] * w
    box = mass.sum()
    s = wall * math.sqrt(math.pi / 2)
    ends = torch.tensor([-EDGE, EDGE], dtype=torch.float64)
    sides = torch.stack(torch.meshgrid(ends, x, indexing="ij"), -1)
    edges = ((-energy(sides)).exp() + (-energy(sides.flip(-1))).exp()) @ w
    corners = (-energy(torch.cartesian_prod(ends, ends))).exp().sum()
    total = box + s * edges.sum() + s**2 * corners
    return total.log(), box.log(), box.log() + (mass * u).sum() / box
