"""Files that are fetched once, checked by checksum and kept in the user's cache.

A file is looked for in the folder that the environment variable ``NODES_TUTORIAL_DATA`` names,
under its registry name; then in the cache; then at its public address.
"""

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENVIRONMENT = "NODES_TUTORIAL_DATA"

# name: (sha256, or "md5:" and the md5 where no sha256 is published; public address or "")
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python"
FILES: dict[str, tuple[str, str]] = {
    "mnist_t10k/t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        f"{_MNIST}/t10k-images-idx3-ubyte.gz",
    ),
    "mnist_t10k/t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
    ),
    "omniglot_small/strokes_background_small1.zip": (
        "8cb3960fb6cf4ccf5f064ad83169f828c36c36782a0f6e7faacb7ecfae4468a2",
        f"{_OMNIGLOT}/strokes_background_small1.zip",
    ),
    "mnist/train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        f"{_MNIST}/train-images-idx3-ubyte.gz",
    ),
    "mnist/train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        f"{_MNIST}/train-labels-idx1-ubyte.gz",
    ),
    "omniglot_small/images_background_small1.zip": (
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        f"{_OMNIGLOT}/images_background_small1.zip",
    ),
    "omniglot_small/images_background_small2.zip": (
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
        f"{_OMNIGLOT}/images_background_small2.zip",
    ),
    "omniglot/images_background.zip": (
        "md5:68d2efa1b9178cc56df9314c21c6e718",
        f"{_OMNIGLOT}/images_background.zip",
    ),
    "omniglot/images_evaluation.zip": (
        "md5:6b91aef0f799c5bb55b94e3f2daec811",
        f"{_OMNIGLOT}/images_evaluation.zip",
    ),
    # made from github.com/Bishwaprotapi/Hand-Written, MIT; not published in this form
    "en62/en62_28x28.npz": (
        "795f3b9e8cf0411d414827327506e9ec19732b3459f57a7fca1b3d3230f7676d",
        "",
    ),
    # the pre-processed sets of the MAF experiments, doi 10.5281/zenodo.1161203; large
    "maf/data.tar.gz": (
        "md5:9b9c9b0375315ad270eba4ce80c093ab",
        "https://zenodo.org/record/1161203/files/data.tar.gz",
    ),
}


class DataError(RuntimeError):
    """A file is not available, or it is not the expected file."""


def fetch(name: str, content: Callable[[Path], None] | None = None) -> Path:
    """Path of a registered file, downloaded when it is not at hand.

    Args:
        name: a key of ``FILES``.
        content: what is asked about a file of yours with another checksum, since the same data
            are also passed on packed anew; raises DataError where they are others. None refuses
            every other checksum.

    Returns:
        The path of a file whose checksum is right, or its content.

    Raises:
        ValueError: unknown ``name``.
        DataError: the download failed, as it does offline, the cache cannot be written, or the
            file under ``NODES_TUTORIAL_DATA`` or the downloaded one has another checksum.
    """
    known, address = _entry(name)
    here = _local(name)
    if here is not None:
        try:
            verify(here, known)
        except DataError:
            if content is None:
                raise
            content(here)
        return here
    cached, broken = _cache() / name, ""
    if cached.is_file():
        try:
            verify(cached, known)
            return cached
        except DataError as error:  # downloaded again where there is a network
            broken = f" The file in the cache is broken: {error}."
    if not address:
        raise DataError(
            f"{name} has no public address.{broken} "
            f"Put the file under a folder and name that in {ENVIRONMENT}."
        )
    pooch = _pooch()
    try:
        path = pooch.retrieve(
            address,
            known_hash=known if ":" in known else f"sha256:{known}",
            fname=cached.name,
            path=cached.parent,
            downloader=pooch.HTTPDownloader(progressbar=False, timeout=30),
        )
    except ValueError as error:
        raise DataError(f"{address} is not the file it was: {error}") from error
    except (OSError, RuntimeError) as error:
        if not _writable(cached.parent):
            raise DataError(
                f"cannot write {name} to the cache {cached.parent}. Make that folder writable, or "
                f"put the file under a folder of yours and name that in {ENVIRONMENT}."
            ) from error
        raise DataError(
            f"cannot download {name} from {address} ({type(error).__name__}).{broken} "
            f"Go online once, or put the file under a folder and name that in {ENVIRONMENT}."
        ) from error
    return Path(path)


def available(name: str) -> bool:
    """Return whether ``fetch`` would find the file without the network.

    A file in the cache must be whole. One in your own folder need only be there: when it is
    another, ``fetch`` says so, and nothing else is taken in its place.

    Args:
        name: a key of ``FILES``.

    Raises:
        ValueError: unknown ``name``.
    """
    known, _ = _entry(name)
    if _local(name) is not None:
        return True
    cached = _cache() / name
    return cached.is_file() and _is_whole(str(cached), cached.stat().st_mtime_ns, known)


@functools.cache
def _is_whole(path: str, changed: int, known: str) -> bool:
    """Whether the checksum is right; a file that has not changed since is not read again."""
    try:
        verify(Path(path), known)
    except DataError:
        return False
    return True


def _writable(folder: Path) -> bool:
    """Whether a file could be made in a folder, or in the first one above it that is there."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _pooch() -> Any:
    """The library, without the warning of its progress bar in a notebook that has no widgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import pooch
    return pooch


def _entry(name: str) -> tuple[str, str]:
    if name not in FILES:
        raise ValueError(f"name must be one of {sorted(FILES)}, got {name!r}")
    return FILES[name]


def _local(name: str) -> Path | None:
    folder = os.environ.get(ENVIRONMENT)
    path = Path(folder, name) if folder else None
    return path if path is not None and path.is_file() else None


def _cache() -> Path:
    return Path(_pooch().os_cache("nodes-tutorial"))


def verify(path: Path, known: str) -> None:
    """Refuse a file with another checksum.

    Args:
        path: path of the file.
        known: sha256 of the file, or the name of another algorithm, a colon and the checksum.

    Raises:
        TypeError: ``known`` is no text.
        ValueError: an unknown algorithm, or no checksum.
        DataError: there is no file, or it has another checksum.
    """
    if not isinstance(known, str):
        raise TypeError(f"known must be a checksum, got {known!r}")
    algorithm, _, digest = known.rpartition(":")
    algorithm = algorithm or "sha256"
    if algorithm not in hashlib.algorithms_available or not digest:
        raise ValueError(f"known must be a checksum, with the name of its kind, got {known!r}")
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    found = _pooch().file_hash(str(path), alg=algorithm)
    if found != digest.lower():
        raise DataError(f"{path} has {algorithm} {found}, and {digest} is wanted: replace the file")
