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

from nodes_tutorial.flows import (
    CNF,
    IAF,
    MAF,
    NICE,
    NSF,
    ActNorm,
    AffineCoupling,
    AutoregressiveAffine,
    Chain,
    ContextField,
    ConvNet,
    Diagonal,
    Glow,
    HyperField,
    InvertibleLinear,
    Logit,
    PlanarField,
    PlanarTransform,
    RealNVP,
    SplineCoupling,
    Transform,
    alternating_mask,
    checkerboard_mask,
    half_mask,
)
from nodes_tutorial.nets import MLP, TimeMLP


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


def cnf(field: Callable[..., torch.nn.Module], *sizes: object) -> Callable[..., Transform]:
    """A flow on a fixed grid, which `vmap` needs, at an order that makes its error round-off."""
    grid = {"method": "dopri8", "options": {"step_size": 1 / 8}}
    return lambda dtype: CNF(field(*sizes, generator=rng(), dtype=torch.float64).to(dtype), **grid)


def folding(dtype: torch.dtype) -> PlanarTransform:
    """A planar map that the uncorrected direction would fold: its w u is -2, below -1."""
    transform = PlanarTransform(2, rng(), dtype=dtype)
    with torch.no_grad():
        transform.w.copy_(torch.tensor([1.0, -2.0]))
        transform.u.copy_(torch.tensor([-1.0, 0.5]))
    return transform


def settled(build: Callable[[], Transform]) -> Callable[[torch.dtype], Transform]:
    """Weights drawn in float64 and shaken, so that both precisions and no identity are tested."""

    def make(dtype: torch.dtype) -> Transform:
        transform, generator = build().double(), rng(5)
        with torch.no_grad():
            for parameter in transform.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
        return transform.to(dtype)

    return make


class At(Transform):
    """A conditional transform at one context."""

    CONTEXT = (0.7, -1.2)

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.register_buffer("at", torch.tensor(self.CONTEXT))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(z, context=self.at)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context=self.at)

    def push(self, z: Tensor) -> Tensor:
        return self.transform.push(z, context=self.at)

    def pull(self, x: Tensor) -> Tensor:
        return self.transform.pull(x, context=self.at)


def given(field: Callable[..., torch.nn.Module]) -> Callable[[torch.dtype], Transform]:
    """A continuous flow at one context."""
    grid = {"method": "dopri8", "options": {"step_size": 1 / 8}}
    make = settled(lambda: CNF(field(3, 2, [8, 8], generator=rng()), **grid))
    return lambda dtype: At(make(dtype)).to(dtype)


def spline(mask: Tensor) -> Callable[[torch.dtype], Transform]:
    kept = int(mask.sum())
    sizes = [kept, 8, (3 * 5 - 1) * (len(mask) - kept)]
    return settled(lambda: SplineCoupling(mask, MLP(sizes, generator=rng()), bound=3.0))


def affine(mask: Tensor, **options) -> Callable[[torch.dtype], Transform]:
    kept, outputs = int(mask.sum()), 2 if options.get("scale", True) else 1
    return settled(
        lambda: AffineCoupling(
            mask, MLP([kept, 8, outputs * (len(mask) - kept)], generator=rng()), **options
        )
    )


class Smooth(torch.nn.Module):
    """A small convolutional network with a bounded smooth activation, for differences."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = ConvNet(inputs, 4, outputs, rng())
        self.net.layers[1] = self.net.layers[3] = torch.nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def glow() -> Transform:
    flow = Glow((1, 4, 4), levels=2, steps=2, width=4, generator=rng())
    for module in flow.modules():
        if isinstance(module, ConvNet):
            module.layers[1] = module.layers[3] = torch.nn.Tanh()
    return flow.transforms[0]


CASES: dict[str, Case] = {
    "planar": Case(lambda dtype: PlanarTransform(3, rng(), dtype=dtype)),
    "planar_folding": Case(folding, shape=(2,)),
    "scale": Case(Scale, zeros=lambda: ~torch.eye(3, dtype=torch.bool)),
    "cnf": Case(cnf(TimeMLP, 3, [8, 8])),
    "cnf planar": Case(cnf(PlanarField, 3, 4)),
    "coupling": Case(affine(half_mask(5)), (5,), lambda: coupling(~half_mask(5))),
    "coupling second half": Case(affine(half_mask(4, 1)), (4,), lambda: coupling(~half_mask(4, 1))),
    "coupling alternating": Case(
        affine(alternating_mask(5, 1)), (5,), lambda: coupling(~alternating_mask(5, 1))
    ),
    "coupling additive": Case(
        affine(half_mask(4), scale=False), (4,), lambda: coupling(~half_mask(4))
    ),
    "coupling channels": Case(
        settled(lambda: AffineCoupling(half_mask(4), Smooth(2, 4), event_dims=3)),
        (4, 2, 2),
        lambda: coupling(~half_mask(4)[:, None, None].expand(4, 2, 2)),
    ),
    "coupling checkerboard": Case(
        settled(lambda: AffineCoupling(checkerboard_mask((1, 4, 3)), Smooth(1, 2), event_dims=3)),
        (1, 4, 3),
        lambda: coupling(~checkerboard_mask((1, 4, 3))),
    ),
    "diagonal": Case(settled(lambda: Diagonal(3)), zeros=lambda: ~torch.eye(3, dtype=torch.bool)),
    "actnorm": Case(settled(lambda: ActNorm(3)), zeros=lambda: ~torch.eye(3, dtype=torch.bool)),
    "actnorm channels": Case(settled(lambda: ActNorm(2, event_dims=3)), (2, 3, 2)),
    "linear": Case(settled(lambda: InvertibleLinear(4, generator=rng())), (4,)),
    "linear channels": Case(
        settled(lambda: InvertibleLinear(3, event_dims=3, generator=rng())), (3, 2, 2)
    ),
    "autoregressive": Case(
        settled(lambda: AutoregressiveAffine(4, [8, 8], activation="tanh", generator=rng())),
        (4,),
        lambda: autoregressive(range(4)),
    ),
    "autoregressive reversed": Case(
        settled(lambda: AutoregressiveAffine(4, [8], True, "tanh", rng())),
        (4,),
        lambda: autoregressive([3, 2, 1, 0]),
    ),
    "autoregressive one entry": Case(
        settled(lambda: AutoregressiveAffine(2, [], activation="tanh", generator=rng())), (2,)
    ),
    "realnvp": Case(
        settled(lambda: Chain(RealNVP(3, 4, [8], "tanh", rng(), actnorm=True).transforms))
    ),
    "nice": Case(settled(lambda: Chain(NICE(3, 4, [8], "tanh", rng()).transforms))),
    "maf": Case(settled(lambda: Chain(MAF(3, 3, [8], "tanh", rng(), actnorm=True).transforms))),
    "iaf": Case(
        settled(
            lambda: Chain(
                IAF(3, layers=2, hidden=[8], activation="tanh", generator=rng()).transforms
            )
        )
    ),
    "spline": Case(spline(half_mask(5)), (5,), lambda: coupling(~half_mask(5))),
    "spline alternating": Case(
        spline(alternating_mask(5, 1)), (5,), lambda: coupling(~alternating_mask(5, 1))
    ),
    "nsf": Case(settled(lambda: Chain(NSF(3, 4, [8], 4, "tanh", rng(), actnorm=True).transforms))),
    "nsf given a context": Case(
        settled(lambda: At(Chain(NSF(3, 3, [8], 4, "tanh", rng(), context=2).transforms)))
    ),
    "one entry given a context": Case(
        settled(lambda: At(Chain(NSF(1, 2, [8], 4, "tanh", rng(), context=2).transforms))), (1,)
    ),
    "realnvp given a context": Case(
        settled(lambda: At(Chain(RealNVP(3, 3, [8], "tanh", rng(), context=2).transforms)))
    ),
    "autoregressive given a context": Case(
        settled(lambda: At(AutoregressiveAffine(4, [8, 8], False, "tanh", rng(), context=2))),
        (4,),
        lambda: autoregressive(range(4)),
    ),
    "iaf given a context": Case(
        settled(
            lambda: At(
                Chain(
                    IAF(
                        3, layers=2, hidden=[8], activation="tanh", generator=rng(), context=2
                    ).transforms
                )
            )
        )
    ),
    "cnf given a context": Case(given(ContextField)),
    "cnf of a hypernetwork": Case(given(HyperField)),
    "glow": Case(settled(glow), (1, 4, 4)),
    "logit": Case(lambda dtype: Logit(1).to(dtype), (3,), lambda: ~torch.eye(3, dtype=torch.bool)),
}
