"""Archives of drawings, in which each pixel is ink or paper, and what is in them."""

import functools
import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nodes_tutorial.data.registry import DataError

SIDE = 105  # pixels along an edge
_CHUNK = 2000  # drawings that are unpacked at a time


class Pages(NamedTuple):
    """An archive as it was read: one bit a pixel.

    Attributes:
        names: ``alphabet/character/file`` of each drawing, sorted.
        bits: ink, eight pixels in a byte.
    """

    names: tuple[str, ...]
    bits: UInt8[np.ndarray, "drawings bytes"]


def read_zip(path: Path | str) -> Pages:
    """Read an archive ``folder/ALPHABET/characterNN/NNNN_DD.png`` of drawings, 105×105.

    An archive that has not changed is not read again.

    Args:
        path: the zip file.

    Returns:
        Names and pixels of all drawings.

    Raises:
        DataError: no zip file, without drawings, or with one that cannot be read.
    """
    path = Path(path)
    return _read(str(path), path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=4)
def _read(path: str, changed: int) -> Pages:
    """Read the archive into packed bits; all of Omniglot takes 45 MB."""
    from PIL import Image, UnidentifiedImageError

    found, name = {}, ""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = name.split("/")
                hidden = parts[0].startswith("__") or parts[-1].startswith(".")
                if hidden or len(parts) < 3 or not name.endswith(".png"):
                    continue
                with Image.open(io.BytesIO(archive.read(name))) as picture:
                    ink = ~np.asarray(picture.convert("1"))
                if ink.shape != (SIDE, SIDE):
                    raise DataError(f"{path}, {name} is {ink.shape[0]}×{ink.shape[1]}, not 105×105")
                found["/".join(parts[-3:]).removesuffix(".png")] = np.packbits(ink)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}, {name} is no picture") from error
    except (zipfile.BadZipFile, OSError, SyntaxError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a zip file of drawings: {error}") from error
    if not found:
        raise DataError(f"{path} holds no drawings")
    names = tuple(sorted(found))
    return Pages(names, np.stack([found[name] for name in names]))


def fingerprint(pages: Pages) -> str:
    """The sha256 of names and pixels, whatever compression the archive and its pictures have.

    Args:
        pages: an archive as ``read_zip`` gives it.

    Returns:
        The checksum, 64 hexadecimal digits.
    """
    digest = hashlib.sha256("\n".join(pages.names).encode())
    digest.update(pages.bits.tobytes())
    return digest.hexdigest()


def check_content(known: str, path: Path) -> None:
    """Refuse an archive of other drawings.

    Args:
        known: fingerprint that the drawings must have.
        path: the zip file.

    Raises:
        DataError: as for ``read_zip``, or another fingerprint.
    """
    found = fingerprint(read_zip(path))
    if found != known:
        raise DataError(
            f"the drawings in {path} have sha256 {found}, and {known} is wanted: replace the file"
        )


def unpack(
    bits: UInt8[np.ndarray, "drawings bytes"], side: int, dtype: torch.dtype
) -> Float[Tensor, "drawings 1 {side} {side}"]:
    """Images from packed bits, made smaller by a filter as wide as the step.

    Args:
        bits: packed pixels, as in ``Pages``.
        side: pixels along an edge of the result, at most 105.
        dtype: dtype of the result.

    Returns:
        Images with values in [0, 1].
    """
    images = []
    for start in range(0, len(bits), _CHUNK):
        ink = np.unpackbits(bits[start : start + _CHUNK], axis=1, count=SIDE**2)
        page = torch.from_numpy(ink).to(dtype).view(-1, 1, SIDE, SIDE)
        if side < SIDE:
            page = torch.nn.functional.interpolate(
                page, (side, side), mode="bilinear", antialias=True
            ).clamp(0, 1)
        images.append(page)
    return torch.cat(images)
