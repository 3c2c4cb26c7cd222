"""Five classifiers on 10,000 MNIST digits, three seeds: writes results/odenet_mnist.json.

The networks are those of the chapter on ODE blocks at width 16, with the published stem. Run it
from the repository's root: ``python -m benchmarks.odenet_mnist``; with names of networks it runs
those alone and leaves the other rows as they were.
"""

import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nodes_tutorial import data
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.ode.odenet.classifiers import Classifier, ODENet, ResNet, RKNet
from nodes_tutorial.training import fit

LAYOUT = {"width": 16, "groups": 4}
# name: (network, options, epochs)
NETWORKS: dict[str, tuple[Callable[..., Classifier], dict, int]] = {
    "ResNet": (ResNet, {}, 4),
    "RK-Net": (RKNet, {}, 4),
    "ODE-Net": (ODENet, {}, 4),
    "one block": (ResNet, {"blocks": 1}, 4),
    "stem only": (ResNet, {"blocks": 0}, 4),
    "stem only, longer": (ResNet, {"blocks": 0}, 16),
}
SETTINGS = {"train": 8000, "test": 2000, "batch": 128, "rate": 0.02, "seeds": 3}


def train(
    net: Classifier, x: Tensor, y: Tensor, generator: torch.Generator, epochs: int
) -> list[list[int]]:
    """Adam with a one-cycle rate; returns NFE forward and backward at the end of each epoch."""
    batches = len(x) // SETTINGS["batch"]
    steps = batches * epochs
    adam = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, SETTINGS["rate"], total_steps=steps)
    order, nfe = torch.empty(0), []

    def step(i: int) -> Tensor:
        nonlocal order
        if i % batches == 0:
            order = torch.randperm(len(x), generator=generator)
        rows = order[i % batches * SETTINGS["batch"] :][: SETTINGS["batch"]]
        adam.zero_grad()
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        adam.step()
        rate.step()
        if (i + 1) % batches == 0 and hasattr(net.body, "nfe_forward"):
            nfe.append([net.body.nfe_forward, net.body.nfe_backward])
        return loss

    fit(step, steps=steps, progress=None)
    return nfe


def main() -> None:
    x, y = data.mnist10k()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y, cut = x[order], y[order], SETTINGS["train"]
    path = Path(__file__).parents[1] / "results" / "odenet_mnist.json"
    rows = {}
    if sys.argv[1:] and path.is_file():
        rows = {row["network"]: row for row in json.loads(path.read_text())["rows"]}
    for name in sys.argv[1:] or NETWORKS:
        make, options, epochs = NETWORKS[name]
        errors, seconds, nfe = [], [], []
        for seed in range(SETTINGS["seeds"]):
            generator = torch.Generator().manual_seed(seed)
            net = make(**LAYOUT, **options, generator=generator)
            begin = time.process_time()
            nfe.append(train(net, x[:cut], y[:cut], generator, epochs))
            seconds.append(round(time.process_time() - begin, 1))
            with torch.no_grad():
                errors.append(int((net(x[cut:]).argmax(-1) != y[cut:]).sum()))
        row = {"network": name, "parameters": count_parameters(net), "epochs": epochs}
        rows[name] = {**row, "wrong": errors, "nfe": nfe, "cpu_seconds": seconds}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    record = {
        "command": "python -m benchmarks.odenet_mnist",
        "commit": commit.strip(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "settings": {**SETTINGS, **LAYOUT},
        "rows": [rows[name] for name in NETWORKS if name in rows],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
