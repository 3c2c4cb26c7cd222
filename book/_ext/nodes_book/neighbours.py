"""The end of a chapter: which chapters it needs, which need it, and how to cite it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from tools.needs import needed_by, needs
from tools.project import Chapter, address, chapters

from .provenance import commit

CITATION = """@incollection{{{key},
  author    = {{{{{author}}}}},
  title     = {{{title}}},
  booktitle = {{{book}}},
  chapter   = {{{number}}},
  year      = {{{year}}},
  url       = {{{url}}},
  note      = {{Commit {commit}}}
}}"""


def links(app: Sphinx, page: str, slugs: tuple[str, ...]) -> str:
    """Links to chapters, by their titles."""
    return ", ".join(
        f'<a href="{app.builder.get_relative_uri(page, f"book/{slug}")}">'
        f"{escape(app.env.titles[f'book/{slug}'].astext())}</a>"
        for slug in slugs
    )


def citation(app: Sphinx, chapter: Chapter) -> str:
    """An entry for BibTeX."""
    short, date = commit(Path(app.srcdir))
    return CITATION.format(
        key=f"nodes-{chapter.slug.split('/')[1].replace('_', '-')}",
        author=app.config.author,
        title=app.env.titles[chapter.docname].astext(),
        book=app.config.html_title,
        number=chapter.number,
        year=date[:4] or app.config.copyright,
        url=address().page(chapter.docname),
        commit=short,
    )


def block(app: Sphinx, chapter: Chapter) -> str:
    lines = []
    if before := needs()[chapter.slug]:
        lines.append(f"<p>Needs {links(app, chapter.docname, before)}.</p>")
    if after := needed_by(chapter.slug):
        lines.append(f"<p>Needed by {links(app, chapter.docname, after)}.</p>")
    cite = f"<pre>{escape(citation(app, chapter))}</pre>"
    lines.append(f"<details><summary>Cite this chapter</summary>{cite}</details>")
    return f'<div class="neighbours">{"".join(lines)}</div>'


def add(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    chapter = next((one for one in chapters() if one.docname == page), None)
    if chapter is not None and doctree is not None and "body" in context:
        context["body"] += block(app, chapter)


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", add, priority=400)  # above the line of `provenance`
