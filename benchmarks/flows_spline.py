"""Spline couplings beside zuko's: a training step, densities, draws.

512 points, four couplings with splines of eight bins. zuko's ready-made `NSF` is autoregressive, or
a coupling whose masked network has weights for all entries. We build the best of zuko: its coupling
with a plain network for one half of the entries, as ours has, with as many weights. The check of
value hands our knots to zuko's spline.
"""

import math
from collections.abc import Callable

import torch
import zuko
from torch import Tensor, nn

from benchmarks.harness import Row, Times, report
from nodes_tutorial.flows import NSF, half_mask, rational_quadratic
from nodes_tutorial.nets import count_parameters

POINTS, BINS, BOUND, LAYERS = 512, 8, 5.0, 4
SIZES = {2: (64, 64), 43: (128, 128), 63: (128, 128)}  # as in `flows_discrete`


def splines(dim: int, hidden: tuple[int, ...]) -> dict[str, nn.Module]:
    couplings = [
        zuko.flows.GeneralCouplingTransform(
            dim,
            mask=half_mask(dim, i % 2),
            univariate=zuko.transforms.MonotonicRQSTransform,
            shapes=[(BINS,), (BINS,), (BINS - 1,)],
            hidden_features=hidden,
        )
        for i in range(LAYERS)
    ]
    normal = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True
    )
    return {
        "ours": NSF(dim, LAYERS, hidden, BINS, bound=BOUND),
        "zuko": zuko.lazy.Flow(couplings, normal),
    }


def work_of(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """A training step, the density of points, and as many draws."""
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    flow = (lambda: model) if isinstance(model, NSF) else model  # zuko builds its flow in a call
    size = len(x) if isinstance(model, NSF) else (len(x),)

    def step() -> Tensor:
        adam.zero_grad()
        loss = -flow().log_prob(x).mean()
        loss.backward()
        adam.step()
        return loss

    @torch.no_grad()
    def density() -> Tensor:
        return flow().log_prob(x)

    @torch.no_grad()
    def draws() -> Tensor:
        return flow().sample(size)

    return {"step": step, "density": density, "draws": draws}


def disagreement() -> float:
    """Largest difference of values, log-slopes and inverses from zuko's spline with our knots."""
    generator, n = torch.Generator().manual_seed(0), 4000
    x = 12 * torch.rand(n, generator=generator, dtype=torch.float64) - 6
    parameters = torch.randn(n, 3 * BINS - 1, generator=generator, dtype=torch.float64)
    theirs = zuko.transforms.MonotonicRQSTransform(*parameters.split([BINS, BINS, BINS - 1], -1))
    shares = parameters[:, : 2 * BINS].unflatten(-1, (2, BINS)).softmax(-1)
    ends = 2 * BOUND * (0.001 + (1 - 0.001 * BINS) * shares).cumsum(-1) - BOUND
    ends = nn.functional.pad(ends, (1, 0), value=-BOUND)
    theirs.horizontal, theirs.vertical = ends.unbind(1)
    slopes = nn.functional.softplus(parameters[:, 2 * BINS :] + math.log(math.expm1(0.999)))
    theirs.derivatives = nn.functional.pad(slopes + 0.001, (1, 1), value=1.0)
    y, log_slope = rational_quadratic(x, parameters, BOUND)
    back, _ = rational_quadratic(y, parameters, BOUND, inverse=True)
    gaps = (
        y - theirs(x),
        log_slope - theirs.log_abs_det_jacobian(x, y),
        (back - theirs.inv(y)) * log_slope.exp().clamp(max=1),  # where it is flat x is less sure
    )
    return max(float(gap.abs().max()) for gap in gaps)


def rows() -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    """The goals, and for each contender its time; the last column is the mean of what came out."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    goals: list[Row] = []
    lines: list[tuple[str, str, float, float]] = []
    for dim, hidden in SIZES.items():
        x = torch.randn(POINTS, dim)
        models = splines(dim, hidden)
        assert len({count_parameters(model) for model in models.values()}) == 1
        each = {who: work_of(model, x) for who, model in models.items()}
        work = {f"{who}, {kind}": f for who, kinds in each.items() for kind, f in kinds.items()}
        times = Times(work, seconds=4.0, least=15)
        for kind in ("step", "density", "draws"):
            ratio = times.ratio(f"zuko, {kind}", f"ours, {kind}")
            goals.append(Row(f"NSF(4) {kind}, d = {dim}, over zuko's coupling", ratio, ">=1.2"))
        for name, run in work.items():
            value = float(run().detach().mean())
            lines.append((f"NSF(4), d = {dim}", name, times.ms(name), value))
    gap = disagreement()
    goals.append(Row("spline with zuko's and our knots: largest difference", gap, "<=1e-9"))
    return goals, lines


if __name__ == "__main__":
    report("make bench RECORD_SPLINE=", *rows())
