"""Docstrings are plain text with a few conventions; make them Sphinx's.

A `Chapter:` section holds the label of the statement or section the object belongs to. It becomes
a link when the label is a numbered statement.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

LABEL = re.compile(r"^(\s*)((?:thm|prop|lem|cor|def)-[\w-]+)\.?\s*$")


def link_chapter(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    for i, line in enumerate(lines):
        if found := LABEL.match(line):
            lines[i] = f"{found[1]}:prf:ref:`{found[2]}`"


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", link_chapter, priority=900)
