"""Networks whose output for entry i sees only the entries before i: masked weights."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.checks import check_count
from nodes_tutorial.flows.conditional import join_context
from nodes_tutorial.nets import reset_parameters

_ACTIVATIONS = {
    "relu": torch.relu_,  # in place: what it overwrites is used by nothing else
    "tanh": torch.tanh_,
    "elu": F.elu,
    "silu": F.silu,
    "softplus": F.softplus,
}


def made_masks(
    dim: int, hidden: Sequence[int], outputs: int = 2, reverse: bool = False, context: int = 0
) -> list[Bool[Tensor, "rows columns"]]:
    r"""Which weights of a network may stay so that output i sees only the inputs before i.

    Give input i the degree i, spread the degrees 1 … dim - 1 evenly over the units of each hidden
    layer, and give each output of entry i the degree i - 1. A weight stays if the degree of its row
    is at least that of its column. By induction a unit of degree k is a function of the inputs
    1 … k. A context has degree 0, and with one there are hidden units of degree 0, or the first
    entry would not see it.

    Args:
        dim: number of inputs.
        hidden: width of each hidden layer.
        outputs: numbers for each entry: the first ones of all entries, then the second ones.
        reverse: number the entries from the last to the first.
        context: entries of a context, which stands after the inputs.

    Returns:
        One mask for each layer, rows for outputs and columns for inputs.

    Raises:
        TypeError: a width is not an integer.
        ValueError: a width below 1, or ``context`` below 0.

    Chapter: thm-coupling-autoregressive

    References: Germain, Gregor, Murray and Larochelle (2015).

    >>> from nodes_tutorial.flows import made_masks
    >>> made_masks(3, [2], outputs=1)[0].int()
    tensor([[1, 0, 0],
            [1, 1, 0]], dtype=torch.int32)
    """
    check_count("dim", dim, least=1)
    check_count("outputs", outputs, least=1)
    for width in hidden:
        check_count("hidden", width, least=1)
    first = torch.arange(1, dim + 1)
    first = first.flip(0) if reverse else first
    least = 0 if check_count("context", context) else min(1, dim - 1)
    count = dim if context else dim - 1
    inner = [torch.arange(width) * count // width + least for width in hidden]
    inputs = torch.cat([first, first.new_zeros(context)])
    degrees = [inputs, *inner, first.repeat(outputs) - 1]
    return [rows[:, None] >= columns for columns, rows in pairwise(degrees)]


class MADE(nn.Module):
    """A multilayer perceptron whose weights are masked so that it is autoregressive.

    Args:
        dim: number of inputs.
        hidden: width of each hidden layer.
        outputs: numbers for each entry, see ``made_masks``.
        reverse: number the entries from the last to the first.
        activation: one of relu, tanh, elu, silu, softplus.
        generator: source of the initial weights; None means PyTorch's global one.
        context: entries of a context, which every output sees; 0 for none.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``made_masks``; ``generator`` is no generator.
        ValueError: as for ``made_masks``; unknown ``activation``.

    Chapter: thm-coupling-autoregressive

    References: Germain, Gregor, Murray and Larochelle (2015), section 4.

    >>> import torch
    >>> from nodes_tutorial.flows import MADE
    >>> net = MADE(3, [16])
    >>> torch.autograd.functional.jacobian(lambda x: net(x)[:3], torch.ones(3)).triu().any().item()
    False
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        outputs: int = 2,
        reverse: bool = False,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            known = sorted(_ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}, got {activation!r}")
        self.activation = _ACTIVATIONS[activation]
        masks = made_masks(dim, hidden, outputs, reverse, context)
        self.context = context
        sizes = [dim + context, *hidden, outputs * dim]
        like = {"dtype": dtype, "device": device}
        self.layers = nn.ModuleList(nn.Linear(a, b, **like) for a, b in pairwise(sizes))
        for layer, mask in zip(self.layers, masks, strict=True):
            layer.register_buffer("mask", mask.to(layer.weight))
        reset_parameters(self, generator)

    def forward(
        self, x: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*batch k"]:
        """Apply the network to the last axis of ``x`` and to the context."""
        x = join_context(x, context, self.context)
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(F.linear(x, layer.weight * layer.mask, layer.bias))
        return F.linear(x, last.weight * last.mask, last.bias)
