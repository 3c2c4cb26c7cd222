"""Two toys of irregular series: sinusoids and spirals."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.data.series import Series, collate, compact, observe

__all__ = [
    "FRACTIONS",
    "VARIANTS",
    "Series",
    "collate",
    "compact",
    "observe",
    "periodic",
    "spirals",
]

FRACTIONS = (0.1, 0.2, 0.3, 0.5)  # shares of observed times in the published tables
VARIANTS = ("code", "paper")


def periodic(
    n: int,
    generator: torch.Generator | None = None,
    *,
    variant: str = "code",
    points: int = 100,
    span: float = 5.0,
    noise: float = 0.01,
    dtype: torch.dtype = torch.float32,
) -> tuple[Series, Float[Tensor, "n points 1"]]:
    r"""Sinusoids :math:`x(t) = c + \sin(2\pi\nu t)` at irregular times, which all series share.

    =======================  =========================  ====================
    what                     ``"code"``                 ``"paper"``
    =======================  =========================  ====================
    frequency :math:`\nu`    uniform on [0.4, 0.8]      uniform on [0.5, 1]
    offset c                 normal, mean 1, sd 0.1     standard normal
    noise                    uniform on [0, ``noise``)  normal, sd ``noise``
    noise at the first time  none                       as elsewhere
    =======================  =========================  ====================

    In both the amplitude is 1 and the first time 0.

    Args:
        n: number of series.
        generator: source of the numbers; None means PyTorch's global one.
        variant: ``"code"``, as the authors' program draws them, or ``"paper"``, as the text says.
        points: times on [0, ``span``], the first of them 0.
        span: length of the interval.
        noise: scale of the noise.
        dtype: dtype of all results.

    Returns:
        The series, all of it observed, and the values without noise.

    Raises:
        ValueError: unknown ``variant``, ``n`` or ``points`` too small, ``span`` not positive.

    References: Rubanova, Chen and Duvenaud (2019), section 4.1 and supplement; their program
        ``generate_timeseries.py``.

    >>> import torch
    >>> from nodes_tutorial.data.timeseries import periodic
    >>> series, clean = periodic(3, torch.Generator().manual_seed(0))
    >>> series.times.shape, bool((series.values >= clean).all())
    (torch.Size([100]), True)
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    if n < 1 or points < 2:
        raise ValueError(f"n must be at least 1 and points at least 2, got {n} and {points}")
    if not span > 0:
        raise ValueError(f"span must be positive, got {span}")
    kind = {"dtype": dtype, "device": None if generator is None else generator.device}
    inner = span * torch.rand(points - 1, generator=generator, **kind)
    times = torch.cat([inner.new_zeros(1), inner.sort().values])
    frequency = torch.rand(n, 1, generator=generator, **kind)
    offset = torch.randn(n, 1, generator=generator, **kind)
    if variant == "code":
        frequency, offset = 0.4 + 0.4 * frequency, 1 + 0.1 * offset
        error = torch.rand(n, points, generator=generator, **kind)
        error[:, 0] = 0
    else:
        frequency = 0.5 + 0.5 * frequency
        error = torch.randn(n, points, generator=generator, **kind)
    clean = (offset + torch.sin(math.tau * frequency * times)).unsqueeze(-1)
    values = clean + noise * error.unsqueeze(-1)
    return Series(times, values, torch.ones_like(values, dtype=torch.bool)), clean


def spirals(
    n: int,
    generator: torch.Generator | None = None,
    *,
    points: int = 100,
    beyond: int = 100,
    noise: float = 0.3,
    total: int = 500,
    dtype: torch.dtype = torch.float32,
) -> tuple[Series, Float[Tensor, "n times 2"]]:
    r"""Pieces of Archimedean spirals, half of them clockwise, with what comes after each piece.

    The curves are those of ``nodes_tutorial.data.spirals.archimedean``: radius
    :math:`0.3\,\theta` outward, and :math:`15/(6\pi + 1 - \theta)` for the
    clockwise branch. Each piece starts at a random step. To observe it irregularly, use
    ``observe``.

    Args:
        n: number of series.
        generator: source of the numbers; None means PyTorch's global one.
        points: steps of a piece.
        beyond: further steps, to extrapolate to.
        noise: standard deviation of the observations.
        total: steps of a whole curve.
        dtype: dtype of all results.

    Returns:
        The noisy series of ``points + beyond`` steps, all of it observed, its times counted from
        0, and the values without noise.

    Raises:
        ValueError: ``n`` below 1, or more steps wanted than there are.

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 5.1.

    >>> import torch
    >>> from nodes_tutorial.data.timeseries import spirals
    >>> series, clean = spirals(4, torch.Generator().manual_seed(0))
    >>> series.values.shape, clean.shape
    (torch.Size([4, 200, 2]), torch.Size([4, 200, 2]))
    """
    steps = points + beyond
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 2 <= points <= steps <= total:
        raise ValueError(
            f"points >= 2, beyond >= 0 and total >= points + beyond are wanted; "
            f"got {points}, {beyond} and {total}"
        )
    kind = {"dtype": dtype, "device": None if generator is None else generator.device}
    stop = 6 * math.pi
    theta = torch.linspace(0, stop, total, **kind)
    clockwise = torch.rand(n, 1, generator=generator, **kind) < 0.5
    start = torch.randint(total - steps + 1, (n, 1), generator=generator, device=kind["device"])
    place = start + torch.arange(steps, device=kind["device"])
    angle = theta[torch.where(clockwise, total - 1 - place, place)]
    radius = torch.where(clockwise, 15 / (stop + 1 - angle), 0.3 * angle)
    clean = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    values = clean + noise * torch.randn(clean.shape, generator=generator, **kind)
    return Series(theta[:steps], values, torch.ones_like(values, dtype=torch.bool)), clean
