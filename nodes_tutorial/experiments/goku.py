"""GOKU-net, a latent ODE and an LSTM on films of pendulums and signals of a circulation."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import MLP, count_parameters
from nodes_tutorial.ode.known_unknowns.forecast import LSTMForecast
from nodes_tutorial.ode.known_unknowns.goku import GOKUNet, Path
from nodes_tutorial.ode.known_unknowns.sequences import Sequences, pendulum_sequences
from nodes_tutorial.ode.known_unknowns.systems import pendulum
from nodes_tutorial.ode.misspecified.circulation import (
    cardiovascular,
    cardiovascular_sequences,
    cardiovascular_signals,
)
from nodes_tutorial.ode.misspecified.partly_known import PartlyKnown
from nodes_tutorial.training import fit

SYSTEMS = ("pendulum", "friction", "cvs")
MODELS = ("goku", "goku-labels", "latent-ode", "lstm")
TRAIN = {"pendulum": 450, "friction": 450, "cvs": 900}
TEST = 100
SEEN = {"pendulum": 50, "friction": 50, "cvs": 200}
FRICTION, LABELS, GROUNDING = 0.7, 0.01, 1e4
NOISE, CLIP = 0.05, {"pendulum": math.inf, "friction": math.inf, "cvs": 1e3}
PARAMETERS = {"pendulum": ("l",), "friction": ("l",), "cvs": ("i", "r")}


@dataclass(frozen=True)
class Run:
    """All that decides a run."""

    system: str = "pendulum"
    model: str = "goku"
    steps: int = 1000
    batch: int = 64
    rate: float = 1e-2
    hidden: int = 32
    side: int = 16
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"system": SYSTEMS, "model": MODELS}, ("steps", "batch", "hidden"))


def load(run: Run) -> tuple[Sequences, Sequences, Tensor]:
    """Training and test sequences, and what the test's observations would be without noise.

    They are the same for every model and seed, at the rates and of the lengths of the paper.
    """
    draws = [torch.Generator(run.device).manual_seed(10**6 + i) for i in range(2)]
    sizes = (TRAIN[run.system], TEST)
    if run.system == "cvs":
        train, test = (cardiovascular_sequences(n, g) for n, g in zip(sizes, draws, strict=True))
        return train, test, cardiovascular_signals(test.z)
    how: dict[str, Any] = {
        "side": run.side,
        "friction": FRICTION if run.system == "friction" else 0.0,
    }
    train, test = (pendulum_sequences(n, g, **how) for n, g in zip(sizes, draws, strict=True))
    return train, test, test.x


class _FromAngle(nn.Module):
    """A picture of the first entry of the state."""

    def __init__(self, pixels: int, generator: torch.Generator, device: str) -> None:
        super().__init__()
        self.net = MLP([1, 32, pixels], generator=generator, device=device)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(3 * z[..., :1])


class _FromHeart(nn.Module):
    """The pressures as they are, and a network for the rate."""

    def __init__(self, generator: torch.Generator, device: str) -> None:
        super().__init__()
        self.net = MLP([1, 16, 1], generator=generator, device=device)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z[..., :2], 1 + self.net(5 * z[..., 2:3] - 1)], -1)


class _OfVelocity(nn.Module):
    """A force that depends on the velocity alone."""

    def __init__(self, generator: torch.Generator, device: str) -> None:
        super().__init__()
        self.net = MLP([1, 16, 1], generator=generator, device=device)

    def forward(self, z: Tensor) -> Tensor:
        force = self.net(z[..., 1:])
        return torch.cat([torch.zeros_like(force), force], -1)


def _spread(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return low + (high - low) * u.sigmoid()


def _zero(t: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    return torch.zeros_like(z)


def build(run: Run, train: Sequences) -> nn.Module:
    """A model with fresh weights; frames and signals come to its recurrent part at size one."""
    g, observed = torch.Generator(run.device).manual_seed(run.seed), train.x.shape[-1]
    kind: dict[str, Any] = {"generator": g, "device": run.device}
    scale: dict[str, Any] = {"gain": 5.0}
    if run.system == "cvs":
        scale = {"center": train.x.mean((0, 1)), "gain": 1 / train.x.std((0, 1))}
    if run.model == "lstm":
        return LSTMForecast(observed, 48, **scale, **kind)
    how: dict[str, Any] = {"hidden": run.hidden, "noise": NOISE, **scale, **kind}
    if run.model == "latent-ode":
        field = PartlyKnown(_zero, MLP([6, 32, 6], **kind))
        return GOKUNet(field, 6, 0, observed, emission=MLP([6, 32, observed], **kind), **how)
    if run.system == "cvs":
        ends = ([0.6, -0.2, 0.05, 0.85], [0.9, 0.8, 0.45, 1.0])
        low, high = (torch.tensor(end, device=run.device) for end in ends)
        most = torch.tensor([-2.0, 0.5], device=run.device)
        how["state_link"] = partial(_spread, low=low, high=high)
        how["parameter_link"] = lambda u: most * u.sigmoid()
        how["emission"] = _FromHeart(g, run.device)
        return GOKUNet(cardiovascular, 4, 2, observed, **how)
    scales = torch.tensor([0.4, 1.0], device=run.device)
    how["state_link"] = lambda u: u * scales
    how["parameter_link"] = lambda u: 1.5 * torch.exp(0.25 * u)
    how["emission"] = _FromAngle(observed, g, run.device)
    known = pendulum
    if run.system == "friction":
        known = PartlyKnown(pendulum, _OfVelocity(g, run.device))
    return GOKUNet(known, 2, 1, observed, **how)


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 100, progress: bool | None = None
) -> tuple[dict[str, Any], nn.Module]:
    """Train on windows with a random start and measure; the row for the record, and the model.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.
    """
    train, test, clean = load(run)
    net, seen = build(run, train), SEEN[run.system]
    draws = torch.Generator(run.device).manual_seed(run.seed)
    told = torch.Generator(run.device).manual_seed(10**6)
    mask = torch.rand(train.x.shape[:2], generator=told, device=run.device) < LABELS
    adam = torch.optim.Adam(net.parameters(), run.rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, run.rate, total_steps=run.steps)
    clock = Clock()

    def step(i: int) -> Tensor:
        where = {"generator": draws, "device": run.device}
        rows = torch.randint(len(train.x), (run.batch,), **where)
        start = int(torch.randint(train.x.shape[1] - seen + 1, (), **where))
        x = train.x[rows, start : start + seen]
        if run.model == "lstm":
            loss = net.loss(x)
        else:
            labels = {}
            if run.model == "goku-labels":
                part = (rows, slice(start, start + seen))
                labels = {"truth": train.z[part], "mask": mask[part], "weight": GROUNDING}
            loss = net.loss(x, train.t[:seen], generator=draws, **labels).loss
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP[run.system])
        adam.step()
        schedule.step()
        return loss

    state = {"net": net, "adam": adam, "rate": schedule, "draws": draws, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    row = {"system": run.system, "model": run.model, "seed": run.seed}
    row |= measure(run, net, test, clean)
    seconds = clock.state_dict()
    row |= {
        "parameters": count_parameters(net),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": asdict(run),
        **provenance(run.device),
    }
    return row, net


@torch.no_grad()
def measure(run: Run, net: nn.Module, test: Sequences, clean: Tensor) -> dict[str, Any]:
    """Errors of what was seen and of what was not, of parameters and of states."""
    seen = SEEN[run.system]
    shown, later = test.x[:, :seen], test.x.shape[1] - seen
    if run.model == "lstm":
        x = net.extend(shown, later)
    else:
        path = net.predict(shown, test.t)
        x = path.x
    gap, row = x - clean, {}
    for name, part in (("seen", gap[:, :seen]), ("later", gap[:, seen:])):
        row |= {f"mse_{name}": part.square().mean().item(), f"l1_{name}": part.abs().mean().item()}
    return row | (_inferred(run, path, test) if run.model.startswith("goku") else {})


def _inferred(run: Run, path: Path, test: Sequences) -> dict[str, float]:
    row = {}
    for j, name in enumerate(PARAMETERS[run.system]):
        found, true = path.theta[:, j], test.theta[:, j]
        row[f"corr_{name}"] = _correlation(found, true)
        row[f"error_{name}"] = (found - true).abs().mean().item()
        if run.system == "cvs":
            middle = (true.min() + true.max()) / 2
            row[f"right_{name}"] = ((found > middle) == (true > middle)).double().mean().item()
    columns = zip(path.z.unbind(-1), test.z.unbind(-1), strict=True)
    row["corr_state"] = sum(_correlation(a, b) for a, b in columns) / test.z.shape[-1]
    return row


def _correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()
