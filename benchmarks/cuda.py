"""What a GPU changes: solvers, gradients, Bayesian steps, per-example gradients, chains.

`python -m benchmarks.cuda` needs a CUDA device. Contenders take turns and wait for the device
before the clock is read. The peers are torchdiffeq, the textbook loop of `bayes_steps`, one network
after the other, and `vmap` of `grad`.
"""

import sys

import torch
import torch.nn.functional as F
import torchdiffeq
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks import bayes_steps
from benchmarks.harness import Row, Times, Work, report
from nodes_tutorial.bayes import effective_sample_size, hmc
from nodes_tutorial.generalization import categorical, empirical_fisher
from nodes_tutorial.nets import MLP, TimeMLP
from nodes_tutorial.ode import odeint

DEVICE = "cuda"
TOL = {"rtol": 1e-5, "atol": 1e-5}
ROWS: list[Row] = []
ERRORS: list[tuple[str, str, float, float]] = []


def timed(work: Work, seconds: float = 4.0) -> Times:
    def waiting(run):
        def call():
            found = run()
            torch.cuda.synchronize()
            return found

        return call

    return Times({name: waiting(run) for name, run in work.items()}, seconds)


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def solvers(batch: int) -> None:
    name = f"field of 2-64-64-2, {batch} problems"
    field = TimeMLP(2, [64, 64], generator=bayes_steps.seeded(0)).to(DEVICE)
    parameters = list(field.parameters())
    y0 = torch.randn(batch, 2, generator=bayes_steps.seeded(1)).to(DEVICE)
    t = torch.tensor([0.0, 5.0], device=DEVICE)
    truth = odeint(field.double(), y0.double(), t.double(), rtol=1e-10, atol=1e-10)[-1].detach()
    field.float()

    @torch.no_grad()
    def forward(solve):
        return solve(field, y0, t, **TOL)[-1]

    def gradient(solve, **how):
        leaf = y0.clone().requires_grad_()
        end = solve(field, leaf, t, **TOL, **how)[-1]
        return torch.autograd.grad(end.square().sum(), [leaf, *parameters])[0]

    work = {
        "ours": lambda: forward(odeint),
        "torchdiffeq": lambda: forward(torchdiffeq.odeint),
    }
    slopes = {
        "ours, backprop": lambda: gradient(odeint),
        "torchdiffeq, backprop": lambda: gradient(torchdiffeq.odeint),
        "ours, adjoint": lambda: gradient(odeint, gradient="adjoint"),
        "torchdiffeq, adjoint": lambda: gradient(torchdiffeq.odeint_adjoint),
    }
    times = timed(work)
    for who, run in work.items():
        ERRORS.append((name, who, times.ms(who), distance(run(), truth)))
    ROWS.append(Row(f"{name}: over torchdiffeq", times.ratio("torchdiffeq", "ours"), ">=1.0"))
    exact, times = slopes["ours, backprop"](), timed(slopes)
    for who, run in slopes.items():
        ERRORS.append((f"gradient, {name}", who, times.ms(who), distance(run(), exact)))
    for way in ("backprop", "adjoint"):
        ratio = times.ratio(f"torchdiffeq, {way}", f"ours, {way}")
        ROWS.append(Row(f"{name}: {way} over torchdiffeq", ratio, ">=1.0"))


def bayes() -> None:
    work, truth = bayes_steps.bayes_by_backprop(DEVICE)
    before = {who: float(run()) for who, run in work.items()}
    times = timed(work)
    for who, loss in before.items():
        off = float("nan") if who == "ordinary step" else abs(loss / truth - 1)
        ERRORS.append(("Bayes by Backprop, 784-400-400-10", who, times.ms(who), off))
    ratio = times.ratio("textbook loop", "ours")
    ROWS.append(Row("Bayes by Backprop: over the textbook loop", ratio, ">=1.3"))
    for shape in bayes_steps.SHAPES:
        work = bayes_steps.ensembles(shape, DEVICE)
        first = {who: float(run()) for who, run in work.items()}
        times = timed(work)
        for who, loss in first.items():
            off = abs(loss / first["loop"] - 1)
            ERRORS.append((f"ensemble of 8, {shape}", who, times.ms(who), off))
        ratio = times.ratio("loop", "ours, one graph")
        ROWS.append(Row(f"ensemble of 8, {shape}: over a loop", ratio, ">=1.0"))


def fisher(rows: int) -> None:
    net = MLP([784, 256, 10], generator=bayes_steps.seeded(0)).to(DEVICE)
    x, y = bayes_steps.batch((784, 10), rows, DEVICE)
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights, x, y):
        return F.cross_entropy(functional_call(net, weights, (x[None],)), y[None])

    def by_vmap():
        slopes = vmap(grad(loss), (None, 0, 0))(weights, x, y)
        return torch.cat([g.square().mean(0).flatten() for g in slopes.values()])

    work = {
        "ours": lambda: empirical_fisher(net, x, y, likelihood=categorical()).diagonal(),
        "vmap of grad": by_vmap,
        "one gradient": lambda: torch.autograd.grad(
            F.cross_entropy(net(x), y), list(net.parameters())
        ),
    }
    times, name = timed(work), f"empirical Fisher diagonal, 784-256-10, {rows} examples"
    truth = by_vmap()
    for who in ("ours", "vmap of grad"):
        ERRORS.append((name, who, times.ms(who), distance(work[who](), truth)))
    ROWS.append(Row(f"{name}: over vmap", times.ratio("vmap of grad", "ours"), ">=60"))
    ROWS.append(Row(f"{name}: over one gradient", times.ratio("ours", "one gradient"), "<=1.3"))


def chains(device: str, count: int, steps: int = 100) -> None:
    """Effective samples of a Gaussian with condition number 100; milliseconds for a thousand."""
    scale = torch.logspace(0, 1, 50, dtype=torch.float64, device=device)
    draws = torch.Generator(device).manual_seed(0)
    x0 = scale * torch.randn(count, 50, generator=draws, dtype=torch.float64, device=device)

    def run():
        return hmc(
            lambda x: -0.5 * (x / scale).square().sum(-1), x0, steps=steps, leapfrog=20,
            step_size=0.5, jitter=0.5, generator=draws,
        ).x  # fmt: skip

    times = timed({"hmc": run}, seconds=2.0)
    x = run()
    least = float(effective_sample_size(x).min())
    off = float(((x.mean((0, 1))) / scale).abs().max())
    ERRORS.append(("Gaussian, d = 50, 1000 effective", f"{count} chains on {device}",
                   1e3 * times.ms("hmc") / least, off))  # fmt: skip


def main() -> None:
    for batch in (256, 65_536):
        solvers(batch)
        print(f"solvers, {batch}", file=sys.stderr, flush=True)
    bayes()
    print("bayes", file=sys.stderr, flush=True)
    for rows in (256, 4096):
        fisher(rows)
    for count in (64, 4096):
        for device in ("cpu", DEVICE):
            chains(device, count, 100 if count < 1000 else 40)
    report("python -m benchmarks.cuda ", ROWS, ERRORS, torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
