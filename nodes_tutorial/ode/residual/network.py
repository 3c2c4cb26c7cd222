"""Residual networks read as Euler steps of a differential equation.

A residual network adds a small correction per layer. With h = T/L and layers that vary smoothly
with depth this is Euler's method for y' = f(t, y).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.ode.invertible import invert_layer

__all__ = [
    "ResidualNet",
    "residual_states",
    "sample_layers",
]

Field = Callable[[Tensor, Tensor], Tensor]
Layer = Callable[[Tensor], Tensor]


def residual_states(
    layers: Sequence[Layer],
    y: Float[Tensor, "*batch dim"],
    h: float,
) -> Float[Tensor, "states *batch dim"]:
    r"""All hidden states of a residual network.

    .. math:: y_{l+1} = y_l + h f_l(y_l), \quad l = 0, \dots, L - 1

    Args:
        layers: the L maps f_l; each keeps the shape of its input.
        y: the input, one row per sample.
        h: the step, T/L; 1 is the usual residual network.

    Returns:
        The L + 1 states, the input first.

    Chapter: def-residual-network

    >>> import torch
    >>> from nodes_tutorial.ode.residual import residual_states
    >>> residual_states([torch.neg, torch.neg], torch.tensor([[1.0]]), 0.5).flatten()
    tensor([1.0000, 0.5000, 0.2500])
    """
    states = [y]
    for f in layers:
        y = y + h * f(y)
        states.append(y)
    return torch.stack(states)


def sample_layers(field: Field, depth: int, like: Tensor, T: float = 1.0) -> list[Layer]:
    r"""The layers of a residual network as samples of a time-dependent field.

    .. math:: f_l(y) = f(t_l, y), \quad t_l = l T / L

    Args:
        field: f(t, y) with t a scalar tensor, as ``odeint`` calls it.
        depth: number of layers L.
        like: a tensor whose dtype and device the times take.
        T: end of the time interval [0, T].

    Returns:
        L maps for ``residual_states``.

    Raises:
        ValueError: ``depth`` is not positive.

    Chapter: thm-residual-euler

    >>> import torch
    >>> from nodes_tutorial.ode.residual import residual_states, sample_layers
    >>> y = torch.zeros(1, 1)
    >>> residual_states(sample_layers(lambda t, y: t + 0 * y, 4, y), y, 0.25)[-1].item()
    0.375
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    times = torch.arange(depth, dtype=like.dtype, device=like.device) * (T / depth)
    return [lambda y, t=t: field(t, y) for t in times.unbind()]


class ResidualNet(nn.Module):
    r"""A residual network of depth L on [0, T] with tanh layers.

    .. math:: y_{l+1} = y_l + \tfrac{T}{L} f_l(y_l), \quad f_l(y) = V_l \tanh(W_l y + b_l)

    With ``modes=None`` every layer has free weights. With ``modes=m`` the weights are samples of a
    smooth curve at the times lT/L,

    .. math:: \theta(t) = \sum_{k=0}^{m-1} \theta_k \cos(\pi k t / T).

    Then the same parameters make a network of any depth, and ``field`` is the vector field of its
    limit.

    Args:
        dim: size of the state.
        width: hidden units per layer.
        depth: number of layers L.
        T: length of the time interval.
        modes: number of cosine modes of the weights, or None for free weights.
        scale: factor on the initial weights.
        generator: source of the initial weights; None means PyTorch's global one.

    Raises:
        ValueError: a size below 1.

    Chapter: def-residual-network

    >>> import torch
    >>> from nodes_tutorial.ode import ResidualNet
    >>> net = ResidualNet(2, 8, depth=4, modes=3, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 2)).shape, net.states(torch.zeros(5, 2), depth=64).shape
    (torch.Size([5, 2]), torch.Size([65, 5, 2]))
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        *,
        T: float = 1.0,
        modes: int | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, value in {"dim": dim, "width": width, "depth": depth, "modes": modes}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.depth, self.T, self.modes = depth, T, modes
        n = depth if modes is None else modes

        def normal(*shape: int, fan_in: int) -> nn.Parameter:
            x = torch.randn(n, *shape, generator=generator) * (scale / math.sqrt(fan_in))
            decay = 1 if modes is None else 1 / torch.arange(1, n + 1).view(n, *[1] * len(shape))
            return nn.Parameter(x * decay)

        self.W = normal(width, dim, fan_in=dim)
        self.b = normal(width, fan_in=1)
        self.V = normal(dim, width, fan_in=width)

    def weights(self, t: Float[Tensor, "*times"]) -> tuple[Tensor, Tensor, Tensor]:
        """The weights (V(t), W(t), b(t)), one set for each entry of ``t``.

        Raises:
            ValueError: the weights are free, so they are not functions of t.
        """
        if self.modes is None:
            raise ValueError("free weights are no curve in t; build the network with modes=...")
        k = torch.arange(self.modes, dtype=t.dtype, device=t.device)
        basis = torch.cos(math.pi / self.T * k * t.unsqueeze(-1))
        return tuple(torch.tensordot(basis, p, dims=1) for p in (self.V, self.W, self.b))

    def field(self, t: Tensor, y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The field V(t) tanh(W(t) y + b(t)); ``t`` is 0-d or has shape (batch, 1)."""
        if t.dim() == 0:
            return _branch(*self.weights(t), y)
        V, W, b = self.weights(t[..., 0])
        return (V @ torch.tanh(W @ y.unsqueeze(-1) + b.unsqueeze(-1))).squeeze(-1)

    def layers(self, depth: int | None = None) -> list[Layer]:
        """The maps f_l; a depth other than that of the network needs smooth weights.

        Raises:
            ValueError: another depth than that of the network, with free weights.
        """
        depth = self.depth if depth is None else depth
        if self.modes is not None:
            t = torch.arange(depth, dtype=self.W.dtype, device=self.W.device)
            stacked = self.weights(t * (self.T / depth))
        elif depth == self.depth:
            stacked = (self.V, self.W, self.b)
        else:
            raise ValueError(f"depth: free weights fix it to {self.depth}, got {depth}")
        sets = zip(*(p.unbind() for p in stacked), strict=True)
        return [lambda y, s=s: _branch(*s, y) for s in sets]

    def states(self, y: Float[Tensor, "*batch dim"], depth: int | None = None) -> Tensor:
        """All states, of shape (depth + 1, ..., dim)."""
        layers = self.layers(depth)
        return residual_states(layers, y, self.T / len(layers))

    def forward(self, y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The last state."""
        return self.states(y)[-1]

    def inverse(
        self,
        z: Float[Tensor, "*batch dim"],
        **options,
    ) -> Float[Tensor, "*batch dim"]:
        """The input whose output is z; needs hK < 1."""
        for f in reversed(self.layers()):
            z = invert_layer(f, z, self.T / self.depth, **options)
        return z


def _branch(V: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
    return F.linear(torch.tanh(F.linear(y, W, b)), V)
