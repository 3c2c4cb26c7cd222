"""Labelled points in the plane: the three problems on which stable networks are tried.

Each is drawn as in the authors' own programs, which differ in places from their text.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Labelled = tuple[Tensor, Tensor]


def ellipses(
    n: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    r"""Two nested ellipses: no straight line separates them.

    The radius is uniform on [0, 1] inside and on [1, 2] outside, the angle uniform, and the
    second coordinate is scaled by 0.4. The classes touch but do not overlap.

    Args:
        n: number of points; they alternate between the classes.
        generator: source of the numbers; None means PyTorch's global one.
        dtype: dtype of the points.

    Returns:
        Points and labels, 0 inside.

    Raises:
        ValueError: ``n`` below 1.

    References: Haber and Ruthotto (2018), section 6.1.

    >>> import torch
    >>> from nodes_tutorial.data.labelled2d import ellipses
    >>> x, label = ellipses(6, torch.Generator().manual_seed(0))
    >>> label.tolist(), bool(((x / torch.tensor([1.0, 0.4])).norm(dim=1) >= 1).eq(label == 1).all())
    ([0, 1, 0, 1, 0, 1], True)
    """
    _check(n)
    kind = {"generator": generator, "dtype": dtype, "device": _device(generator)}
    label = torch.arange(n, device=kind["device"]) % 2
    radius, turn = torch.rand(n, **kind) + label, torch.rand(n, **kind) * math.tau
    return torch.stack([radius * turn.cos(), 0.4 * radius * turn.sin()], -1), label


def swissroll(
    per_class: int = 513, *, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "points 2"], Int[Tensor, " points"]]:
    r"""Two interleaved spirals, without noise.

    At the same angles, from 0 to :math:`4\pi`, one has radius r and the other r + 0.2, with r
    from 0 to 1. Odd points are usually kept for training and even ones for validation.

    Args:
        per_class: points of each spiral.
        dtype: dtype of the points.

    Returns:
        Points and labels; the two points of an angle follow one another.

    Raises:
        ValueError: ``per_class`` below 1.

    References: Haber and Ruthotto (2018), section 6.2.

    >>> from nodes_tutorial.data.labelled2d import swissroll
    >>> x, label = swissroll()
    >>> x.shape, round(x[1].norm().item(), 4)
    (torch.Size([1026, 2]), 0.2)
    """
    _check(per_class, "per_class")
    r = torch.linspace(0, 1, per_class, dtype=dtype)
    turn = 4 * math.pi * r
    unit = torch.stack([turn.cos(), turn.sin()], -1)
    x = torch.stack([r[:, None] * unit, (r[:, None] + 0.2) * unit], 1)
    return x.reshape(-1, 2), torch.arange(2).repeat(per_class)


def peaks_surface(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    r"""The surface with three hills and three hollows.

    .. math:: 3(1-u)^2 e^{-u^2-(v+1)^2} - 10(\tfrac u5 - u^3 - v^5) e^{-u^2-v^2}
              - \tfrac13 e^{-(u+1)^2-v^2}

    Args:
        x: points (u, v) of the plane.

    Returns:
        The height at each point.

    >>> import torch
    >>> from nodes_tutorial.data.labelled2d import peaks_surface
    >>> peaks_surface(torch.zeros(2)).round(decimals=4)
    tensor(0.9810)
    """
    u, v = x.unbind(-1)
    first = 3 * (1 - u) ** 2 * torch.exp(-(u**2) - (v + 1) ** 2)
    second = 10 * (u / 5 - u**3 - v**5) * torch.exp(-(u**2) - v**2)
    return first - second - torch.exp(-((u + 1) ** 2) - v**2) / 3


def peaks(
    per_class: int = 1000,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "points 2"], Int[Tensor, " points"]]:
    """Five level classes of ``peaks_surface`` on a 256×256 grid over [-3, 3]².

    The range of heights is cut into five equal parts; the grid points of each are drawn from
    without repetition, equally many of each class.

    Args:
        per_class: points of each class.
        generator: source of the numbers; None means PyTorch's global one.
        dtype: dtype of the points.

    Returns:
        Points in random order, and labels 0 … 4 from low to high.

    Raises:
        ValueError: ``per_class`` below 1, or more than the smallest class has.

    References: Haber and Ruthotto (2018), section 6.3.

    >>> import torch
    >>> from nodes_tutorial.data.labelled2d import peaks
    >>> x, label = peaks(10, torch.Generator().manual_seed(0))
    >>> x.shape, label.bincount().tolist()
    (torch.Size([50, 2]), [10, 10, 10, 10, 10])
    """
    _check(per_class, "per_class")
    side = torch.linspace(-3, 3, 256, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    height = peaks_surface(grid)
    level = (height - height.min()) / (height.max() - height.min())
    classes = (5 * level).long().clamp(max=4)
    least = int(classes.bincount().min())
    if per_class > least:
        raise ValueError(f"per_class must be at most {least}, got {per_class}")
    device = _device(generator)
    order = torch.randperm(len(grid), generator=generator, device=device).cpu()
    chosen = torch.cat([order[classes[order] == c][:per_class] for c in range(5)])
    chosen = chosen[torch.randperm(len(chosen), generator=generator, device=device).cpu()]
    return grid[chosen].to(dtype).to(device), classes[chosen].to(device)


def pad(x: Float[Tensor, "points n"], dim: int) -> Float[Tensor, "points {dim}"]:
    """Append features that are zero.

    Args:
        x: points, one a row.
        dim: number of features of the result.

    Returns:
        The points with ``dim`` features; the new ones are 0.

    Raises:
        ValueError: ``x`` has more features than ``dim``.

    >>> import torch
    >>> from nodes_tutorial.data.labelled2d import pad
    >>> pad(torch.ones(1, 2), 4)
    tensor([[1., 1., 0., 0.]])
    """
    extra = dim - x.shape[-1]
    if extra < 0:
        raise ValueError(f"dim must be at least {x.shape[-1]}, got {dim}")
    return torch.cat([x, x.new_zeros(len(x), extra)], -1)


def _check(n: int, name: str = "n") -> None:
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device
