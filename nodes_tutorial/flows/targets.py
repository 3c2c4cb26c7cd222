"""Densities known up to a constant: four in the plane, and a flow's distance to one."""

import math
from collections.abc import Callable

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
