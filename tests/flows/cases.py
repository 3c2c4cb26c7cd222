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

from nodes_tutorial.flows import CNF, PlanarField, PlanarTransform, Transform
from nodes_tutorial.nets import TimeMLP


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


def cnf(field: Callable[[torch.dtype], torch.nn.Module]) -> Callable[[torch.dtype], Transform]:
    """A flow on a fixed grid, which `vmap` needs, at an order that makes its error round-off."""
    grid = {"method": "dopri8", "options": {"step_size": 1 / 8}}
    return lambda dtype: CNF(field(dtype), **grid)


def folding(dtype: torch.dtype) -> PlanarTransform:
    """A planar map that the uncorrected direction would fold: its w u is -2, below -1."""
    transform = PlanarTransform(2, rng(), dtype=dtype)
    with torch.no_grad():
        transform.w.copy_(torch.tensor([1.0, -2.0]))
        transform.u.copy_(torch.tensor([-1.0, 0.5]))
    return transform


CASES: dict[str, Case] = {
    "planar": Case(lambda dtype: PlanarTransform(3, rng(), dtype=dtype)),
    "planar_folding": Case(folding, shape=(2,)),
    "scale": Case(Scale, zeros=lambda: ~torch.eye(3, dtype=torch.bool)),
    "cnf": Case(cnf(lambda dtype: TimeMLP(3, [8, 8], generator=rng(), dtype=dtype))),
    "cnf planar": Case(cnf(lambda dtype: PlanarField(3, 4, generator=rng(), dtype=dtype))),
}
