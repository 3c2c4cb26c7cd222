"""Pictures of a shape drawn by a formula, one for every combination of its factors."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nodes_tutorial.checks import check_count

FACTORS = ("x", "y", "scale", "angle")
CENTRES = (0.3, 0.7)  # range of a coordinate of the centre; the side of the picture is 1
HALF_AXES = (0.12, 0.24)  # range of the longer half-axis; the shorter one is half of it
CHUNK = 512  # pictures that are drawn at once, to bound the memory


def ellipses(
    size: int = 16,
    counts: tuple[int, int, int, int] = (12, 12, 4, 6),
    *,
    supersample: int = 4,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Float[Tensor, "n size size"], Int[Tensor, "n 4"]]:
    r"""All pictures of an ellipse with an axis ratio of two, white on black.

    A fine pixel at :math:`(x, y)` is white where :math:`u^2/a^2 + 4v^2/a^2 < 1`, with u and v the
    coordinates of :math:`(x, y) - (c_x, c_y)` in a frame turned by the angle. A pixel is the mean
    of its fine pixels, so it lies in [0, 1]. Angles run evenly over half a turn: after that an
    ellipse is the same again.

    Args:
        size: pixels of a side.
        counts: how many values ``x``, ``y``, ``scale`` and ``angle`` have.
        supersample: fine pixels along the side of a pixel.
        dtype: dtype of the pictures.
        device: device of both results.

    Returns:
        The pictures, and for each the indices of its four factors, in the order of ``FACTORS``.
        The last factor changes fastest.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number below 1, or not four of them in ``counts``.

    Chapter: def-vae-loss

    References: Matthey, Higgins, Hassabis and Lerchner (2017), dSprites; rendered anew.

    >>> from nodes_tutorial.data.shapes import ellipses
    >>> pictures, factors = ellipses(counts=(3, 3, 2, 1))
    >>> pictures.shape, factors[-1].tolist()
    (torch.Size([18, 16, 16]), [2, 2, 1, 0])
    """
    check_count("size", size, least=1)
    check_count("supersample", supersample, least=1)
    if len(counts) != len(FACTORS):
        raise ValueError(f"counts must be four numbers, got {len(counts)}")
    for count in counts:
        check_count("counts", count, least=1)
    kind = {"dtype": dtype, "device": device}
    across, down, scales, _ = counts
    side = (torch.arange(supersample * size, **kind) + 0.5) / (supersample * size)
    values = (
        torch.linspace(*CENTRES, across, **kind),
        torch.linspace(*CENTRES, down, **kind),
        torch.linspace(*HALF_AXES, scales, **kind),
        torch.arange(counts[3], **kind) * (math.pi / counts[3]),
    )
    factors = torch.cartesian_prod(*[torch.arange(count, device=device) for count in counts])
    pictures = []
    for chunk in factors.split(CHUNK):
        cx, cy, axis, angle = (
            value[index][:, None, None] for value, index in zip(values, chunk.T, strict=True)
        )
        dx, dy = side - cx, side[:, None] - cy
        along = (angle.cos() * dx + angle.sin() * dy) / axis
        beside = (angle.cos() * dy - angle.sin() * dx) / (axis / 2)
        fine = (along.square() + beside.square() < 1).to(dtype)
        pictures.append(avg_pool2d(fine[:, None], supersample)[:, 0])
    return torch.cat(pictures), factors
