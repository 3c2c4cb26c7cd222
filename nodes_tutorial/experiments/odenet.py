"""Train the classifiers of the chapter on ODE blocks on MNIST, and count their mistakes."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.data import mnist, mnist10k
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.ode.odenet.classifiers import Classifier, ODENet, ResNet, RKNet
from nodes_tutorial.training import fit

DATASETS = ("mnist", "mnist10k")
CUT = 8000  # of mnist10k; the other 2,000 are the test
SPLIT_SEED = 0  # the same images are held out for every run
CHUNK = 1000
KEY = ("dataset", "network", "epochs", "width", "seed")  # what tells rows apart
# name: what makes the network, and its options
NETWORKS: dict[str, tuple[Callable[..., Classifier], dict[str, Any]]] = {
    "ResNet": (ResNet, {}),
    "RK-Net": (RKNet, {}),
    "ODE-Net": (ODENet, {}),
    "one block": (ResNet, {"blocks": 1}),
    "stem only": (ResNet, {"blocks": 0}),
}


@dataclass(frozen=True)
class Run:
    """All that decides a run; the published width is 64, with 32 groups."""

    dataset: str = "mnist"
    network: str = "ODE-Net"
    epochs: int = 4
    batch: int = 128
    rate: float = 0.02
    width: int = 16
    groups: int = 4
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        known = {"dataset": DATASETS, "network": NETWORKS}
        check(self, known, ("epochs", "batch", "width", "groups"))


class _Nfe:
    """Evaluations of the field in the last step of each epoch; an entry of ``fit``'s state."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [list(row) for row in state["rows"]]


def execute(
    run: Run,
    *,
    checkpoint: str | None = None,
    every: int = 100,
    progress: bool | None = None,
) -> tuple[dict[str, Any], Classifier]:
    """Train with Adam and a one-cycle rate; returns the row for the record and the network.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        ValueError: a batch larger than the training set.
        DataError: the images are not at hand and cannot be had.
    """
    (x, y), (test_x, test_y) = load(run.dataset, run.device)
    batches = len(x) // run.batch
    if batches == 0:
        raise ValueError(f"batch must be at most {len(x)}, got {run.batch}")
    generator = torch.Generator().manual_seed(run.seed)
    make, options = NETWORKS[run.network]
    net = make(width=run.width, groups=run.groups, **options, generator=generator).to(run.device)
    adam = torch.optim.Adam(net.parameters())
    steps = batches * run.epochs
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, run.rate, total_steps=steps)
    clock, nfe = Clock(), _Nfe()
    first = torch.randint(2**62, (), generator=generator).item()

    def step(i: int) -> Tensor:
        rows = batch_rows(first, i, len(x), run.batch).to(run.device)
        adam.zero_grad()
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        adam.step()
        rate.step()
        if (i + 1) % batches == 0 and hasattr(net.body, "nfe_forward"):
            nfe.rows.append([net.body.nfe_forward, net.body.nfe_backward])
        return loss

    state = {"net": net, "adam": adam, "rate": rate, "clock": clock, "nfe": nfe}
    fit(step, steps=steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    seconds = clock.state_dict()
    row = {
        "dataset": run.dataset,
        "network": run.network,
        "epochs": run.epochs,
        "width": run.width,
        "seed": run.seed,
        "parameters": count_parameters(net),
        "train_images": len(x),
        "test_images": len(test_x),
        "wrong": wrong(net, test_x, test_y),
        "nfe": nfe.rows,
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(run.device),
    }
    return row, net


def load(dataset: str, device: str = "cpu") -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and classes for training and for the test; of ``"mnist10k"`` a fixed part each."""
    if dataset == "mnist":
        parts = [mnist(part) for part in ("train", "test")]
    else:
        x, y = mnist10k()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
        parts = [(x[rows], y[rows]) for rows in (order[:CUT], order[CUT:])]
    train, test = ((x.to(device), y.to(device)) for x, y in parts)
    return train, test


def batch_rows(first: int, i: int, images: int, batch: int) -> Tensor:
    """Images of step i: each epoch in an order of its own, which its number decides."""
    batches = images // batch
    return _order(first + i // batches, images)[i % batches * batch :][:batch]


@functools.lru_cache(maxsize=1)
def _order(seed: int, images: int) -> Tensor:
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed))


def wrong(net: nn.Module, x: Tensor, y: Tensor) -> int:
    """How many images are put into a wrong class."""
    with torch.no_grad():
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        return int(sum((net(a).argmax(-1) != b).sum() for a, b in parts))
