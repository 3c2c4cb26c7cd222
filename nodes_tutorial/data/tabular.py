"""Tabular sets on which density models are compared: POWER and MINIBOONE.

Both are files of one public archive, pre-processed for the experiments with masked autoregressive
flows. Splits, noise and scale are those of the same experiments, so that likelihoods can be set
beside published ones. The archive is large: it is fetched only when it is asked for.
"""

import io
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from nodes_tutorial.data import registry
from nodes_tutorial.data.registry import DataError

ARCHIVE = "maf/data.tar.gz"
# name: (file inside the archive, columns of that file)
SETS: dict[str, tuple[str, int]] = {
    "miniboone": ("data/miniboone/data.npy", 43),
    "power": ("data/power/data.npy", 8),
}


class Splits(NamedTuple):
    """The three parts of a data set, one row a point.

    Attributes:
        train: rows to train on.
        validation: rows by which settings are chosen.
        test: rows on which results are reported.
    """

    train: Float32[Tensor, "train dim"]
    validation: Float32[Tensor, "validation dim"]
    test: Float32[Tensor, "test dim"]


def load(name: str, path: str | Path | None = None, sha256: str | None = None) -> Splits:
    r"""Read a set, split it, and scale it to mean 0 and standard deviation 1.

    The last tenth of the rows is the test set, the last tenth of the rest is for validation; mean
    and deviation are those of the other two together. POWER is shuffled before with NumPy's
    ``RandomState(42)``, loses its second and fourth column, and gets uniform noise on [0, 0.001)
    for the power, [0, 0.01) for the voltage and [0, 1) for the three meters, the steps in which
    they were recorded.

    Args:
        name: a key of ``SETS``.
        path: the archive or the set's own ``.npy`` file; None looks for the archive where
            ``registry.fetch`` does, and downloads it when it is not there.
        sha256: checksum of ``path``, without which a file of yours is not read.

    Returns:
        The three parts, in single precision.

    Raises:
        ValueError: unknown ``name``, or ``path`` without ``sha256``.
        DataError: the archive cannot be had, a checksum is wrong, or the file is not the set:
            another form, other columns, a number that is not finite, a column that is constant.

    References: Papamakarios, Pavlakou and Murray (2017), section 4.2 and appendix D.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {sorted(SETS)}, got {name!r}")
    if path is not None and not sha256:
        raise ValueError(f"sha256 must be given with path: no checksum is known for {path}")
    if path is None:
        path = registry.fetch(ARCHIVE)
    else:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        registry.verify(path, str(sha256))
    rows = _read(name, path)
    return _split(_prepare_power(rows) if name == "power" else rows)


def _read(name: str, path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, or of the member of an archive."""
    member, columns = SETS[name]
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                stream = archive.extractfile(member)
                content = io.BytesIO(stream.read() if stream else b"")
            rows = np.load(content, allow_pickle=False)
        else:
            rows = np.load(path, allow_pickle=False)
    except (KeyError, ValueError, EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} holds no array {member}: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
        kind = getattr(rows, "dtype", type(rows).__name__)
        raise DataError(f"{path} must hold one array of real numbers, got {kind}")
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) < 100:
        raise DataError(
            f"{name} has {columns} columns and 100 rows or more, {path} has {rows.shape}"
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError(f"{path} holds NaN or infinite numbers")
    return rows


def _prepare_power(rows: np.ndarray) -> np.ndarray:
    """Shuffle, drop reactive power and intensity, and add the noise, in the published order."""
    draw = np.random.RandomState(42)
    rows, n = rows.copy(), len(rows)
    draw.shuffle(rows)
    voltage, power, meters = 0.01 * draw.rand(n, 1), 0.001 * draw.rand(n, 1), draw.rand(n, 3)
    noise = np.hstack([power, voltage, meters, np.zeros((n, 1))])
    return rows[:, [0, 2, 4, 5, 6, 7]] + noise


def _split(rows: np.ndarray) -> Splits:
    rest, test = np.split(rows, [len(rows) - len(rows) // 10])
    train, validation = np.split(rest, [len(rest) - len(rest) // 10])
    mean, sd = rest.mean(0), rest.std(0)
    if not (sd > 0).all():
        raise DataError(f"the columns {np.flatnonzero(sd == 0).tolist()} hold one number each")
    parts = ((part - mean) / sd for part in (train, validation, test))
    return Splits(*(torch.from_numpy(part.astype(np.float32)) for part in parts))
