"""Train a prototype network on Omniglot: accuracy on characters, alphabets and drawings unseen."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nodes_tutorial.data import drawings, mnist10k
from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.meta import ProtoNet, embed, episode_accuracies, interval
from nodes_tutorial.nets import Conv4, count_parameters
from nodes_tutorial.training import fit

PARTS = ("full", "no_latin", "small")
TESTS = ((5, 1), (5, 5), (20, 1), (20, 5))  # ways and shots
TEST_SEED = 10**6  # the episodes of a test are the same for every training
TEST_CHUNK = 100
KEY = ("part", "width", "episodes", "seed")  # what tells rows apart


@dataclass(frozen=True)
class Run:
    """All that decides a run. The published network has 64 channels and max pooling.

    The published training has 60 ways, five queries a class, as many shots as the test has, and
    halves its rate every 2,000 episodes.
    """

    part: str = "full"
    ways: int = 20
    shots: int = 1
    queries: int = 5
    episodes: int = 9000
    rate: float = 1e-3
    halve: int = 3000
    width: int = 32
    test_episodes: int = 600
    test_queries: int = 15
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        positive = ("ways", "shots", "queries", "episodes", "halve", "width", "test_queries")
        check(self, {"part": PARTS}, (*positive, "test_episodes"))


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 500, progress: bool | None = None
) -> tuple[dict[str, Any], Conv4]:
    """Train with Adam and test; returns the row for the record and the encoder.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: episodes between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: drawings are not at hand and cannot be had.
    """
    train, tests = characters(run.part)
    generator = torch.Generator(run.device).manual_seed(run.seed)
    encoder = Conv4(width=run.width, norm="running", generator=generator, device=run.device)
    for weight in encoder.parameters():
        if weight.ndim == 4:  # faster on CPUs
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    net = ProtoNet(encoder, check=False)
    adam = torch.optim.Adam(net.parameters(), run.rate)
    halving = torch.optim.lr_scheduler.StepLR(adam, run.halve, 0.5)
    sampler = TaskSampler(
        train.images.to(run.device),
        train.labels,
        ways=run.ways,
        shots=run.shots,
        queries=run.queries,
        rotations=True,
    )
    clock = Clock()

    def step(i: int) -> Tensor:
        tasks = sampler.sample(1, generator)
        loss = net.loss(tasks.support, tasks.query, run.ways)
        adam.zero_grad()
        loss.backward()
        adam.step()
        halving.step()
        return loss.detach()

    state = {"net": net, "adam": adam, "halving": halving, "draws": generator, "clock": clock}
    history = fit(
        step, steps=run.episodes, state=state, checkpoint=checkpoint, every=every, progress=progress
    )
    seconds = clock.state_dict()
    row = {
        **{name: getattr(run, name) for name in KEY},
        "train_classes": sampler.classes,
        "parameters": count_parameters(encoder),
        "loss_last_tenth": history["loss"][-max(1, run.episodes // 10) :].mean().item(),
        "tests": [
            one for name, data in tests.items() for one in accuracies(run, encoder, name, data)
        ],
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }
    return row, encoder.eval()


@functools.lru_cache(maxsize=1)
def characters(part: str) -> tuple[Characters, dict[str, Characters]]:
    """Characters to train on, and by name those of the tests, which the training never sees."""
    every = drawings.omniglot("small" if part == "small" else "all")
    if part == "full":
        train, held = drawings.split(every)  # 1,200 and 423, by the seed 0
        return train, {"held out": held}
    latin = [alphabet == "Latin" for alphabet in every.alphabets]
    seen, held = ([i for i, is_latin in enumerate(latin) if is_latin == k] for k in (False, True))
    images, labels = mnist10k()
    digits = Characters(images, labels, tuple(map(str, range(10))))
    tests = {"Latin": drawings.select(every, held), "en62": drawings.en62(), "MNIST": digits}
    return drawings.select(every, seen), tests


def accuracies(run: Run, encoder: Conv4, name: str, data: Characters) -> list[dict[str, Any]]:
    """The network and its rival, prototypes of the pixels, on the same episodes."""
    images = data.images.to(run.device)
    pixels = normalize(images.flatten(1), dim=-1)[..., None, None]
    both = {"accuracy": embed(encoder, images), "pixels": pixels}
    found = []
    for ways, shots in TESTS:
        if ways > len(data.names):
            continue
        row: dict[str, Any] = {"data": name, "ways": ways, "shots": shots}
        for what, features in both.items():
            asked = run.test_queries
            sampler = TaskSampler(features, data.labels, ways=ways, shots=shots, queries=asked)
            generator = torch.Generator(run.device).manual_seed(TEST_SEED)
            part = _mean(sampler, run.test_episodes, generator)
            row |= {what: round(part.mean, 5), f"{what}_half": round(part.half, 5)}
        found.append(row)
    return found


def _mean(sampler: TaskSampler, episodes: int, generator: torch.Generator) -> Any:
    """Accuracy over episodes, a few at a time; equal drawings of en62 may meet."""
    net = ProtoNet(torch.nn.Flatten(), check=False)
    shares = []
    for start in range(0, episodes, TEST_CHUNK):
        tasks = sampler.sample(min(TEST_CHUNK, episodes - start), generator)
        shares.append(episode_accuracies(net, tasks, apart=False))
    return interval(torch.cat(shares))
