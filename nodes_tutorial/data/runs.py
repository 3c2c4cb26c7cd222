"""Lake's twenty runs of one-shot classification: 20 characters of an alphabet, drawn once."""

import io
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nodes_tutorial.data import registry
from nodes_tutorial.data.pages import SIDE
from nodes_tutorial.data.registry import DataError, available, fetch

RUNS = 20
WAYS = 20  # drawings of the support, and of the query
ARCHIVE = "omniglot_small/all_runs.zip"
registry.FILES[ARCHIVE] = (
    "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    "https://github.com/brendenlake/omniglot/raw/master/python/one-shot-classification/all_runs.zip",
)


class Runs(NamedTuple):
    """Twenty tasks with 20 ways, one shot and one query a class, made of ink and paper.

    Attributes:
        support: where the ink is, one drawing of each class.
        query: the drawings to be named.
        labels: which support drawing is of the same character.
    """

    support: Bool[Tensor, "20 20 105 105"]
    query: Bool[Tensor, "20 20 105 105"]
    labels: Int[Tensor, "20 20"]


def one_shot_runs() -> Runs:
    """The tasks on which people, programs and distances were compared, fetched by the registry.

    Ten alphabets of the evaluation set have two runs each. Support and query of a run are drawn
    by two different people.

    Returns:
        The drawings and the answers, run by run.

    Raises:
        DataError: the file is not at hand and cannot be had, or is not the one it should be.

    References: Lake, Salakhutdinov and Tenenbaum (2015).
    """
    path = fetch(ARCHIVE)
    try:
        with zipfile.ZipFile(path) as archive:
            support, query, labels = zip(*(_run(archive, k + 1) for k in range(RUNS)), strict=True)
    except (zipfile.BadZipFile, KeyError, OSError, zlib.error) as error:
        raise DataError(f"{path} does not hold the runs: {error}") from error
    shown, asked = (torch.from_numpy(np.stack(part)) for part in (support, query))
    return Runs(shown, asked, torch.tensor(labels))


def have_one_shot_runs() -> bool:
    """Return whether ``one_shot_runs`` works without the network."""
    return available(ARCHIVE)


def _run(archive: zipfile.ZipFile, number: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Drawings of one run, and for each query the number of its class."""
    folder = f"run{number:02}"
    rows = archive.read(f"{folder}/class_labels.txt").decode().split()
    answers = dict(zip(rows[::2], rows[1::2], strict=True))
    classes = [f"{folder}/training/class{k + 1:02}.png" for k in range(WAYS)]
    asked = [f"{folder}/test/item{k + 1:02}.png" for k in range(WAYS)]
    support, query = (np.stack([_ink(archive, name) for name in part]) for part in (classes, asked))
    return support, query, [classes.index(answers[name]) for name in asked]


def _ink(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(archive.read(name))) as picture:
        ink = ~np.asarray(picture.convert("1"))
    if ink.shape != (SIDE, SIDE):
        raise DataError(f"{name} is {ink.shape[0]}×{ink.shape[1]}, not {SIDE}×{SIDE}")
    return ink
