"""Large steps against small steps with an explicit penalty of the gradient, on all of MNIST."""

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from nodes_tutorial.data import mnist
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.training import fit

PIXELS = 14 * 14
CLASSES = 10
SCALE = (0.13, 0.31)  # mean and standard deviation of the pixels, about


@dataclass(frozen=True)
class Run:
    """All that decides a run: every contender trains for the same time, steps times step size.

    The large step is taken for ``epochs``; the small one is ``finer`` times smaller. ``ratios``
    multiply the coefficient (large − small) / 4 that the modified loss predicts.
    """

    large: float = 0.2
    finer: int = 4
    epochs: int = 3
    batch: int = 256
    width: int = 64
    orders: int = 4
    ratios: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, {}, ("finer", "epochs", "batch", "width"))
        if self.orders < 2:
            raise ValueError(f"orders must be at least 2, got {self.orders}")
        if not 0 < self.large < math.inf:
            raise ValueError(f"large must be a positive number, got {self.large}")

    def contenders(self) -> list[tuple[str, float, int, float]]:
        """Name, step size, epochs and coefficient of the explicit penalty."""
        small = self.large / self.finer
        predicted = (self.large - small) / 4
        finer = [
            (f"small, {r:g}", small, self.finer * self.epochs, r * predicted) for r in self.ratios
        ]
        return [("large", self.large, self.epochs, 0.0), *finer]


@functools.lru_cache(maxsize=2)
def _digits(part: str) -> tuple[Tensor, Tensor]:
    images, labels = mnist(part)
    mean, deviation = SCALE
    return (avg_pool2d(images, 2).flatten(1) - mean) / deviation, labels


class _Ends:
    """Where the contenders ended so far; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.large: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows], "large": list(self.large)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.large = [dict(row) for row in state["rows"]], list(state["large"])


def execute(
    run: Run, *, checkpoint: str | None = None, progress: bool | None = None
) -> dict[str, Any]:
    """Train every contender from the same weights on the same minibatches; returns the row.

    Args:
        run: what to do.
        checkpoint: file to write after each contender and to resume from.
        progress: as for ``training.fit``.

    Raises:
        DataError: the digits are not at hand and cannot be had.
    """
    train, test = _digits("train"), _digits("test")
    draws = torch.Generator().manual_seed(run.seed)
    start = initial(run, draws)
    rows = len(train[0]) // run.batch * run.batch
    parts = torch.randperm(len(train[0]), generator=draws)[:rows].view(-1, run.batch)
    ends, clock, contenders = _Ends(), Clock(), run.contenders()

    def step(i: int) -> float:
        name, size, epochs, coefficient = contenders[i]
        before = clock.state_dict()["cpu"]
        shuffles = torch.Generator().manual_seed(1000 * (run.seed + 1) + i)
        weights = descend(start, train, parts, (size, epochs, coefficient, run.orders), shuffles)
        ends.large = ends.large or weights
        apart = [a - b for a, b in zip(weights, ends.large, strict=True)]
        travelled = [a - b for a, b in zip(weights, start, strict=True)]
        found = {
            "name": name,
            "step": size,
            "epochs": epochs,
            "updates": epochs * len(parts),
            "coefficient": coefficient,
            "squared_distance": squared_mean(apart),
            "squared_travelled": squared_mean(travelled),
            **measures(weights, train, test, parts),
        }
        found["cpu_seconds"] = round(clock.state_dict()["cpu"] - before, 1)
        ends.rows.append(found)
        return found["train_loss"]

    state = {"ends": ends, "clock": clock}
    fit(step, steps=len(contenders), state=state, checkpoint=checkpoint, every=1, progress=progress)
    return {
        "seed": run.seed,
        "contenders": ends.rows,
        "centroid_accuracy": centroid_accuracy(train, test),
        "cpu_seconds": round(clock.state_dict()["cpu"], 1),
        "settings": asdict(run),
        **provenance(),
    }


def initial(run: Run, generator: torch.Generator) -> list[Tensor]:
    """Weights and biases of one hidden layer with tanh."""
    first = torch.randn(PIXELS, run.width, generator=generator) / math.sqrt(PIXELS)
    second = torch.randn(run.width, CLASSES, generator=generator) / math.sqrt(run.width)
    return [first, torch.zeros(1, run.width), second, torch.zeros(1, CLASSES)]


def logits(weights: list[Tensor], x: Tensor) -> Tensor:
    """Of one network, or of a stack of networks with a row of images for each."""
    return torch.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3]


def losses(weights: list[Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each network of a stack on its own minibatch."""
    each = cross_entropy(logits(weights, x).flatten(0, 1), labels.flatten(), reduction="none")
    return each.view(labels.shape).mean(1)


def descend(
    start: list[Tensor],
    data: tuple[Tensor, Tensor],
    parts: Tensor,
    how: tuple[float, int, float, int],
    generator: torch.Generator,
) -> list[Tensor]:
    """A stack of networks after shuffled descent, one for each of the orders.

    Args:
        start: weights of one network.
        data: images and labels.
        parts: the minibatches, rows of indices; the same in every epoch.
        how: step size, epochs, coefficient of the penalty, and number of orders.
        generator: source of the orders.
    """
    size, epochs, coefficient, orders = how
    weights = [w.expand(orders, *w.shape).clone().requires_grad_() for w in start]
    for _ in range(epochs):
        turns = torch.rand(orders, len(parts), generator=generator).argsort(1)
        for k in turns.unbind(1):
            chosen = parts[k]
            loss = losses(weights, data[0][chosen], data[1][chosen]).sum()
            slope = torch.autograd.grad(loss, weights, create_graph=coefficient > 0)
            if coefficient > 0:
                penalty = sum(g.square().sum() for g in slope)
                slope = torch.autograd.grad(loss + coefficient * penalty, weights)
            with torch.no_grad():
                for w, g in zip(weights, slope, strict=True):
                    w.sub_(g, alpha=size)
    return [w.detach() for w in weights]


def measures(
    weights: list[Tensor],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    parts: Tensor,
) -> dict[str, float]:
    """Losses, accuracy and mean square of the minibatch gradients, means over the stack."""
    orders = len(weights[0])
    found: dict[str, float] = {}
    for name, (x, labels) in (("train", train), ("test", test)):
        outputs = [logits([w[k] for w in weights], x) for k in range(orders)]
        found[f"{name}_loss"] = sum(cross_entropy(o, labels).item() for o in outputs) / orders
        right = [(o.argmax(1) == labels).float().mean().item() for o in outputs]
        found[f"{name}_accuracy"] = sum(right) / orders
    free = [w.clone().requires_grad_() for w in weights]
    square = 0.0
    for chosen in parts:
        both = train[0][chosen].expand(orders, -1, -1), train[1][chosen].expand(orders, -1)
        slope = torch.autograd.grad(losses(free, *both).sum(), free)
        square += sum(g.square().sum().item() for g in slope)
    return found | {"square_gradient": square / orders / len(parts)}


def centroid_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Share of the test digits whose nearest class mean is their own: the trivial rival."""
    means = torch.stack([train[0][train[1] == k].mean(0) for k in range(CLASSES)])
    return (torch.cdist(test[0], means).argmin(1) == test[1]).float().mean().item()


def squared_mean(stack: list[Tensor]) -> float:
    """The squared norm of the expected vector, from independent draws of it, without a bias.

    It is the mean inner product of two different draws; it may be negative.
    """
    rows = torch.cat([w.flatten(1) for w in stack], 1).double()
    n = len(rows)
    return ((rows.sum(0).square().sum() - rows.square().sum()) / (n * (n - 1))).item()
