"""How a setting is chosen: three rules for ERM, IRM and V-REx, on digits with exact noise.

The flips of labels and colors are integrated out: every digit enters in both colors with the exact
weights. Risks, penalties and accuracies are therefore expectations over the noise.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nodes_tutorial.data import mnist
from nodes_tutorial.data.environments import COLOR_FLIPS, color_weights
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.training import fit

PIXELS = 14 * 14
TRAIN = 50_000  # the last 10,000 of the training digits validate
METHODS = ("erm", "irm", "rex")
KEY = ("study", "method", "seed")
# which of the two training environments a network sees: both, or one left out
SEEN = ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
_INVARIANT = tuple(itertools.product((1e2, 1e3, 1e4), (1e-4, 1e-3), (1e-3, 3e-3)))
GRID = {  # twelve settings each: weight of the penalty, of the squared weights, and the rate
    "erm": tuple(itertools.product((0.0,), (1e-4, 1e-3, 1e-2), (3e-4, 1e-3, 3e-3, 1e-2))),
    "irm": _INVARIANT,
    "rex": _INVARIANT,
}


@dataclass(frozen=True)
class Run:
    """All that decides a run: all settings of a method are trained at once."""

    method: str = "irm"
    seed: int = 0
    images: int = TRAIN
    hidden: int = 64
    steps: int = 251
    anneal: int = 80
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"method": METHODS}, ("images", "hidden", "steps"))


@dataclass(frozen=True)
class Part:
    """Digits, with the weight of each color and of the label 1, (envs, 2 · images)."""

    images: Tensor
    total: Tensor
    ones: Tensor


def digits(run: Run) -> dict[str, Part]:
    """Digits to train on, to validate with, and of the test; every environment for each."""
    images, labels = mnist("train")
    held, held_labels = mnist("test")
    first = min(TRAIN, 5 * len(images) // 6)
    few = max(2, run.images // 5)
    chosen = {
        "train": (images[:first][: run.images], labels[:first][: run.images]),
        "validation": (images[first:][:few], labels[first:][:few]),
        "test": (held[:few], held_labels[:few]),
    }
    return {name: part(x, y, run.device) for name, (x, y) in chosen.items()}


def part(images: Tensor, labels: Tensor, device: str = "cpu") -> Part:
    """Means over two by two pixels, and the exact weights."""
    rows = torch.nn.functional.avg_pool2d(images, 2).flatten(1).to(device)
    w = color_weights(labels, color_flips=COLOR_FLIPS, dtype=images.dtype).to(device)
    return Part(rows, w.sum(-1).flatten(1), w[..., 1].flatten(1))


class Stack:
    """Networks with two hidden layers, trained at once by Adam with a rate for each of them."""

    def __init__(self, run: Run, rates: Tensor, generator: torch.Generator) -> None:
        # torch.nn.init.xavier_uniform_ for a layer of 2 · PIXELS inputs
        shapes = ((2 * PIXELS, run.hidden), (run.hidden, run.hidden), (run.hidden, 1))
        self.weights: list[Tensor] = []
        for rows, columns in shapes:
            bound = math.sqrt(6 / (rows + columns))
            one = bound * (2 * torch.rand(rows, columns, generator=generator) - 1)
            for w in (one, torch.zeros(1, columns)):
                stack = w.to(rates.device).expand(len(rates), *w.shape)
                self.weights.append(stack.clone().requires_grad_())
        self.rates = rates[:, None, None]
        self.moments = [torch.zeros_like(w) for w in 2 * self.weights]
        self.done = 0

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and the number of steps."""
        return {
            "weights": [w.detach() for w in self.weights],
            "moments": list(self.moments),
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an interrupted run."""
        device = self.rates.device
        self.weights = [w.to(device).clone().requires_grad_() for w in state["weights"]]
        self.moments = [m.to(device) for m in state["moments"]]
        self.done = state["done"]

    def logits(self, images: Tensor) -> Tensor:
        """Outputs for each digit in both colors, (networks, 2 · images)."""
        w, b, w2, b2, w3, b3 = self.weights
        nets, hidden = len(w), w.shape[2]
        both = w.view(nets, 2, PIXELS, hidden).transpose(1, 2).flatten(2)
        h = torch.bmm(images.expand(nets, -1, -1), both).view(nets, -1, hidden)
        h = torch.baddbmm(b2, (h + b).relu(), w2).relu()
        return torch.baddbmm(b3, h, w3)[..., 0]

    def update(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.done += 1
        slopes = torch.autograd.grad(loss, self.weights)
        first, second = self.moments[: len(slopes)], self.moments[len(slopes) :]
        with torch.no_grad():
            for w, g, m, v in zip(self.weights, slopes, first, second, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g.square(), 0.001)
                root = (v / (1 - 0.999**self.done)).sqrt() + 1e-8
                w.sub_(self.rates * (m / (1 - 0.9**self.done)) / root)


def risks_and_slopes(logits: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Risk, and its derivative in the scale, for each network and environment."""
    ones = logits @ part.ones.T
    return softplus(logits) @ part.total.T - ones, (logits.sigmoid() * logits) @ part.total.T - ones


def accuracies(logits: Tensor, part: Part) -> Tensor:
    """Expected share of right answers for each network and environment."""
    right = (logits > 0).to(logits.dtype)
    return right @ part.ones.T + (1 - right) @ (part.total - part.ones).T


def objectives(
    method: str, seen: Tensor, weights: Tensor, risks: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean risk and penalty of each network over the training environments that it sees.

    Args:
        method: one of ``METHODS``.
        seen: 1 where a network sees an environment, (networks, envs).
        weights: of the penalty, for each network.
        risks: of each network and environment.
        slopes: derivatives of the risks in the scale.
    """
    share = seen / seen.sum(1, keepdim=True)
    mean = (share * risks).sum(1)
    if method == "rex":
        return mean, weights * (share * (risks - mean[:, None]).square()).sum(1)
    return mean, weights * (share * slopes.square()).sum(1)


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 100, progress: bool | None = None
) -> dict[str, Any]:
    """Train all settings of a method, with both environments and without each; returns the row.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the digits are not at hand and cannot be had.
    """
    parts, clock = digits(run), Clock()
    grid = torch.tensor(GRID[run.method], device=run.device)
    weight, l2, rate = (column.repeat(len(SEEN)) for column in grid.unbind(1))
    seen = torch.tensor(SEEN, device=run.device).repeat_interleave(len(grid), 0)
    nets = Stack(run, rate, torch.Generator().manual_seed(run.seed))

    def step(i: int) -> Tensor:
        risks, slopes = risks_and_slopes(nets.logits(parts["train"].images), parts["train"])
        now = weight if i >= run.anneal else weight.clamp(max=1)
        mean, penalty = objectives(run.method, seen, now, risks[:, :2], slopes[:, :2])
        squares = torch.stack([w.square().sum((1, 2)) for w in nets.weights]).sum(0)
        loss = (mean + l2 * squares + penalty) / now.clamp(min=1)
        nets.update(loss.sum())
        return loss.detach().mean()

    state = {"nets": nets, "clock": clock}
    how = {"checkpoint": checkpoint, "every": every, "progress": progress}
    fit(step, steps=run.steps, state=state, **how)
    with torch.no_grad():
        found = {
            name: accuracies(nets.logits(one.images), one).view(len(SEEN), len(grid), -1)
            for name, one in parts.items()
        }
    seconds = clock.state_dict()
    return {
        "study": "selection",
        "method": run.method,
        "seed": run.seed,
        "settings_tried": [
            {
                "weight": float(w),
                "l2": float(decay),
                "rate": float(r),
                **{name: _rounded(a[0, k]) for name, a in found.items()},
                "left_out": _rounded(found["validation"][[1, 2], k, [0, 1]]),
            }
            for k, (w, decay, r) in enumerate(GRID[run.method])
        ],
        "color_flips": list(COLOR_FLIPS),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": asdict(run),
        **provenance(run.device),
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(v, 5) for v in values.tolist()]
