"""Numbered statements and findings, and what checks them.

Each `prf:theorem`, `prf:proposition`, `prf:lemma` and `prf:corollary` box ends with links to the
tests that carry its label, and each finding also with links to its assertions. A box without a
check, and a mark without a box, are warnings, and the book is built with warnings as errors. The
directive `statements` lists all of them with the largest error that `make book` measured
(`_build/claims.json`) and the worst margin that `make robust` did (`results/robust.json`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from tools.findings import margins

from . import failures, findings
from .marks import ClaimTest, claim_tests

log = logging.getLogger(__name__)
KINDS = ("theorem", "proposition", "lemma", "corollary", "finding")
PAGE = "book/verified"


class statements_node(nodes.General, nodes.Element):
    """Stands for the table of statements until all numbers are known."""


class Statements(SphinxDirective):
    """`{statements}`: the table of all numbered statements with their tests."""

    def run(self) -> list[nodes.Node]:
        return [statements_node()]


def registry(env: BuildEnvironment) -> dict[str, dict[str, Any]]:
    if not hasattr(env, "book_statements"):
        env.book_statements = {}
    return env.book_statements


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    known = registry(env)
    for label in [label for label, entry in known.items() if entry["docname"] == docname]:
        del known[label]


def merge(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
    registry(env).update(
        {label: e for label, e in registry(other).items() if e["docname"] in docnames}
    )


def read_marks(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    env.book_claims = claim_tests(Path(app.srcdir))


def source_link(app: Sphinx, test: ClaimTest) -> nodes.reference:
    options = app.config.html_theme_options
    base, branch = options["repository_url"], options.get("repository_branch", "main")
    link = nodes.reference("", "", refuri=f"{base}/blob/{branch}/{test.path}#L{test.line}")
    link += nodes.literal(test.name, test.name)
    if test.node in failures.failed_tests(app):
        link += nodes.strong("", " (fails in this build)")
    return link


def annotate(app: Sphinx, doctree: nodes.document) -> None:
    """Remember the statements of a page, and end each box with links to its checks."""
    env = app.env
    asserted = findings.on_page(app)
    for node in doctree.findall(lambda n: isinstance(n, nodes.Element) and "realtype" in n):
        if node["realtype"] not in KINDS:
            continue
        label = node["label"]
        if re.fullmatch(rf"({node['realtype']}|observation)-\d+", label):
            log.warning("a %s without a label", node["realtype"], location=node)
            continue
        title = next(iter(node.findall(nodes.title)))
        registry(env)[label] = {
            "docname": env.docname,
            "kind": node["realtype"],
            "counter": node["countertype"],
            "title": [child.deepcopy() for child in title.children],
            "assertions": asserted.get(label, []),
        }
        links = findings.links(app, doctree, asserted.get(label, []), label)
        links += [source_link(app, test) for test in env.book_claims.get(label, [])]
        if not links:
            what = "no assertion bears it, and " if node["realtype"] == "finding" else ""
            log.warning('%sno test is marked claim("%s")', what, label, location=node)
            continue
        line = nodes.paragraph(classes=["checked-by"])
        line += nodes.Text("Checked by ")
        for i, link in enumerate(links):
            line += [nodes.Text(", ")] if i else []
            line += link
        line += nodes.Text(" · ")
        more = "margins" if node["realtype"] == "finding" else "measured errors"
        xref = addnodes.pending_xref(
            "",
            nodes.inline("", more),
            refdomain="std",
            reftype="doc",
            refdoc=env.docname,
            reftarget=f"/{PAGE}",
            refexplicit=True,
            refwarn=True,
        )
        line += xref
        node.children[-1].append(line)


def check(app: Sphinx, env: BuildEnvironment) -> None:
    for label, tests in env.book_claims.items():
        if label not in registry(env):
            where = f"{tests[0].path}:{tests[0].line}"
            log.warning('%s is marked claim("%s"): no page states that', tests[0].node, label)
            log.info(where)


def measured(root: Path) -> dict[str, dict[str, float]]:
    """Largest errors by test: `tests/x.py::test_y` -> {what: error}; parameters are merged."""
    path = root / "_build" / "claims.json"
    if not path.is_file():
        log.warning("%s is missing: `make book` measures it", path)
        return {}
    merged: dict[str, dict[str, float]] = {}
    for node, errors in json.loads(path.read_text(encoding="utf-8")).items():
        into = merged.setdefault(node.split("[")[0], {})
        for what, value in errors.items():
            into[what] = max(value, into.get(what, 0.0))
    return merged


def number(env: BuildEnvironment, label: str) -> tuple[int, ...]:
    entry = registry(env)[label]
    kinds = env.toc_fignumbers.get(entry["docname"], {})
    return tuple(kinds.get(entry["counter"], {}).get(label, ()))


def table(app: Sphinx, docname: str, labels: list[str], errors: dict) -> nodes.table:
    head = ["Statement or finding", "Its checks, with the largest error or the worst margin"]
    worst = margins(Path(app.srcdir) / "results" / "robust.json")
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=w) for w in (40, 60)]
    group += nodes.thead("", _row([[nodes.Text(text)] for text in head]))
    body = nodes.tbody()
    for label in labels:
        entry = registry(app.env)[label]
        text = f"{entry['kind'].capitalize()} {'.'.join(map(str, number(app.env, label)))}"
        uri = app.builder.get_relative_uri(docname, entry["docname"]) + f"#{label}"
        statement = [nodes.reference("", text, refuri=uri, internal=True)]
        statement += [child.deepcopy() for child in entry["title"]]
        tests = nodes.line_block()
        for check in entry["assertions"]:
            text = nodes.literal(check.text, check.text)
            tests += nodes.line("", "", text, nodes.Text(f" (if false: {check.null})"))
        for test in app.env.book_claims.get(label, []):
            tests += nodes.line("", "", source_link(app, test))
            values = nodes.line_block()
            for what, value in sorted(errors.get(test.node, {}).items()):
                values += nodes.line("", f"{value:.1e} ({what})")
            tests += [values] if len(values) else []
        if entry["kind"] == "finding":
            tests += nodes.line("", findings.margin(worst.get(label)))
        body += _row([statement, [tests]])
    group += body
    return nodes.table("", group, classes=["statements"])


def _row(cells: list[list[nodes.Node]]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        block = isinstance(cell[0], nodes.line_block)
        row += nodes.entry("", *(cell if block else [nodes.paragraph("", "", *cell)]))
    return row


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the directive by one table for each chapter."""
    for node in list(doctree.findall(statements_node)):
        # the titles hold formulas, which the page did not have when it was read
        app.env.get_domain("math").data["has_equations"][docname] = True
        errors = measured(Path(app.srcdir))
        chapters: dict[str, list[str]] = {}
        for label in sorted(registry(app.env), key=lambda label: number(app.env, label)):
            chapters.setdefault(registry(app.env)[label]["docname"], []).append(label)
        content: list[nodes.Node] = []
        for chapter, labels in chapters.items():
            uri = app.builder.get_relative_uri(docname, chapter)
            title = app.env.titles[chapter].astext()
            link = nodes.reference("", title, refuri=uri, internal=True)
            content.append(nodes.rubric("", "", link))
            content.append(table(app, docname, labels, errors))
        node.replace_self(content or [nodes.paragraph("", "No chapter has been written yet.")])


def setup(app: Sphinx) -> None:
    app.add_node(statements_node)
    app.add_directive("statements", Statements)
    app.connect("env-before-read-docs", read_marks)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", annotate)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", fill)
