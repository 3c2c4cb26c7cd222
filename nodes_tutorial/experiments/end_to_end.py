"""Few-shot learners with nothing frozen: trained on Omniglot, tested on other handwriting."""

import functools
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nodes_tutorial.bayes import temperature_scale
from nodes_tutorial.data import drawings
from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.experiments.learners import METHODS, Learner, Predict
from nodes_tutorial.experiments.meta import TEST_SEED, VALIDATION_SEED, episodes
from nodes_tutorial.experiments.meta_scores import Episodes, Said, ask, log_loss, scores
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.training import fit

KEY = ("method", "shots", "updates", "seed")  # what tells rows apart
CLIP = 5.0  # the largest norm of a gradient
SCORES = ("accuracy", "interval", "nll", "ece", "temperature", "nll_scaled", "ece_scaled")
SCORES += ("auroc_entropy",)


@dataclass(frozen=True)
class Run:
    """All that decides a run: every method sees as many images, and tries the same rates.

    An update of ``tasks`` tasks sees ``tasks``·``ways``·(``shots`` + ``queries``) images. MAML
    takes its inner steps with second derivatives.
    """

    method: str = "maml"
    shots: int = 1
    ways: int = 5
    queries: int = 5
    updates: int = 3000
    tasks: int = 16
    rates: tuple[float, ...] = (1e-3, 3e-3)
    width: int = 32
    inner_steps: int = 1
    inner_lr: float = 0.4
    validation_tasks: int = 100
    test_tasks: int = 300
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        positive = ("shots", "ways", "queries", "updates", "tasks", "width", "inner_steps")
        check(self, {"method": METHODS}, (*positive, "validation_tasks", "test_tasks"))


class Handwriting(NamedTuple):
    """Omniglot without Latin, and the even and the odd classes of en62."""

    train: Characters
    validation: Characters
    test: Characters


class _Trained(NamedTuple):
    """One setting on the validation tasks: how it is called there, and what it predicts."""

    loss: float
    name: str
    said: Said
    predict: Predict


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 250, progress: bool | None = None
) -> list[dict[str, Any]]:
    """Train at each rate, keep the setting with the best validation loss, and test it.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from, one for each rate.
        every: updates between checkpoints.
        progress: as for ``training.fit``.

    Returns:
        The rows for the record: one, or for MAML two, since its normalization may take its
        statistics from all queries of a task or from one query and the support.

    Raises:
        ValueError: a run that cannot be made.
        DataError: drawings are not at hand and cannot be had.
    """
    data = handwriting()
    held, test = (
        _on(run.device, episodes((part.images, part.labels), run.ways, run.shots, count, seed))
        for part, count, seed in (
            (data.validation, run.validation_tasks, VALIDATION_SEED),
            (data.test, run.test_tasks, TEST_SEED),
        )
    )
    clock = Clock()
    found: dict[str, list[_Trained]] = {}
    common: dict[str, Any] = {}
    for rate in run.rates:
        learner = METHODS[run.method](run, data.train)
        place = None if checkpoint is None else f"{checkpoint}.{rate:g}"
        _train(run, learner, rate, clock, place, every, progress)
        common = {
            "parameters": count_parameters(learner.module),
            "train_classes": learner.classes,
            "images_an_update": run.tasks * run.ways * (run.shots + run.queries),
        }
        for row, setting, predict in learner.predictors():
            said = ask(predict, held)
            loss = log_loss(said.seen.flatten(0, 1), held.seen_y.flatten())
            found.setdefault(row, []).append(
                _Trained(float(loss), f"rate {rate:g}{setting}", said, predict)
            )
    seconds = clock.state_dict()
    common |= {
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }
    key = {name: getattr(run, name) for name in KEY}
    return [key | {"method": row} | _tested(group, held, test) | common for row, group in
            found.items()]  # fmt: skip


@functools.lru_cache(maxsize=1)
def handwriting() -> Handwriting:
    """The drawings of all runs.

    Raises:
        DataError: drawings are not at hand and cannot be had.
    """
    every, other = drawings.omniglot(), drawings.en62()
    seen = [i for i, name in enumerate(every.alphabets) if name != "Latin"]
    halves = (drawings.select(other, range(start, 62, 2)) for start in (0, 1))
    return Handwriting(drawings.select(every, seen), *halves)


def _on(device: str, given: Episodes) -> Episodes:
    return Episodes(*(part.to(device) for part in given))


def _train(
    run: Run,
    learner: Learner,
    rate: float,
    clock: Clock,
    checkpoint: str | None,
    every: int,
    progress: bool | None,
) -> None:
    """Adam with a rate that falls to 0 along a cosine."""
    generator = torch.Generator(run.device).manual_seed(run.seed)
    adam = torch.optim.Adam(learner.module.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, run.updates)
    learner.module.train()

    def step(i: int) -> Tensor:
        adam.zero_grad()
        loss = learner.slope(generator, i / run.updates)
        nn.utils.clip_grad_norm_(learner.module.parameters(), CLIP)
        adam.step()
        schedule.step()
        return loss

    state = {
        "net": learner.module,
        "adam": adam,
        "schedule": schedule,
        "draws": generator,
        "clock": clock,
    }
    fit(step, steps=run.updates, state=state, checkpoint=checkpoint, every=every, progress=progress)
    learner.module.eval()


def _tested(group: list[_Trained], held: Episodes, test: Episodes) -> dict[str, Any]:
    """The numbers of the setting with the least validation loss."""
    best = min(group, key=lambda one: one.loss)
    logs = best.said.seen.flatten(0, 1).clamp_min(1e-30).log()
    heat = temperature_scale(logs, held.seen_y.flatten())
    numbers = scores(ask(best.predict, test), test, heat)
    return {
        **{name: numbers[name] for name in SCORES},
        "setting": best.name,
        "validation": {one.name: round(one.loss, 4) for one in group},
    }
