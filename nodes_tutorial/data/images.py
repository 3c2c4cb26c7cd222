"""Handwritten digits: the 1,797 small ones of scikit-learn, and the 10,000 of MNIST's test set."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.data.registry import DataError, available, fetch

_MNIST = ("mnist_t10k/t10k-images-idx3-ubyte.gz", "mnist_t10k/t10k-labels-idx1-ubyte.gz")


def digits(
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "1797 1 8 8"], Int[Tensor, " 1797"]]:
    """The 8×8 digits that scikit-learn ships: they need no network.

    Args:
        dtype: dtype of the images.

    Returns:
        Images with values in [0, 1] and labels 0 … 9, in scikit-learn's order.

    References: Alpaydin and Kaynak (1998), UCI optical recognition of handwritten digits.

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
    images, labels = (read_idx(fetch(name)) for name in _MNIST)
    return images.to(dtype)[:, None] / 255, labels.long()


def have_mnist10k() -> bool:
    """Whether ``mnist10k`` works without the network."""
    return all(available(name) for name in _MNIST)


def read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of unsigned bytes, the format of MNIST and its kin.

    Args:
        path: the file.

    Returns:
        A uint8 tensor of the shape that the header gives.

    Raises:
        DataError: there is no file, it is not such a file, or is shorter or longer than its
            header says.
    """
    try:
        with gzip.open(path) as file:
            raw = bytearray(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}") from error
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
