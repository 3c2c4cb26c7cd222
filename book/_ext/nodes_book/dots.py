"""Drawings of the results page, as lists of names with a strip of dots beside each.

`{spreads}` draws every finding: what it measured under ten shifts of all seeds, from its bound.
`{dots} TABLE COLUMN` draws a column of a table of results: ours, and published numbers beside.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from nodes_book.tables import TABLES

from .claims import number, registry

WIDTH, HEIGHT, SHOWN = 300, 16, 12.0  # of a strip, px; spreads that a strip shows
NUMBER = re.compile(r"([−-]?\d*\.?\d+)(?:\s*±\s*(\d*\.?\d+))?(?:\s*\((\d+)\))?$")
BESIDE = ", published"


@dataclass(frozen=True)
class Dot:
    """A cell of a table: its name, mean and spread, and whether somebody else published it."""

    name: str
    mean: float
    spread: float
    text: str
    published: bool


class spreads_node(nodes.General, nodes.Element):
    """Stands for the drawing of the findings until their numbers are known."""


class Spreads(SphinxDirective):
    """`{spreads}`: every finding with its ten runs."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.env.srcdir) / "results" / "robust.json"))
        return [spreads_node()]


class Dots(SphinxDirective):
    """`{dots} TABLE COLUMN`: a column of a table of results."""

    required_arguments = 2
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        table, column = self.arguments
        head, *body = TABLES[table](Path(self.env.srcdir))
        if column not in head:
            raise self.error(f"{table} has the columns {', '.join(head)}, not {column!r}")
        found = dots(head.index(column), head, body)
        if not found:
            raise self.error(f"{table} has no number in {column!r}")
        return [nodes.raw("", drawing(found, column), format="html")]


def dots(column: int, head: list[str], body: list[list[str]]) -> list[Dot]:
    """The numbers of a column; a row is named by the cells before it that tell rows apart."""
    rows = [row for row in body if _match(row[column])]
    words = [i for i in range(column) if not any(_match(row[i]) for row in rows)]
    numbers = [i for i in range(column) if i not in words]

    def same(row: list[str]) -> list[list[str]]:
        return [other for other in rows if all(other[i] == row[i] for i in words)]

    found = []
    for row in rows:
        if match := _match(row[column]):
            parts = [row[i] for i in words if row[i] and len({other[i] for other in rows}) > 1]
            apart = [i for i in numbers if len({other[i] for other in same(row)}) > 1]
            name = ", ".join(parts + [f"{head[i]} {row[i]}" for i in apart])
            mean, spread = (float((part or "0").replace("−", "-")) for part in match.groups()[:2])
            found.append(Dot(name.replace(BESIDE, ""), mean, spread, row[column], BESIDE in name))
    return found


def _match(cell: str) -> re.Match[str] | None:
    return NUMBER.match(cell.replace("\xa0", " ").replace(",", "").strip())


def drawing(found: list[Dot], column: str) -> str:
    """A line for each dot, with its number behind the strip; logarithmic over a wide range."""
    low, high = min(dot.mean for dot in found), max(dot.mean for dot in found)
    wide = low > 0 and high / low > 20
    scale = math.log if wide else float
    span = (scale(high) - scale(low)) or 1.0

    def place(value: float) -> float:
        value = max(value, low) if wide else value
        x = 12 + (WIDTH - 24) * (scale(value) - scale(low)) / span
        return min(max(x, 2), WIDTH - 2)

    lines = []
    for dot in found:
        ends = [place(dot.mean - dot.spread), place(dot.mean + dot.spread)]
        whisker = f'<path d="M{ends[0]:.1f} 8H{ends[1]:.1f}"/>' if dot.spread else ""
        kind = "published" if dot.published else "ours"
        mark = f'{whisker}<circle class="{kind}" cx="{place(dot.mean):.1f}" cy="8" r="4"/>'
        word = " (published)" if dot.published else ""
        lines.append(_line(escape(dot.name + word), mark, escape(dot.text)))
    note = f"{column}{', logarithmic' if wide else ''}; hollow: published; whiskers: one spread"
    return f'<div class="dots">{"".join(lines)}<p>{escape(note)}</p></div>'


def spread_line(app: Sphinx, docname: str, label: str, finding: dict[str, Any]) -> str:
    """The ten runs of what a finding measures, as spreads beyond its bound."""
    entry = registry(app.env)[label]
    numbers = ".".join(map(str, number(app.env, label)))
    uri = app.builder.get_relative_uri(docname, entry["docname"]) + f"#{label}"
    title = "".join(child.astext() for child in entry["title"]).strip(" ()")
    name = f'<a href="{uri}">{numbers}</a> {escape(title)}'
    unit = math.copysign(finding["spread"], finding["mean"] - finding["bound"])
    mark = f'<path class="bound" d="M20 0V{HEIGHT}"/>'
    for value in finding["runs"]:
        far = (value - finding["bound"]) / unit if unit else SHOWN
        x = 20 + (WIDTH - 30) * min(max(far, -0.8), SHOWN) / SHOWN
        mark += f'<circle class="ours" cx="{x:.1f}" cy="8" r="3"/>'
    return _line(name, mark, f"{finding['margin']:.1f}")


def thinnest(finding: dict[str, Any]) -> list[float]:
    """The runs of the measured value that has the worst margin."""
    for runs in finding["values"].values():
        values = list(runs.values())
        if math.isclose(sum(values) / len(values), finding["mean"], rel_tol=1e-9, abs_tol=1e-12):
            return values
    return []


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(spreads_node)):
        path = Path(app.srcdir) / "results" / "robust.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        lines = [
            spread_line(app, docname, label, finding | {"runs": thinnest(finding)})
            for entry in record.values()
            for label, finding in entry["findings"].items()
            if "margin" in finding and label in registry(app.env)
        ]
        note = "line: the bound; a dot: one of ten runs; number: margin in spreads"
        html = f'<div class="dots">{"".join(lines)}<p>{note}</p></div>'
        node.replace_self(nodes.raw("", html, format="html"))


def _line(name: str, mark: str, text: str) -> str:
    strip = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{mark}</svg>'
    return f'<div class="line"><span>{name}</span>{strip}<span class="value">{text}</span></div>'


def setup(app: Sphinx) -> None:
    app.add_node(spreads_node)
    app.add_directive("spreads", Spreads)
    app.add_directive("dots", Dots)
    app.connect("doctree-resolved", fill)
