"""Recorded runs beside published numbers: `{results} NAME` writes one table.

`toys` (likelihood above the floor), `matching` (flow matching at equal CPU time), `tabular`
(published sets), `images` (bits per dimension), `latent` (irregular series), `known_unknowns`
(GOKU-net), `stability` (deep stable networks), a name in `grouped` (means over seeds),
`speed` (benchmarks against their goals), `gpu` (times on a GPU), `robust` (chapters under other
arithmetic and seeds), `thin` (findings with the least margin) or `runs` (every record with its
command).
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from nodes_book.tables import TABLES, Row

LITERAL = {"runs": (0, 1)}


class Results(SphinxDirective):
    """`{results} NAME`: a table of recorded runs."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in TABLES:
            raise self.error(f"results knows {', '.join(TABLES)}, not {name!r}")
        root = Path(self.env.srcdir)
        for path in sorted((root / "results").glob("*.json")):
            self.env.note_dependency(str(path))
        head, *body = TABLES[name](root)
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += nodes.thead("", _row(head, ()))
        group += nodes.tbody("", *(_row(row, LITERAL.get(name, ())) for row in body))
        return [nodes.table("", group, classes=["results"])]


def _row(cells: Row, literal: tuple[int, ...]) -> nodes.row:
    row = nodes.row()
    for i, cell in enumerate(cells):
        text = nodes.literal(cell, cell) if i in literal and cell else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text))
    return row


def setup(app: Sphinx) -> None:
    app.add_directive("results", Results)
