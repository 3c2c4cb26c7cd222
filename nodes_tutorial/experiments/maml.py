"""Meta-train a small network by MAML on Omniglot, and see what its queries give away."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.data import drawings
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.experiments.processes import (
    count,
    mean_over_processes,
    own_checkpoint,
    share,
)
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.meta import adapt, maml, predict
from nodes_tutorial.nets import Conv4, count_parameters
from nodes_tutorial.training import fit

ORDERS = (1, 2)
TEST_SEED = 10**6  # the test tasks are the same for every seed
KEY = ("ways", "shots", "order", "anil", "width", "steps", "rate", "seed")  # what tells rows apart


@dataclass(frozen=True)
class Run:
    """All that decides a run; published are 64 channels, and 32 or 16 tasks an update."""

    ways: int = 5
    shots: int = 1
    queries: int = 5
    order: int = 2
    anil: bool = False
    steps: int = 100
    rate: float = 2e-3
    width: int = 32
    tasks: int = 8
    inner_steps: int = 1
    inner_lr: float = 0.4
    test_steps: int = 3
    test_tasks: int = 100
    looks: int = 5
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        positive = ("ways", "shots", "queries", "steps", "width", "tasks", "inner_steps", "looks")
        check(self, {}, (*positive, "test_steps", "test_tasks"))
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.order}")


class _Curve:
    """Accuracy after some of the updates; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"points": [dict(point) for point in self.points]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = [dict(point) for point in state["points"]]


def execute(
    run: Run,
    *,
    checkpoint: str | None = None,
    every: int = 50,
    progress: bool | None = None,
) -> tuple[dict[str, Any], Conv4]:
    """Meta-train with Adam; returns the row for the record and the network.

    Under ``torchrun`` each process takes a share of the tasks of an update.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the drawings are not at hand and cannot be had.
    """
    train, test = samplers(run)
    fresh = test.sample(run.test_tasks, torch.Generator(run.device).manual_seed(TEST_SEED))
    generator = torch.Generator(run.device).manual_seed(run.seed)
    net = Conv4(width=run.width, classes=run.ways, generator=generator, device=run.device)
    adam = torch.optim.Adam(net.parameters(), run.rate)
    clock, curve = Clock(), _Curve()
    looks = {round(run.steps * (k + 1) / run.looks) - 1 for k in range(run.looks)}

    def step(i: int) -> Tensor:
        tasks = share(train.sample(run.tasks, generator))
        gradient, report = maml(
            net,
            tasks.support,
            tasks.query,
            steps=run.inner_steps,
            lr=run.inner_lr,
            order=run.order,
            anil=run.anil,
        )
        found = mean_over_processes({**gradient, "loss": report.val_loss.mean()})
        for name, parameter in net.named_parameters():
            parameter.grad = found[name]
        adam.step()
        if i in looks:
            share_right, _ = accuracies(run, net, fresh)["together"]
            curve.points.append({"steps": i + 1, "accuracy": share_right})
        return found["loss"]

    state = {"net": net, "adam": adam, "draws": generator, "clock": clock, "curve": curve}
    checkpoint = own_checkpoint(checkpoint)
    history = fit(
        step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress
    )
    seconds = clock.state_dict()
    found = accuracies(run, net, fresh)
    row = {
        **{name: getattr(run, name) for name in KEY},
        "parameters": count_parameters(net),
        "curve": curve.points,
        **{name: mean for name, (mean, _) in found.items()},
        **{f"{name}_interval": half for name, (_, half) in found.items()},
        "loss_last_tenth": history["loss"][-max(1, run.steps // 10) :].mean().item(),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "processes": count(),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }
    return row, net


@functools.lru_cache(maxsize=1)
def _characters() -> tuple[drawings.Characters, drawings.Characters]:
    """Characters to train on, and of other alphabets to be tested on."""
    return drawings.omniglot("background"), drawings.omniglot("evaluation")


def samplers(run: Run) -> tuple[TaskSampler, TaskSampler]:
    """Tasks to train on, with turned characters as further classes, and tasks of the test."""
    seen, held = _characters()
    shape = {"ways": run.ways, "shots": run.shots, "queries": run.queries}
    train, test = (
        TaskSampler(part.images.to(run.device), part.labels, rotations=turned, **shape)
        for part, turned in ((seen, True), (held, False))
    )
    return train, test


@torch.no_grad()
def accuracies(run: Run, net: Conv4, tasks: Tasks) -> dict[str, tuple[float, float]]:
    """Shares of the queries that are named correctly, with 1.96 standard errors over tasks.

    The normalization takes its statistics from the images that go through the network together:

    - ``together``: all queries of a task, as in the literature;
    - ``by_class``: the queries of one class at a time;
    - ``alone``: each query with the support, which knows of no other query;
    - ``before``: all queries together, without adaptation.
    - ``pixels``: no network; the class of the nearest mean by the cosine of the pixels.
    """
    weights, _ = adapt(net, tasks.support, steps=run.test_steps, lr=run.inner_lr, anil=run.anil)
    start = {n: p.expand(len(tasks.query_y), *p.shape) for n, p in net.named_parameters()}
    x, y = tasks.query
    names = {
        "together": _named(net, weights, x),
        "before": _named(net, start, x),
        "by_class": torch.cat([_named(net, weights, part) for part in x.split(run.queries, 1)], 1),
        "alone": torch.cat(
            [
                _named(net, weights, torch.cat([tasks.support_x, query], 1))[:, -1:]
                for query in x.split(1, 1)
            ],
            1,
        ),
        "pixels": _nearest(tasks, run.ways),
    }
    right = {name: (guess == y).double().mean(1) for name, guess in names.items()}
    half = 1.96 / len(y) ** 0.5
    return {n: (share.mean().item(), half * share.std().item()) for n, share in right.items()}


def _named(net: Conv4, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return predict(net, weights, x).argmax(-1)


def _nearest(tasks: Tasks, ways: int) -> Tensor:
    support, query = (x.flatten(2) for x in (tasks.support_x, tasks.query_x))
    means = support.unflatten(1, (ways, -1)).mean(2)
    means, query = (torch.nn.functional.normalize(v, dim=-1) for v in (means, query))
    return (query @ means.mT).argmax(-1)
