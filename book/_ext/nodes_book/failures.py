"""A page says at its top which of its checks failed in this build; a box says it of its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from tools import myst


def failures(app: Sphinx) -> dict[str, dict[str, Any]]:
    """What `tools/failures.py` collected: by page, and by test."""
    path = Path(app.srcdir) / "_build" / "failures.json"
    if not path.is_file():
        return {"pages": {}, "tests": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def failed_tests(app: Sphinx) -> set[str]:
    """The nodes of failed claim tests, without their parameters."""
    return {node.split("[")[0] for node in failures(app)["tests"]}


def failed_checks(app: Sphinx) -> set[str]:
    """The statements of the cells that failed on the page that is being read."""
    return {failure["check"] for failure in failures(app)["pages"].get(app.env.docname, [])}


def show(app: Sphinx, doctree: nodes.document) -> None:
    """Put a box after the title of a page on which a check failed."""
    found = failures(app)["pages"].get(app.env.docname, [])
    section = next(iter(doctree.findall(nodes.section)), None)
    if not found or section is None:
        return
    anchors = _anchors(doctree, Path(app.env.doc2path(app.env.docname)))
    box = nodes.admonition(classes=["danger", "failed-check"])
    box += nodes.title("", "A check of this page failed when this site was built")
    listed = nodes.bullet_list()
    for failure in found:
        line = nodes.paragraph()
        if failure["cell"] in anchors:
            where = f"code cell {failure['cell']}"
            line += nodes.reference("", where, refid=anchors[failure["cell"]], internal=True)
            line += nodes.Text(": ")
        if failure["check"]:
            line += [nodes.literal(failure["check"], failure["check"]), nodes.Text(". ")]
        if failure["got"]:
            line += [nodes.Text("It got "), nodes.literal(failure["got"], failure["got"])]
            line += nodes.Text(". ")
        line += nodes.Text(failure["error"])
        listed += nodes.list_item("", line)
    box += listed
    text = "Sentences that rest on a failed check do not hold on the machine that built this page."
    box += nodes.paragraph("", text)
    section.insert(1, box)


def _anchors(doctree: nodes.document, path: Path) -> dict[int, str]:
    """Anchors of the code cells that are shown, by their number from 1."""
    cells = [i for i, cell in enumerate(myst.cells(path)) if cell.cell_type == "code"]
    anchors = {}
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code" and node["cell_index"] in cells:
            number = cells.index(node["cell_index"]) + 1
            anchors[number] = f"code-cell-{number}"
            node["ids"].append(anchors[number])
    return anchors


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", show)
