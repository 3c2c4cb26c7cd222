"""Meta-train one network by MAML and by iMAML on Omniglot: accuracy against training time."""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nodes_tutorial.data import drawings
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.implicit import adapt, imaml
from nodes_tutorial.nets import Conv4, count_parameters
from nodes_tutorial.training import fit

METHODS = ("maml", "imaml")
PARTS = ("full", "small")
TEST_SEED = 10**6  # the test tasks are the same for every method and seed
TEST_CHUNK = 50
KEY = ("part", "method", "rate", "steps", "width", "seed")  # what tells rows apart


@dataclass(frozen=True)
class Run:
    """All that decides a run.

    The published width is 64, with 32 tasks an update. The damping is that of the authors'
    program, whose matrix 2I + H / 12 is twice I + H / ((1 + 11) lam) for their lam = 2.
    """

    method: str = "imaml"
    part: str = "full"
    steps: int = 100
    rate: float = 1e-3
    width: int = 16
    tasks: int = 8
    ways: int = 5
    shots: int = 1
    queries: int = 5
    maml_steps: int = 1
    maml_lr: float = 0.4
    lam: float = 2.0
    inner_steps: int = 16
    inner_lr: float = 0.1
    products: int = 5
    damping: float = 11.0
    test_tasks: int = 200
    looks: int = 6
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        positive = ("steps", "width", "tasks", "inner_steps", "maml_steps", "products", "looks")
        check(self, {"method": METHODS, "part": PARTS}, (*positive, "test_tasks"))

    def inner(self) -> dict[str, Any]:
        """How iMAML adapts, in training and at test."""
        solve = {"method": "gradient", "steps": self.inner_steps, "lr": self.inner_lr, "tol": None}
        return {"loss": cross_entropy, "lam": self.lam, **solve}


class _Curve:
    """Accuracy against the seconds spent on training alone; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"points": [dict(point) for point in self.points], "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self.seconds = [dict(p) for p in state["points"]], state["seconds"]


def execute(
    run: Run,
    *,
    checkpoint: str | None = None,
    every: int = 50,
    progress: bool | None = None,
) -> tuple[dict[str, Any], Conv4]:
    """Meta-train with Adam; returns the row for the record and the network.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the drawings are not at hand and cannot be had.
    """
    train, test = samplers(run)
    tasks = test.sample(run.test_tasks, torch.Generator(run.device).manual_seed(TEST_SEED))
    generator = torch.Generator(run.device).manual_seed(run.seed)
    net = Conv4(width=run.width, classes=run.ways, generator=generator, device=run.device)
    adam = torch.optim.Adam(net.parameters(), run.rate)
    clock, curve = Clock(), _Curve()
    looks = {round(run.steps * (k + 1) / run.looks) - 1 for k in range(run.looks)}

    def step(i: int) -> dict[str, Tensor | float]:
        begin = time.process_time()
        gradients, loss, bent = meta_gradient(run, net, train.sample(run.tasks, generator))
        for name, parameter in net.named_parameters():
            parameter.grad = gradients[name]
        adam.step()
        curve.seconds += time.process_time() - begin
        if i in looks:
            found = {"steps": i + 1, "seconds": round(curve.seconds, 2)}
            curve.points.append(found | {"accuracy": accuracy(run, net, tasks)})
        return {"loss": loss, "negative_curvature": bent}

    state = {"net": net, "adam": adam, "draws": generator, "clock": clock, "curve": curve}
    history = fit(
        step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress
    )
    seconds = clock.state_dict()
    row = {
        **{name: getattr(run, name) for name in KEY},
        "parameters": count_parameters(net),
        "curve": curve.points,
        "loss_last_tenth": history["loss"][-max(1, run.steps // 10) :].mean().item(),
        "negative_curvature": history["negative_curvature"].sum().item(),
        "pixels": pixel_accuracy(tasks),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }
    return row, net


@functools.lru_cache(maxsize=2)
def _characters(part: str) -> tuple[drawings.Characters, drawings.Characters]:
    """Characters to train on, and of other alphabets to be tested on."""
    if part == "full":
        return drawings.omniglot("background"), drawings.omniglot("evaluation")
    every = drawings.omniglot("small")
    latin = [alphabet == "Latin" for alphabet in every.alphabets]
    seen, held = ([i for i, is_latin in enumerate(latin) if is_latin == k] for k in (False, True))
    return drawings.select(every, seen), drawings.select(every, held)


def samplers(run: Run) -> tuple[TaskSampler, TaskSampler]:
    """Tasks to train on, with turned characters as further classes, and tasks of the test."""
    parts = (_characters(run.part)[0], True), (_characters(run.part)[1], False)
    shape = {"ways": run.ways, "shots": run.shots, "queries": run.queries}
    train, test = (
        TaskSampler(part.images.to(run.device), part.labels, rotations=turned, **shape)
        for part, turned in parts
    )
    return train, test


def meta_gradient(run: Run, net: Conv4, tasks: Tasks) -> tuple[dict[str, Tensor], Tensor, float]:
    """Gradient by name, query loss, and how many linear systems met negative curvature."""
    if run.method == "imaml":
        gradients, report = imaml(
            net,
            tasks.support,
            tasks.query,
            **run.inner(),
            stationary=None,
            max_products=run.products,
            damping=run.damping,
        )
        return gradients, report.val_loss.mean(), report.negative_curvature.float().mean().item()
    weights = {name: p.detach() for name, p in net.named_parameters()}
    loss = _unrolled(run, net, tasks)
    gradients, value = torch.func.grad_and_value(loss)(weights)
    return gradients, value, 0.0


def _unrolled(run: Run, net: Conv4, tasks: Tasks) -> Callable[[dict[str, Tensor]], Tensor]:
    """Mean query loss after a few steps of gradient descent, as a function of the weights."""

    def of_task(weights: dict[str, Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor):
        return cross_entropy(functional_call(net, descend(run, net, weights, sx, sy), (qx,)), qy)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return vmap(of_task, in_dims=(None, 0, 0, 0, 0))(weights, *tasks).mean()

    return loss


def descend(
    run: Run, net: Conv4, weights: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """The inner loop of MAML for one task."""
    for _ in range(run.maml_steps):
        slope = grad(lambda w: cross_entropy(functional_call(net, w, (x,)), y))(weights)
        weights = {name: w - run.maml_lr * slope[name] for name, w in weights.items()}
    return weights


@torch.no_grad()
def accuracy(run: Run, net: Conv4, tasks: Tasks) -> float:
    """Share of the queries that the adapted networks name correctly.

    All queries of a task go through the network together, so that its normalization sees them all.
    """
    right = []
    for sx, sy, qx, qy in zip(*(part.split(TEST_CHUNK) for part in tasks), strict=True):
        if run.method == "imaml":
            weights, _ = adapt(net, (sx, sy), **run.inner())
        else:
            start = {name: p.detach() for name, p in net.named_parameters()}
            weights = vmap(lambda x, y, start=start: descend(run, net, start, x, y))(sx, sy)
        logits = vmap(lambda w, x: functional_call(net, w, (x,)))(weights, qx)
        right.append((logits.argmax(-1) == qy).float().mean(-1))
    return torch.cat(right).mean().item()


def pixel_accuracy(tasks: Tasks) -> float:
    """The same share for the nearest support image by the cosine of the pixels."""
    support, query = (
        torch.nn.functional.normalize(x.flatten(2), dim=-1) for x in (tasks[0], tasks[2])
    )
    nearest = (query @ support.mT).argmax(-1)
    return (tasks.support_y.gather(1, nearest) == tasks.query_y).float().mean().item()
