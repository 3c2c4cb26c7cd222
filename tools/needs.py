"""Which chapter needs which: read from the links in the head of each page, "What we use"."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache

from tools.project import Chapter, chapters

HEAD = re.compile(r"what we use\b(.*?)\n```\{code-cell\}", re.I | re.S)
LINK = re.compile(r"\{(doc|prf:ref|ref|eq|numref)\}`([^`]+)`")


@lru_cache(maxsize=1)
def needs() -> dict[str, tuple[str, ...]]:
    """The slugs of the earlier chapters that the head of each chapter links to, in book order."""
    order = [chapter.slug for chapter in chapters()]
    found: dict[str, tuple[str, ...]] = {}
    for chapter in chapters():
        head = HEAD.search(chapter.source.read_text(encoding="utf-8"))
        named = {_target(chapter, *link) for link in LINK.findall(head[1] if head else "")}
        earlier = order[: order.index(chapter.slug)]
        found[chapter.slug] = tuple(slug for slug in earlier if slug in named)
    return found


def needed_by(slug: str) -> tuple[str, ...]:
    """The slugs of the later chapters whose head links to this one."""
    return tuple(other for other, slugs in needs().items() if slug in slugs)


def _target(chapter: Chapter, role: str, target: str) -> str | None:
    """The chapter behind a link: by its path, or by the second word of its label."""
    if role == "doc":
        return posixpath.normpath(posixpath.join(chapter.part, target))
    word = target.split("-")[1] if "-" in target else ""
    slugs = [other.slug for other in chapters() if word and other.slug.endswith(word)]
    return slugs[0] if slugs else None
