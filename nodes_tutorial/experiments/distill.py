"""Learn one image a class, such that a linear classifier trained on them knows MNIST."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nodes_tutorial.data import mnist
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.implicit import hypergradient, newton_cg
from nodes_tutorial.training import fit

KEY = ("dataset", "start", "steps", "seed")  # what tells rows apart
STARTS = ("means", "noise")
RIDGE = 1e-2


@dataclass(frozen=True)
class Run:
    """All that decides a run; images have 28×28 pixels in [0, 1]."""

    start: str = "means"
    steps: int = 200
    batch: int = 2000
    rate: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, {"start": STARTS}, ("steps", "batch"))


class Images:
    """A tensor that changes, the images or the classifier, as an entry of ``fit``'s state."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.x.copy_(state["x"])


def logits(w: Tensor, x: Tensor) -> Tensor:
    """Those of the classifier; the last row of w is the bias."""
    return torch.addmm(w[-1], x, w[:-1])


def train_loss(w: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of one image a class, with the ridge."""
    fit = F.cross_entropy(logits(w, x), torch.arange(10))
    return fit + RIDGE * w.square().sum() / 2


def optimum(x: Tensor, w: Tensor | None = None) -> Tensor:
    """The classifier that is trained on the images, from one near it or from zeros."""
    w = x.new_zeros(x.shape[1] + 1, 10) if w is None else w
    return newton_cg(lambda w: train_loss(w, x), w)


def right(w: Tensor, x: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier has right."""
    return float((logits(w, x).argmax(1) == labels).double().mean())


def load() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MNIST for training and test, as rows in float64."""
    parts = (mnist(part, torch.float64) for part in ("train", "test"))
    train, test = ((x.flatten(1), y) for x, y in parts)
    return train, test


def of_class(x: Tensor, labels: Tensor, which: Callable[[Tensor], Tensor]) -> Tensor:
    """One image for each class, made of those of the class."""
    return torch.stack([which(x[labels == c]) for c in range(10)])


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 50, progress: bool | None = None
) -> tuple[dict[str, Any], Tensor]:
    """Follow the hypergradient of the pixels; returns the row for the record and the images.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: updates between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        ValueError: a batch larger than the training set.
        DataError: MNIST is not at hand and cannot be had.
    """
    (x, y), (test_x, test_y) = load()
    if run.batch > len(x):
        raise ValueError(f"batch must be at most {len(x)}, got {run.batch}")
    generator = torch.Generator().manual_seed(run.seed)
    means = of_class(x, y, lambda rows: rows.mean(0))
    one = of_class(x, y, lambda rows: rows[torch.randint(len(rows), (), generator=generator)])
    begin = means if run.start == "means" else torch.rand(means.shape, generator=generator).double()
    images = Images(begin.clone())
    adam = torch.optim.Adam([images.x], run.rate)
    warm = Images(optimum(images.x))

    def step(_: int) -> float:
        rows = torch.randint(len(x), (run.batch,), generator=generator)
        warm.x = optimum(images.x, warm.x)
        value = F.cross_entropy(logits(warm.x, x[rows]), y[rows])
        images.x.grad = hypergradient(
            train_loss,
            lambda w, _: F.cross_entropy(logits(w, x[rows]), y[rows]),
            warm.x,
            images.x,
            rtol=1e-5,
        )[0]
        adam.step()
        images.x.clamp_(0, 1)
        return float(value)

    clock = Clock()
    state = {"images": images, "warm": warm, "adam": adam, "generator": generator, "clock": clock}
    losses = fit(
        step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress
    )["loss"]
    seconds = clock.state_dict()
    nearest = torch.cdist(test_x, means).argmin(1)
    row = {
        "dataset": "mnist",
        **asdict(run),
        "learned": right(optimum(images.x), test_x, test_y),
        "means": right(optimum(means), test_x, test_y),
        "one": right(optimum(one), test_x, test_y),
        "nearest_mean": float((nearest == test_y).double().mean()),
        "loss": float(losses[-10:].mean()),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        **provenance(),
    }
    return row, images.x
