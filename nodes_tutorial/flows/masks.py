"""Which entries of a point a coupling keeps: halves, every other entry, a checkerboard."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def half_mask(dim: int, parity: int = 0) -> Bool[Tensor, " dim"]:
    """Keep the first half of the entries, or with ``parity=1`` the rest.

    >>> half_mask(3), half_mask(3, 1)
    (tensor([ True, False, False]), tensor([False,  True,  True]))
    """
    return (torch.arange(dim) < dim // 2) ^ bool(parity)


def alternating_mask(dim: int, parity: int = 0) -> Bool[Tensor, " dim"]:
    """Keep the entries 0, 2, 4, …, or with ``parity=1`` the entries 1, 3, 5, ….

    >>> alternating_mask(4)
    tensor([ True, False,  True, False])
    """
    return torch.arange(dim) % 2 == parity


def checkerboard_mask(shape: Sequence[int], parity: int = 0) -> Bool[Tensor, "channels h w"]:
    """Keep the pixels of one colour of a checkerboard, in every channel.

    >>> checkerboard_mask((1, 2, 2))
    tensor([[[ True, False],
             [False,  True]]])
    """
    channels, height, width = shape
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == parity
    return board.expand(channels, height, width).clone()
