"""Stable layers whose matrices are 3×3 convolutions: the antisymmetric and the Verlet network."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.ode.stability.depth import prolong
from nodes_tutorial.ode.stability.symplectic import verlet_step

__all__ = ["ConvStableNet", "adjoint_kernel"]


def adjoint_kernel(
    kernel: Float[Tensor, "*layers out in 3 3"],
) -> Float[Tensor, "*layers in out 3 3"]:
    r"""The kernel whose zero-padded convolution is the transpose of the given one's.

    .. math:: k^*_{ab}(s) = k_{ba}(-s)

    Args:
        kernel: one or several stacked 3×3 kernels.

    Returns:
        The kernel with channels exchanged and both axes of pixels reversed.

    Chapter: thm-stability-antisymmetric

    >>> import torch
    >>> import torch.nn.functional as F
    >>> from nodes_tutorial.ode.stability.conv import adjoint_kernel
    >>> k = torch.randn(2, 3, 3, 3)
    >>> x, y = torch.randn(1, 3, 8, 8), torch.randn(1, 2, 8, 8)
    >>> left = (F.conv2d(x, k, padding=1) * y).sum()
    >>> bool((left - (x * F.conv2d(y, adjoint_kernel(k), padding=1)).sum()).abs() < 1e-3)
    True
    """
    return kernel.flip(-1, -2).transpose(-4, -3)


class ConvStableNet(nn.Module):
    r"""A network of stable layers on images, of one of three kinds.

    With K(t) the convolution of a kernel, ``"plain"`` is :math:`\dot y = \tanh(Ky + b)`,
    ``"antisymmetric"`` :math:`\dot y = \tanh(\frac12(K - K^\top - \gamma I)y + b)`, both by
    Euler's method, and ``"verlet"`` the pair
    :math:`\dot y = \tanh(Kz + c),\ \dot z = -\tanh(K^\top y + b)` from z = 0.

    Args:
        kind: ``"plain"``, ``"antisymmetric"`` or ``"verlet"``.
        channels: number of channels of y.
        layers: number of layers.
        T: end of the time interval.
        gamma: diffusion of the antisymmetric network.
        hidden: number of channels of z; by default that of y.
        scale: size of the initial kernels, the same in every layer.
        generator: source of the initial weights; None means PyTorch's global one.

    Raises:
        ValueError: unknown ``kind``.

    Chapter: thm-stability-antisymmetric

    References: Haber and Ruthotto (2018), section 6.4.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import ConvStableNet
    >>> ConvStableNet("verlet", 2, 4, 1.0, hidden=3)(torch.zeros(5, 2, 8, 8)).shape
    torch.Size([5, 2, 8, 8])
    """

    def __init__(
        self,
        kind: str,
        channels: int,
        layers: int,
        T: float | int,
        *,
        gamma: float | int = 0.1,
        hidden: int | None = None,
        scale: float | int = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        kinds = ("plain", "antisymmetric", "verlet")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {kinds}, got {kind!r}")
        self.kind, self.T, self.gamma = kind, T, gamma
        inner = channels if hidden is None or kind != "verlet" else hidden
        k = torch.randn(1, channels, inner, 3, 3, generator=generator)
        k = scale / (3 * inner**0.5) * k
        self.K = nn.Parameter(k.repeat(layers, 1, 1, 1, 1))
        self.b = nn.Parameter(torch.zeros(layers, inner))
        self.c = nn.Parameter(torch.zeros(layers, channels)) if kind == "verlet" else None

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The stacked weights, depth in front."""
        return tuple(self.parameters())

    @property
    def h(self) -> float:
        """The step size T/L."""
        return self.T / len(self.K)

    def operators(self) -> Float[Tensor, "layers out in 3 3"]:
        """The kernels that the layers convolve with."""
        if self.kind != "antisymmetric":
            return self.K
        identity = torch.zeros_like(self.K[0])
        index = torch.arange(len(identity), device=identity.device)
        identity[index, index, 1, 1] = 1
        return (self.K - adjoint_kernel(self.K) - self.gamma * identity) / 2

    def forward(self, y: Float[Tensor, "batch channels *size"]) -> Tensor:
        """The last state y."""
        kernels = self.operators()
        if self.kind != "verlet":
            for k, b in zip(kernels, self.b, strict=True):
                y = y + self.h * torch.tanh(F.conv2d(y, k, b, padding=1))
            return y
        z = y.new_zeros(len(y), self.K.shape[2], *y.shape[2:])
        for k, b, c in zip(kernels, self.b, self.c, strict=True):

            def kick(y: Tensor, k: Tensor = k, b: Tensor = b) -> Tensor:
                return torch.tanh(F.conv2d(y, adjoint_kernel(k), b, padding=1))

            def drift(z: Tensor, k: Tensor = k, c: Tensor = c) -> Tensor:
                return torch.tanh(F.conv2d(z, k, c, padding=1))

            y, z = verlet_step(y, z, kick, drift, self.h)
        return y

    def refined(self) -> "ConvStableNet":
        """A network with twice the layers and prolonged weights."""
        fine = copy.deepcopy(self)
        for name, w in self.named_parameters():
            setattr(fine, name, nn.Parameter(prolong(w.detach())))
        return fine
