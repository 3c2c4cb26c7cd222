"""Train a density model, and report its likelihood beside the best there is."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.data import tabular, toy2d
from nodes_tutorial.experiments.models import (
    FITTED,
    MODELS,
    Architecture,
    build,
    default_architecture,
    for_test,
)
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.flows import (
    Flow,
    KernelDensity,
    fit_gaussian,
    flow_matching_loss,
    penalized_nll,
)
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.training import fit

TOYS = tuple(toy2d.ENTROPY)
DATASETS = (*TOYS, *tabular.SETS)
TEST_SEED = 10**6  # the test points of a toy are the same for every model and seed
CHUNK = 2000


@dataclass(frozen=True)
class Run:
    """All that decides a run; ``None`` stands for the default of the data set or model."""

    dataset: str
    model: str = "cnf"
    steps: int = 2000
    batch: int | None = None
    rate: float | None = None
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    layers: int | None = None
    trace: str = "exact"
    kinetic: float = 0.0
    jacobian: float = 0.0
    method: str = "dopri5"
    step_size: float | None = None
    tolerance: float = 1e-5
    coupling: str = "independent"
    train_points: int = 10_000
    test_points: int = 10_000
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(
            self,
            {"dataset": DATASETS, "model": MODELS},
            ("steps", "train_points", "test_points"),
        )


class Best:
    """The weights with the smallest validation loss so far; an entry of ``fit``'s state."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.loss, self.weights = module, math.inf, dict[str, Tensor]()

    def offer(self, loss: float) -> None:
        """Keep the module's weights if they are better than those kept."""
        if loss < self.loss:
            state = self.module.state_dict()
            self.loss, self.weights = loss, {name: v.clone() for name, v in state.items()}

    def restore(self) -> None:
        """Put the best weights into the module, if any were offered."""
        if self.weights:
            self.module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.loss, self.weights = state["loss"], state["weights"]


def execute(
    run: Run,
    *,
    checkpoint: str | None = None,
    every: int = 200,
    progress: bool | None = None,
    splits: tabular.Splits | None = None,
) -> tuple[dict[str, Any], nn.Module]:
    """Train and measure; returns the row for the record and the density.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints, and between validations on a tabular set.
        progress: as for ``training.fit``.
        splits: the rows of a tabular set.

    Raises:
        ValueError: a tabular set without its rows, or as for what is called.
    """
    if run.dataset in tabular.SETS and splits is None:
        raise ValueError(f"splits must hold the rows of {run.dataset}")
    if splits is not None:
        splits = tabular.Splits(*(part.to(run.device) for part in splits))
    dim = 2 if splits is None else splits.train.shape[1]
    test = _toy(run, run.test_points, TEST_SEED) if splits is None else splits.test
    if run.model in FITTED:
        taken = Clock()
        points = _toy(run, run.train_points, run.seed) if splits is None else splits.train
        density = fit_gaussian(points) if run.model == "gaussian" else KernelDensity(points, "cv")
        settings: dict[str, Any] = {"train_points": len(points)}
        if isinstance(density, KernelDensity):
            settings["bandwidth"] = float(density.bandwidth)
    else:
        run, architecture = _fill(run, dim)
        density, taken = _train(run, architecture, dim, splits, checkpoint, every, progress)
        density = for_test(density, dim, run.device, run.tolerance)
        names = ("steps", "batch", "rate", "trace", "method", "step_size", "tolerance")
        settings = {name: getattr(run, name) for name in names} | asdict(architecture)
        settings |= {"kinetic": run.kinetic, "jacobian": run.jacobian, "coupling": run.coupling}
    seconds = taken.state_dict()
    row = {
        "dataset": run.dataset,
        "model": run.model,
        "coupling": run.coupling if run.model == "fm" else None,
        "seed": run.seed,
        **_measure(run, density, test),
        "parameters": count_parameters(density),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": settings,
        **provenance(run.device),
    }
    return row, density


def _fill(run: Run, dim: int) -> tuple[Run, Architecture]:
    """Defaults in place of None."""
    size = default_architecture(run.model, run.dataset, dim)
    given = {n: getattr(run, n) for n in ("hidden", "activation", "layers")}
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    batch = run.batch or (512 if dim == 2 else 1000)
    return replace(run, batch=batch, rate=run.rate or 1e-3), size


def _train(
    run: Run,
    size: Architecture,
    dim: int,
    splits: tabular.Splits | None,
    checkpoint: str | None,
    every: int,
    progress: bool | None,
) -> tuple[Flow, Clock]:
    generator = torch.Generator(run.device).manual_seed(run.seed)
    penalties = [n for n in ("kinetic", "jacobian") if getattr(run, n) > 0]
    solver: dict[str, Any] = {"trace": run.trace, "regularize": penalties, "generator": generator}
    solver |= {"rtol": run.tolerance, "atol": run.tolerance, "method": run.method}
    if run.step_size is not None:
        solver["options"] = {"step_size": run.step_size}
    flow = build(run.model, dim, size, generator, run.device, solver)
    adam = torch.optim.Adam(flow.parameters(), run.rate, fused=True)
    loss_of = _objective(run, flow, penalties, generator)
    best, clock = Best(flow), Clock()

    def step(i: int) -> Tensor:
        rise, fall = (i + 1) / (0.02 * run.steps), 1 + math.cos(math.pi * i / run.steps)
        for group in adam.param_groups:
            group["lr"] = run.rate * min(1.0, rise) * fall / 2
        if splits is None:
            x = toy2d.sample(run.dataset, run.batch, generator)
        else:
            size = (run.batch,)
            rows = torch.randint(len(splits.train), size, generator=generator, device=run.device)
            x = splits.train[rows]
        loss = loss_of(x)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if splits is not None and ((i + 1) % every == 0 or i + 1 == run.steps):
            test = for_test(flow, dim, run.device, run.tolerance)
            best.offer(-_log_prob(test, splits.validation).mean().item())
        return loss

    state = {"flow": flow, "adam": adam, "draws": generator, "best": best, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    best.restore()
    return flow, clock


def _objective(
    run: Run, flow: Flow, penalties: list[str], generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The loss of a batch: matching, or negative log-likelihood with penalties."""
    if run.model == "fm":
        (transform,) = flow.transforms
        return lambda x: flow_matching_loss(
            transform.field, x, coupling=run.coupling, generator=generator
        )
    if not penalties:
        return lambda x: -flow.log_prob(x).mean()
    weights = {name: getattr(run, name) for name in penalties}
    return lambda x: penalized_nll(flow, x, weights)[0]


def _toy(run: Run, n: int, seed: int) -> Tensor:
    generator = torch.Generator(run.device).manual_seed(seed)
    return toy2d.sample(run.dataset, n, generator)


def _log_prob(density: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([density.log_prob(part) for part in x.split(CHUNK)])


def _measure(run: Run, density: nn.Module, test: Tensor) -> dict[str, Any]:
    """Likelihood of the test points; for a toy also what it misses of the truth's."""
    found = _log_prob(density, test).double()
    root = math.sqrt(len(test))
    row = {"nll": -found.mean().item(), "nll_se": found.std().item() / root}
    if run.dataset in TOYS:
        gap = toy2d.log_prob(run.dataset, test.double()) - found
        row |= {"floor": toy2d.ENTROPY[run.dataset], "excess": gap.mean().item()}
        row["excess_se"] = gap.std().item() / root
    evaluations = [getattr(t, "nfe", None) for t in getattr(density, "transforms", [])]
    row["nfe"] = sum(n for n in evaluations if n) or None
    row["test_points"] = len(test)
    return row
