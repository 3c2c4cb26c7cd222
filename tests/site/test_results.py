"""The tables of long runs say what the records say, and "not run" where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nodes_book import results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path


def write(root: Path, name: str, content: object) -> None:
    (root / "results" / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["toys", "tabular", "matching"])
def test_nothing_recorded_is_not_run(root, name):
    head, *body = results.TABLES[name](root)
    assert body and all(len(row) == len(head) for row in body)
    assert any("not run" in row for row in body)
    assert not any(cell.startswith("0.") for row in body for cell in row)


def test_toys_are_means_over_seeds(root):
    row = {"dataset": "moons", "model": "maf", "cpu_seconds": 12.3}
    write(root, "density.json", {"rows": [{**row, "excess": x} for x in (0.1, 0.2, 0.3)]})
    head, *body = results.toys(root)
    (maf,) = [line for line in body if line[0] == "MAF"]
    assert maf[head.index("moons")] == "0.200 ± 0.100 (3)"
    assert maf[head.index("circles")] == "not run"
    assert maf[-1] == "12"


def test_tabular_stands_beside_the_published_number(root):
    write(root, "density.json", {"rows": [{"dataset": "power", "model": "cnf", "nll": -0.4567}]})
    (cnf,) = [line for line in results.tabular(root) if line[0].startswith("CNF")]
    assert cnf[1:] == ["−0.46 ± 0.01", "−0.46 (1)", "10.43 ± 0.04", "not run"]


def test_matching_has_a_line_for_each_method(root):
    row = {"dataset": "moons", "model": "CFM", "cpu_seconds": 20.0, "steps": 1000, "nfe": 50}
    row |= {"straightness": 1.0, "w2_euler": {"1": 2.0}, "w2": 0.3, "w2_truth": 0.2}
    write(root, "matching.json", {"rows": [{**row, "excess": x} for x in (0.1, 0.2)]})
    head, cfm, ot, _ = results.matching(root)
    assert cfm[:7] == ["moons", "CFM", "2", "20", "1,000", "0.150 ± 0.071", "50"]
    assert ot[:3] == ["moons", "OT-CFM", "not run"]
    assert len(head) == len(cfm) == len(ot)


def test_every_record_of_the_book_is_listed():
    listed = {row[0] for row in results.runs(ROOT)[1:]}
    assert listed == {path.name for path in (ROOT / "results").glob("*.json")}


def test_rows_made_alike_are_one_line(root):
    entry = {"command": "python run.py", "date": "2026-01-01", "device": "CPU", "torch": "2"}
    entry |= {"commit": "0123456789", "package_changed_since": True}
    write(root, "a.json", {"rows": [entry, entry]})
    write(root, "b.json", {**entry, "package_changed_since": False, "rows": []})
    _, first, second = results.runs(root)
    assert first[-1] == "0123456, code changed since"
    assert second == ["b.json", "python run.py", "2026-01-01", "CPU", "2", "0123456"]
