"""Small fully connected networks: the fields and maps that the chapters train."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_generator, draw
from nodes_tutorial.nets.tangents import propagate

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


class MLP(nn.Module):
    r"""A multilayer perceptron with one activation between its affine layers.

    .. math:: x \mapsto W_L\,\sigma(W_{L-1} \cdots \sigma(W_1 x + b_1) \cdots + b_{L-1}) + b_L

    Weights and biases of a layer with n inputs are uniform on :math:`[-1/\sqrt n, 1/\sqrt n]`,
    which is PyTorch's own law for ``nn.Linear``, but drawn from ``generator``.

    Args:
        sizes: number of features of the input, of each hidden layer and of the output.
        activation: a key of ``ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: an entry of ``sizes`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``sizes`` has fewer than two entries or one below 1; unknown ``activation``.

    References: Goodfellow, Bengio and Courville (2016), chapter 6.

    >>> import torch
    >>> from nodes_tutorial.nets import MLP
    >>> net = MLP([2, 16, 3], generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must be two or more positive numbers, got {list(sizes)}")
        for size in sizes:
            check_count("sizes", size, least=1)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, dtype=dtype, device=device)]
            layers += [ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])
        reset_parameters(self, generator)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the network to the last axis of ``x``."""
        return self.layers(x)

    def value_and_tangents(
        self, x: Float[Tensor, "*batch inputs"], v: Float[Tensor, "k *batch inputs"] | None = None
    ) -> tuple[Float[Tensor, "*batch outputs"], Float[Tensor, "tangents *batch outputs"]]:
        r"""The value and its derivatives in several directions, by one forward pass.

        Through an affine layer a tangent p goes as :math:`Wp`, through an activation as
        :math:`\sigma'(h)\,p`, and :math:`\sigma'` comes from the output :math:`\sigma(h)` where
        it can. All tangents are one batch.

        Args:
            x: inputs of the network.
            v: directions, k for each input; None means all unit vectors, for which the first
                layer costs nothing: its tangents are the columns of its matrix.

        Returns:
            The value, and the products :math:`J(x)\,v`; for None the columns of :math:`J(x)`.

        References: Griewank and Walther (2008), section 3.1.

        >>> import torch
        >>> from nodes_tutorial.nets import MLP
        >>> net = MLP([2, 16, 3], generator=torch.Generator().manual_seed(0))
        >>> net.value_and_tangents(torch.zeros(5, 2))[1].shape
        torch.Size([2, 5, 3])
        """
        affine = [part for layer in self.layers[::2] for part in (layer.weight, layer.bias)]
        return propagate(self.layers[1] if affine[2:] else None, affine, x, v)


class TimeMLP(nn.Module):
    r"""A vector field :math:`f(t, y)` on :math:`\mathbb R^{dim}`: an MLP of y with t appended.

    It has the calling convention of ``nodes_tutorial.ode.odeint``.

    Args:
        dim: number of state features.
        hidden: width of each hidden layer; empty for an affine field.
        activation: a key of ``ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: as for ``MLP``.

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 2.

    >>> import torch
    >>> from nodes_tutorial.nets import TimeMLP
    >>> field = TimeMLP(2, [16], generator=torch.Generator().manual_seed(0))
    >>> field(torch.tensor(0.5), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    >>> field(torch.linspace(0, 1, 5)[:, None], torch.zeros(5, 2)).shape  # one time for each row
    torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        activation: str = "tanh",
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        sizes = [dim + 1, *hidden, dim]
        self.mlp = MLP(sizes, activation, generator, dtype=dtype, device=device)

    def forward(
        self, t: Float[Tensor, "*times"], y: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """Evaluate the field.

        Args:
            t: 0-d, or one time for each element of the batch with shape (batch, 1, …, 1).
            y: states, of shape (batch, …, features).

        Returns:
            dy/dt, of the shape of ``y``.
        """
        return self.mlp(torch.cat([y, t.to(y.dtype).expand_as(y[..., :1])], -1))

    def value_and_tangents(
        self,
        t: Float[Tensor, "*times"],
        y: Float[Tensor, "*batch dim"],
        v: Float[Tensor, "k *batch dim"] | None = None,
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "tangents *batch dim"]]:
        """The field and its derivatives in y; the time only shifts the bias of the first layer.

        Args:
            t: as for ``forward``.
            y: states, of shape (batch, …, features).
            v: directions; None means all unit vectors.

        Returns:
            As ``MLP.value_and_tangents``.
        """
        layers = self.mlp.layers
        affine = [part for layer in layers[::2] for part in (layer.weight, layer.bias)]
        weight, slope = affine[0][:, :-1], affine[0][:, -1]
        affine[:2] = weight, affine[1] + t.to(y.dtype) * slope
        return propagate(layers[1] if affine[2:] else None, affine, y, v)


def reset_parameters(module: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Redraw all linear and convolution layers, uniform on :math:`\pm 1/\sqrt{\text{fan-in}}`.

    Args:
        module: the network; its ``nn.Linear`` and ``nn.Conv2d`` layers change in place.
        generator: source of the numbers; None means PyTorch's global one.

    Raises:
        TypeError: ``generator`` is none.

    >>> import torch
    >>> from torch import nn
    >>> from nodes_tutorial.nets import reset_parameters
    >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> for layer in (a, b):
    ...     reset_parameters(layer, torch.Generator().manual_seed(0))
    >>> torch.equal(a.weight, b.weight)
    True
    """
    check_generator(generator)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                like = {"dtype": parameter.dtype, "device": parameter.device}
                noise = draw(torch.rand, parameter.shape, generator, **like)
                with torch.no_grad():
                    parameter.copy_(bound * (2 * noise - 1))


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in a module.

    Args:
        module: the network whose parameters are counted.

    Returns:
        The number, over all parameters that require a gradient.

    >>> from torch import nn
    >>> from nodes_tutorial.nets import count_parameters
    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
