"""What the stable networks share: stacked weights, fast passes, a linearization, refinement."""

import copy
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from nodes_tutorial.ode.stability import sweeps
from nodes_tutorial.ode.stability.depth import prolong

__all__ = ["Linearization", "StableNet", "Weights"]

Weights = tuple[Tensor, ...]


class Linearization(NamedTuple):
    """A network at one set of weights and inputs.

    Args:
        out: the last states.
        push: maps a change of the weights to the change of ``out``.
        pull: maps a gradient at ``out`` to the gradient in the weights.
    """

    out: Tensor
    push: Callable[[Weights], Tensor]
    pull: Callable[[Tensor], Weights]


class StableNet(nn.Module):
    """What the four networks share; use one of the subclasses.

    Args:
        dim: features n of the state.
        layers: number of layers L.
        T: end of the time interval, so that h = T/L.
        scale: size of the initial weights, which are the same in every layer.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: ``dim`` or ``layers`` below 1, or ``T`` not positive.
    """

    sweep: ClassVar[type]
    names: ClassVar[tuple[str, ...]] = ("K", "b")

    def __init__(
        self,
        dim: int,
        layers: int,
        T: float | int,
        *,
        scale: float | int = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if dim < 1 or layers < 1 or not T > 0:
            raise ValueError(f"dim, layers and T must be positive, got {dim}, {layers} and {T}")
        self.dim, self.T = dim, T
        source = device if generator is None else generator.device
        for name, shape in self._shapes().items():
            draw = torch.randn(1, *shape, generator=generator, dtype=dtype, device=source)
            start = (scale / math.sqrt(dim) * draw).expand(layers, *shape).clone()
            self.register_parameter(name, nn.Parameter(start.to(device or source)))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"K": (self.dim, self.dim), "b": (self.dim,)}

    @property
    def weights(self) -> Weights:
        """The stacked weights, depth in front."""
        return tuple(getattr(self, name) for name in self.names)

    @property
    def layers(self) -> int:
        """The number of layers L."""
        return len(self.b)

    @property
    def h(self) -> float:
        """The step T/L."""
        return self.T / self.layers

    def operators(self, *weights: Tensor) -> Weights:
        """What a layer multiplies with and adds, from the weights; all layers at once."""
        return weights

    def forward(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The last states, with a gradient by the adjoint pass."""
        return sweeps.propagate(self.sweep, self.h, y, *self.operators(*self.weights))

    @torch.no_grad()
    def linearize(self, y: Float[Tensor, "batch dim"]) -> Linearization:
        """The output, and products with its Jacobian in the weights and with the transpose."""
        weights = tuple(w.detach() for w in self.weights)
        out, record = self.sweep.run(self.h, y, *self.operators(*weights))

        def push(change: Weights) -> Tensor:
            ahead = self.operators(*(w + v for w, v in zip(weights, change, strict=True)))
            back = self.operators(*(w - v for w, v in zip(weights, change, strict=True)))
            # the derivative itself: the operators are polynomials of degree at most two
            moved = ((a - b) / 2 for a, b in zip(ahead, back, strict=True))
            return self.sweep.push(record, *moved)

        @torch.enable_grad()
        def pull(gradient: Tensor) -> Weights:
            leaves = tuple(w.clone().requires_grad_() for w in weights)
            moved = self.sweep.pull(record, gradient)[1:]
            return torch.autograd.grad(self.operators(*leaves), leaves, moved)

        return Linearization(out, push, pull)

    def states(self, y: Float[Tensor, "batch dim"]) -> list[Tensor]:
        """All L + 1 states, layer by layer, for autograd: the slow and obvious way."""
        states = [y]
        for A, b in zip(*self.operators(*self.weights), strict=True):
            states.append(states[-1] + self.h * torch.tanh(states[-1] @ A + b))
        return states

    @torch.no_grad()
    def jacobians(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "layers batch full full"]:
        """Jacobian of the field at each layer and sample, all components of the state."""
        operators = self.operators(*self.weights)
        _, record = self.sweep.run(self.h, y, *operators)
        return record.slopes[0][..., None] * operators[0].mT[:, None]

    def eigenvalues(self, y: Float[Tensor, "batch dim"]) -> Complex[Tensor, "layers batch full"]:
        """Eigenvalues of ``jacobians``."""
        return torch.linalg.eigvals(self.jacobians(y))

    def refined(self) -> "StableNet":
        """A network with twice the layers and prolonged weights, on the same interval."""
        fine = copy.deepcopy(self)
        for name, w in zip(self.names, self.weights, strict=True):
            setattr(fine, name, nn.Parameter(prolong(w.detach())))
        return fine
