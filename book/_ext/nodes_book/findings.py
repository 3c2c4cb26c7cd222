"""Findings: `prf:observation` boxes, and the assertions of their own page that check them.

The box is called "Finding". Each assertion that bears its label becomes a link to the cell that it
stands in. An assertion of another form, one without its box, and a label of another form are
warnings, and the book is built with warnings as errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from tools.findings import EXACT, Assertion, assertions, label_fault
from tools.project import Chapter

from .failures import failed_checks

log = logging.getLogger(__name__)


def rename(app: Sphinx, doctree: nodes.document) -> None:
    """Call the observations of a page findings, here and where they are referred to."""
    for node in doctree.findall(lambda n: isinstance(n, nodes.Element) and "realtype" in n):
        if node["realtype"] == "observation":
            node["realtype"] = app.env.proof_list[node["label"]]["realtype"] = "finding"


def on_page(app: Sphinx) -> dict[str, list[Assertion]]:
    """The assertions of the page that is being read, by their label."""
    found: dict[str, list[Assertion]] = {}
    path = Path(app.env.doc2path(app.env.docname))
    if "obs-" in path.read_text(encoding="utf-8"):
        for assertion in assertions(path):
            found.setdefault(assertion.label, []).append(assertion)
    return found


def links(
    app: Sphinx, doctree: nodes.document, checks: list[Assertion], label: str
) -> list[nodes.Element]:
    """Links to the cells of a finding's assertions; a cell that is not shown gets none."""
    cells = {
        node["cell_index"]: node
        for node in doctree.findall(nodes.container)
        if node.get("nb_element") == "cell_code"
    }
    made: list[nodes.Element] = []
    for check in checks:
        anchor = f"check-{label}-{check.cell}"
        link = nodes.reference("", "", refid=anchor, internal=True)
        if check.cell not in cells:
            link = nodes.inline()
        elif anchor not in cells[check.cell]["ids"]:
            cells[check.cell]["ids"].append(anchor)
        link += nodes.literal(check.text, check.text)
        if f"assert {check.text}" in failed_checks(app):
            link += nodes.strong("", " (fails in this build)")
        made.append(link)
    return made


def warn(app: Sphinx, doctree: nodes.document) -> None:
    """Refuse assertions without a box, or of another form, and labels of another form."""
    docname = app.env.docname
    shown = {
        node["label"]
        for node in doctree.findall(lambda n: isinstance(n, nodes.Element) and "realtype" in n)
        if node["realtype"] == "finding"
    }
    for label, checks in on_page(app).items():
        for check in checks:
            if fault := check.fault():
                log.warning("%s", fault, location=docname)
        if label not in shown:
            log.warning(
                'an assertion bears "%s": this page has no such box', label, location=docname
            )
    for label in shown:
        fault = label_fault(Chapter(docname, 0), label)
        if fault and not label.startswith("observation-"):  # it has none: said elsewhere
            log.warning("%s", fault, location=docname)


def margin(value: float | None) -> str:
    """A worst margin for the reader."""
    if value is None:
        return "margin not measured"
    if value >= EXACT:
        return "the same for every seed"
    return f"worst margin {value:.1f} spreads"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", rename, priority=400)
    app.connect("doctree-read", warn, priority=450)
    return {"parallel_read_safe": True}
