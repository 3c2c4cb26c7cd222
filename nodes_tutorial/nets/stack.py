"""Networks of the same shape side by side: one batched product serves them all."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.nets import ACTIVATIONS, MLP

Generators = torch.Generator | Sequence[torch.Generator] | None


def sources(generator: Generators) -> tuple[list[torch.Generator | None], int | None]:
    """The generators as a list, and how many copies were asked for.

    Args:
        generator: one generator, None for PyTorch's global one, or a sequence with one for each
            copy.

    Returns:
        The list, and the length of the sequence; None where no sequence was given.

    Raises:
        ValueError: an empty sequence.
    """
    if not isinstance(generator, Sequence):
        return [generator], None
    if not generator:
        raise ValueError("generator must be one, or a sequence of one or more")
    return list(generator), len(generator)


class Stack(nn.Module):
    """Perceptrons of the same sizes, one for each entry of an axis of their input.

    Args:
        sizes: as for ``MLP``.
        generators: source of the initial weights of each.
        activation: a key of ``nodes_tutorial.nets.ACTIVATIONS``.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    >>> import torch
    >>> from nodes_tutorial.nets import Stack
    >>> net = Stack([2, 8, 1], [torch.Generator().manual_seed(s) for s in range(3)])
    >>> net(torch.zeros(3, 5, 2)).shape, net(torch.zeros(4, 3, 5, 2)).shape
    (torch.Size([3, 5, 1]), torch.Size([4, 3, 5, 1]))
    """

    def __init__(
        self,
        sizes: Sequence[int],
        generators: Sequence[torch.Generator | None],
        activation: str = "tanh",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        nets = [MLP(sizes, activation, g, dtype=dtype, device=device) for g in generators]
        self.activation = ACTIVATIONS[activation]()
        for i, same in enumerate(zip(*(net.layers[::2] for net in nets), strict=True)):
            weight = torch.stack([layer.weight.detach().mT for layer in same])
            bias = torch.stack([layer.bias.detach() for layer in same]).unsqueeze(1)
            self.register_parameter(f"weight{i}", nn.Parameter(weight))
            self.register_parameter(f"bias{i}", nn.Parameter(bias))

    @property
    def weights(self) -> list[Tensor]:
        """The weights of each layer, shape (copies, inputs, outputs)."""
        return list(self._parameters.values())[::2]

    @property
    def biases(self) -> list[Tensor]:
        """The biases of each layer, shape (copies, 1, outputs)."""
        return list(self._parameters.values())[1::2]

    def forward(
        self, x: Float[Tensor, "*_ batch inputs"], t: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*_ batch outputs"]:
        """Apply each network to its rows.

        Args:
            x: the axis of the networks is the third from behind.
            t: one more input, behind the others and the same for all rows; it only shifts the
                first bias. A number, or one for each network, of shape (copies, 1, 1).
        """
        weight, bias, *rest = self._parameters.values()
        shape = x.shape
        if t is not None:
            weight, slope = weight.split([shape[-1], 1], 1)
            bias = torch.addcmul(bias, t, slope)
        if len(shape) > 3:
            x = x.flatten(0, -4).transpose(0, 1).flatten(1, 2)
        if len(x) != len(weight):
            x = x.expand(len(weight), -1, -1)
        x = torch.baddbmm(bias, x, weight)
        for weight, bias in zip(rest[::2], rest[1::2], strict=True):
            x = torch.baddbmm(bias, self.activation(x), weight)
        if len(shape) == 3:
            return x
        x = x.unflatten(1, (-1, shape[-2])).transpose(0, 1)
        return x.unflatten(0, shape[:-3]) if len(shape) > 4 else x
