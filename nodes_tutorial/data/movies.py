"""Movies whose hidden motion is known: textures that move, and a blob that follows a path."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points, draw


def textures(
    count: int,
    size: int = 64,
    exponent: float | int = 1.0,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "count size size"]:
    r"""Periodic Gaussian textures whose amplitudes fall like :math:`1/\|k\|^{\text{exponent}}`.

    For an even size the highest frequency is left out, because it has no sign: so a texture can
    be moved by fractions of a pixel.

    Args:
        count: how many textures.
        size: pixels of a side.
        exponent: of the frequency; 1 is about that of natural images.
        generator: source of the noise; None means PyTorch's global one.
        dtype: dtype of the pixels; None means PyTorch's default.
        device: where the pixels are; None means where the generator is.

    Returns:
        Textures with mean 0 and variance 1 over their pixels.

    Raises:
        TypeError: a size is not an integer.
        ValueError: ``count`` below 1, or ``size`` below 3.

    References: Field (1987).

    >>> import torch
    >>> from nodes_tutorial.data.movies import textures
    >>> textures(3, 16, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 16, 16])
    """
    check_count("count", count, least=1)
    check_count("size", size, least=3)
    check_number("exponent", exponent, "a number", math.isfinite)
    noise = draw(torch.randn, (count, size, size), generator, dtype=dtype, device=device)
    k = size * torch.fft.fftfreq(size, dtype=noise.dtype, device=noise.device)
    radius = torch.hypot(k[:, None], k)
    signed = (k.abs() < size / 2).to(noise)
    amplitude = radius.clamp_min(1).pow(-float(exponent)) * (radius > 0)
    amplitude = amplitude * signed[:, None] * signed
    found = torch.fft.ifft2(torch.fft.fft2(noise) * amplitude).real
    return found / found.square().mean((-2, -1), keepdim=True).sqrt()


def translate(
    images: Float[Tensor, "*batch size size"], shifts: Float[Tensor, "frames 2"]
) -> Float[Tensor, "*batch frames size size"]:
    """Move periodic images, by fractions of a pixel too: each frequency gets its phase.

    Args:
        images: square images, the first axis down and the second across.
        shifts: pixels down and across, one row for each frame.

    Returns:
        The frames. A shift by whole pixels is a roll.

    Raises:
        TypeError: no floating-point numbers.
        ValueError: ``shifts`` has another number of columns than two.

    >>> import torch
    >>> from nodes_tutorial.data.movies import translate
    >>> translate(torch.eye(3), torch.tensor([[0.0, 1.0]])).round().abs()
    tensor([[[0., 1., 0.],
             [0., 0., 1.],
             [1., 0., 0.]]])
    """
    check_points("images", images)
    check_points("shifts", shifts, (2,), like=images)
    size = images.shape[-1]
    k = torch.fft.fftfreq(size, dtype=images.dtype, device=images.device)
    down, across = (_phases(size, k, shifts[:, axis]) for axis in (0, 1))
    phases = down.unsqueeze(-1) * across.unsqueeze(-2)
    return torch.fft.ifft2(torch.fft.fft2(images).unsqueeze(-3) * phases).real


def _phases(size: int, k: Tensor, shift: Tensor) -> Tensor:
    turns = -2 * math.pi * shift.unsqueeze(-1) * k
    sine = turns.sin()
    if size % 2 == 0:  # the highest frequency is its own opposite: only the cosine is real
        sine = torch.where(torch.arange(size, device=k.device) == size // 2, 0, sine)
    return torch.complex(turns.cos(), sine)


def blobs(
    paths: Float[Tensor, "*batch frames 2"], size: int = 16, width: float | int = 0.07
) -> Float[Tensor, "*batch frames size size"]:
    r"""Draw a bright Gaussian spot at each place of a path.

    Args:
        paths: places in the unit square, the first coordinate down.
        size: pixels of a side.
        width: standard deviation of the spot, in sides of the square.

    Returns:
        The frames, with values from 0 to 1.

    Raises:
        TypeError: ``paths`` holds no floating-point numbers.
        ValueError: another number of coordinates than two, ``size`` below 1, ``width`` not
            positive.

    >>> import torch
    >>> from nodes_tutorial.data.movies import blobs
    >>> blobs(torch.tensor([[0.5, 0.5]]), 3, 0.2).round(decimals=2)[0, 1]
    tensor([0.2500, 1.0000, 0.2500])
    """
    check_points("paths", paths, (2,))
    check_count("size", size, least=1)
    check_number("width", width, "a positive number", lambda w: 0 < w < math.inf)
    grid = (torch.arange(size, dtype=paths.dtype, device=paths.device) + 0.5) / size
    near = (-(grid - paths.unsqueeze(-1)).square() / (2 * width**2)).exp()
    return near[..., 0, :, None] * near[..., 1, None, :]
