"""Latent ODEs and recurrent baselines on irregular toys: interpolation and extrapolation."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.data.timeseries import FRACTIONS, Series, observe, periodic, spirals
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.ode.irregular.baselines import RNNVAE, DeltaRNN
from nodes_tutorial.ode.latent.model import ODERNN, LatentODE
from nodes_tutorial.training import fit

DATASETS = ("periodic-code", "periodic-paper", "spirals")
MODELS = ("rnn-dt", "ode-rnn", "rnn-vae", "latent-ode-rnn", "latent-ode")
TASKS = ("interpolate", "extrapolate")
TRAIN, TEST = 800, 200
SCALE = 3.0  # spirals are divided by it
TOLERANCE = {"train": 1e-2, "test": 1e-4}


@dataclass(frozen=True)
class Run:
    """All that decides a run."""

    dataset: str = "periodic-code"
    model: str = "latent-ode"
    steps: int = 2000
    batch: int = 50
    rate: float = 1e-2
    noise: float = 0.1
    latent: int = 6
    hidden: int = 20
    width: int = 50
    speed: float = 5.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"dataset": DATASETS, "model": MODELS}, ("steps",))


def load(dataset: str, device: str = "cpu") -> tuple[Series, Tensor, float]:
    """The series, their values without noise, and when the first half ends.

    The series are the same for every model and seed. Spirals have their extrapolation behind the
    hundred steps that a model is trained on.
    """
    generator = torch.Generator(device).manual_seed(10**6)
    if dataset == "spirals":
        series, clean = spirals(TRAIN + TEST, generator)
        series = Series(series.times, series.values / SCALE, series.mask)
        return series, clean / SCALE, float(series.times[99])
    variant = dataset.removeprefix("periodic-")
    series, clean = periodic(TRAIN + TEST, generator, variant=variant)
    return series, clean, 2.5


def build(run: Run, dim: int, seeds: list[int]) -> nn.Module:
    """The networks of all seeds side by side; every model has about the latent ODE's parameters."""
    generators = [torch.Generator(run.device).manual_seed(seed) for seed in seeds]
    kind: dict[str, Any] = {"generator": generators, "device": run.device}
    if run.model == "latent-ode":
        return _make(run, dim, run.hidden, kind)
    reference = {"generator": torch.Generator(run.device), "device": run.device}
    budget = count_parameters(_make(Run(**asdict(run) | {"model": "latent-ode"}), dim,
                                    run.hidden, reference))  # fmt: skip
    sizes = range(4, 4 * run.hidden)
    counts = {h: count_parameters(_make(run, dim, h, reference)) for h in sizes}
    return _make(run, dim, min(sizes, key=lambda h: abs(counts[h] - budget)), kind)


def _make(run: Run, dim: int, hidden: int, kind: dict[str, Any]) -> nn.Module:
    if run.model in ("rnn-dt", "ode-rnn"):
        if run.model == "rnn-dt":
            return DeltaRNN(dim, hidden, width=run.width, **kind)
        return ODERNN(dim, hidden, width=run.width, step_size=0.5, **kind)
    if run.model == "rnn-vae":
        return RNNVAE(dim, run.hidden, hidden=hidden, width=run.width, noise=run.noise, **kind)
    tolerance = TOLERANCE["train"]
    sizes = {"width": run.width, "noise": run.noise, "speed": run.speed}
    sizes |= {"rtol": tolerance, "atol": tolerance}
    encoder = None
    if run.model == "latent-ode-rnn":
        encoder = DeltaRNN(dim, hidden, width=run.width, readout=False, **kind)
    return LatentODE(dim, run.latent, encoder=encoder, hidden=hidden, **sizes, **kind)


def seen_of(series: Series, task: str, fraction: float, half: float, generator) -> Series:
    """What a model is shown: a share of all times, or of those of the first half."""
    shown = series.window(stop=half) if task == "extrapolate" else series
    return observe(shown, fraction, generator)


def execute(
    run: Run,
    seeds: list[int],
    *,
    checkpoint: str | None = None,
    every: int = 200,
    progress: bool | None = None,
) -> tuple[list[dict[str, Any]], nn.Module]:
    """Train the networks of all seeds together and measure each; the rows, and the networks.

    One network learns both tasks and all shares of observed times. The target's window grows from
    a quarter to the whole in the first half of the training. The seeds differ in their initial
    weights; batches are shared.

    Args:
        run: what to do.
        seeds: of the initial weights.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.
    """
    series, clean, half = load(run.dataset, run.device)
    end = half if run.dataset == "spirals" else float(series.times[-1])
    train = series.rows(slice(TRAIN)).until(end)
    net = build(run, series.values.shape[-1], seeds)
    adam = torch.optim.Adam(net.parameters(), run.rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, run.rate, total_steps=run.steps, div_factor=3, pct_start=0.1
    )
    generator, clock = torch.Generator(run.device).manual_seed(seeds[0]), Clock()

    def step(i: int) -> Tensor:
        rows = torch.randint(TRAIN, (run.batch,), generator=generator, device=run.device)
        stop = end * min(1.0, 0.25 + 1.5 * i / run.steps)
        target = train.rows(rows).until(stop)
        task = "interpolate" if run.dataset == "spirals" else TASKS[i // len(FRACTIONS) % 2]
        seen = seen_of(target, task, FRACTIONS[i % len(FRACTIONS)], stop / 2, generator)
        loss = _loss(net, seen, target, min(1.0, 2 * i / run.steps), generator)
        adam.zero_grad()
        loss.sum().backward()  # the networks share nothing
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        adam.step()
        schedule.step()
        return loss.mean()

    state = {"net": net, "adam": adam, "rate": schedule, "draws": generator, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    seconds = clock.state_dict()
    common = {
        "parameters": count_parameters(net) // len(seeds),
        "cpu_seconds": round(seconds["cpu"] / len(seeds), 1),
        "settings": asdict(run),
        **provenance(run.device),
    }
    rows = [{"dataset": run.dataset, "model": run.model, "seed": seed} for seed in seeds]
    for name, values in measure(run, net, series, clean, half).items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return [row | common for row in rows], net


def _loss(net: nn.Module, seen: Series, target: Series, beta: float, generator) -> Tensor:
    """One number for each network."""
    if isinstance(net, ODERNN):
        return (net(seen, target.times) - target.values).square().mean((1, 2, 3))
    bound = net.elbo(seen, target, beta=beta, generator=generator)
    return -bound.mean(-1) / len(target.times)


@torch.no_grad()
def measure(
    run: Run, net: nn.Module, series: Series, clean: Tensor, half: float
) -> dict[str, list[float]]:
    """Mean squared error against the values without noise, for each task, share and network.

    Interpolation counts the times that were not observed; extrapolation those behind the half.
    """
    test, truth = series.rows(slice(TRAIN, None)), clean[TRAIN:]
    if run.model.startswith("latent"):
        net.solver |= {"rtol": TOLERANCE["test"], "atol": TOLERANCE["test"]}
    generator, found = torch.Generator(run.device).manual_seed(10**6), {}
    behind = (series.times > half)[:, None]
    inside = test.window(stop=half) if run.dataset == "spirals" else test
    for fraction in FRACTIONS:
        for task in TASKS:
            seen = seen_of(inside, task, fraction, half, generator)
            error = (net(seen, series.times) - truth).square()
            asked = behind if task == "extrapolate" else inside.mask & ~seen.mask
            weight = asked.expand_as(test.mask).to(error.dtype)
            mse = (error * weight).sum((-3, -2, -1)) / weight.sum()
            found[f"{task} {fraction:g}"] = mse.tolist()
    return found
