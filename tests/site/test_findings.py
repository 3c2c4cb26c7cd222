"""Findings: boxes with a check, assertions that are false at their null value."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from tools import findings, myst
from tools.blocks import Converter
from tools.numbering import Numbered
from tools.project import Chapter, chapters

CHAPTERS = chapters()


def ids(chapter):
    return chapter.slug


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_assertions_are_false_at_their_null_value(chapter):
    faults = [check.fault() for check in findings.assertions(chapter.source)]
    assert not any(faults), "\n".join(filter(None, faults))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_labels_are_of_their_chapter(chapter):
    boxes = findings.boxes(chapter.source)
    faults = [findings.label_fault(chapter, box.options.get("label", "")) for box in boxes]
    assert not any(faults), "\n".join(filter(None, faults))


ACCEPTED = [
    ('assert gap > 0.1, "obs-a-b"  # null: 0', ""),
    ('assert 0.1 < gap < 0.5, "obs-a-b"  # null: 0', ""),
    ('assert -0.5 > slope, "obs-a-b"  # null: -0.5, the slope of chance', ""),
    ('assert wins == 5, "obs-a-b"  # null: 2.5', ""),
    ('assert (\n    a.mean() - b.mean() > 1e-2\n), "obs-a-b"  # null: 0', ""),
    ('%pip install x\nassert f(1) > 2, "obs-a-b"  # null: 1', ""),
]
REFUSED = [
    ('assert gap > -0.1, "obs-a-b"  # null: 0', "is true at its null value 0"),
    ('assert gap < 0.5, "obs-a-b"  # null: 0', "is true at its null value 0"),
    ('assert gap > 0.1, "obs-a-b"', "# null: NUMBER"),
    ('assert gap > 0.1, "obs-a-b"  # null: none', "# null: NUMBER"),
    ('assert gap > other, "obs-a-b"  # null: 0', "exactly one operand"),
    ('assert 1 > 2, "obs-a-b"  # null: 0', "exactly one operand"),
    ('assert gap > 1 and gap < 2, "obs-a-b"  # null: 0', "one comparison"),
    ('assert all(gaps), "obs-a-b"  # null: 0', "one comparison"),
    ('assert gap in (1, 2), "obs-a-b"  # null: 0', "one comparison"),
    ('for gap in gaps:\n    assert gap > 1, "obs-a-b"  # null: 0', "top level"),
    ('assert gap > 1, "obs-a-b: too small"  # null: 0', "the label alone"),
    ('assert gap > 1, f"obs-a-{b}"  # null: 0', "the label alone"),
]


@pytest.mark.parametrize("code, fault", ACCEPTED + REFUSED)
def test_form_of_an_assertion(code, fault):
    (found,) = findings.in_cell(code)
    assert fault in found.fault() and bool(fault) == bool(found.fault())


def test_other_assertions_are_left_alone():
    assert findings.in_cell('assert x > 1, "too small"\nassert y\nassert z, f"{z}"') == []


@pytest.mark.parametrize(
    "label, accepted",
    [
        ("obs-known-unknowns-goku", True),
        ("obs-unknowns-goku", True),
        ("obs-unknowns", False),
        ("obs-latent-goku", False),
        ("thm-unknowns-goku", False),
        ("obs-unknowns-Goku", False),
        ("", False),
    ],
)
def test_form_of_a_label(label, accepted):
    assert bool(findings.label_fault(Chapter("book/ode/known_unknowns", 8), label)) != accepted


def test_margins_are_the_worst_and_read_defensively(tmp_path):
    path = tmp_path / "robust.json"
    assert findings.margins(path) == {}
    found = {"obs-a-b": [{"margin": 4.0}, {"margin": 3.5}], "obs-a-c": {"margin": None}, "x": 1}
    path.write_text(json.dumps({"ode/a": {"variants": {}, "findings": found}, "ode/b": {}}))
    assert findings.margins(path) == {"obs-a-b": 3.5}


def test_notebook_calls_it_a_finding(monkeypatch):
    entry = Numbered("Finding", "3.4", "book/ode/solvers", "obs-solvers-x")
    monkeypatch.setattr("tools.blocks.labels", lambda: {"obs-solvers-x": entry})
    text = ":::{prf:observation} What $x$ keeps\n:label: obs-solvers-x\n\nIt holds.\n:::"
    plain = Converter(CHAPTERS[0]).text(text)
    assert re.fullmatch(
        r"> \*\*\[Finding 3\.4\]\(http\S+#obs-solvers-x\) \(What \$x\$ keeps\)\.\*\* It holds\.",
        plain,
    )
    with pytest.raises(myst.MarkupError, match="finding without a label"):
        Converter(CHAPTERS[0]).text(":::{prf:observation} Title\nIt holds.\n:::")


HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Page

"""
BOX = ":::{prf:observation} Gap\n:label: obs-page-gap\n\nIt is wide.\n:::\n\n"
CELL = '```{code-cell} ipython3\ngap = 1\nassert gap > 0.1, "obs-page-gap"  # null: 0\n```\n\n'
REFERENCE = "As {prf:ref}`obs-page-gap` says.\n\n```{statements}\n```\n"


EXTENSIONS = [f"nodes_book.{name}" for name in ("findings", "claims", "failures")]


@pytest.fixture
def page(tmp_path: Path):
    """Build a page and tests; return the page and what Sphinx warns of."""

    def build(
        text: str, tests: str = "", record: dict | None = None, failed: dict | None = None
    ) -> tuple[str, str]:
        for folder in ("tests", "results", "_build"):
            (tmp_path / folder).mkdir()
        (tmp_path / "tests" / "test_a.py").write_text(tests)
        (tmp_path / "results" / "robust.json").write_text(json.dumps(record or {}))
        (tmp_path / "_build" / "claims.json").write_text("{}")
        if failed:
            (tmp_path / "_build" / "failures.json").write_text(json.dumps(failed))
        (tmp_path / "page.md").write_text(HEAD + text)
        said = io.StringIO()
        settings = {
            "extensions": ["myst_nb", "sphinx_proof", *EXTENSIONS],
            "root_doc": "page",
            "source_suffix": {".md": "myst-nb"},
            "myst_enable_extensions": ["colon_fence", "dollarmath"],
            "nb_execution_mode": "off",
            "html_theme": "basic",
            "numfig": True,
            "html_theme_options": {},
            "prf_realtyp_to_countertyp": {"observation": "theorem"},
            "exclude_patterns": ["out", "_build", "tests"],
            "suppress_warnings": ["ref.doc"],
        }
        with docutils_namespace():
            app = Sphinx(
                str(tmp_path),
                None,
                str(tmp_path / "out"),
                str(tmp_path / "trees"),
                "html",
                confoverrides=settings,
                status=None,
                warning=said,
            )
            app.config.html_theme_options["repository_url"] = "https://github.com/o/r"
            app.build()
        return (tmp_path / "out" / "page.html").read_text(), said.getvalue()

    return build


def test_finding_is_shown_with_its_check_and_margin(page):
    record = {"ode/page": {"findings": {"obs-page-gap": {"margin": 4.25}}}}
    html, said = page(BOX + CELL + REFERENCE, record=record)
    assert "obs-" not in said, said
    assert "Observation" not in html
    box = re.search(
        r'<div class="proof observation [^"]*" id="obs-page-gap">(.*?)</div>', html, re.S
    )
    assert "Finding 1" in box[1] and "(Gap)" in box[1]
    link = re.search(r'href="#(check-obs-page-gap-\d+)"', box[1])
    cell = re.search(rf'<div class="cell[^"]*" id="{link[1]}">(.*?)</pre>', html, re.S)
    assert "gap" in cell[1] and "null: 0" in cell[1]
    assert re.search(r'href="#obs-page-gap"[^>]*>(<span[^>]*>)?Finding 1', html)
    assert "worst margin 4.2 spreads" in html and "if false: 0" in html


def test_finding_may_be_checked_by_a_test(page):
    mark = f"pytest.mark.claim({'obs-page-gap'!r})"
    html, said = page(BOX, f"import pytest\n\n\n@{mark}\ndef test_gap():\n    pass\n")
    assert "obs-" not in said, said
    assert "tests/test_a.py#L5" in html


def test_page_shows_its_failed_checks(page):
    mark = f"pytest.mark.claim({'obs-page-gap'!r})"
    tests = f"import pytest\n\n\n@{mark}\ndef test_gap():\n    pass\n"
    failure = {"cell": 1, "check": "assert gap > 0.1", "got": "gap = 0", "error": "AssertionError"}
    failed = {"pages": {"page": [failure]}, "tests": {"tests/test_a.py::test_gap[1]": "assert 0"}}
    html, said = page(BOX + CELL, tests, failed=failed)
    assert "obs-" not in said, said
    box = re.search(r'<div class="[^"]*failed-check[^"]*">(.*?)</div>', html, re.S)[1]
    assert 'href="#code-cell-1"' in box and html.count('id="code-cell-1"') == 1
    text = re.sub(r"<[^>]+>", "", box)
    assert "assert gap &gt; 0.1. It got gap = 0. AssertionError" in text
    assert html.index("failed-check") < html.index('id="obs-page-gap"')
    for what in ("0.1", "test_gap"):
        assert re.search(rf"{what}</span></code>.{{0,20}} \(fails in this build\)", html, re.S)


def test_finding_without_a_record_has_no_margin(page):
    html, _ = page(BOX + CELL + REFERENCE)
    assert "margin not measured" in html


@pytest.mark.parametrize(
    "text, tests, warning",
    [
        (BOX, "", "no assertion bears it, and no test is marked"),
        (CELL, "", 'an assertion bears "obs-page-gap": this page has no such box'),
        (BOX + CELL.replace("null: 0", "null: 1"), "", "is true at its null value 1"),
        (BOX.replace(":label: obs-page-gap\n", ""), "", "a finding without a label"),
        (BOX.replace("obs-page", "obs-other"), "", "is not obs-page-<name>"),
        ("Text.", f"import pytest\n@pytest.mark.claim({'obs-a-b'!r})\ndef test_a(): pass\n",
         "no page states that"),
    ],
)  # fmt: skip
def test_build_refuses(page, text, tests, warning):
    assert warning in page(text, tests)[1]
