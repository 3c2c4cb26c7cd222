"""Colored MNIST on all of MNIST by the released recipe: ERM, IRM, V-REx, and ERM on gray digits."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nodes_tutorial.data import mnist
from nodes_tutorial.data.environments import COLOR_FLIPS, colored_digits
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.invariance import irm_penalty, rex_penalty
from nodes_tutorial.training import fit

PIXELS = 14 * 14
TRAIN = 50_000  # the last 10,000 of the training digits are the test environment
KEY = ("study", "method", "seed")
EVERY = 20  # steps between the entries of a row's curve


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters of the released script."""

    hidden: int
    l2: float
    rate: float
    anneal: int
    weight: float
    steps: int


_INVARIANT = Setting(390, 0.00110794568, 0.0004898536566546834, 190, 91257.18613115903, 501)
RELEASED = {
    "erm": Setting(256, 0.001, 0.001, 0, 0.0, 501),
    "irm": _INVARIANT,
    "rex": _INVARIANT,  # the paper of V-REx takes the ones of IRM
    "gray": Setting(83, 0.0008602868865288383, 0.0028171488133821726, 0, 0.0, 101),
}


@dataclass(frozen=True)
class Run:
    """All that decides a run; 0 steps mean the released number."""

    method: str = "irm"
    seed: int = 0
    steps: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"method": RELEASED}, ())
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")

    @property
    def setting(self) -> Setting:
        """The released setting, with the number of steps that was asked for."""
        released = RELEASED[self.method]
        return Setting(**asdict(released) | {"steps": self.steps or released.steps})


def digits() -> tuple[Tensor, Tensor]:
    """All training digits, every second pixel."""
    images, labels = mnist("train")
    return images[:, :, ::2, ::2], labels


def environments(run: Run) -> list[tuple[Tensor, Tensor]]:
    """Rows and labels of the two environments to train on, and of the test."""
    images, labels = digits()
    draws = torch.Generator().manual_seed(run.seed)
    train = min(TRAIN, 5 * len(images) // 6)
    order = torch.randperm(train, generator=draws)
    parts = order[0::2], order[1::2], torch.arange(train, len(images))
    found = []
    for part, flip in zip(parts, COLOR_FLIPS, strict=True):
        x, y = colored_digits(images[part], labels[part], color_flip=flip, generator=draws)
        rows = x.sum(1) if run.method == "gray" else x
        found.append((rows.flatten(1).to(run.device), y.to(run.device)))
    return found


def network(inputs: int, hidden: int, generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers, with the released start."""
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def objective(
    method: str, setting: Setting, step: int, risks: Tensor, penalties: Tensor, squares: Tensor
) -> Tensor:
    """Mean risk, weight decay and the penalty, divided by the weight where that is above 1.

    Args:
        method: a key of ``RELEASED``.
        setting: its hyper-parameters.
        step: the penalty has the weight 1 before ``setting.anneal``.
        risks: of the training environments.
        penalties: of IRM, for each of them.
        squares: sum of squares of all weights.
    """
    weight = setting.weight if step >= setting.anneal else 1.0
    penalty = rex_penalty(risks) if method == "rex" else penalties.mean()
    return (risks.mean() + setting.l2 * squares + weight * penalty) / max(1.0, weight)


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 100, progress: bool | None = None
) -> dict[str, Any]:
    """One restart of one method; returns its row.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the digits are not at hand and cannot be had.
    """
    setting, data, clock = run.setting, environments(run), Clock()
    start = torch.Generator().manual_seed(10**6 + run.seed)
    net = network(data[0][0].shape[1], setting.hidden, start).to(run.device)
    adam = torch.optim.Adam(net.parameters(), setting.rate)

    def step(i: int) -> dict[str, Tensor | float]:
        logits = [net(x)[:, 0] for x, _ in data[:2]]
        pairs = [(z, y) for z, (_, y) in zip(logits, data[:2], strict=True)]
        risks = torch.stack([binary_cross_entropy_with_logits(z, y) for z, y in pairs])
        penalties = torch.stack([irm_penalty(z, y) for z, y in pairs])
        squares = torch.stack([p.square().sum() for p in net.parameters()]).sum()
        loss = objective(run.method, setting, i, risks, penalties, squares)
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():  # as in the released script: before the update
            right = [accuracy(z, y) for z, y in pairs]
            test = accuracy(net(data[2][0])[:, 0], data[2][1])
        adam.step()
        return {
            "risk": risks.mean(),
            "penalty": penalties.mean(),
            "train": torch.stack(right).mean(),
            "test": test,
        }

    state = {"net": net, "adam": adam, "clock": clock}
    how = {"checkpoint": checkpoint, "every": every, "progress": progress}
    history = fit(step, steps=setting.steps, state=state, **how)
    seconds = clock.state_dict()
    shown = range((setting.steps - 1) % EVERY, setting.steps, EVERY)
    return {
        "study": "released",
        "method": run.method,
        "seed": run.seed,
        "train": round(history["train"][-1].item(), 5),
        "test": round(history["test"][-1].item(), 5),
        "curve": {
            "step": list(shown),
            **{k: [round(v[i].item(), 6) for i in shown] for k, v in history.items()},
        },
        "images": [len(y) for _, y in data],
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": asdict(setting),
        **provenance(run.device),
    }


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of the rows on the right side of 0."""
    return ((logits > 0) == (y > 0.5)).to(logits.dtype).mean()
