"""Train a flow on images of digits, and report its bits per dimension."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.data import digits, mnist, mnist10k
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.flows import Flow, Glow, Logit, bits_per_dim, data_init, dequantize, quantize
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.training import fit

LEVELS = {"digits": 17, "mnist10k": 256, "mnist": 256}  # values that a pixel can have
TEST = {"digits": 297, "mnist10k": 1000, "mnist": 10_000}  # images held out
SPLIT_SEED = 10**6  # the same images are held out for every run; of mnist its own test set
CHUNK = 250
CLIP = 50.0


@dataclass(frozen=True)
class Images:
    """All that decides a run."""

    dataset: str = "mnist10k"
    steps: int = 2000
    batch: int = 64
    rate: float = 2e-3
    levels: int = 2
    depth: int = 4
    width: int = 64
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check(self, {"dataset": LEVELS}, ("steps", "batch", "levels", "depth", "width"))


def execute(
    run: Images,
    *,
    checkpoint: str | None = None,
    every: int = 200,
    progress: bool | None = None,
) -> tuple[dict[str, Any], Flow]:
    """Train a Glow and measure it; returns the row for the record and the flow.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        DataError: the images are not at hand and cannot be had.
    """
    train, test = split(run.dataset, run.device)
    generator = torch.Generator(run.device).manual_seed(run.seed)
    shape = tuple(train.shape[1:])
    how: dict[str, Any] = {"generator": generator, "device": run.device}
    glow = Glow(shape, run.levels, run.depth, run.width, **how)
    flow = Flow(glow.base, [*glow.transforms, Logit()])
    values = LEVELS[run.dataset]
    data_init(flow, dequantize(train[:512], values, generator))
    adam = torch.optim.Adam(flow.parameters(), run.rate, fused=True)
    clock = Clock()

    def step(i: int) -> Tensor:
        rise, fall = (i + 1) / (0.02 * run.steps), 1 + math.cos(math.pi * i / run.steps)
        for group in adam.param_groups:
            group["lr"] = run.rate * min(1.0, rise) * fall / 2
        rows = torch.randint(len(train), (run.batch,), generator=generator, device=run.device)
        loss = -flow.log_prob(dequantize(train[rows], values, generator)).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        adam.step()
        return loss

    state = {"flow": flow, "adam": adam, "draws": generator, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    seconds = clock.state_dict()
    held, seen = (bits(flow, part, values) for part in (test, train[: len(test)]))
    row = {
        "dataset": run.dataset,
        "model": "glow",
        "seed": run.seed,
        "bits_per_dim": held.mean().item(),
        "bits_se": held.std().item() / math.sqrt(len(held)),
        "bits_training_images": seen.mean().item(),
        "train_images": len(train),
        "test_images": len(test),
        "parameters": count_parameters(flow),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in ("dataset", "seed")},
        **provenance(run.device),
    }
    return row, flow


def split(dataset: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Images for training and for the test, as whole numbers."""
    if dataset == "mnist":
        train, test = (_whole(mnist(part)[0], dataset, device) for part in ("train", "test"))
        return train, test
    images, _ = {"digits": digits, "mnist10k": mnist10k}[dataset]()
    pixels = _whole(images, dataset, device)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return pixels[order[TEST[dataset] :]], pixels[order[: TEST[dataset]]]


def _whole(images: Tensor, dataset: str, device: str) -> Tensor:
    return (images * (LEVELS[dataset] - 1)).round().long().to(device)


def bits(flow: Flow, pixels: Tensor, values: int) -> Tensor:
    """Bits per dimension of each image, with one draw of the noise inside the cells."""
    generator = torch.Generator(pixels.device).manual_seed(SPLIT_SEED)
    with torch.no_grad():
        found = [flow.log_prob(dequantize(k, values, generator)) for k in pixels.split(CHUNK)]
    return bits_per_dim(torch.cat(found), pixels[0].numel(), values)


def samples(flow: Flow, dataset: str, n: int = 12, seed: int = 0) -> Tensor:
    """n images in one row, between 0 and 1."""
    generator = torch.Generator(flow.base.origin.device).manual_seed(seed)
    values = LEVELS[dataset]
    k = quantize(flow.sample(n, generator), values)[:, 0]
    return torch.cat(list(k), dim=1).cpu() / (values - 1)
