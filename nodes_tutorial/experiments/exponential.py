"""Weight decay and the growing step size in its place, for a convolution network on MNIST."""

import functools
import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nodes_tutorial.data import mnist
from nodes_tutorial.experiments.penalty import centroid_accuracy
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.generalization import equivalent_schedule, rescale
from nodes_tutorial.training import fit

SCALE = (0.13, 0.31)  # mean and standard deviation of the pixels, about
CLASSES = 10
REBASE = 100  # steps after which the weights are brought back by a power of two
CONTENDERS = (
    ("decay", "float64"),
    ("growing", "float64"),
    ("neither", "float64"),
    ("decay", "float32"),
    ("growing", "float32"),
)


@dataclass(frozen=True)
class Run:
    """All that decides a run: every contender has the same start and the same minibatches."""

    steps: int = 468
    batch: int = 64
    width: int = 8
    rate: float = 0.1
    decay: float = 0.005
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, {}, ("steps", "batch", "width"))
        equivalent_schedule(
            torch.tensor([self.rate]), self.decay, momentum=self.momentum
        )  # refuses what is out of range


@functools.lru_cache(maxsize=2)
def _digits(part: str) -> tuple[Tensor, Tensor]:
    images, labels = mnist(part)
    mean, deviation = SCALE
    return (images - mean) / deviation, labels


class Norm(nn.Module):
    """Each channel less its mean, over its standard deviation; nothing is added to the variance."""

    def forward(self, x: Tensor) -> Tensor:
        """The same for a channel times any positive number."""
        x = x - x.mean((0, 2, 3), keepdim=True)
        return x / x.square().mean((0, 2, 3), keepdim=True).sqrt()


class _Ends:
    """What the contenders did so far; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]


def execute(
    run: Run, *, checkpoint: str | None = None, progress: bool | None = None
) -> dict[str, Any]:
    """Train every contender; returns the row.

    Args:
        run: what to do.
        checkpoint: file to write after each contender and to resume from.
        progress: as for ``training.fit``.

    Raises:
        DataError: the digits are not at hand and cannot be had.
    """
    train, test = _digits("train"), _digits("test")
    ends, clock = _Ends(), Clock()

    def step(i: int) -> float:
        before = clock.state_dict()["cpu"]
        how, dtype = CONTENDERS[i]
        losses, accuracy = descend(run, how, getattr(torch, dtype), train, test)
        ends.rows.append({
            "name": how,
            "dtype": dtype,
            "updates": run.steps,
            "losses": losses,
            "last_losses": sum(losses[-50:]) / len(losses[-50:]),
            "test_accuracy": accuracy,
            "cpu_seconds": round(clock.state_dict()["cpu"] - before, 1),
        })  # fmt: skip
        return losses[-1]

    state = {"ends": ends, "clock": clock}
    fit(step, steps=len(CONTENDERS), state=state, checkpoint=checkpoint, every=1, progress=progress)
    return {
        "seed": run.seed,
        "growth": growth(run),
        "contenders": with_distances(ends.rows),
        "centroid_accuracy": centroid_accuracy(*((x.flatten(1), y) for x, y in (train, test))),
        "cpu_seconds": round(clock.state_dict()["cpu"], 1),
        "settings": asdict(run),
        **provenance(),
    }


def growth(run: Run) -> float:
    """How many times larger the step size is in the last step."""
    rates = torch.full((run.steps,), run.rate, dtype=torch.float64)
    found = equivalent_schedule(rates, run.decay, momentum=run.momentum).step_sizes
    return float(found[-1] / run.rate)


def with_distances(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each contender with its losses' largest distance to decay so far, and every tenth loss."""
    decayed = {row["dtype"]: row["losses"] for row in rows if row["name"] == "decay"}
    found = []
    for row in rows:
        losses = torch.tensor([row["losses"], decayed[row["dtype"]]], dtype=torch.float64)
        far = (losses[0] - losses[1]).abs().cummax(0).values
        after = (far > 1e-3).nonzero()
        thin = {
            "losses": [round(x, 5) for x in row["losses"][::10]],
            "distances": [float(f"{x:.3g}") for x in far[::10].tolist()],
            "largest": float(far[-1]),
            "apart_at": int(after[0]) if len(after) else None,
        }
        found.append(row | thin)
    return found


def build(run: Run) -> nn.Sequential:
    """Three convolutions with normalizations, and a linear layer, in double precision."""
    source = torch.Generator().manual_seed(run.seed)
    channels = [1, run.width, 2 * run.width, 2 * run.width]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        stride = 2 if len(layers) < 6 else 1
        layers += [nn.Conv2d(before, after, 3, stride=stride, bias=False), Norm(), nn.ReLU()]
    layers += [nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels[-1], CLASSES, bias=False)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for p in net.parameters():
            draw = torch.randn(p.shape, generator=source, dtype=torch.float64)
            p.copy_(draw / math.sqrt(p[0].numel()))
    return net


def descend(
    run: Run,
    how: str,
    dtype: torch.dtype,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> tuple[list[float], float]:
    """The losses of the minibatches and the test accuracy of one contender.

    Args:
        run: what to do.
        how: ``"decay"``, ``"growing"`` step sizes in its place, or ``"neither"``.
        dtype: precision of weights and images.
        train: images and labels.
        test: the same, to be classified at the end in batches.
    """
    net = build(run).to(dtype)
    filters = [p for p in net.parameters() if p.ndim == 4]
    rest = [p for p in net.parameters() if p.ndim != 4]
    steps = torch.full((run.steps,), run.rate, dtype=torch.float64)
    table = equivalent_schedule(steps, run.decay, momentum=run.momentum, rebase=REBASE)
    kept = 0.0 if how == "neither" else run.decay
    sgd = functools.partial(torch.optim.SGD, lr=run.rate, momentum=run.momentum)
    first = sgd(filters, weight_decay=kept if how == "decay" else 0.0)
    second = sgd(rest, weight_decay=kept)
    source, losses = torch.Generator().manual_seed(1000 + run.seed), []
    for t in range(run.steps):
        if how == "growing":
            rescale(first, int(table.shifts[t]))
            first.param_groups[0]["lr"] = float(table.step_sizes[t])
        chosen = torch.randint(len(train[0]), (run.batch,), generator=source)
        loss = cross_entropy(net(train[0][chosen].to(dtype)), train[1][chosen])
        net.zero_grad()
        loss.backward()
        first.step()
        second.step()
        losses.append(loss.item())
    with torch.no_grad():
        parts = zip(test[0].split(500), test[1].split(500), strict=True)
        right = sum(int((net(x.to(dtype)).argmax(1) == y).sum()) for x, y in parts)
    return losses, right / len(test[1])
