"""Heads of few-shot tasks on frozen features: trained on Omniglot, tested on other handwriting."""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nodes_tutorial.bayes import temperature_scale
from nodes_tutorial.data import drawings
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.experiments.meta_scores import Episodes, Predict, Said, ask, log_loss, scores
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.meta import embed
from nodes_tutorial.meta.encoders import load_encoder

KEY = ("row", "shots", "gamma", "seed")  # what tells rows apart
VALIDATION_SEED, TEST_SEED = 10**6, 10**6 + 1  # the same tasks for every row
QUERIES = 15


@dataclass(frozen=True)
class Run:
    """All that decides a run: which row of the table, and how it is trained and tested.

    The encoder is that of the run's own seed where None is given.
    """

    row: str = "prototypes"
    shots: int = 1
    gamma: float = 0.0
    ways: int = 5
    updates: int = 600
    tasks: int = 16
    draws: int = 5
    test_draws: int = 50
    validation_tasks: int = 100
    test_tasks: int = 300
    further: bool = False
    encoder: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("shots", "ways", "updates", "tasks", "draws", "test_draws")
        check(self, {}, (*positive, "validation_tasks", "test_tasks"))


class Features(NamedTuple):
    """Features of three sets of classes, and the labels of each."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=1)
def features(seed: int) -> Features:
    """Omniglot without Latin, and the even and the odd classes of en62.

    The mean over Omniglot is taken off, and one number divides all features.

    Args:
        seed: which encoder.

    Returns:
        Features in the shape that ``TaskSampler`` takes.

    Raises:
        DataError: drawings or weights are not at hand and cannot be had.
    """
    every, other = drawings.omniglot(), drawings.en62()
    old = [i for i, name in enumerate(every.alphabets) if name != "Latin"]
    parts = [drawings.select(every, old)]
    parts += [drawings.select(other, range(start, 62, 2)) for start in (0, 1)]
    encoder = load_encoder(seed)
    rows = [embed(encoder, part.images) for part in parts]
    centre = rows[0].mean(0)
    scale = (rows[0] - centre).square().mean().sqrt()
    found = [((x - centre) / scale, p.labels) for x, p in zip(rows, parts, strict=True)]
    return Features(*found)


def sampler(part: tuple[Tensor, Tensor], run: Run, ways: int, queries: int) -> TaskSampler:
    """Tasks of features."""
    return TaskSampler(*part, ways=ways, shots=run.shots, queries=queries)


def flat(tasks: Tasks) -> Tasks:
    """Tasks whose points are rows of features."""
    return tasks._replace(support_x=tasks.support_x.flatten(2), query_x=tasks.query_x.flatten(2))


def episodes(part: tuple[Tensor, Tensor], ways: int, shots: int, count: int, seed: int) -> Episodes:
    """Draw tasks of twice as many classes; the second half gives the queries of unseen classes."""
    draw = torch.Generator().manual_seed(seed)
    source = TaskSampler(*part, ways=2 * ways, shots=shots, queries=QUERIES)
    tasks = flat(source.sample(count, draw))
    first, seen = ways * shots, ways * QUERIES
    return Episodes(
        tasks.support_x[:, :first],
        tasks.support_y[:, :first],
        tasks.query_x[:, :seen],
        tasks.query_y[:, :seen],
        tasks.query_x[:, seen:],
    )


def _settings(run: Run) -> dict[str, Any]:
    """What the key of a row does not say."""
    every = asdict(run).items()
    return {name: value for name, value in every if name not in KEY and value is not None}


def made(path: str | Path, run: Run) -> bool:
    """Whether a file has the rows of a run already.

    Args:
        path: the record.
        run: what is wanted.

    Returns:
        True where each of its rows is there with the same settings.
    """
    path = Path(path)
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    wanted = _settings(run)
    known = [
        row["row"]
        for row in rows
        if row["settings"] == wanted
        and (row["shots"], row["gamma"], row["seed"]) == (run.shots, run.gamma, run.seed)
    ]
    return {run.row, f"{run.row}_ada" if run.further else run.row} <= set(known)


def execute(run: Run) -> list[dict[str, Any]]:
    """Train a row, keep the setting with the best validation loss, and test it.

    Args:
        run: what to do; with ``further`` there is a second row, for which more steps on the
            support may be chosen as well.

    Returns:
        The rows for the record.

    Raises:
        ValueError: an unknown row.
        DataError: drawings or weights are not at hand and cannot be had.
    """
    from nodes_tutorial.experiments.meta_rows import ROWS

    check(run, {"row": ROWS}, ())
    parts = features(run.seed if run.encoder is None else run.encoder)
    held = episodes(parts.validation, run.ways, run.shots, run.validation_tasks, VALIDATION_SEED)
    test = episodes(parts.test, run.ways, run.shots, run.test_tasks, TEST_SEED)
    clock = Clock()
    found: dict[str, tuple[float, Said, Predict, dict[str, Any]]] = {}
    for name, predict, got in ROWS[run.row](run, parts):
        said = ask(predict, held)
        found[name] = (
            float(log_loss(said.seen.flatten(0, 1), held.seen_y.flatten())),
            said,
            predict,
            got,
        )
    plain = {name: value for name, value in found.items() if not name.startswith("+")}
    groups = {run.row: plain, f"{run.row}_ada": found} if run.further else {run.row: plain}
    return [_tested(run, row, group, held, test, clock) for row, group in groups.items()]


def _tested(
    run: Run,
    row: str,
    group: dict[str, tuple[float, Said, Predict, dict[str, Any]]],
    held: Episodes,
    test: Episodes,
    clock: Clock,
) -> dict[str, Any]:
    """The row of the setting with the least validation loss."""
    best = min(group, key=lambda name: group[name][0])
    _, said, predict, got = group[best]
    logs = said.seen.flatten(0, 1).clamp_min(1e-30).log()
    answer = ask(predict, test)
    numbers = scores(answer, test, temperature_scale(logs, held.seen_y.flatten()))
    seconds = clock.state_dict()
    return {
        **{name: getattr(run, name) for name in KEY},
        "row": row,
        **numbers,
        "logit_spread": round(answer.spread, 5),
        **got,
        "setting": best,
        "validation": {name: round(value[0], 4) for name, value in group.items()},
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": _settings(run),
        **provenance(),
    }
