"""The median of some numbers, learned through latent widths from 1 to two more than they are."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.experiments.record import check
from nodes_tutorial.experiments.sets import TEST_SEED, SetNets, rounded, sources, told, train
from nodes_tutorial.nets import ACTIVATIONS
from nodes_tutorial.nets.stack import Stack

CHUNK = 1000  # sets that are tested at a time


@dataclass(frozen=True)
class Run:
    """All that decides a run; the numbers are uniform on [0, 1]."""

    elements: int = 3
    activation: str = "silu"
    hidden: int = 64
    rate: float = 3e-3
    steps: int = 20_000
    batch: int = 256
    test_sets: int = 100_000
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(
            self,
            {"activation": tuple(ACTIVATIONS)},
            ("elements", "hidden", "steps", "batch", "test_sets"),
        )


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 1000, progress: bool | None = None
) -> dict[str, Any]:
    """Train all widths and seeds at once; returns the row for the record.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.
    """
    M, widths = run.elements, range(1, run.elements + 3)
    copies = [(N, seed) for N in widths for seed in run.seeds]
    most, deep = max(widths), [run.hidden, run.hidden]
    seeds = [seed for _, seed in copies]
    net = SetNets(
        Stack([1, *deep, most], sources(seeds, 0), run.activation),
        Stack([most, *deep, 1], sources(seeds, 100), run.activation),
        ("sum",),
        keep=torch.tensor([[float(k < N) for k in range(most)] for N, _ in copies]),
    ).to(run.device)
    draws = torch.Generator(run.device).manual_seed(1000 + run.seeds[0])

    def batch(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(count, M, generator=source, device=run.device)
        return 2 * x.unsqueeze(-1) - 1, x.median(1).values

    def loss() -> Tensor:
        x, y = batch(run.batch, draws)
        return (net(x) - y).square().mean(1).sum()

    seconds = train({run.rate: net}, loss, run.steps, draws, (checkpoint, every, progress))
    x, y = batch(run.test_sets, torch.Generator(run.device).manual_seed(TEST_SEED))
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    with torch.no_grad():
        total = torch.stack([(net(a) - b).square().sum(1) for a, b in parts]).sum(0)
    errors = (total / run.test_sets).sqrt().view(len(widths), -1)
    return {
        "task": "median",
        "elements": M,
        "activation": run.activation,
        "widths": list(widths),
        "rmse": [rounded(line) for line in errors],
        "constant_rmse": round(y.std().item(), 5),
        **told(run, seconds),
    }
