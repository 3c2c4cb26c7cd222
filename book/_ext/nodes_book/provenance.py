"""The foot of each page: the commit, the versions, and what its execution cost."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import lru_cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PACKAGES = ("torch", "numpy", "matplotlib")


@lru_cache(maxsize=1)
def commit(root: Path) -> tuple[str, str]:
    """Abbreviated hash and date of the last commit; empty outside a git checkout."""
    command = ["git", "log", "-1", "--format=%h %cs"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    short, _, date = run.stdout.strip().partition(" ")
    return short, date


@lru_cache(maxsize=1)
def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def execution(root: Path, page: str) -> str:
    """What `tools/execute.py` measured when it ran this page's notebook."""
    path = root / "_build" / "executed" / (page.removeprefix("book/") + ".json")
    if not path.is_file():
        return ""
    run = json.loads(path.read_text(encoding="utf-8"))
    return f"Executed in {run['seconds']:.0f} s, peak memory {run['peak_mib']:.0f} MiB"


def footer(root: Path, page: str, repository: str) -> str:
    short, date = commit(root)
    parts = [versions()]
    if ran := execution(root, page):
        parts.insert(0, ran)
    if short:
        link = f'<a href="{escape(repository)}/commit/{short}">{short}</a>'
        parts.insert(0, f"Built from commit {link} of {date}")
    return f'<p class="provenance">{". ".join(parts)}.</p>'


def add_footer(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is not None and "body" in context:
        repository = app.config.html_theme_options["repository_url"]
        context["body"] += footer(Path(app.srcdir), page, repository)


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", add_footer)
