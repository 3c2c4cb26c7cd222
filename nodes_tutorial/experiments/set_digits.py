"""The sum of the digits on up to nine images, learned with three pools and two rates."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.data import mnist
from nodes_tutorial.experiments.record import check
from nodes_tutorial.experiments.sets import TEST_SEED, SetNets, rounded, sources, told, train
from nodes_tutorial.nets import ACTIVATIONS
from nodes_tutorial.nets.stack import Stack

POOLS = ("sum", "mean", "max")
PHI = (784, 300, 100, 30)  # the published sizes for images of digits
LONGEST = 9  # images of a training set
VALIDATION = 5000  # images that are not trained on
RATES = (1e-3, 3e-4)
LENGTHS = (1, 5, 9, *range(10, 55, 5))
CHUNK = 100  # sets that are tested at a time


@dataclass(frozen=True)
class Run:
    """All that decides a run of all pools, rates and seeds at once."""

    activation: str = "tanh"
    steps: int = 24_000
    batch: int = 128
    test_sets: int = 2000
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"activation": tuple(ACTIVATIONS)}, ("steps", "batch", "test_sets"))


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 1000, progress: bool | None = None
) -> list[dict[str, Any]]:
    """Train all pools, rates and seeds at once, keep a rate for each pool; returns the rows.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the digits are not at hand and cannot be had.
    """
    fitted, validation, test = (
        (images.to(run.device), labels.to(run.device)) for images, labels in _data()
    )
    seeds = [seed for _ in POOLS for seed in run.seeds]
    nets = {
        rate: SetNets(
            Stack(PHI, sources(seeds, 0), run.activation),
            Stack([PHI[-1], 1], sources(seeds, 100)),
            POOLS,
            last=ACTIVATIONS[run.activation](),
        ).to(run.device)
        for rate in RATES
    }
    draws = torch.Generator().manual_seed(1000 + run.seeds[0])

    def loss() -> Tensor:
        n = int(torch.randint(1, LONGEST + 1, (), generator=draws))
        x, y = _sums(fitted, n, run.batch, draws)
        return torch.stack([(net(x) - y).abs().mean(1).sum() for net in nets.values()]).sum()

    seconds = train(nets, loss, run.steps, draws, (checkpoint, every, progress))
    shape = (len(RATES), len(POOLS), len(run.seeds))
    kinds = list(nets.values())
    held = torch.stack([_error(kinds, validation, n, run) for n in range(1, LONGEST + 1)])
    held = held.mean(0).view(shape)
    chosen = held.mean(2).argmin(0).tolist()
    errors = torch.stack([_error(kinds, test, n, run) for n in LENGTHS]).view(-1, *shape)
    constant = [_constant(test, n, run.test_sets) for n in LENGTHS]
    return [
        {
            "task": "digits",
            "pool": how,
            "activation": run.activation,
            "rate": RATES[chosen[k]],
            "validation_mae": rounded(held[chosen[k], k]),
            "lengths": list(LENGTHS),
            "mae": [rounded(line[chosen[k], k]) for line in errors],
            "constant_mae": [round(c, 3) for c in constant],
            **told(run, seconds),
        }
        for k, how in enumerate(POOLS)
    ]


@functools.lru_cache(maxsize=1)
def _data() -> list[tuple[Tensor, Tensor]]:
    """Images and labels to train, to choose a rate, and to test."""
    images, labels = mnist("train")
    images = images.flatten(1)
    parts = [(images[VALIDATION:], labels[VALIDATION:]), (images[:VALIDATION], labels[:VALIDATION])]
    x, y = mnist("test")
    return [*parts, (x.flatten(1), y)]


def _sums(
    data: tuple[Tensor, Tensor], n: int, count: int, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """So many sets of n images each, and the sums of their digits."""
    images, labels = data
    rows = torch.randint(len(images), (count, n), generator=source).to(images.device)
    return images[rows], labels[rows].sum(1).to(images.dtype)


def _tests(data: tuple[Tensor, Tensor], n: int, sets: int) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(TEST_SEED + n)
    sizes = [min(CHUNK, sets - k) for k in range(0, sets, CHUNK)]
    return [_sums(data, n, size, source) for size in sizes]


@torch.no_grad()
def _error(nets: list[SetNets], data: tuple[Tensor, Tensor], n: int, run: Run) -> Tensor:
    """Mean absolute error of each network over sets of n images."""
    totals = [
        torch.cat([(net(x) - y).abs().sum(1) for net in nets])
        for x, y in _tests(data, n, run.test_sets)
    ]
    return torch.stack(totals).sum(0) / run.test_sets


def _constant(data: tuple[Tensor, Tensor], n: int, sets: int) -> float:
    """The trivial rival: the mean digit for each image."""
    mean = data[1].double().mean()
    totals = [(n * mean - y).abs().sum() for _, y in _tests(data, n, sets)]
    return float(torch.stack(totals).sum()) / sets
