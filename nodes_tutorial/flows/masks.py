"""Which entries of a point a coupling keeps, and how it takes a point apart."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from nodes_tutorial.checks import check_count
from nodes_tutorial.flows.conditional import join_context
from nodes_tutorial.flows.flow import Transform
from nodes_tutorial.nets import MLP


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


class Coupling(Transform):
    """What all couplings share: a point is split, and a network sees one part and the context.

    Args:
        mask: as for ``AffineCoupling``.
        net: gets A, and after it the context, and returns numbers for B.
        event_dims: 1 for vectors, 3 for images.
        context: entries of the context; 0 for a coupling that takes none.

    Raises:
        TypeError: ``event_dims`` or ``context`` is not an integer.
        ValueError: a mask that keeps all, or nothing without a context, or whose axes do not fit
            ``event_dims``; a context for images.

    Chapter: thm-coupling-affine

    >>> import torch
    >>> from torch import nn
    >>> from nodes_tutorial.flows.masks import Coupling, half_mask
    >>> a, b = Coupling(half_mask(3), nn.Linear(1, 2)).split(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> a, b
    (tensor([[1.]]), tensor([[2., 3.]]))
    """

    order: Tensor
    back: Tensor
    mask: Tensor

    def __init__(
        self, mask: Bool[Tensor, "..."], net: nn.Module, *, event_dims: int = 1, context: int = 0
    ) -> None:
        super().__init__()
        check_count("event_dims", event_dims, least=1)
        self.context = check_count("context", context)
        if mask.ndim not in (1, event_dims):
            raise ValueError(f"mask must have 1 or {event_dims} axes, got {mask.ndim}")
        if mask.all() or not (mask.any() or context):
            raise ValueError("mask must keep some entries and change some, got all alike")
        if context and event_dims != 1:
            raise ValueError(f"context must be 0 for event_dims = {event_dims}, got {context}")
        self.event_dims, self.net = event_dims, net
        self.by_parts = mask.ndim == 1
        kept = int(mask.sum())
        # A in one piece needs no reordering: the two parts are views
        self.a_first = bool(mask[:kept].all()) if self.by_parts else True
        in_one_piece = self.a_first or bool(mask[-kept:].all())
        self.sizes = (kept, len(mask) - kept) if self.a_first else (len(mask) - kept, kept)
        order = None
        if self.by_parts and not in_one_piece:
            self.a_first, self.sizes = True, (kept, len(mask) - kept)
            order = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
        self.register_buffer("order", order)
        self.register_buffer("back", None if order is None else order.argsort())
        self.register_buffer("mask", mask)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The part A that is kept and the part B that is moved."""
        if not self.by_parts:
            a = x * self.mask
            return a, x - a
        if self.order is not None:
            x = x.index_select(-self.event_dims, self.order)
        first, second = x.split(self.sizes, -self.event_dims)
        return (first, second) if self.a_first else (second, first)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """The point whose parts are A and B."""
        if not self.by_parts:
            return a + b
        x = torch.cat([a, b] if self.a_first else [b, a], -self.event_dims)
        return x if self.back is None else x.index_select(-self.event_dims, self.back)

    def values(self, a: Tensor, context: Tensor | None) -> Tensor:
        """What the network says of A and the context."""
        return self.net(join_context(a, context, self.context))


def least_dim(context: int) -> int:
    """The features that a flow of couplings needs: one to move, and one that moves it.

    Args:
        context: entries of the context.

    Returns:
        2, or 1 with a context, which can move a feature alone.

    Raises:
        TypeError: ``context`` is not an integer.
        ValueError: ``context`` is negative.

    >>> from nodes_tutorial.flows.masks import least_dim
    >>> least_dim(0), least_dim(3)
    (2, 1)
    """
    return 1 if check_count("context", context) else 2


def conditioner(
    dim: int,
    i: int,
    hidden: Sequence[int],
    activation: str,
    generator: torch.Generator | None,
    outputs: int,
    context: int = 0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Bool[Tensor, " dim"], MLP]:
    """Mask and network of coupling number i on vectors: the halves that are kept take turns.

    Args:
        dim: number of features.
        i: number of the coupling.
        hidden: width of each hidden layer.
        activation: a key of ``nets.ACTIVATIONS``.
        generator: source of the initial weights.
        outputs: numbers for each entry that is moved.
        context: entries of the context.
        dtype: dtype of the weights.
        device: device of the weights.

    Returns:
        The mask and the network.

    >>> from nodes_tutorial.flows.masks import conditioner
    >>> mask, net = conditioner(3, 0, [8], "relu", None, 2)
    >>> mask, net.layers[0].in_features, net.layers[-1].out_features
    (tensor([ True, False, False]), 1, 4)
    """
    mask = half_mask(dim, i % 2 if dim > 1 else 0)
    kept = int(mask.sum())
    sizes = [kept + context, *hidden, outputs * (dim - kept)]
    net = MLP(sizes, activation, generator, dtype=dtype, device=device)
    for part in net.layers:
        if isinstance(part, nn.ReLU):
            part.inplace = True  # what it overwrites is used by nothing else
    return mask.to(device), net
