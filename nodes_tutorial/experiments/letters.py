"""Digits to learn, and letters of the same ink that nobody was trained on."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from nodes_tutorial.data import mnist
from nodes_tutorial.data.drawings import omniglot

VALIDATION = 10_000
SPLIT_SEED = 10**6


class Images(NamedTuple):
    """Pixels as rows, and labels where there are any."""

    train: Tensor
    labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    letters: Tensor


@functools.cache
def data() -> Images:
    """All of MNIST and as many letters of Omniglot as there are digits in the test.

    The letters are white on black as the digits, thickened by one pixel, and their grey values
    are raised to the power that gives them the digits' mean ink.

    Raises:
        DataError: a set is not at hand and cannot be had.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    (x, y), (test, test_y) = (mnist(part) for part in ("train", "test"))
    order = torch.randperm(len(x), generator=generator)
    held, rest = order[:VALIDATION], order[VALIDATION:]
    drawn = omniglot("evaluation").images
    drawn = drawn[torch.randperm(len(drawn), generator=generator)[: len(test)]]
    drawn = max_pool2d(drawn, 2, stride=1, padding=1)[..., :28, :28]
    drawn = match_ink(drawn, float(test.mean()))
    rows = [part.flatten(1) for part in (x[rest], x[held], test, drawn)]
    return Images(rows[0], y[rest], rows[1], y[held], rows[2], test_y, rows[3])


def match_ink(images: Tensor, ink: float) -> Tensor:
    """Grey values to the power at which their mean is ``ink``, found by bisection."""
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        too_light = float((images.clamp_min(1e-6) ** middle * (images > 0)).mean()) < ink
        low, high = (low, middle) if too_light else (middle, high)
    return images.clamp_min(1e-6) ** ((low + high) / 2) * (images > 0)
