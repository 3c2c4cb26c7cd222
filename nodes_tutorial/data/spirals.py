"""Spirals: one orbit of a cubic field, and noisy clockwise and anticlockwise curves."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# The orbit of the cubic field from (2, 0), computed once with DOP853 at tolerance 1e-13.
CUBIC_STATES: dict[float, tuple[float, float]] = {
    1.0: (0.70926174, -1.50410846),
    5.0: (-0.26301284, 0.93024594),
    10.0: (0.47236622, 0.66072726),
    25.0: (-0.44362349, 0.27944064),
}


def cubic_field(
    t: Float[Tensor, "*times"], y: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 2"]:
    r"""The spiral that a field network learns: :math:`\dot y = A^\top y^3`, cube elementwise.

    Here :math:`A^\top = \begin{pmatrix} -0.1 & -2 \\ 2 & -0.1 \end{pmatrix}` acts on columns,
    as rows :math:`y^3 A` with the matrix printed by the demonstration that made it known.

    Args:
        t: ignored: the field is autonomous.
        y: states in the plane, one a row.

    Returns:
        dy/dt.

    References: torchdiffeq, ``examples/ode_demo.py``.

    >>> import torch
    >>> from nodes_tutorial.data.spirals import cubic_field
    >>> cubic_field(torch.tensor(0.0), torch.tensor([2.0, 0.0]))
    tensor([-0.8000, 16.0000])
    """
    a = y.new_tensor([[-0.1, 2.0], [-2.0, -0.1]])
    return y**3 @ a


def archimedean(
    n: int,
    generator: torch.Generator | None = None,
    *,
    points: int = 100,
    noise: float = 0.3,
    total: int = 500,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n points 2"], Float[Tensor, "n total 2"], Float[Tensor, " points"]]:
    r"""Noisy pieces of spirals, half of them clockwise.

    The anticlockwise curve has radius :math:`0.3\,\theta` for :math:`\theta \in [0, 6\pi]`, the
    clockwise one radius :math:`15/(6\pi + 1 - \theta)` and the angle of the reversed time.
    Each piece starts at a random step that leaves room for all its points.

    Args:
        n: number of curves.
        generator: source of the numbers; None means PyTorch's global one.
        points: consecutive observations of a curve.
        noise: standard deviation of the observations.
        total: steps of a whole curve.
        dtype: dtype of all results.

    Returns:
        Observations, noiseless whole curves, and the times of the observations.

    Raises:
        ValueError: ``n`` below 1, or ``points`` more than ``total``.

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 5.1; torchdiffeq,
        ``examples/latent_ode.py``.

    >>> import torch
    >>> from nodes_tutorial.data.spirals import archimedean
    >>> seen, whole, times = archimedean(4, torch.Generator().manual_seed(0))
    >>> seen.shape, whole.shape, times.shape
    (torch.Size([4, 100, 2]), torch.Size([4, 500, 2]), torch.Size([100]))
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 1 <= points <= total:
        raise ValueError(f"points must be between 1 and total = {total}, got {points}")
    device = None if generator is None else generator.device
    kind = {"dtype": dtype, "device": device}
    stop, slope = 6 * math.pi, 0.3
    theta = torch.linspace(0, stop, total, **kind)
    outward = _polar(slope * theta, theta)
    inward = _polar(slope * 50 / (stop + 1 - theta), theta).flip(0)
    clockwise = torch.rand(n, generator=generator, **kind) < 0.5
    whole = torch.where(clockwise[:, None, None], inward, outward)
    start = torch.randint(total - points + 1, (n, 1), generator=generator, device=device)
    steps = start + torch.arange(points, device=device)
    seen = whole.gather(1, steps[..., None].expand(-1, -1, 2))
    seen = seen + noise * torch.randn(seen.shape, generator=generator, **kind)
    return seen, whole, theta[:points]


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
