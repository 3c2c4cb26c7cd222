"""The problems of `benchmarks/ode.py`, their exact solutions, and a solver without comforts."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks import peers
from nodes_tutorial.ode import METHODS, odeint


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, 10.0 * (1 - x * x) * v - x], -1)


def lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([1.5 * x - x * v, x * v - 3.0 * v], -1)


class Network(nn.Module):
    def __init__(self, sizes: tuple[int, ...], scale: float = 1.0, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        with torch.no_grad():
            for layer in self.layers:
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound * scale, bound * scale, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            y = torch.tanh(layer(y))
        return self.layers[-1](y)

    def in_jax(self):
        return [(peers.to_jax(layer.weight), peers.to_jax(layer.bias)) for layer in self.layers]


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def starts(low, high, seed=0, n=256, d=2):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, d, generator=generator)


def exact(field, y0, end):
    if isinstance(field, nn.Module):
        double = Network.__new__(Network)
        nn.Module.__init__(double)
        double.layers = nn.ModuleList(
            nn.Linear(a.in_features, a.out_features).double() for a in field.layers
        )
        double.load_state_dict(field.state_dict())
        field = double
    t = torch.tensor([0.0, end]).double()
    return odeint(field, y0.double(), t, rtol=1e-10, atol=1e-11, method="dopri8")[-1]


@torch.no_grad()
def bare_loop(field, y0, end, tol=1e-5):
    """Dopri5 with the fewest operations we know, on one problem, without checks or outputs.

    What "eager" costs above this is the library's; what this costs above the field is the price
    of some 30 small operations a step on the machine at hand.
    """
    tableau, shape, size = METHODS["dopri5"], y0.shape, y0.numel()
    stack = y0.new_empty(8, *shape)
    state, first, *views = stack.unbind()
    last = stack.movedim(0, -1)
    scaled, ones = torch.zeros(6, 8), torch.zeros(6, 8)
    for row, weights in zip(scaled, tableau.a, strict=True):
        row[1 : 1 + len(weights)] = torch.tensor(weights)
    ones[:, 0] = 1.0
    rows = torch.empty(6, 8)
    sums = [(last[..., : i + 2], rows[i, : i + 2]) for i in range(1, 6)]
    error_row, columns = torch.tensor(tableau.b_error), last[..., 1:]
    atol, new = torch.tensor(tol), torch.scalar_tensor
    first.copy_(field(new(0.0), y0))
    t, h, previous, y, size_before = 0.0, 0.02, 0.1, y0, y0.abs()
    while True:
        h = min(h, end - t)
        times = [new(t + c * h) for c in tableau.c[1:6]]
        state.copy_(y)
        torch.add(ones, scaled, alpha=h, out=rows)
        after = torch.add(y, first, alpha=0.2 * h)
        for time_, view, (stages, weights) in zip(times, views[:5], sums, strict=True):
            view.copy_(field(time_, after))
            after = torch.matmul(stages, weights)
        views[5].copy_(field(time_, after))
        size_after = after.abs()
        scale = torch.add(atol, torch.maximum(size_before, size_after), alpha=tol)
        error = torch.linalg.vector_norm(torch.matmul(columns, error_row).div_(scale)).item()
        ratio = max(1e-10, h * error / size**0.5)
        if ratio <= 1:
            t += h
            if t >= end:
                return after
            y, size_before = after, size_after
            first.copy_(views[5])
        h *= min(10.0, max(0.2, 0.9 * ratio**-0.17 * previous**0.04))
        previous = max(0.1, min(ratio, 1.0))
