"""Drawn characters, grouped by class: Omniglot in full or in part, and 62 letters and digits.

They are what few-shot tasks are made of; ``data.tasks`` draws the tasks. Ink is 1, paper 0.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.data.pages import SIDE, check_content, read_zip, unpack
from nodes_tutorial.data.registry import available, fetch

EN62 = "en62/en62_28x28.npz"
PARTS: dict[str, tuple[str, ...]] = {
    "background": ("omniglot/images_background.zip",),
    "evaluation": ("omniglot/images_evaluation.zip",),
    "all": ("omniglot/images_background.zip", "omniglot/images_evaluation.zip"),
    "small": (
        "omniglot_small/images_background_small1.zip",
        "omniglot_small/images_background_small2.zip",
    ),
}
# sha256 of names and pixels, see ``pages.fingerprint``: the same however the archive was made
CONTENT: dict[str, str] = {
    "omniglot/images_background.zip": (
        "38abf75cdf66262931dcb8334797e5ca37b8c7f3a8729c57c2e7a33750c24e0d"
    ),
    "omniglot/images_evaluation.zip": (
        "ec6eb3c4a827624a33bd9653afd7882ebe4bca171ad49ccd2368348cce5097be"
    ),
}


class Characters(NamedTuple):
    """Drawings and which character each one is.

    Attributes:
        images: ink in [0, 1].
        labels: 0 … classes - 1, in rising order.
        names: name of each class, such as ``"Greek/character01"``.
    """

    images: Float[Tensor, "drawings 1 side side"]
    labels: Int[Tensor, " drawings"]
    names: tuple[str, ...]

    @property
    def alphabets(self) -> tuple[str, ...]:
        """The alphabet of each class: the part of its name before the first slash."""
        return tuple(name.split("/")[0] for name in self.names)


def omniglot(
    part: str = "all", *, side: int = 28, dtype: torch.dtype = torch.float32
) -> Characters:
    """Omniglot: 50 alphabets, 1,623 characters, each drawn once by 20 people.

    ================  =========  ==========  ========
    part              alphabets  characters  drawings
    ================  =========  ==========  ========
    ``"background"``  30         964         19,280
    ``"evaluation"``  20         659         13,180
    ``"all"``         50         1,623       32,460
    ``"small"``       8          242         4,840
    ================  =========  ==========  ========

    The first two are the authors' own split by alphabets. ``"small"`` is their two small
    background sets together, without the alphabets that are in both a second time.

    Args:
        part: a key of ``PARTS``.
        side: pixels along an edge; below 105 by bilinear interpolation with a filter as wide as
            the step, which keeps thin lines.
        dtype: dtype of the images.

    Returns:
        The drawings and the class of each.

    Raises:
        ValueError: unknown ``part``, or ``side`` not between 1 and 105.
        DataError: a file is not at hand and cannot be had, or its drawings are not Omniglot's.

    References: Lake, Salakhutdinov and Tenenbaum (2015).
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {sorted(PARTS)}, got {part!r}")
    if not 1 <= side <= SIDE:
        raise ValueError(f"side must be between 1 and {SIDE}, got {side}")
    images, places, seen = [], [], set()
    for name in PARTS[part]:
        known = CONTENT.get(name)
        pages = read_zip(fetch(name, None if known is None else partial(check_content, known)))
        new = [i for i, place in enumerate(pages.names) if place not in seen]
        seen.update(pages.names)
        images.append(unpack(pages.bits[new], side, dtype))
        places += [pages.names[i].rpartition("/")[0] for i in new]
    names = tuple(dict.fromkeys(places))
    number = {name: i for i, name in enumerate(names)}
    return Characters(torch.cat(images), torch.tensor([number[p] for p in places]), names)


def have_omniglot(part: str = "all") -> bool:
    """Return whether ``omniglot`` works without the network.

    Args:
        part: a key of ``PARTS``.

    Raises:
        ValueError: unknown ``part``.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {sorted(PARTS)}, got {part!r}")
    return all(available(name) for name in PARTS[part])


def en62(dtype: torch.dtype = torch.float32) -> Characters:
    """Another domain: 5,738 handwritten digits and letters, 28×28, in 62 classes.

    The classes are 0-9, A-Z, a-z, with 92 to 94 drawings each. They are gray with blurred edges,
    where Omniglot's are thin black lines. Scans that are equal to another one are
    left out; made small, three of the others coincide with one.

    Args:
        dtype: dtype of the images.

    Returns:
        The drawings and the class of each.

    Raises:
        DataError: the file is not at hand, or not the one it should be.
    """
    with np.load(fetch(EN62)) as file:
        images, keep, classes = file["images"], file["keep"], file["classes"]
    labels = torch.from_numpy(np.nonzero(keep)[0])
    return Characters(
        torch.from_numpy(images[keep])[:, None].to(dtype) / 255, labels, tuple(map(str, classes))
    )


def have_en62() -> bool:
    """Return whether ``en62`` works, that is, whether its file is at hand."""
    return available(EN62)


def select(characters: Characters, classes: Iterable[int]) -> Characters:
    """Some of the classes, numbered anew in the order that they are asked for.

    Args:
        characters: the drawings to choose from.
        classes: numbers of classes, none of them twice.

    Returns:
        The drawings of these classes.

    Raises:
        ValueError: no class, one twice, or one that is not there.

    >>> import torch
    >>> from nodes_tutorial.data.drawings import Characters, select
    >>> few = Characters(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 1, 2]), ("a", "b", "c"))
    >>> select(few, [2, 1]).names, select(few, [2, 1]).labels.tolist()
    (('c', 'b'), [0, 1, 1])
    """
    wanted = [int(c) for c in classes]
    count = len(characters.names)
    good = all(0 <= c < count for c in wanted)
    if not wanted or not good or len(set(wanted)) < len(wanted):
        raise ValueError(f"classes must be distinct numbers from 0 to {count - 1}, got {wanted}")
    labels = characters.labels
    number = labels.new_full((count,), count)
    number[wanted] = torch.arange(len(wanted), device=labels.device)
    renamed = number[labels]
    rows = renamed.argsort(stable=True)[: int((renamed < count).sum())]
    names = tuple(characters.names[c] for c in wanted)
    return Characters(characters.images[rows], renamed[rows], names)


def split(
    characters: Characters, first: int = 1200, generator: torch.Generator | None = None
) -> tuple[Characters, Characters]:
    """Two sets of characters at random, whatever their alphabets: 1,200 and 423 of Omniglot.

    The field trains on the first and tests on the second. Characters of one alphabet lie on both
    sides, so this test is easier than the one on new alphabets.

    Args:
        characters: the drawings to choose from.
        first: classes of the first set.
        generator: source of the choice; None means the seed 0.

    Returns:
        The first set and the rest.

    Raises:
        ValueError: ``first`` below 1 or above the number of classes less one.

    References: Santoro et al. (2016), section 4.2; Finn, Abbeel and Levine (2017), section 5.2.
    """
    count = len(characters.names)
    if not 1 <= first < count:
        raise ValueError(f"first must be between 1 and {count - 1}, got {first}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    order = torch.randperm(count, generator=generator, device=generator.device).tolist()
    return select(characters, order[:first]), select(characters, order[first:])
