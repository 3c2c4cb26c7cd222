"""Toy distributions in the plane, with the best log-likelihood that a model of them can reach.

The shapes are those of the FFJORD experiments at their final scale; every sampler draws from an
explicit generator, and angles are random rather than evenly spaced.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Differential entropy in nats: no model has a smaller expected negative log-likelihood.
# swissroll, pinwheel and 2spirals have no closed-form density and are left out.
ENTROPY: dict[str, float] = {
    "8gaussians": 2.8319,
    "checkerboard": math.log(32),
    "circles": 3.2681,
    "rings": 2.6232,
    "moons": 2.3939,
}

_RING_RADII = {"circles": (3.0, 1.5), "rings": (3.0, 2.25, 1.5, 0.75)}
_RING_NOISE = {"circles": 0.24, "rings": 0.08}


def sample(
    name: str,
    n: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n 2"]:
    """Draw independent points from one of the toy distributions.

    Args:
        name: a key of ``GENERATORS``.
        n: number of points.
        generator: source of the numbers; None means PyTorch's global one.
        dtype: dtype of the points.
        device: device of the points; by default where ``generator`` lives.

    Returns:
        The points, in random order.

    Raises:
        ValueError: unknown ``name`` or ``n`` below 1.

    References: Grathwohl et al. (2019), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.data.toy2d import sample
    >>> sample("moons", 5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """
    if name not in GENERATORS:
        raise ValueError(f"name must be one of {sorted(GENERATORS)}, got {name!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    source = device if generator is None else generator.device
    draw = _Draw(n, {"generator": generator, "dtype": dtype, "device": source})
    return GENERATORS[name](draw).to(device or source)


def log_prob(name: str, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    r"""Log-density in nats, for the names in ``ENTROPY``.

    The mean of ``-log_prob`` over samples estimates the entropy floor. Rings use
    :math:`p(x) = \frac1K \sum_r \frac{1}{2\pi\sigma^2}
    e^{-(\|x\|^2 + r^2)/2\sigma^2} I_0(\|x\| r/\sigma^2)`;
    moons average the Gaussian along both arcs with 500 midpoints.

    Args:
        name: a key of ``ENTROPY``.
        x: points in the plane.

    Returns:
        The log-density; minus infinity outside the checkerboard.

    Raises:
        ValueError: no density is known for ``name``.

    >>> import torch
    >>> from nodes_tutorial.data.toy2d import log_prob
    >>> log_prob("checkerboard", torch.tensor([[0.5, 0.5], [0.5, 2.5]])).exp()
    tensor([0.0312, 0.0000])
    """
    if name == "8gaussians":
        spread = 0.5 / 1.414
        gap = torch.cdist(x, _corners(x)).pow(2) / (2 * spread**2)
        return (-gap).logsumexp(-1) - math.log(8 * math.tau * spread**2)
    if name == "checkerboard":
        inside = (x.abs() <= 4).all(-1) & ((x / 2).floor().sum(-1) % 2 == 0)
        return torch.where(inside, -math.log(32), -math.inf).to(x.dtype)
    if name in _RING_RADII:
        radius = x.new_tensor(_RING_RADII[name])
        variance = _RING_NOISE[name] ** 2
        norm = x.norm(dim=-1, keepdim=True)
        bessel = torch.special.i0e(norm * radius / variance).log()
        terms = bessel - (norm - radius).pow(2) / (2 * variance)
        return terms.logsumexp(-1) - math.log(len(radius) * math.tau * variance)
    if name == "moons":
        angle = (torch.arange(500, dtype=x.dtype, device=x.device) + 0.5) * (math.pi / 500)
        gap = torch.cdist(x, _arcs(angle)).pow(2) / (2 * 0.2**2)
        return (-gap).logsumexp(-1) - math.log(1000 * math.tau * 0.2**2)
    raise ValueError(f"name must be one of {sorted(ENTROPY)}, got {name!r}")


class _Draw:
    """n numbers of a kind at a time."""

    def __init__(self, n: int, kind: dict) -> None:
        self.n, self.kind = n, kind

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, **self.kind)

    def normal(self) -> Tensor:
        return torch.randn(self.n, 2, **self.kind)

    def integer(self, high: int) -> Tensor:
        kind = {**self.kind, "dtype": torch.long}
        return torch.randint(high, (self.n,), **kind)


def _corners(like: Tensor) -> Tensor:
    angle = torch.arange(8, dtype=like.dtype, device=like.device) * (math.tau / 8)
    return torch.stack([angle.cos(), angle.sin()], -1) * (4 / 1.414)


def _arcs(angle: Tensor) -> Tensor:
    """The two moons' centre lines at the same angles, upper arc first."""
    upper = torch.stack([2 * angle.cos() - 1, 2 * angle.sin() - 0.2], -1)
    lower = torch.stack([1 - 2 * angle.cos(), 0.8 - 2 * angle.sin()], -1)
    return torch.cat([upper, lower])


def _eight_gaussians(draw: _Draw) -> Tensor:
    noise = draw.normal() * (0.5 / 1.414)
    return noise + _corners(noise)[draw.integer(8)]


def _checkerboard(draw: _Draw) -> Tensor:
    x = draw.uniform() * 8 - 4
    row = draw.integer(2) * 2 + (x / 2).floor() % 2
    return torch.stack([x, draw.uniform() * 2 + 2 * row - 4], -1)


def _rings(name: str) -> Callable[[_Draw], Tensor]:
    def generate(draw: _Draw) -> Tensor:
        noise, angle = draw.normal() * _RING_NOISE[name], draw.uniform() * math.tau
        radius = noise.new_tensor(_RING_RADII[name])[draw.integer(len(_RING_RADII[name]))]
        return noise + radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)

    return generate


def _moons(draw: _Draw) -> Tensor:
    arcs = _arcs(draw.uniform() * math.pi).view(2, draw.n, 2)
    upper = draw.integer(2).bool()[:, None]
    return torch.where(upper, arcs[0], arcs[1]) + 0.2 * draw.normal()


def _swissroll(draw: _Draw) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * draw.uniform())
    roll = angle[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    return (roll + draw.normal()) / 5


def _pinwheel(draw: _Draw) -> Tensor:
    along, across = (draw.normal() * torch.tensor([0.3, 0.1], **_plain(draw))).unbind(-1)
    along = along + 1
    angle = draw.integer(5) * (math.tau / 5) + 0.25 * along.exp()
    x = along * angle.cos() + across * angle.sin()
    return 2 * torch.stack([x, across * angle.cos() - along * angle.sin()], -1)


def _two_spirals(draw: _Draw) -> Tensor:
    angle = draw.uniform().sqrt() * 3 * math.pi
    arm = torch.stack([-angle.cos() * angle, angle.sin() * angle], -1) + 0.5 * draw.uniform(2)
    sign = 1 - 2 * draw.integer(2)[:, None]
    return sign * arm / 3 + 0.1 * draw.normal()


def _plain(draw: _Draw) -> dict:
    return {key: draw.kind[key] for key in ("dtype", "device")}


GENERATORS: dict[str, Callable[[_Draw], Tensor]] = {
    "8gaussians": _eight_gaussians,
    "checkerboard": _checkerboard,
    "circles": _rings("circles"),
    "rings": _rings("rings"),
    "moons": _moons,
    "swissroll": _swissroll,
    "pinwheel": _pinwheel,
    "2spirals": _two_spirals,
}
