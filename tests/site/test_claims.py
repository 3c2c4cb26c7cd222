"""The extension refuses statements without a test and marks without a statement."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from nodes_book.marks import claim_tests
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

THEOREM = "```{{prf:{kind}}} Title\n{option}\nIt holds.\n```\n"


def marked(*labels: str) -> str:
    """The mark as a test has it; not spelt out here, where a search for marks would find it."""
    return f"pytest.mark.claim({', '.join(map(repr, labels))})"


MARKED = f"import pytest\n\n\n@{marked('thm-a')}\ndef test_a():\n    pass\n"


@pytest.fixture
def warnings(tmp_path: Path):
    """Build a page and tests; return what Sphinx warns of."""

    def build(page: str, tests: str) -> str:
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_a.py").write_text(tests)
        (tmp_path / "index.md").write_text(f"# Page\n\n{page}")
        said = io.StringIO()
        settings = {
            "extensions": ["myst_parser", "sphinx_proof", "nodes_book.claims"],
            "root_doc": "index",
            "source_suffix": {".md": "markdown"},
            "html_theme_options": {"repository_url": "https://github.com/o/r"},
            "exclude_patterns": ["out"],
            "suppress_warnings": ["ref.doc"],
        }
        with docutils_namespace():
            app = Sphinx(
                str(tmp_path),
                None,
                str(tmp_path / "out"),
                str(tmp_path / "out"),
                "dummy",
                confoverrides=settings,
                status=None,
                warning=said,
            )
            app.build()
        return said.getvalue()

    return build


def test_statement_with_its_test_is_accepted(warnings):
    said = warnings(THEOREM.format(kind="theorem", option=":label: thm-a"), MARKED)
    assert "claim" not in said and "label" not in said


@pytest.mark.parametrize("kind", ["theorem", "proposition", "lemma", "corollary"])
def test_statement_without_a_test_is_refused(warnings, kind):
    said = warnings(THEOREM.format(kind=kind, option=":label: thm-b"), "")
    assert 'no test is marked claim("thm-b")' in said


def test_statement_without_a_label_is_refused(warnings):
    assert "a theorem without a label" in warnings(THEOREM.format(kind="theorem", option=""), "")


def test_mark_without_a_statement_is_refused(warnings):
    assert 'marked claim("thm-a"): no page states that' in warnings("Text.", MARKED)


def test_marks_are_found_wherever_pytest_finds_them(tmp_path):
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "deep" / "test_b.py").write_text(
        "import pytest\n"
        f"pytestmark = [pytest.mark.slow, {marked('one')}]\n"
        f"@{marked('two', 'three')}\n"
        "class TestB:\n"
        '    @pytest.mark.parametrize("x", [1])\n'
        f"    @{marked('four')}\n"
        "    def test_c(self, x): pass\n"
        "def helper(): pass\n"
        "def test_d(): pass\n"
    )
    found = claim_tests(tmp_path)
    assert {label: [test.name for test in tests] for label, tests in found.items()} == {
        "one": ["TestB::test_c", "test_d"],
        "two": ["TestB::test_c"],
        "three": ["TestB::test_c"],
        "four": ["TestB::test_c"],
    }
    assert found["four"][0].node == "tests/deep/test_b.py::TestB::test_c"
