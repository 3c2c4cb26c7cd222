"""Train heads on the features of a frozen encoder: HyperMAML, gradient steps, and prototypes."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nodes_tutorial.data import drawings
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.invariance import DeepSets
from nodes_tutorial.meta import (
    GradientHead,
    HyperMAML,
    SupportRows,
    class_means,
    embed,
    load_encoder,
    prototype_logits,
)
from nodes_tutorial.nets import MLP, count_parameters
from nodes_tutorial.training import fit

HEADS = ("prototypes", "gradient head", "HyperMAML", "released")
PARTS = ("no_latin", "small")
WAYS = 5
TESTS = (("Latin", 1), ("en62", 1), ("Latin", 5), ("en62", 5))  # and shots
TEST_SEED, TEST_QUERIES, TEST_CHUNK = 10**6, 15, 100
KEY = ("part", "head", "steps", "seed")  # what tells rows apart


@dataclass(frozen=True)
class Run:
    """All that decides a run; the encoder is trained already."""

    head: str = "HyperMAML"
    part: str = "no_latin"
    shots: int = 1  # of a training task; tests have one and five
    queries: int = 5
    tasks: int = 16
    steps: int = 1500
    rates: tuple[float, ...] = (1e-3, 3e-3, 3e-2)
    test_episodes: int = 600
    encoder: int = 0  # which training of the encoder
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        positive = ("shots", "queries", "tasks", "steps", "test_episodes")
        check(self, {"head": HEADS, "part": PARTS}, positive)


class Prototypes(nn.Module):
    """The nearest class mean, at the scale of the embeddings at which the encoder was trained."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, support: tuple[Tensor, Tensor], query: Tensor) -> Tensor:
        """Logits of the queries."""
        return self.scale**2 * prototype_logits(query, class_means(*support, WAYS, check=False))


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 500, progress: bool | None = None
) -> dict[str, Any]:
    """Train with each rate, keep the one that is best on validation episodes, and test it.

    Those are made of drawings of the training classes that no training episode has.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from, with the rate behind its name.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: drawings or the encoder are not at hand and cannot be had.
    """
    tables, scale = features(run.part, run.encoder)
    clock = Clock()
    best: tuple[float, float, nn.Module] | None = None
    tried = []
    for rate in run.rates if run.head not in ("prototypes",) else (0.0,):
        net = make(run, scale).to(run.device)
        if rate:
            place = None if checkpoint is None else f"{checkpoint}-{rate:g}"
            _train(run, net, rate, tables["train"], place, every, progress)
        accuracy, _ = _test(run, net, tables["validation"], run.shots, run.queries)
        tried.append({"rate": rate, "validation": round(accuracy, 5)})
        if best is None or accuracy > best[0]:
            best = accuracy, rate, net
    assert best is not None
    found = [_test(run, best[2], tables[name], shots, TEST_QUERIES) for name, shots in TESTS]
    seconds = clock.state_dict()
    return {
        **{name: getattr(run, name) for name in KEY},
        "tests": [list(test) for test in TESTS],
        "accuracy": [round(accuracy, 5) for accuracy, _ in found],
        "nll": [round(loss, 5) for _, loss in found],
        "rate": best[1],
        "rates_tried": tried,
        "parameters": count_parameters(best[2]),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }


def make(run: Run, scale: float) -> nn.Module:
    """The head of a run, untrained, for embeddings that were divided by the scale."""
    if run.head == "prototypes":
        return Prototypes(scale)
    if run.head == "gradient head":
        return GradientHead(128, WAYS, steps=5, dtype=torch.float32)
    generator = torch.Generator().manual_seed(run.seed)
    inputs = 128 if run.head == "HyperMAML" else 128 + WAYS + 1
    rho = MLP([inputs, 128, 128, 129], "relu", generator, dtype=torch.float32)
    deep_set = DeepSets(nn.Identity(), rho, "mean")
    kind: dict[str, Any] = {"generator": generator, "dtype": torch.float32}
    if run.head == "HyperMAML":
        return HyperMAML(SupportRows(deep_set), 128, WAYS, **kind)
    return HyperMAML(SupportRows(deep_set, "released"), 128, WAYS, start="per_class", **kind)


@functools.lru_cache(maxsize=1)
def features(part: str, seed: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Standardised features and labels: of training and validation drawings, and of the tests.

    The number by which the features are divided comes second.

    Classes turned by quarters are classes of their own. The first half of the drawings of a class
    trains, the second validates.
    """
    encoder = load_encoder(seed)
    every = drawings.omniglot("small" if part == "small" else "all")
    latin = [alphabet == "Latin" for alphabet in every.alphabets]
    seen, held = ([i for i, is_latin in enumerate(latin) if is_latin == k] for k in (False, True))
    train = drawings.select(every, seen)
    place = torch.arange(len(train.labels)) - torch.searchsorted(train.labels, train.labels)
    half = place < train.labels.bincount().min() // 2
    raw = [embed(encoder, train.images.rot90(turns, (2, 3))) for turns in range(4)]
    center = torch.stack([z[half].mean(0) for z in raw]).mean(0)
    scale = torch.stack([(z[half] - center).square().mean() for z in raw]).mean().sqrt()
    labels = 4 * train.labels

    def table(rows: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([(z[rows] - center) / scale for z in raw])
        return z, torch.cat([labels[rows] + turns for turns in range(4)])

    letters = drawings.en62()
    tests = {
        "Latin": drawings.select(every, held),
        "en62": drawings.select(letters, range(1, len(letters.names), 2)),
    }
    found = {
        name: ((embed(encoder, data.images) - center) / scale, data.labels)
        for name, data in tests.items()
    }
    return {"train": table(half), "validation": table(~half)} | found, float(scale)


def _train(
    run: Run,
    net: nn.Module,
    rate: float,
    table: tuple[Tensor, Tensor],
    checkpoint: str | None,
    every: int,
    progress: bool | None,
) -> None:
    generator = torch.Generator(run.device).manual_seed(run.seed)
    sampler = TaskSampler(
        table[0].to(run.device), table[1], ways=WAYS, shots=run.shots, queries=run.queries
    )
    adam = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, run.steps)

    def step(i: int) -> Tensor:
        _, loss = _logits_and_loss(net, sampler.sample(run.tasks, generator))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        return loss.detach()

    state = {"net": net, "adam": adam, "schedule": schedule, "draws": generator}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)


def _logits_and_loss(net: nn.Module, tasks: Tasks) -> tuple[Tensor, Tensor]:
    support = tasks.support_x.flatten(2), tasks.support_y
    logits = net(support, tasks.query_x.flatten(2))
    return logits, cross_entropy(logits.flatten(0, 1), tasks.query_y.flatten())


@torch.no_grad()
def _test(
    run: Run, net: nn.Module, table: tuple[Tensor, Tensor], shots: int, queries: int
) -> tuple[float, float]:
    """Share of right answers and mean loss, on the same episodes for every head."""
    images = table[0].to(run.device)
    sampler = TaskSampler(images, table[1], ways=WAYS, shots=shots, queries=queries)
    generator = torch.Generator(run.device).manual_seed(TEST_SEED)
    right, total = 0.0, 0.0
    for start in range(0, run.test_episodes, TEST_CHUNK):
        count = min(TEST_CHUNK, run.test_episodes - start)
        tasks = sampler.sample(count, generator)
        logits, loss = _logits_and_loss(net, tasks)
        right += float((logits.argmax(-1) == tasks.query_y).double().mean()) * count
        total += float(loss) * count
    return right / run.test_episodes, total / run.test_episodes
