"""Deep networks that are stable by construction: antisymmetric, leapfrog and Verlet layers.

Weights of all layers are stacked, depth in front. States are rows, so a layer computes y K + b,
and its field is the column vector tanh(K^T y + b).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.stability import sweeps
from nodes_tutorial.ode.stability.base import Linearization, StableNet, Weights
from nodes_tutorial.ode.stability.depth import prolong, smoothness_penalty, tikhonov_penalty
from nodes_tutorial.ode.stability.symplectic import verlet_step

__all__ = [
    "AntisymmetricNet",
    "LeapfrogNet",
    "Linearization",
    "PlainNet",
    "StableNet",
    "VerletNet",
    "prolong",
    "smoothness_penalty",
    "tikhonov_penalty",
]


class PlainNet(StableNet):
    r"""The residual network :math:`y_{l+1} = y_l + h\tanh(K_l^\top y_l + b_l)`, unconstrained.

    Args:
        dim: features n of the state.
        layers: number of layers L.
        T: end of the time interval, so that the step is T/L.
        scale: size of the initial weights, which are the same in every layer.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: thm-stability-euler-region

    References: Haber and Ruthotto (2018), equation (2.1).

    >>> import torch
    >>> from nodes_tutorial.ode.stability import PlainNet
    >>> PlainNet(2, 4, 1.0, scale=0)(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    sweep = sweeps.EulerSweep


class AntisymmetricNet(StableNet):
    r"""Euler's method for :math:`\dot y = \tanh(\frac12(K^\top - K - \gamma I)y + b)`.

    Args:
        dim: features n of the state.
        layers: number of layers L.
        T: end of the time interval, so that the step is T/L.
        gamma: diffusion, at least 0.
        **how: ``scale``, ``generator``, ``dtype`` and ``device``, as for ``StableNet``.

    Raises:
        ValueError: ``gamma`` below 0.

    Chapter: thm-stability-antisymmetric

    References: Haber and Ruthotto (2018), equation (4.1).

    >>> import torch
    >>> from nodes_tutorial.ode.stability import AntisymmetricNet
    >>> net = AntisymmetricNet(2, 4, 1.0, gamma=0.0)
    >>> bool(net.eigenvalues(torch.ones(3, 2)).real.abs().max() < 1e-6)
    True
    """

    sweep = sweeps.EulerSweep

    def __init__(self, dim: int, layers: int, T: float | int, *, gamma: float | int = 0.1, **how):
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        super().__init__(dim, layers, T, **how)
        self.gamma = gamma

    def operators(self, K: Tensor, b: Tensor) -> Weights:
        identity = torch.eye(self.dim, dtype=K.dtype, device=K.device)
        return (K - K.mT - self.gamma * identity) / 2, b


class LeapfrogNet(StableNet):
    r"""Leapfrog for :math:`\ddot y = \tanh(-C^\top C y + b)` from rest.

    Args:
        dim: features n of the state.
        layers: number of layers L.
        T: end of the time interval, so that the step is T/L.
        scale: size of the initial weights, which are the same in every layer.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Chapter: prop-stability-second-order

    References: Haber and Ruthotto (2018), section 4.2.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import LeapfrogNet
    >>> LeapfrogNet(2, 4, 1.0)(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    sweep = sweeps.LeapfrogSweep
    names = ("C", "b")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"C": (self.dim, self.dim), "b": (self.dim,)}

    def operators(self, C: Tensor, b: Tensor) -> Weights:
        return -(C.mT @ C), b

    def states(self, y: Float[Tensor, "batch dim"]) -> list[Tensor]:
        states, v = [y], None
        for A, b in zip(*self.operators(*self.weights), strict=True):

            def force(y: Tensor, A: Tensor = A, b: Tensor = b) -> Tensor:
                return -torch.tanh(y @ A + b)

            v = self.h / 2 * force(y) if v is None else v  # half a step before rest
            y, v = verlet_step(y, v, force, lambda v: v, self.h)
            states.append(y)
        return states

    @torch.no_grad()
    def jacobians(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "layers batch full full"]:
        lower = super().jacobians(y)
        upper = torch.eye(self.dim, dtype=y.dtype, device=y.device).expand_as(lower)
        return _blocks(upper, lower)


class VerletNet(StableNet):
    r"""The Verlet pair for :math:`\dot y = \tanh(Kz + c),\ \dot z = -\tanh(K^\top y + b)`.

    Args:
        dim: features n of the state.
        layers: number of layers L.
        T: end of the time interval, so that the step is T/L.
        hidden: features m of z, which starts at 0; by default n.
        **how: ``scale``, ``generator``, ``dtype`` and ``device``, as for ``StableNet``.

    Raises:
        ValueError: ``hidden`` below 1.

    Chapter: prop-stability-second-order

    References: Haber and Ruthotto (2018), equation (4.3), with a bias for each row.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import VerletNet
    >>> VerletNet(2, 4, 1.0, hidden=5)(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    sweep = sweeps.VerletSweep
    names = ("K", "b", "c")

    def __init__(self, dim: int, layers: int, T: float | int, *, hidden: int | None = None, **how):
        hidden = dim if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden must be positive, got {hidden}")
        self.hidden = hidden
        super().__init__(dim, layers, T, **how)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"K": (self.dim, self.hidden), "b": (self.hidden,), "c": (self.dim,)}

    def states(self, y: Float[Tensor, "batch dim"]) -> list[Tensor]:
        states, z = [y], y.new_zeros(len(y), self.hidden)
        for K, b, c in zip(*self.weights, strict=True):

            def kick(y: Tensor, K: Tensor = K, b: Tensor = b) -> Tensor:
                return torch.tanh(y @ K + b)

            def drift(z: Tensor, K: Tensor = K, c: Tensor = c) -> Tensor:
                return torch.tanh(z @ K.mT + c)

            y, z = verlet_step(y, z, kick, drift, self.h)
            states.append(y)
        return states

    @torch.no_grad()
    def jacobians(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "layers batch full full"]:
        _, record = self.sweep.run(self.h, y, *self.weights)
        slope_z, slope_y = record.slopes
        upper = slope_y[..., None] * self.K[:, None]
        return _blocks(upper, -slope_z[..., None] * self.K.mT[:, None])


def _blocks(upper: Tensor, lower: Tensor) -> Tensor:
    """The matrices with zero diagonal blocks."""
    n, m = upper.shape[-2:]
    above = torch.cat([upper.new_zeros(*upper.shape[:-1], n), upper], -1)
    below = torch.cat([lower, lower.new_zeros(*lower.shape[:-1], m)], -1)
    return torch.cat([above, below], -2)
