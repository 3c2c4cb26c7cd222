"""A notebook runs to its end, also after a failed check, and what failed is told."""

from __future__ import annotations

import json
import re
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import execution, failures, pytest_book, store
from tools.project import ROOT, chapters


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A notebook with a failed cell of each kind, executed."""
    cells = [
        new_markdown_cell("Text."),
        new_code_cell("gap, names = 0.25, [1, 2]"),
        new_code_cell('assert 0.5 < gap * 2 - 0.25 < 1, "obs-a-b"  # null: 0'),
        new_code_cell("def check(x):\n    # a comment\n    assert x > 3, 'small'\n\ncheck(gap)"),
        new_code_cell("assert all(n > 1 for n in names)"),
        new_code_cell("missing + 1"),
        new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
        new_code_cell("print('to the end')"),
    ]
    path = tmp_path_factory.mktemp("run") / "a b.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return execution.run(path, 60)


def test_cells_after_a_failed_one_run(ran):
    notebook, _ = ran
    assert notebook.cells[-1].outputs[0].text == "to the end\n"


def test_failures_say_what_was_checked_and_what_it_got(ran):
    _, found = ran
    lines = [failures.line(failure) for failure in found]
    assert lines[0] == (
        "code cell 2: assert 0.5 < gap * 2 - 0.25 < 1: got gap * 2 - 0.25 = 0.25: "
        "AssertionError: obs-a-b"
    )
    assert lines[1] == "code cell 3: assert x > 3: got x = 0.25: AssertionError: small"
    assert lines[2].startswith("code cell 4: assert all(")
    assert "got names = [1, 2]" in lines[2]
    assert lines[3] == "code cell 5: missing + 1: NameError: name 'missing' is not defined"
    assert lines[4] == "code cell 6: 1 / 0: ZeroDivisionError: division by zero"
    assert len(lines) == 5, "no tag of a cell excuses its error"


def test_no_notebook_announces_an_error():
    """Other tools that execute notebooks let a cell with this tag fail."""
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert "raises-exception" not in cell.metadata.get("tags", []), path


def test_endless_cell_is_told(tmp_path):
    path = tmp_path / "a.ipynb"
    cells = [new_code_cell("print('before')"), new_code_cell("while True: pass")]
    nbformat.write(new_notebook(cells=cells), path)
    notebook, (failure,) = execution.run(path, 3)
    assert notebook.cells[0].outputs[0].text == "before\n"
    assert failure["cell"] == 2 and failure["error"].startswith("CellTimeoutError")


@pytest.mark.parametrize("ci, timeout", [("true", 300), ("", 1200)])
def test_budgets_hold_in_ci_only(monkeypatch, ci, timeout):
    monkeypatch.setenv("CI", ci)
    assert execution.budgets_hold() == bool(ci) and execution.cell_timeout() == timeout
    command = ["make", "-n", "-o", "_build/html/.stamp", "-o", ".venv/.stamp", "test"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"--nbmake-timeout={timeout} " in said


def test_ci_is_set_where_all_is_checked():
    assert re.search(r"^export CI=", (ROOT / ".ci" / "run").read_text(), re.M)


@pytest.mark.parametrize(
    "seconds, slowness, mib, limit",
    [(59, 1.0, 100, ""), (61, 1.0, 100, "60 s"), (100, 2.0, 100, ""), (9, 1.0, 3000, "2048 MiB")],
)
def test_budgets_allow_for_a_slow_machine(pytestconfig, seconds, slowness, mib, limit):
    cost = {"seconds": seconds, "cpu_seconds": seconds, "slowness": slowness, "peak_mib": mib}
    found = pytest_book._exceeded(cost, pytestconfig)
    assert found.startswith(limit) and bool(found) == bool(limit)


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """An empty store."""
    monkeypatch.setattr(store, "STORE", tmp_path / "executed")
    monkeypatch.setattr(failures, "LIST", tmp_path / "failures.json")
    monkeypatch.setattr(failures, "FAILED_CLAIMS", tmp_path / "claims_failed.json")
    return tmp_path


FAILURE = {"cell": 2, "check": "assert x > 3", "got": "x = 1", "error": "AssertionError: obs-a-b"}


def test_failed_execution_is_kept_and_not_valid(stored):
    chapter = chapters()[0]
    cost = {"seconds": 1.0, "peak_mib": 10}
    store.save(chapter, new_notebook(), cost, store.key(chapter), [FAILURE])
    assert store.fresh(chapter) is None
    assert store.current(chapter)["failures"] == [FAILURE]
    store.save(chapter, new_notebook(), cost, store.key(chapter))
    assert store.fresh(chapter) == store.current(chapter)
    store.fail(chapter, "70 s; 60 s are allowed")
    assert store.fresh(chapter) is None
    store.save(chapter, new_notebook(), cost, "the key of other code")
    assert store.current(chapter) is None


def test_list_at_the_end_names_every_failure(stored, monkeypatch, capsys):
    first, second, third = chapters()[:3]
    monkeypatch.setattr(failures, "chapters", lambda: (first, second, third))
    cost = {"seconds": 1.0, "peak_mib": 10}
    store.save(first, new_notebook(), cost, store.key(first), [FAILURE])
    store.save(second, new_notebook(), cost, store.key(second))
    failures.FAILED_CLAIMS.write_text(json.dumps({"tests/test_a.py::test_b": "assert 1 < 0"}))
    failures.collect()
    assert failures.main() == 1
    said = capsys.readouterr().out
    assert f"{first.docname}.md, code cell 2: assert x > 3: got x = 1" in said
    assert second.docname not in said
    assert f"{third.docname}.md, was not executed" in said
    assert "tests/test_a.py::test_b: assert 1 < 0" in said


def test_nothing_failed(stored, monkeypatch, capsys):
    monkeypatch.setattr(failures, "chapters", lambda: ())
    failures.collect()
    assert failures.main() == 0 and capsys.readouterr().out == ""
