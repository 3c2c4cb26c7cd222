"""Handwritten digits: the 1,797 small ones of scikit-learn, and the 10,000 of MNIST's test set."""

import gzip
import struct
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
        DataError: the file is not such a file, or shorter or longer than its header says.
    """
    with gzip.open(path) as file:
        header = file.read(4)
        if len(header) < 4 or header[:3] != b"\0\0\x08":
            raise DataError(f"{path} does not begin like an IDX file of bytes: {header!r}")
        shape = struct.unpack(f">{header[3]}I", file.read(4 * header[3]))
        content = bytearray(file.read())
    values = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0)
    if values.numel() != torch.Size(shape).numel():
        raise DataError(f"{path} holds {values.numel()} bytes where its header says {shape}")
    return values.view(shape)
