"""Stable networks at the sizes of the paper: level by level on ellipses, Swiss roll and peaks."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nodes_tutorial.data import labelled2d
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.ode.multilevel.blocks import Level, Objective, train_blocks
from nodes_tutorial.ode.multilevel.newton import Classifier
from nodes_tutorial.ode.stability.networks import (
    AntisymmetricNet,
    LeapfrogNet,
    PlainNet,
    StableNet,
    VerletNet,
)
from nodes_tutorial.training import fit

DATASETS = ("ellipses", "swissroll", "peaks")
MODELS: dict[str, type[StableNet]] = {
    "plain": PlainNet,
    "antisymmetric": AntisymmetricNet,
    "leapfrog": LeapfrogNet,
    "verlet": VerletNet,
}


class Setting(NamedTuple):
    """End of the time interval, features of one and of two fields, and weights of the penalty."""

    T: float
    features: int
    features_verlet: int
    alpha: float
    beta: float


SETTINGS = {
    "ellipses": Setting(20.0, 2, 2, 1e-3, 1.0),
    "swissroll": Setting(20.0, 4, 2, 5e-4, 0.1),
    "peaks": Setting(5.0, 8, 2, 5e-6, 1.0),
}


@dataclass(frozen=True)
class Run:
    """All that decides a run; 9 levels from 4 layers end with 1,024."""

    dataset: str = "ellipses"
    model: str = "verlet"
    first: int = 4
    levels: int = 9
    iterations: int = 30
    scale: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, {"dataset": DATASETS, "model": MODELS}, ("first", "levels", "iterations"))


def load(dataset: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Points and classes for training and for validation; the same for every model and seed."""
    draws = torch.Generator().manual_seed(0)
    if dataset == "swissroll":
        x, label = labelled2d.swissroll(dtype=torch.float64)
        odd = torch.arange(513).repeat_interleave(2) % 2 == 0
        return (x[odd], label[odd]), (x[~odd], label[~odd])
    if dataset == "ellipses":
        x, label = labelled2d.ellipses(1200, draws, dtype=torch.float64)
    else:
        x, label = labelled2d.peaks(1000, draws, dtype=torch.float64)
    cut = 1000 if dataset == "ellipses" else 4000
    return (x[:cut], label[:cut]), (x[cut:], label[cut:])


def build(run: Run) -> StableNet:
    """The network of the first level."""
    setting = SETTINGS[run.dataset]
    features = setting.features_verlet if run.model == "verlet" else setting.features
    how: dict[str, Any] = {
        "generator": torch.Generator().manual_seed(run.seed),
        "dtype": torch.float64,
    }
    return MODELS[run.model](features, run.first, setting.T, scale=run.scale, **how)


class _Levels:
    """What the levels left so far; an entry of ``fit``'s state."""

    def __init__(self, net: StableNet) -> None:
        self.net, self.classifier = net, None
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": {
                k: w.detach() for k, w in zip(self.net.names, self.net.weights, strict=True)
            },
            "classifier": None if self.classifier is None else tuple(self.classifier),
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, w in state["weights"].items():
            setattr(self.net, name, nn.Parameter(w))
        known = state["classifier"]
        self.classifier = None if known is None else Classifier(*known)
        self.rows = state["rows"]


def execute(
    run: Run, *, checkpoint: str | None = None, progress: bool | None = None
) -> tuple[list[dict[str, Any]], StableNet]:
    """Train level by level, each from the one before; a row for each level, and the last network.

    Args:
        run: what to do.
        checkpoint: file to write after each level and to resume from.
        progress: as for ``training.fit``.
    """
    setting = SETTINGS[run.dataset]
    net = build(run)
    train, valid = ((labelled2d.pad(x, net.dim), c) for x, c in load(run.dataset))
    objective = Objective(*train, alpha=setting.alpha, beta=setting.beta)
    levels, clock = _Levels(net), Clock()

    def step(i: int) -> float:
        before = clock.state_dict()
        net = levels.net.refined() if levels.rows else levels.net
        level = train_blocks(net, objective, levels.classifier, max_iter=run.iterations)
        after = clock.state_dict()
        levels.net, levels.classifier = level.net, level.classifier
        seconds = {f"{n}_seconds": round(after[n] - before[n], 2) for n in after}
        levels.rows.append(_row(run, level, train, valid) | seconds)
        return level.history[-1]

    state = {"levels": levels, "clock": clock}
    fit(step, steps=run.levels, state=state, checkpoint=checkpoint, every=1, progress=progress)
    common = {"settings": asdict(run) | setting._asdict(), **provenance()}
    return [row | common for row in levels.rows], levels.net


def _row(run: Run, level: Level, train: tuple, valid: tuple) -> dict[str, Any]:
    return {
        "dataset": run.dataset,
        "model": run.model,
        "seed": run.seed,
        "layers": level.net.layers,
        "iterations": level.iterations,
        "products": level.products,
        "objective_start": level.history[0],
        "objective_end": level.history[-1],
        "train_accuracy": level.accuracy(*train),
        "valid_accuracy": level.accuracy(*valid),
    }
