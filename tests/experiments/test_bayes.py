"""The long runs about uncertainty: resumed, recorded, refused, and their claims."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data.uci import Table, random_splits
from nodes_tutorial.experiments import letters, tables, unsure
from nodes_tutorial.experiments.__main__ import app

RESULTS = Path(__file__).resolve().parents[2] / "results"


def small_table(name="yacht"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    return Table(x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(60, generator=generator))


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(tables, "uci", small_table)
    monkeypatch.setattr(tables, "EPOCHS", {"yacht": 8})


@pytest.fixture
def images(monkeypatch):
    """Ten kinds of noisy bars in place of digits, and pure noise in place of letters."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(10, 784, generator=generator)

    def part(count):
        labels = torch.arange(count) % 10
        return centers[labels] + 0.2 * torch.randn(count, 784, generator=generator), labels

    parts = letters.Images(*part(600), *part(100), *part(100), torch.rand(100, 784))
    monkeypatch.setattr(unsure, "data", lambda: parts)


class Cut(Exception):
    """A run that is killed."""


def dying(fit, at):
    def dies(step, **how):
        def some(i):
            if i == at:
                raise Cut
            return step(i)

        return fit(some, **how)

    return dies


@pytest.mark.parametrize("method", tables.METHODS)
def test_tables_learn_a_line(table, method):
    row = tables.execute(tables.Run(method=method, splits=3, draws=8, width=20))
    assert all(len(row[f"{name}_splits"]) == 3 for name in ("rmse", "log_lik", "inside_50"))
    assert row["rmse"] < (0.2 if method == "linear" else 2.2)  # the constant has about 2.3
    assert 0 <= row["inside_50"] <= row["inside_90"] <= 1
    assert (row["rate"] is None) == (method == "linear")


def test_a_killed_table_goes_on(table, tmp_path, monkeypatch):
    run, path = tables.Run(method="bbb", splits=2, draws=4), str(tmp_path / "run")
    whole = tables.execute(run)
    fit = tables.fit
    monkeypatch.setattr(tables, "fit", dying(fit, 5))
    with pytest.raises(Cut):
        tables.execute(run, checkpoint=path, every=2)
    monkeypatch.setattr(tables, "fit", fit)
    resumed = tables.execute(run, checkpoint=path, every=2)
    assert resumed["log_lik_splits"] == whole["log_lik_splits"]


def test_a_mixture_is_scored_by_its_moments_and_its_distribution():
    y = torch.tensor([[0.0, 1.0]])
    mean, variance = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]]]), torch.ones(2, 1, 2)
    scores = tables._scores(y, mean, variance)
    assert abs(float(scores["rmse"]) - 0.5**0.5) < 1e-6
    densities = torch.tensor([[0.39894, 0.05399], [0.39894, 0.39894]]).mean(1)
    assert abs(float(scores["log_lik"]) - float(densities.log().mean())) < 1e-4


def test_tables_command_writes_rows_and_refuses(table, tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["tables", "--datasets", "yacht", "--splits", "2", "--threads", "0"]
    done = CliRunner().invoke(app, [*arguments, "--methods", "linear", "--out", str(out)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())["rows"]
    assert row["method"] == "linear" and row["settings"]["splits"] == 2
    wrong = CliRunner().invoke(app, [*arguments, "--methods", "swag", "--out", str(out)])
    assert wrong.exit_code == 1 and "method must be one of" in wrong.output


@pytest.mark.parametrize("method", unsure.METHODS)
def test_images_are_learned_and_scored(images, method):
    row = unsure.execute(unsure.Run(method=method, width=20, batch=20, epochs=3, draws=4))
    assert row["error"] < 0.3 and row["nll"] < 1.5
    assert 0 <= row["ece"] <= 1 and row["temperature"] > 0
    assert row["nll_scaled"] < row["nll"] + 0.1


def test_killed_images_go_on(images, tmp_path, monkeypatch):
    run, path = unsure.Run(width=20, batch=20, epochs=1), str(tmp_path / "run")
    whole = unsure.execute(run)
    fit = unsure.fit
    monkeypatch.setattr(unsure, "fit", dying(fit, 7))
    with pytest.raises(Cut):
        unsure.execute(run, checkpoint=path, every=3)
    monkeypatch.setattr(unsure, "fit", fit)
    assert unsure.execute(run, checkpoint=path, every=3)["nll"] == whole["nll"]


def test_ink_is_matched_and_paper_stays_white():
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[..., :4, :] = 0
    for ink in (0.1, 0.4):
        found = letters.match_ink(images, ink)
        assert abs(float(found.mean()) - ink) < 1e-3
        assert (found[..., :4, :] == 0).all() and found.max() <= 1


def test_entropy_of_sure_and_of_even_forecasts():
    found = unsure.entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert torch.allclose(found, torch.tensor([0.0, 0.6931]), atol=1e-4)


def test_unsure_command_writes_rows_and_refuses(images, tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["unsure", "--width", "8", "--epochs", "1", "--threads", "0", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--methods", "linear", "--seeds", "0"])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["rows"][0]["seed"] == 0
    wrong = CliRunner().invoke(app, [*arguments, "--methods", "swag"])
    assert wrong.exit_code == 1 and "method must be one of" in wrong.output


def test_parts_of_a_table_are_orders():
    orders = random_splits(30, 4, 3, seed=1)
    assert torch.equal(orders.sort(-1).values, torch.arange(30).expand(4, 30))
    assert not torch.equal(orders[0], orders[1])


# --- the records ----------------------------------------------------------------------------------


def splits_of(dataset, name="log_lik"):
    rows = json.loads((RESULTS / "uci.json").read_text())["rows"]
    return {r["method"]: torch.tensor(r[f"{name}_splits"]) for r in rows if r["dataset"] == dataset}


@pytest.mark.claim("obs-networks-uci")
def test_record_of_tables_says_what_the_chapter_says():
    for dataset, ahead, gain in (("yacht", 20, 0.4), ("concrete", 18, 0.04)):
        found = splits_of(dataset)
        gap = found["ensemble"] - found["single"]
        assert len(gap) == 20 and int((gap > 0).sum()) >= ahead
        assert gap.mean() - 3 * gap.std() / 20**0.5 > gain
    energy = splits_of("energy")
    gap = energy["ensemble"] - energy["single"]
    assert gap.mean().abs() < gap.std() / 20**0.5  # no difference to speak of
    for dataset in ("yacht", "energy", "concrete"):
        found, inside = splits_of(dataset), splits_of(dataset, "inside_50")
        gap = found["ensemble"] - found["bbb"]
        assert gap.mean() - 3 * gap.std() / 20**0.5 > 0.1
        assert inside["bbb"].mean() - 0.5 > 3 * inside["bbb"].std() / 20**0.5


@pytest.mark.claim("obs-networks-mnist")
def test_record_of_digits_says_what_the_chapter_says():
    rows = json.loads((RESULTS / "unsure.json").read_text())["rows"]
    found = {method: {} for method in unsure.METHODS}
    for row in rows:
        found[row["method"]][row["seed"]] = row
        assert row["settings"]["epochs"] == 3 and row["settings"]["width"] == 100
    assert all(sorted(seeds) == [0, 1, 2] for seeds in found.values())

    def gap(one, other, name):
        values = [found[one][seed][name] - found[other][seed][name] for seed in range(3)]
        return torch.tensor(values, dtype=torch.float64)

    for one, other, name in (
        ("map", "ensemble", "nll"),
        ("ensemble", "map", "auroc"),
        ("bbb", "map", "nll"),
    ):
        assert gap(one, other, name).min() > 0
    heat = [row["temperature"] for row in found["bbb"].values()]
    assert max(heat) < 0.75
    for method, seeds in found.items():
        for row in seeds.values():
            assert (0.89 < row["auroc"] < 0.94) == (method != "linear")
