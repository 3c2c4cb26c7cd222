"""Ellipses by formula: their area, place and turn, and one picture for each combination."""

import math

import pytest
import torch

from nodes_tutorial.data.shapes import CENTRES, FACTORS, HALF_AXES, ellipses


def moments(pictures):
    """Ink, centre and second moments, in units of the side."""
    size = pictures.shape[-1]
    side = (torch.arange(size, dtype=pictures.dtype) + 0.5) / size
    ink = pictures.sum((1, 2))
    cx = (pictures.sum(1) @ side) / ink
    cy = (pictures.sum(2) @ side) / ink
    dx, dy = side - cx[:, None], side - cy[:, None]
    xx = (pictures.sum(1) * dx.square()).sum(1) / ink
    yy = (pictures.sum(2) * dy.square()).sum(1) / ink
    xy = torch.einsum("nij,ni,nj->n", pictures, dy, dx) / ink
    return ink / size**2, cx, cy, xx, yy, xy


def test_pictures_are_the_ellipses_of_their_factors():
    counts = (3, 3, 2, 4)
    pictures, factors = ellipses(64, counts, supersample=4, dtype=torch.float64)
    assert pictures.shape == (72, 64, 64) and factors.shape == (72, len(FACTORS))
    assert len({tuple(row) for row in factors.tolist()}) == 72
    ink, cx, cy, xx, yy, xy = moments(pictures)
    axis = torch.linspace(*HALF_AXES, 2, dtype=torch.float64)[factors[:, 2]]
    place = torch.linspace(*CENTRES, 3, dtype=torch.float64)
    angle = factors[:, 3] * math.pi / 4
    assert (ink / (math.pi * axis**2 / 2) - 1).abs().max() < 0.02  # pixels have a size
    assert (cx - place[factors[:, 0]]).abs().max() < 1e-3
    assert (cy - place[factors[:, 1]]).abs().max() < 1e-3
    along, beside = axis.square() / 4, axis.square() / 16  # of a uniform ellipse
    exact = along * angle.cos() ** 2 + beside * angle.sin() ** 2
    assert (xx / exact - 1).abs().max() < 0.05
    assert (yy / (along + beside - exact) - 1).abs().max() < 0.05
    assert (xy - (along - beside) * angle.sin() * angle.cos()).abs().max() < 2e-4


def test_small_pictures_differ_and_lie_in_the_unit_interval():
    pictures, factors = ellipses()
    assert pictures.shape == (3456, 16, 16) and pictures.dtype == torch.float32
    assert pictures.min() == 0 and pictures.max() == 1
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 3456
    assert factors.amax(0).tolist() == [11, 11, 3, 5]
    edge = torch.cat([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]])
    assert edge.max() == 0  # no ellipse is cut off


def test_bad_input_is_named(as_at_the_users):
    for arguments, words in (
        ({"size": 0}, "size"), ({"counts": (1, 2, 3)}, "counts must be four"),
        ({"counts": (1, 0, 1, 1)}, "counts"), ({"supersample": 0}, "supersample"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            ellipses(**arguments)
    with pytest.raises(TypeError, match="size"):
        ellipses(16.0)
