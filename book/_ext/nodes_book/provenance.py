"""The foot of each page: the commit, the versions, and what its execution cost."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from tools import store
from tools.project import Chapter

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


def execution(page: str) -> str:
    """What `tools/meter.py` measured when this page's notebook was executed."""
    run = store.record(Chapter(page, 0))
    if run is None:
        return ""
    return f"Executed in {run['seconds']:.0f} s, peak memory {run['peak_mib']:.0f} MiB"


def footer(root: Path, page: str, repository: str) -> str:
    short, date = commit(root)
    parts = [versions()]
    if ran := execution(page):
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
