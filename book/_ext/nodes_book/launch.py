"""The Colab button opens the chapter's reader notebook, not its MyST source."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from tools.project import ROOT, Chapter

log = logging.getLogger(__name__)


def point_at_notebook(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") != "Colab":
                continue
            path = Chapter(page, 0).notebook
            notebook = path.relative_to(ROOT).as_posix()
            if not path.is_file():
                log.warning("%s has no reader notebook: run `make notebooks`", page, location=page)
            head = button["url"].split(f"/{page}")[0]
            button["url"] = f"{head}/{notebook}"


def theme_options(app: Sphinx, config: Config) -> None:
    config.html_theme_options["navbar_persistent"] = []  # the sidebar has the one search field


def setup(app: Sphinx) -> None:
    app.connect("config-inited", theme_options)
    app.connect("html-page-context", point_at_notebook, priority=600)  # the theme fills it at 501
