"""Handwritten digits: the 1,797 small ones of scikit-learn, and MNIST."""

import gzip
import hashlib
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.data.registry import DataError, available, fetch

PARTS = {
    "train": ("mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"),
    "test": ("mnist_t10k/t10k-images-idx3-ubyte.gz", "mnist_t10k/t10k-labels-idx1-ubyte.gz"),
}
# sha256 of what is in the four files of MNIST, however it was compressed
CONTENT = {
    "mnist/train-images-idx3-ubyte.gz": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "mnist/train-labels-idx1-ubyte.gz": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "mnist_t10k/t10k-images-idx3-ubyte.gz": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "mnist_t10k/t10k-labels-idx1-ubyte.gz": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


def digits(
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "1797 1 8 8"], Int[Tensor, " 1797"]]:
    """The 8×8 digits that scikit-learn ships: they need no network.

    Args:
        dtype: dtype of the images.

    Returns:
        Images with values in [0, 1] and labels 0 … 9, in scikit-learn's order.

    References: Alpaydin and Kaynak (1998), UCI optical recognition of handwritten digits.

    >>> from nodes_tutorial.data import digits
    >>> images, labels = digits()
    >>> images.shape, int(labels[0])
    (torch.Size([1797, 1, 8, 8]), 0)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=dtype)[:, None]
    return images, torch.tensor(data.target, dtype=torch.long)


def mnist10k(
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "10000 1 28 28"], Int[Tensor, " 10000"]]:
    """The 10,000 digits of MNIST's test set, fetched by the registry.

    Args:
        dtype: dtype of the images.

    Returns:
        Images with values in [0, 1] and labels 0 … 9, in the original order.

    Raises:
        DataError: the files are not at hand and cannot be had.

    References: LeCun, Bottou, Bengio and Haffner (1998).
    """
    return mnist("test", dtype)


def have_mnist10k() -> bool:
    """Return whether ``mnist10k`` works without the network."""
    return all(available(name) for name in PARTS["test"])


def mnist(
    part: str = "train", dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "images 1 28 28"], Int[Tensor, " images"]]:
    """All of MNIST, fetched by the registry: 60,000 digits for training and 10,000 for the test.

    Args:
        part: ``"train"`` or ``"test"``.
        dtype: dtype of the images.

    Returns:
        Images with values in [0, 1] and labels 0 … 9, in the original order.

    Raises:
        ValueError: unknown ``part``.
        DataError: a file is not at hand and cannot be had, or its content is not MNIST's.

    References: LeCun, Bottou, Bengio and Haffner (1998).
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {sorted(PARTS)}, got {part!r}")
    images, labels = (
        read_idx(fetch(name, partial(_check_content, CONTENT[name]))) for name in PARTS[part]
    )
    return images.to(dtype)[:, None] / 255, labels.long()


def have_mnist() -> bool:
    """Return whether ``mnist`` works without the network, for both parts."""
    return all(available(name) for names in PARTS.values() for name in names)


def read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of unsigned bytes, the format of MNIST and its kin.

    Args:
        path: path of the file.

    Returns:
        A uint8 tensor of the shape that the header gives.

    Raises:
        DataError: there is no file, it is not such a file, or is shorter or longer than its
            header says.
    """
    raw = bytearray(_unpack(path))
    axes = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * axes
    if axes == 0 or len(raw) < start:
        raise DataError(f"{path} does not begin like an IDX file of bytes: {bytes(raw[:8])!r}")
    shape = struct.unpack(f">{axes}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise DataError(f"{path} holds {len(raw) - start} bytes where its header says {shape}")
    if 0 in shape:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(raw, dtype=torch.uint8, offset=start).view(shape)


def _unpack(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}") from error


def _check_content(known: str, path: Path) -> None:
    found = hashlib.sha256(_unpack(path)).hexdigest()
    if found != known:
        raise DataError(
            f"the content of {path} has sha256 {found}, and {known} is wanted: replace the file"
        )
