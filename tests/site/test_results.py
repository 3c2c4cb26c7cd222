"""The tables of long runs say what the records say, and "not run" where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nodes_book import tables
from nodes_book.grouped import GROUPED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path


def write(root: Path, name: str, content: object) -> None:
    (root / "results" / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    [
        "toys",
        "tabular",
        "matching",
        "images",
        "classifiers",
        "latent",
        "known_unknowns",
        "meta_learning",
        "few_shot",
        *GROUPED,
        "stability",
        "speed",
        "gpu",
        "robust",
        "thin",
    ],
)
def test_nothing_recorded_is_not_run(root, name):
    head, *body = tables.TABLES[name](root)
    assert body and all(len(row) == len(head) for row in body)
    assert any("not run" in row for row in body)
    assert not any(cell.startswith("0.") for row in body for cell in row)


def test_toys_are_means_over_seeds(root):
    row = {"dataset": "moons", "model": "maf", "cpu_seconds": 12.3}
    write(root, "density.json", {"rows": [{**row, "excess": x} for x in (0.1, 0.2, 0.3)]})
    head, *body = tables.toys(root)
    (maf,) = [line for line in body if line[0] == "MAF"]
    assert maf[head.index("moons")] == "0.200 ±\N{NO-BREAK SPACE}0.100 (3)"
    assert maf[head.index("circles")] == "not run"
    assert maf[-1] == "12"


def test_tabular_stands_beside_the_published_number(root):
    write(root, "density.json", {"rows": [{"dataset": "power", "model": "cnf", "nll": -0.4567}]})
    (cnf,) = [line for line in tables.tabular(root) if line[0].startswith("CNF")]
    assert cnf[1:] == ["−0.46 ± 0.01", "−0.46 (1)", "10.43 ± 0.04", "not run"]


def test_matching_has_a_line_for_each_method(root):
    row = {"dataset": "moons", "model": "CFM", "cpu_seconds": 20.0, "steps": 1000, "nfe": 50}
    row |= {"straightness": 1.0, "w2_euler": {"1": 2.0}, "w2": 0.3, "w2_truth": 0.2}
    write(root, "matching.json", {"rows": [{**row, "excess": x} for x in (0.1, 0.2)]})
    head, cfm, ot, _ = tables.matching(root)
    assert cfm[:7] == ["moons", "CFM", "2", "20", "1,000", "0.150 ±\N{NO-BREAK SPACE}0.071", "50"]
    assert ot[:3] == ["moons", "OT-CFM", "not run"]
    assert len(head) == len(cfm) == len(ot)


def test_latent_has_the_published_line_above_ours(root):
    row = {"dataset": "periodic-code", "model": "rnn-dt", "parameters": 6101, "cpu_seconds": 13.5}
    errors = {f"{task} {f:g}": 0.25 for task in ("interpolate", "extrapolate") for f in
              (0.1, 0.2, 0.3, 0.5)}  # fmt: skip
    found = [{**row, **errors, "interpolate 0.1": x} for x in (0.1, 0.2)]
    write(root, "latent.json", {"rows": found})
    head, published, ours, *rest = tables.latent(root)
    assert published[2:5] == ["RNN-Δt, published", ".0608", ".0468"]
    assert ours[2:] == [
        "RNN-Δt",
        "0.1500 ±\N{NO-BREAK SPACE}0.0707",
        *["0.2500 ±\N{NO-BREAK SPACE}0.0000"] * 3,
        "2",
        "6,101",
        "14",
    ]
    assert all(len(line) == len(head) for line in rest)
    assert sum("not run" in line for line in rest) == 8


def test_images_stand_below_the_published_numbers(root):
    row = {"dataset": "mnist10k", "bits_per_dim": 1.25, "bits_training_images": 1.2}
    row |= {"train_images": 9000, "parameters": 123456, "cpu_seconds": 250.4}
    write(root, "images.json", {"rows": [row]})
    head, *published, whole, ours, digits = tables.images(root)
    assert [line[3] for line in published] == ["1.06", "1.05"]
    assert ours[1:] == ["9,000", "Glow", "1.250 (1)", "1.200 (1)", "123,456", "250"]
    assert digits[3] == whole[3] == "not run" and len(digits) == len(head) == len(ours)


def test_classifiers_have_a_line_for_each_number_of_epochs(root):
    row = {"dataset": "mnist", "network": "stem only", "epochs": 4, "parameters": 8650}
    row |= {"test_images": 10_000, "cpu_seconds": 50.0}
    found = [{**row, "wrong": n} for n in (100, 120)] + [{**row, "epochs": 16, "wrong": 50}]
    write(root, "odenet_mnist.json", {"rows": found})
    head, *published, four, sixteen = tables.classifiers(root)
    assert [line[4] for line in published] == [".41", ".47", ".42"]
    assert four[2:] == ["4", "8,650", "1.10 ±\N{NO-BREAK SPACE}0.14 (2)", "50"]
    assert sixteen[2:] == ["16", "8,650", "0.50 (1)", "50"]
    assert {len(line) for line in (*published, four)} == {len(head)}


def test_meta_learning_stands_below_the_published_numbers(root):
    row = {"method": "imaml", "width": 16, "rate": 0.01, "steps": 120, "cpu_seconds": 60.4}
    found = [{**row, "curve": [{"accuracy": 0.1}, {"accuracy": a}]} for a in (0.58, 0.6)]
    write(root, "imaml.json", {"rows": found})
    _, *published, ours = tables.meta_learning(root)
    assert [line[4] for line in published] == ["98.7 ± 0.4", "99.16 ± 0.35", "99.50 ± 0.26"]
    accuracy = "59.0 ±\N{NO-BREAK SPACE}1.4 (2)"
    assert ours == ["iMAML", "16", "0.01", "120", accuracy, "60"]


def test_prototypes_stand_beside_the_published_numbers(root):
    test = {"data": "held out", "ways": 20, "shots": 1, "pixels": 0.26}
    row = {"part": "full", "episodes": 3000}
    found = [{**row, "tests": [test | {"accuracy": a}]} for a in (0.9, 0.92)]
    write(root, "few_shot.json", {"rows": found})
    _, line = tables.TABLES["few_shot"](root)
    assert line[1:4] == ["3,000", "held out", "20, 1"]
    assert line[4:] == ["91.0 ±\N{NO-BREAK SPACE}1.4 (2)", "26.0", "96.0"]


def test_groups_have_means_and_spreads(root):
    row = {"method": "bbb", "nll": 0.1, "ece": 0.02, "auroc": 0.9, "cpu_seconds": 20.4}
    found = [{**row, "error": error, "temperature": 0.7} for error in (0.03, 0.05)]
    write(root, "unsure.json", {"rows": [*found, {**row, "method": "linear", "error": 0.1}]})
    head, bbb, linear = tables.TABLES["unsure"](root)
    assert bbb[:3] == ["bbb", "2", "4.00 ±\N{NO-BREAK SPACE}1.41"] and bbb[-1] == "20"
    assert linear[:3] == ["linear", "1", "10.00"] and linear[head.index("temperature")] == ""


@pytest.mark.parametrize("name", GROUPED)
def test_a_column_of_the_records_is_there(name):
    _, *body = tables.TABLES[name](ROOT)
    assert all(cell for row in body for cell in row)


def test_every_record_of_the_book_is_listed():
    listed = {row[0] for row in tables.runs(ROOT)[1:]}
    unlisted = {"published", "robust"}  # one is by hand, the other has tables of its own
    assert listed == {path.stem for path in (ROOT / "results").glob("*.json")} - unlisted


def test_rows_made_alike_are_one_line(root):
    entry = {"command": "python run.py", "date": "2026-01-01", "device": "CPU", "torch": "2"}
    entry |= {"commit": "0123456789", "package_changed_since": True}
    write(root, "a.json", {"rows": [entry, entry]})
    write(root, "b.json", {**entry, "package_changed_since": False, "rows": []})
    _, first, second = tables.runs(root)
    assert first[-1] == "0123456*"
    assert second == ["b", "python run.py", "2026-01-01", "CPU", "2", "0123456"]


def test_known_unknowns_names_the_parameters(root):
    row = {"system": "cvs", "model": "goku", "mse_seen": 0.1, "mse_later": 0.2, "l1_later": 0.3}
    row |= {"corr_i": 0.9, "corr_r": 0.8, "error_i": 0.2, "error_r": 0.1, "right_i": 1.0}
    row |= {"right_r": 0.5, "corr_state": -0.7, "cpu_seconds": 12.4}
    write(root, "goku.json", {"rows": [row, {**row, "corr_state": 0.9}]})
    head, *body = tables.known_unknowns(root)
    (line,) = [one for one in body if one[:2] == ["cvs", "GOKU-net"]]
    assert line[2] == "2" and line[head.index("state")] == "0.800"
    assert line[head.index("correlation")] == "i 0.900, r 0.800"
    assert line[head.index("right")] == "i 1.00, r 0.50"
    assert ["friction", "LSTM", "not run"] in [one[:3] for one in body]


def test_stability_has_a_column_for_each_depth(root):
    row = {"dataset": "peaks", "model": "verlet", "seed": 0, "cpu_seconds": 1.5}
    found = [{**row, "layers": n, "valid_accuracy": 0.5, "iterations": n} for n in (4, 8)]
    write(root, "stability.json", {"rows": found})
    _, *body = tables.stability(root)
    (line,) = [one for one in body if one[:2] == ["peaks", "verlet"]]
    assert line[3:6] == ["0.500 (4)", "0.500 (8)", ""] and line[-1] == "3"


def test_a_gpu_has_times_and_errors(root):
    line = {"problem": "a", "contender": "ours", "ms": 1.234, "error": float("nan")}
    write(root, "speed_cuda.json", {"errors": [line, {**line, "error": 2e-5}]})
    assert tables.gpu(root)[1:] == [["a", "ours", "1.23", ""], ["a", "ours", "1.23", "2e-05"]]


@pytest.mark.parametrize("part", tables.SPEED)
def test_a_record_of_speed_says_itself_which_goals_are_missed(part):
    record = json.loads((ROOT / "results" / f"speed_{part}.json").read_text(encoding="utf-8"))
    for goal in record["goals"]:
        bound = float(goal["gate"][2:])
        over = goal["measured"] >= bound
        assert goal["holds"] == (over if goal["gate"][:2] == ">=" else goal["measured"] <= bound)
    assert all(line["error"] != 0 for line in record["errors"] if line["contender"] == "ours")


def test_quantities_of_single_examples_are_as_exact_as_the_peers_are():
    record = json.loads((ROOT / "results" / "speed_pernet.json").read_text(encoding="utf-8"))
    errors = {(line["problem"], line["contender"]): line["error"] for line in record["errors"]}
    problems = {problem for problem, _ in errors}
    assert len(problems) == 3 and any("BackPACK" in name for _, name in errors)
    for problem in problems:
        others = [
            error for (which, name), error in errors.items()
            if which == problem and name != "ours" and error == error  # the gradient has none
        ]  # fmt: skip
        assert 0 < errors[problem, "ours"] < 2 * min(others)


def test_missed_goals_are_shown(root):
    goals = [
        {"what": "a", "measured": 1.234, "gate": ">=1.2", "stretch": "", "holds": True},
        {"what": "b", "measured": 2.0, "gate": "<=1.75", "stretch": "1.5", "holds": False},
    ]
    write(root, "speed_ode.json", {"goals": goals})
    _, *body = tables.speed(root)
    assert body == [["a", "1.23", "≥ 1.2", "yes"], ["b", "2", "≤ 1.75", "no"]]
