"""A small model of early vision: center-surround cells, and energies of oriented filters."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from nodes_tutorial.checks import check_count, check_points

CENTER, SURROUND, POOL = 1.0, 2.0, 4.0  # widths of Gaussian windows, in pixels
FLOOR = 0.1  # of local luminance and contrast, below which there is little gain


def center_surround(
    images: Float[Tensor, "*batch size size"],
) -> Float[Tensor, "*batch channels size size"]:
    r"""Responses of cells that compare a spot with its surround, each scaled by its neighbourhood.

    A difference of two Gaussian windows is divided by the local mean (luminance) and then by its
    own local root mean square (contrast); softplus of both signs gives on- and off-cells.

    Args:
        images: square periodic images with values that are not negative.

    Returns:
        Two channels, on and off.

    Raises:
        TypeError: ``images`` holds no floating-point numbers.

    Chapter: def-straightening-curvature

    References: Carandini and Heeger (2012).

    >>> import torch
    >>> from nodes_tutorial.invariance import center_surround
    >>> center_surround(torch.full((8, 8), 0.5))[0, 0, 0]  # no contrast: softplus(0)
    tensor(0.6931)
    """
    check_points("images", images)
    size = images.shape[-1]
    center, surround, around = (_window(size, w, images) for w in (CENTER, SURROUND, POOL))
    spots = _filtered(images, center - surround) / (FLOOR + _filtered(images, around).abs())
    contrast = (FLOOR**2 + _filtered(spots.square(), around).abs()).sqrt()
    gained = spots / contrast
    return torch.stack([softplus(gained), softplus(-gained)], -3)


def oriented_energy(
    images: Float[Tensor, "*batch size size"], scales: int = 4, orientations: int = 4
) -> Float[Tensor, "*batch filters size size"]:
    r"""Energies :math:`|h*x|^2` of oriented band-pass filters with pairs of phases.

    Args:
        images: square periodic images.
        scales: octaves, from half the highest frequency downwards.
        orientations: directions of each octave.

    Returns:
        One channel for each scale and orientation, the orientations of a scale together. A
        grating has the same energy wherever it stands.

    Raises:
        TypeError: ``images`` holds no floating-point numbers, or a number is no integer.
        ValueError: a number below 1.

    Chapter: prop-straightening-texture

    References: Adelson and Bergen (1985); Simoncelli and Freeman (1995).

    >>> import torch
    >>> from nodes_tutorial.invariance import oriented_energy
    >>> oriented_energy(torch.rand(16, 16), scales=2).shape
    torch.Size([8, 16, 16])
    """
    check_points("images", images)
    bank = filter_bank(images, scales, orientations)
    spectrum = torch.fft.fft2(images).unsqueeze(-3) * bank
    found = torch.fft.ifft2(spectrum)
    return found.real.square() + found.imag.square()


def filter_bank(
    images: Float[Tensor, "*batch size size"], scales: int, orientations: int
) -> Float[Tensor, "filters size size"]:
    r"""The filters in the frequencies: octave bands times one-sided lobes of angle.

    The squares of all bands sum to 1 between the centers of the lowest and the highest band, and
    those of all directions and their opposites to 1 at every angle.

    Args:
        images: for the size, dtype and device.
        scales: number of octaves.
        orientations: directions of each octave.

    Returns:
        Real factors of the frequencies.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number below 1.
    """
    check_count("scales", scales, least=1)
    check_count("orientations", orientations, least=1)
    k = torch.fft.fftfreq(images.shape[-1], dtype=images.dtype, device=images.device)
    radius = torch.hypot(k[:, None], k)
    octave = torch.log2(radius.clamp_min(1e-6) / 0.25)
    angle = torch.atan2(k[:, None].expand_as(radius), k.expand_as(radius))
    power = orientations - 1
    turns = [math.pi * j / orientations for j in range(orientations)]
    norm = math.sqrt(sum(math.cos(turn) ** (2 * power) for turn in turns))
    filters = []
    for scale in range(scales):
        place = (octave + scale).clamp(-1, 1)
        band = (math.pi / 2 * place).cos()
        for turn in turns:
            lobe = (angle - turn).cos()
            filters.append(band * torch.where(lobe > 0, lobe**power, 0) / norm)
    return torch.stack(filters)


def _window(size: int, width: float, like: Tensor) -> Float[Tensor, "size size"]:
    """Frequencies of a periodic Gaussian window with sum 1."""
    k = torch.fft.fftfreq(size, dtype=like.dtype, device=like.device)
    exponent = -2 * (math.pi * width * torch.hypot(k[:, None], k)).square()
    return exponent.exp()


def _filtered(images: Tensor, window: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(images) * window).real
