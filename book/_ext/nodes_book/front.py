"""The front page: one figure from each chapter, and the way through the book.

`{gallery} PART` shows the chapters of a part, each with the first figure of its page, as executed.
`{way}` lists all chapters in order, with an arc to each from the chapters that it needs.
"""

from __future__ import annotations

from html import escape
from itertools import groupby

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tools.needs import needs
from tools.project import Chapter, captions, chapters

ROW, WIDTH = 30, 110  # height of a line and width of the arcs, px; book.css has the same


class gallery_node(nodes.General, nodes.Element):
    """Stands for the cards of a part until all pages are read."""


class way_node(nodes.General, nodes.Element):
    """Stands for the drawing of the way until all titles are known."""


class Gallery(SphinxDirective):
    """`{gallery} PART`: the chapters of a part as cards."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        part = self.arguments[0]
        if part not in captions():
            raise self.error(f"gallery knows the parts of _toc.yml, not {part!r}")
        return [gallery_node(part=part)]


class Way(SphinxDirective):
    """`{way}`: which chapter needs which."""

    def run(self) -> list[nodes.Node]:
        return [way_node()]


def card(app: Sphinx, docname: str, chapter: Chapter) -> nodes.paragraph:
    """The title of a chapter under the first figure of its page, as one link."""
    uri = app.builder.get_relative_uri(docname, chapter.docname)
    link = nodes.reference("", "", refuri=uri, internal=True)
    figures = app.env.get_doctree(chapter.docname).findall(nodes.image)
    figure = next((node for node in figures if node.get("alt")), None)
    if figure is not None:
        image = nodes.image(uri=figure["uri"], alt=figure["alt"], candidates=figure["candidates"])
        link += image
    title = app.env.titles[chapter.docname].astext()
    link += nodes.inline("", f"{chapter.number} · {title}")
    return nodes.paragraph("", "", link, classes=["card-of-chapter"])


def reduced(needed: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The same needs without those that another need already brings."""
    behind: dict[str, set[str]] = {}
    for slug, direct in needed.items():  # in book order: what is needed stands earlier
        behind[slug] = set(direct).union(*(behind[other] for other in direct))
    return {
        slug: [one for one in direct if not any(one in behind[other] for other in direct)]
        for slug, direct in needed.items()
    }


def way(app: Sphinx, docname: str) -> nodes.raw:
    """The list of chapters with arcs on its left, as HTML."""
    needed = needs()
    parts = list(captions())
    number = {chapter.slug: chapter.number for chapter in chapters()}
    heights: dict[str, float] = {}
    lines: list[str] = []
    for part, members in groupby(chapters(), key=lambda chapter: chapter.part):
        lines.append(f'<li class="part part-{parts.index(part)}">{escape(captions()[part])}</li>')
        for chapter in members:
            heights[chapter.slug] = (len(lines) + 0.5) * ROW
            uri = app.builder.get_relative_uri(docname, chapter.docname)
            title = escape(app.env.titles[chapter.docname].astext())
            direct = ", ".join(str(number[slug]) for slug in needed[chapter.slug])
            note = f' <span class="needs">needs {direct}</span>' if direct else ""
            lines.append(f'<li><a href="{uri}">{chapter.number} · {title}</a>{note}</li>')
    arcs = []
    for slug, direct in reduced(needed).items():
        for other in direct:
            above, below = heights[other], heights[slug]
            reach = WIDTH - min(WIDTH - 8, 14 + 0.28 * (below - above))
            path = (
                f"M{WIDTH} {above:g}C{reach:.0f} {above:g} {reach:.0f} {below:g} {WIDTH} {below:g}"
            )
            arcs.append(f'<path class="part-{parts.index(other.split("/")[0])}" d="{path}"/>')
    height = len(lines) * ROW
    drawing = (
        f'<svg width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{"".join(arcs)}</svg>'
    )
    html = f'<div class="way">{drawing}<ol>{"".join(lines)}</ol></div>'
    return nodes.raw("", html, format="html")


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(gallery_node)):
        cards = [card(app, docname, c) for c in chapters() if c.part == node["part"]]
        node.replace_self(nodes.container("", *cards, classes=["gallery"]))
    for node in list(doctree.findall(way_node)):
        node.replace_self(way(app, docname))


def setup(app: Sphinx) -> None:
    app.add_node(gallery_node)
    app.add_node(way_node)
    app.add_directive("gallery", Gallery)
    app.add_directive("way", Way)
    app.connect("doctree-resolved", fill)
