"""Every transform of the package, in the form in which the battery tests it.

An entry is called with a dtype and builds its transform with fixed weights that are not those of
an identity map. `shape` is the shape of one point; `zeros` marks the entries of the Jacobian
(row = output) that must be exactly zero in both directions; `atol` is 1e-9 unless
a comment says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nodes_tutorial.flows import Transform


@dataclass(frozen=True)
class Case:
    build: Callable[[torch.dtype], Transform]
    shape: tuple[int, ...] = (3,)
    zeros: Callable[[], Tensor] | None = None
    atol: float = 1e-9
    draw: Callable[..., Tensor] = torch.randn  # the law of z; torch.rand where the domain is (0, 1)

    def __call__(self, dtype: torch.dtype) -> Transform:
        return self.build(dtype)


def autoregressive(order: Sequence[int]) -> Tensor:
    """Zeros of a map whose output i sees itself and what comes before it in the order."""
    rank = torch.as_tensor(order).argsort()
    return rank[None, :] > rank[:, None]


def coupling(changed: Tensor) -> Tensor:
    """Zeros of a map that moves the entries marked in `changed`, each given the unmarked ones."""
    changed = changed.bool().flatten()
    return ~(torch.eye(len(changed), dtype=torch.bool) | (changed[:, None] & ~changed[None, :]))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Scale(Transform):
    """The smallest transform: x = a * z + b, entry by entry. It tests the battery."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([0.5, -2.0, 3.0], dtype=dtype))
        self.b = torch.nn.Parameter(torch.tensor([1.0, 0.0, -1.0], dtype=dtype))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.a * z + self.b, self.a.abs().log().sum().expand(z.shape[:-1])

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.b) / self.a, -self.a.abs().log().sum().expand(x.shape[:-1])


CASES: dict[str, Case] = {
    "scale": Case(Scale, zeros=lambda: ~torch.eye(3, dtype=torch.bool)),
}
