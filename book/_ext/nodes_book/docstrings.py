"""Docstrings end with a line `Chapter: thm-label`; in the reference it becomes a link."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

CHAPTER = re.compile(r"^(\s*)Chapter: ((?:[\w-]+(?:, )?)+)\.?\s*$")


def link_chapter(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Runs before napoleon; an unknown label is a warning of the role, and fails the build."""
    for i, line in enumerate(lines):
        if found := CHAPTER.match(line):
            links = ", ".join(f":prf:ref:`{label}`" for label in found[2].split(", "))
            lines[i] = f"{found[1]}*Stated in the book as* {links}."


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", link_chapter, priority=400)
