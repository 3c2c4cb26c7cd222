"""Encoders that were trained once, for pages that train heads on their features."""

import hashlib
import os
from importlib.metadata import metadata
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from nodes_tutorial.checks import check_count
from nodes_tutorial.data import registry
from nodes_tutorial.data.registry import DataError, available, fetch, verify
from nodes_tutorial.nets import Conv4

FOLDER = "results/weights"
WIDTH = 32
# sha256 of the weights of each seed
SUMS: dict[int, str] = {
    0: "cf47b812820e66109473ddb094145d30ea171c980e850f751715157ec65e3ae4",
    1: "162ec34b23c1735382039d7f4f5887a205e82a30f0b698e1f412e0d62e015f3a",
    2: "b3191fb0f38c5eb9b16867305efc55e034998fe78a30f289f91670f43f2ce0df",
}


def load_encoder(seed: int = 0) -> Conv4:
    """A prototype network trained on Omniglot without the alphabet Latin, in ``eval()`` mode.

    It has 128 features of a 28×28 image. ``python -m nodes_tutorial.experiments few_shot --part
    no_latin`` trained it; the row of ``results/few_shot.json`` with this seed says how.

    The file is looked for in ``results/weights`` of this folder, of those above it and of the
    package's checkout, then as ``data.registry.fetch`` does.

    Args:
        seed: which training.

    Returns:
        The encoder, whose weights do not ask for gradients.

    Raises:
        TypeError: ``seed`` is not an integer.
        ValueError: a seed without a training.
        DataError: the weights are not at hand and cannot be had, or they are others.

    References: Snell, Swersky and Zemel (2017).
    """
    name = _name(seed)
    here = _beside(name)
    if here is None:
        here = fetch(_register(seed))
    else:
        verify(here, SUMS[seed])
    return read_encoder(here)


def have_encoder(seed: int = 0) -> bool:
    """Return whether ``load_encoder`` works without the network.

    Args:
        seed: which training.

    Raises:
        TypeError: ``seed`` is not an integer.
        ValueError: a seed without a training.
    """
    return _beside(_name(seed)) is not None or available(_register(seed))


def read_encoder(path: str | os.PathLike) -> Conv4:
    """A ``Conv4`` with running statistics from a file of ``write_encoder``.

    Args:
        path: the file.

    Returns:
        The encoder in ``eval()`` mode, whose weights do not ask for gradients.

    Raises:
        DataError: no file of weights, or those of another network.
    """
    try:
        with np.load(path) as file:
            state = {name: torch.from_numpy(file[name]) for name in file.files}
        width = len(state["blocks.0.bias"])
        net = Conv4(width=width, norm="running", generator=torch.Generator().manual_seed(0))
        net.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
        raise DataError(f"{path} does not hold the weights of a Conv4: {error}") from error
    return net.eval().requires_grad_(False)


def write_encoder(path: str | os.PathLike, net: Conv4) -> str:
    """Write the weights and running statistics of a ``Conv4`` in single precision.

    Equal weights give equal files, so a checksum can name them.

    Args:
        path: the file, ending in ``.npz``; its folder is made when missing.
        net: what to write.

    Returns:
        The sha256 of the file.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: x.cpu().contiguous().numpy() for name, x in net.state_dict().items()})
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _name(seed: int) -> str:
    check_count("seed", seed)
    if seed not in SUMS:
        raise ValueError(f"seed must be one of {sorted(SUMS)}, got {seed}")
    return f"protonet-{seed}.npz"


def _beside(name: str) -> Path | None:
    """The file in a checkout: of the notebook, or of the package."""
    folders = (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2])
    files = (folder / FOLDER / name for folder in folders)
    return next((file for file in files if file.is_file()), None)


def _register(seed: int) -> str:
    """The name in the registry, with the address of the package's own repository."""
    links = metadata("nodes-tutorial").get_all("Project-URL") or []
    pairs = dict(link.split(", ", 1) for link in links)
    name = f"weights/{_name(seed)}"
    address = f"{pairs['Repository']}/raw/main/{FOLDER}/{_name(seed)}"
    registry.FILES[name] = (SUMS[seed], address)
    return name
