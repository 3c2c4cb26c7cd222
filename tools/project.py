"""Where things lie: the root, the address, and the chapters in reading order."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"


@dataclass(frozen=True)
class Address:
    """Where the repository and the site are, as `[project.urls]` of pyproject.toml has it."""

    repository: str
    site: str
    branch: str = "main"

    @property
    def slug(self) -> str:
        return self.repository.removeprefix("https://github.com/")

    def source(self, path: str) -> str:
        return f"{self.repository}/blob/{self.branch}/{path}"

    def raw(self, path: str) -> str:
        return f"https://raw.githubusercontent.com/{self.slug}/{self.branch}/{path}"

    def page(self, docname: str, anchor: str = "") -> str:
        return f"{self.site}/{docname}.html" + (f"#{anchor}" if anchor else "")


@dataclass(frozen=True)
class Chapter:
    """A numbered page with code: `book/<part>/<name>.md`."""

    docname: str
    number: int

    @property
    def source(self) -> Path:
        return ROOT / f"{self.docname}.md"

    @property
    def slug(self) -> str:
        return self.docname.removeprefix("book/")

    @property
    def part(self) -> str:
        return self.slug.split("/")[0]

    @property
    def notebook(self) -> Path:
        return ROOT / "notebooks" / f"{self.slug}.ipynb"


@lru_cache(maxsize=1)
def address() -> Address:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    repository, site = urls["Repository"].rstrip("/"), urls["Documentation"].rstrip("/")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository):
        raise ValueError(
            f"pyproject.toml: {repository!r} is not the address of a GitHub repository"
        )
    return Address(repository, site)


@lru_cache(maxsize=1)
def chapters() -> tuple[Chapter, ...]:
    """The chapters that `_toc.yml` numbers, in its order; numbers run on across the parts."""
    files = [entry["file"].removesuffix(".md") for part in _parts() for entry in part["chapters"]]
    return tuple(Chapter(name, i) for i, name in enumerate(files, start=1))


@lru_cache(maxsize=1)
def captions() -> dict[str, str]:
    """What `_toc.yml` calls each part that has chapters: `flows` -> `Normalizing flows`."""
    return {part["chapters"][0]["file"].split("/")[1]: part["caption"] for part in _parts()}


def _parts() -> list[dict[str, Any]]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [part for part in toc["parts"] if part.get("numbered")]
