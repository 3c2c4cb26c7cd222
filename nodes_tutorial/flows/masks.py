"""Which entries of a point a coupling keeps: halves, every other entry, a checkerboard."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from nodes_tutorial.checks import check_count


def half_mask(dim: int, parity: int = 0) -> Bool[Tensor, " dim"]:
    """Keep the first half of the entries, or with ``parity=1`` the rest.

    Args:
        dim: number of entries.
        parity: 0, or 1 for the complement.

    Returns:
        True where an entry is kept, shape (dim,). An odd ``dim`` has its first half smaller.

    Raises:
        TypeError: ``dim`` is not an integer.
        ValueError: ``dim`` below 1, or ``parity`` neither 0 nor 1.

    >>> from nodes_tutorial.flows import half_mask
    >>> half_mask(3), half_mask(3, 1)
    (tensor([ True, False, False]), tensor([False,  True,  True]))
    """
    check_count("dim", dim, least=1)
    return (torch.arange(dim) < dim // 2) ^ bool(_parity(parity))


def alternating_mask(dim: int, parity: int = 0) -> Bool[Tensor, " dim"]:
    """Keep the entries 0, 2, 4, …, or with ``parity=1`` the entries 1, 3, 5, ….

    Args:
        dim: number of entries.
        parity: 0, or 1 for the complement.

    Returns:
        True where an entry is kept, shape (dim,).

    Raises:
        TypeError: ``dim`` is not an integer.
        ValueError: ``dim`` below 1, or ``parity`` neither 0 nor 1.

    >>> from nodes_tutorial.flows import alternating_mask
    >>> alternating_mask(4)
    tensor([ True, False,  True, False])
    """
    check_count("dim", dim, least=1)
    return torch.arange(dim) % 2 == _parity(parity)


def checkerboard_mask(shape: Sequence[int], parity: int = 0) -> Bool[Tensor, "channels h w"]:
    """Keep the pixels of one colour of a checkerboard, in every channel.

    Args:
        shape: channels, height and width.
        parity: 0, or 1 for the complement.

    Returns:
        True where a pixel is kept, of that shape.

    Raises:
        ValueError: ``shape`` is no channels, height and width, or ``parity`` neither 0 nor 1.

    >>> from nodes_tutorial.flows import checkerboard_mask
    >>> checkerboard_mask((1, 2, 2))
    tensor([[[ True, False],
             [False,  True]]])
    """
    if len(shape) != 3:
        raise ValueError(f"shape must be channels, height and width, got {tuple(shape)}")
    channels, height, width = (check_count("shape", size, least=1) for size in shape)
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == _parity(parity)
    return board.expand(channels, height, width).clone()


def _parity(parity: int) -> int:
    if parity not in (0, 1):
        raise ValueError(f"parity must be 0 or 1, got {parity!r}")
    return int(parity)
