"""Meta-train one network by MAML and by iMAML on sinusoids: error against training time.

All seeds of a run are one batch: a row of weights for each, with tasks of its own.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, vmap
from torch.nn.functional import mse_loss

from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.implicit import proximal_point, through_anchor
from nodes_tutorial.implicit.tasks import FlatModule
from nodes_tutorial.nets import MLP
from nodes_tutorial.training import fit

METHODS = ("maml", "imaml")
SHOTS = 10
WIDTHS = [1, 40, 40, 1]
SHAPE = FlatModule(MLP(WIDTHS, generator=torch.Generator()))  # its own weights play no role
TEST_SEED = 10**6  # the test tasks are the same for every method and seed
KEY = ("method", "rate", "steps", "seed")  # what tells rows apart


@dataclass(frozen=True)
class Run:
    """All that decides a run, apart from its seeds."""

    method: str = "imaml"
    steps: int = 1000
    rate: float = 1e-2
    tasks: int = 25
    maml_steps: int = 1
    lam: float = 2.0
    inner_steps: int = 16
    inner_lr: float = 0.01
    products: int = 5
    test_tasks: int = 400
    looks: int = 10

    def __post_init__(self) -> None:
        positive = ("steps", "tasks", "inner_steps", "maml_steps", "products", "looks")
        check(self, {"method": METHODS}, (*positive, "test_tasks"))


class _Curves:
    """Errors of every seed against the seconds of the whole batch; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"points": [dict(point) for point in self.points], "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self.seconds = [dict(p) for p in state["points"]], state["seconds"]


def execute(
    run: Run,
    seeds: list[int],
    *,
    checkpoint: str | None = None,
    every: int = 100,
    progress: bool | None = None,
) -> tuple[list[dict[str, Any]], Tensor]:
    """Meta-train with Adam; returns a row for the record for each seed, and the weights.

    Args:
        run: what to do.
        seeds: one training each; no seed changes what another one gets.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.
    """
    family = Sinusoids(SHOTS, SHOTS)
    fresh = family.sample(run.test_tasks, torch.Generator().manual_seed(TEST_SEED))
    draws = {f"draws {seed}": torch.Generator().manual_seed(seed) for seed in seeds}
    nets = [MLP(WIDTHS, generator=generator) for generator in draws.values()]
    theta = nn.Parameter(torch.stack([FlatModule(net).vector() for net in nets]))
    adam = torch.optim.Adam([theta], run.rate)
    clock, curves = Clock(), _Curves()
    looks = {round(run.steps * (k + 1) / run.looks) - 1 for k in range(run.looks)}

    def step(i: int) -> dict[str, Tensor | float]:
        begin = time.process_time()
        drawn = [family.sample(run.tasks, generator) for generator in draws.values()]
        tasks = Tasks(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))
        theta.grad, loss = meta_gradient(run, theta.detach(), tasks)
        adam.step()
        curves.seconds += time.process_time() - begin
        if i in looks:
            point = {"steps": i + 1, "seconds": round(curves.seconds, 2)}
            curves.points.append(point | errors(run, theta.detach(), fresh))
        return {"loss": loss.mean()}

    state = {"theta": nn.ParameterList([theta]), "adam": adam, "clock": clock, "curves": curves}
    fit(
        step,
        steps=run.steps,
        state=state | draws,
        checkpoint=checkpoint,
        every=every,
        progress=progress,
    )
    seconds = clock.state_dict()
    rows = [
        {
            **{name: getattr(run, name) for name in KEY[:-1]},
            "seed": seed,
            "parameters": theta.shape[1],
            "curve": [_of_row(point, row) for point in curves.points],
            "seeds_of_batch": seeds,
            "cpu_seconds": round(seconds["cpu"], 1),
            "wall_seconds": round(seconds["wall"], 1),
            "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
            **provenance(),
        }
        for row, seed in enumerate(seeds)
    ]
    return rows, theta.detach()


def _of_row(point: dict[str, Any], row: int) -> dict[str, Any]:
    return {n: round(v[row], 4) if isinstance(v, list) else v for n, v in point.items()}


def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean square of the network whose weights are one vector."""
    return SHAPE.loss(mse_loss)(vector, x, y)


def meta_gradient(run: Run, theta: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Gradient of the adapted query loss and its value, for each row of weights.

    Args:
        run: the settings.
        theta: weights, of shape (rows, size).
        tasks: with rows and tasks in front.
    """
    if run.method == "maml":
        return vmap(grad_and_value(lambda w, own: _unrolled(run, w, own)))(theta, tasks)
    rows, count = tasks.query_y.shape[:2]
    flat = Tasks(*(part.flatten(0, 1) for part in tasks))
    point = _anchored(run, theta.repeat_interleave(count, 0), flat)
    covector, value = vmap(grad_and_value(loss))(point, *flat.query)
    carried = through_anchor(
        loss, point, covector, *flat.support,
        lam=run.lam, max_products=run.products, check=False,
    )  # fmt: skip
    return carried.x.view(rows, count, -1).mean(1), value.view(rows, count).mean(1)


def _unrolled(run: Run, theta: Tensor, tasks: Tasks) -> Tensor:
    def of_task(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        return loss(_descend(theta, sx, sy, run.maml_steps, run.inner_lr), qx, qy)

    return vmap(of_task)(*tasks).mean()


def _descend(w: Tensor, x: Tensor, y: Tensor, steps: int, lr: float) -> Tensor:
    for _ in range(steps):
        w = w - lr * grad(loss)(w, x, y)
    return w


def _anchored(run: Run, anchors: Tensor, tasks: Tasks) -> Tensor:
    solve = {"method": "gradient", "steps": run.inner_steps, "lr": run.inner_lr, "tol": None}
    return proximal_point(loss, anchors, *tasks.support, lam=run.lam, **solve).point


def errors(run: Run, theta: Tensor, tasks: Tasks) -> dict[str, list[float]]:
    """Mean squared errors for each row of weights: before, after its own adaptation, after ten.

    ``plain_ten`` takes ten steps of gradient descent without a penalty, for both methods.
    """
    anchors = theta.repeat_interleave(len(tasks.query_y), 0)
    wide = Tasks(*(part.repeat(len(theta), 1, 1) for part in tasks))
    steps = {"before": 0, "plain_ten": 10}
    if run.method == "maml":
        steps["adapted"] = run.maml_steps
    points = {
        name: vmap(lambda w, x, y, k=k: _descend(w, x, y, k, run.inner_lr))(anchors, *wide.support)
        for name, k in steps.items()
    }
    if run.method == "imaml":
        points["adapted"] = _anchored(run, anchors, wide)
    return {
        name: vmap(loss)(point, *wide.query).view(len(theta), -1).mean(1).tolist()
        for name, point in points.items()
    }
