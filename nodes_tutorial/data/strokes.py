"""The pen behind Omniglot's drawings: where it was, at irregular times in milliseconds."""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.data.registry import DataError, available, fetch
from nodes_tutorial.data.series import Series, collate

STROKES = "omniglot_small/strokes_background_small1.zip"
SIDE = 105.0  # the page is [0, 105] by [-105, 0]
SHAPES = ("arc", "wave", "corner", "loop")


class Drawing(NamedTuple):
    """One character, drawn once.

    Attributes:
        alphabet: name of its alphabet.
        character: which character, such as ``"character01"``.
        drawer: number of the person.
        xy: places of the pen, y upwards, on a page of 105 by 105.
        t: times in milliseconds; a few are repeated or go back, as recorded.
        stroke: number of the stroke, from 0.
    """

    alphabet: str
    character: str
    drawer: int
    xy: Float[Tensor, "points 2"]
    t: Float[Tensor, " points"]
    stroke: Int[Tensor, " points"]


def parse(
    text: str, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "points 2"], Float[Tensor, " points"], Int[Tensor, " points"]]:
    """Read one drawing: ``START``, then lines ``x,y,t``, and ``BREAK`` after each stroke.

    Args:
        text: content of a file.
        dtype: dtype of places and times.

    Returns:
        Places, times and stroke numbers, as in ``Drawing``.

    Raises:
        DataError: a line that is none of these, a number that is not finite, or no points; with
            the line's number.

    >>> from nodes_tutorial.data.strokes import parse
    >>> parse("START\\n1,-2,0\\n3,-4,9.5\\nBREAK\\n5,-6,40\\nBREAK\\n")[1:]
    (tensor([ 0.0000,  9.5000, 40.0000]), tensor([0, 0, 1]))
    """
    rows, strokes, stroke = [], [], 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line in ("", "START"):
            continue
        if line == "BREAK":
            stroke += 1
            continue
        try:
            x, y, t = (float(part) for part in line.split(","))
        except ValueError:
            raise DataError(f"line {number} is no x,y,t, START or BREAK: {line[:40]!r}") from None
        if not all(map(math.isfinite, (x, y, t))):
            raise DataError(f"line {number} must hold finite numbers: {line[:40]!r}")
        rows.append((x, y, t))
        strokes.append(stroke)
    if not rows:
        raise DataError("a drawing without points")
    table = torch.tensor(rows, dtype=dtype)
    return table[:, :2], table[:, 2], torch.tensor(strokes)


def read_zip(
    path: Path | str, alphabets: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> list[Drawing]:
    """Read an archive ``folder/ALPHABET/characterNN/NNNN_DD.txt``, DD the number of the person.

    Args:
        path: the zip file.
        alphabets: which to read, by their whole names; None means all.
        dtype: dtype of places and times.

    Returns:
        One drawing for each file.

    Raises:
        TypeError: ``alphabets`` is one name instead of a list of names.
        DataError: no zip file, an alphabet that is not in it, or a drawing that cannot be read.
    """
    if isinstance(alphabets, str):
        raise TypeError(f"alphabets must be a list of names, got {alphabets!r}")
    drawings = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                hidden = parts[0].startswith("__") or parts[-1].startswith(".")
                if hidden or len(parts) < 3 or not name.endswith(".txt"):
                    continue
                alphabet, character, file = parts[-3:]
                if alphabets is not None and alphabet not in alphabets:
                    continue
                text = io.TextIOWrapper(archive.open(name), encoding="ascii").read()
                drawer = int(file.removesuffix(".txt").rpartition("_")[2])
                drawings.append(Drawing(alphabet, character, drawer, *parse(text, dtype)))
    except (zipfile.BadZipFile, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}") from error
    except (DataError, ValueError) as error:
        raise DataError(f"{path}, {name}: {error}") from error
    found = {drawing.alphabet for drawing in drawings}
    missing = [] if alphabets is None else [name for name in alphabets if name not in found]
    if missing or not drawings:
        raise DataError(f"{path} holds no drawings of {', '.join(missing) or 'any alphabet'}")
    return drawings


def omniglot(
    alphabets: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> list[Drawing]:
    """The 2,720 drawings of Omniglot's first small background set: 136 characters, 20 people.

    Args:
        alphabets: names out of Balinese, Early_Aramaic, Greek, Korean, Latin; None means all.
        dtype: dtype of places and times.

    Returns:
        One drawing for each character and person.

    Raises:
        TypeError: as for ``read_zip``.
        DataError: the file is not at hand and cannot be had, or as for ``read_zip``.

    References: Lake, Salakhutdinov and Tenenbaum (2015).
    """
    return read_zip(fetch(STROKES), alphabets, dtype)


def have_omniglot() -> bool:
    """Return whether ``omniglot`` works without the network."""
    return available(STROKES)


def synthetic(
    n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> list[Drawing]:
    """Drawings made up by formula, for where Omniglot is not at hand: one stroke, four shapes.

    An arc, a wave, a corner and a loop, each turned, stretched and shifted a little, with the pen
    faster in the middle, and 40 to 80 irregular times over one to two seconds.

    Args:
        n: drawings of each shape.
        generator: source of the numbers; None means PyTorch's global one.
        dtype: dtype of places and times.

    Returns:
        The drawings, ``4 * n`` of them.

    >>> import torch
    >>> from nodes_tutorial.data.strokes import synthetic
    >>> drawings = synthetic(2, torch.Generator().manual_seed(0))
    >>> [d.character for d in drawings][::2]
    ['arc', 'wave', 'corner', 'loop']
    """
    kind = {"dtype": dtype, "device": None if generator is None else generator.device}

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, **kind)

    drawings = []
    for shape in SHAPES:
        for drawer in range(1, n + 1):
            count = 40 + int(41 * uniform(1))
            t = torch.cat([uniform(count - 1).sort().values, uniform(1) * 0]).sort().values
            u = t - torch.sin(math.tau * t) / (2 * math.tau)
            if shape == "arc":
                x, y = torch.cos(4 * u + 0.6), torch.sin(4 * u + 0.6)
            elif shape == "wave":
                x, y = 2 * u - 1, 0.6 * torch.sin(math.tau * u)
            elif shape == "corner":
                x, y = (2 * u - 1).clamp(min=0) * 1.4 - 0.7, 0.8 - (2 * u).clamp(max=1) * 1.6
            else:
                x, y = torch.sin(math.tau * u), 0.7 * torch.sin(2 * math.tau * u)
            turn, size = 0.3 * (uniform(1) - 0.5), 30 + 8 * uniform(1)
            xy = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
            center = xy.new_tensor([SIDE / 2, -SIDE / 2]) + 10 * (uniform(2) - 0.5)
            t = (1000 * (1 + uniform(1)) * t).round()
            stroke = torch.zeros(count, dtype=torch.long, device=xy.device)
            drawings.append(Drawing("synthetic", shape, drawer, center + size * xy, t, stroke))
    return drawings


def to_series(drawings: Sequence[Drawing], resolution: float = 0.01) -> Series:
    """Drawings as series on one grid: the page scaled to [-1, 1]², each duration to 1.

    Times that repeat or go back are dropped.

    Args:
        drawings: with at least two points and some time between them.
        resolution: as for ``collate``, in units of a drawing's duration.

    Returns:
        A batch with two features, the coordinates.

    Raises:
        ValueError: a drawing of no duration, or as for ``collate``.

    >>> import torch
    >>> from nodes_tutorial.data.strokes import synthetic, to_series
    >>> to_series(synthetic(5, torch.Generator().manual_seed(0)), 0.02).values.shape
    torch.Size([20, 51, 2])
    """
    times, values = [], []
    for drawing in drawings:
        t = drawing.t - drawing.t[0]
        latest = t.cummax(0).values
        fresh = torch.cat([t.new_ones(1), latest.diff()]) > 0
        if not bool(latest[-1] > 0):
            raise ValueError(f"{drawing.character} of drawer {drawing.drawer} has no duration")
        times.append(t[fresh] / latest[-1])
        middle = drawing.xy.new_tensor([SIDE / 2, -SIDE / 2])
        values.append(((drawing.xy - middle) / (SIDE / 2))[fresh])
    return collate(times, values, resolution)
