"""Functions of sets, many side by side: what the runs of medians and of digit sums share."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.experiments.record import Clock, provenance
from nodes_tutorial.invariance import pool
from nodes_tutorial.nets.stack import Stack
from nodes_tutorial.training import fit

TEST_SEED = 10**6  # the test sets are the same for every network
How = tuple[str | None, int, bool | None]  # checkpoint, steps between two, progress


class SetNets(nn.Module):
    """Networks side by side, in equal shares with each of the pools.

    Args:
        phi: maps elements to latent features.
        rho: maps pooled features to values.
        pools: kinds of pools, in the order of the networks.
        keep: 1 for each latent feature that a network may use, else 0; None means all.
        last: what is applied to the outputs of ``phi``.
    """

    keep: Tensor

    def __init__(
        self,
        phi: Stack,
        rho: Stack,
        pools: tuple[str, ...],
        *,
        keep: Tensor | None = None,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.phi, self.rho, self.pools = phi, rho, pools
        self.last = nn.Identity() if last is None else last
        self.register_buffer("keep", torch.ones(1, 1) if keep is None else keep)

    def forward(self, x: Tensor) -> Tensor:
        """Values (networks, sets) of sets (sets, elements, features)."""
        z = self.last(self.phi(x.flatten(0, 1)[None])).unflatten(1, x.shape[:2])
        pairs = zip(z.chunk(len(self.pools)), self.pools, strict=True)
        pooled = torch.cat([pool(part, how) for part, how in pairs])
        return self.rho(pooled * self.keep.unsqueeze(1))[..., 0]


def sources(seeds: Iterable[int], shift: int) -> list[torch.Generator]:
    """Generators of initial weights."""
    return [torch.Generator().manual_seed(shift + seed) for seed in seeds]


def train(
    nets: dict[float, SetNets],
    loss_of: Callable[[], Tensor],
    steps: int,
    draws: torch.Generator,
    how: How,
) -> dict[str, float]:
    """Adam, with a rate for each stack that falls to 0 by a cosine; returns the seconds."""
    groups = [{"params": list(net.parameters()), "lr": rate} for rate, net in nets.items()]
    adam, clock = torch.optim.Adam(groups), Clock()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)

    def step(i: int) -> Tensor:
        loss = loss_of()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        return loss

    checkpoint, every, progress = how
    state = {f"net {rate:g}": net for rate, net in nets.items()}
    state |= {"adam": adam, "schedule": schedule, "draws": draws, "clock": clock}
    fit(step, steps=steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    return clock.state_dict()


def rounded(values: Tensor) -> list[float]:
    """Numbers with four decimals, for a record."""
    return [round(value, 4) for value in values.tolist()]


def told(run: Any, seconds: dict[str, float]) -> dict[str, Any]:
    """Seconds, settings and provenance, for a record."""
    settings = {name: value for name, value in asdict(run).items() if name != "device"}
    return {
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": settings,
        **provenance(run.device),
    }
