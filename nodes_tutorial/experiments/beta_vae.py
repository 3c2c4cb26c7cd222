"""Train autoencoders on pictures of ellipses, all seeds of one weight of the rate side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.bayes import (
    VAE,
    active_units,
    factor_information,
    mutual_information_gap,
    rate_parts,
)
from nodes_tutorial.data.shapes import FACTORS, ellipses
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import Stack
from nodes_tutorial.training import fit

KEY = ("beta", "steps", "width", "seed")  # what tells rows apart
TEST_SEED = 10**6  # draws of the codes on which a trained model is measured


@dataclass(frozen=True)
class Run:
    """All that decides a run: one weight of the rate, and several seeds."""

    beta: float = 1.0
    seeds: tuple[int, ...] = (0,)
    steps: int = 3000
    rate: float = 3e-3
    width: int = 128
    latent: int = 6
    batch: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {}, ("steps", "width", "latent", "batch"))
        if not self.seeds:
            raise ValueError("seeds must hold one or more")


def build(seeds: Sequence[int], beta: float | Tensor, width: int, latent: int, pixels: int) -> VAE:
    """One autoencoder for each seed, in one graph."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    encoder = Stack([pixels, width, width, 2 * latent], generators, "relu")
    decoder = Stack([latent, width, width, pixels], generators, "relu")
    return VAE(encoder, decoder, beta)


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 500, progress: bool | None = None
) -> tuple[list[dict[str, Any]], VAE]:
    """Train with Adam and a cosine schedule; returns a row for each seed, and the models.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.
    """
    pictures, factors = ellipses(device=run.device)
    x = pictures.flatten(1)
    vae = build(run.seeds, run.beta, run.width, run.latent, x.shape[1]).to(run.device)
    adam = torch.optim.Adam(vae.parameters(), run.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, run.steps)
    draws = torch.Generator(run.device).manual_seed(run.seeds[0])
    clock = Clock()

    def step(_: int) -> Tensor:
        picks = torch.randint(
            len(x), (len(run.seeds), run.batch), generator=draws, device=run.device
        )
        loss = vae.loss(x[picks], draws).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        return loss

    state = {"vae": vae, "adam": adam, "schedule": schedule, "draws": draws, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    seconds = clock.state_dict()
    settings = {n: v for n, v in asdict(run).items() if n not in (*KEY, "seeds")}
    rows = []
    for seed, measured in zip(run.seeds, measure(vae, x, factors), strict=True):
        name = {"beta": run.beta, "steps": run.steps, "width": run.width, "seed": seed}
        rows.append(
            {
                **name,
                **measured,
                "together": len(run.seeds),
                "cpu_seconds": round(seconds["cpu"] / len(run.seeds), 2),
                "wall_seconds": round(seconds["wall"] / len(run.seeds), 2),
                "settings": settings,
                **provenance(run.device),
            }
        )
    return rows, vae


@torch.no_grad()
def measure(vae: VAE, x: Tensor, factors: Tensor) -> list[dict[str, Any]]:
    """What each model costs on all pictures, and what its latents know about the factors."""
    draws = torch.Generator(x.device).manual_seed(TEST_SEED)
    terms = vae(x[None], draws)
    mean, scale = vae.posterior(x[None])
    parts = rate_parts(mean, scale, generator=draws)
    information, entropy = factor_information(mean, scale, factors)
    gaps = mutual_information_gap(information, entropy)
    measured = {
        "rate": terms.rate.mean(-1),
        "distortion": terms.distortion.mean(-1),
        "information": parts.information,
        "marginal": parts.marginal,
        "active": active_units(mean),
        "mig": gaps.mean(-1),
        "gaps": gaps,
        "rates": terms.rates.mean(1),
    }
    rows = []
    for i in range(len(mean)):
        row = {name: _rounded(values[i].tolist()) for name, values in measured.items()}
        rows.append({**row, "gaps": dict(zip(FACTORS, row["gaps"], strict=True))})
    return rows


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else round(value, 4)
