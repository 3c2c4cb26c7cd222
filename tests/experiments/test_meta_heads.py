"""The table of heads on frozen features: rows of every kind, scores by hand, no row made twice."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import meta, meta_rows, meta_scores
from nodes_tutorial.experiments.__main__ import app

SMALL = {"updates": 2, "tasks": 2, "validation_tasks": 2, "test_tasks": 3, "test_draws": 3}


@pytest.fixture
def features(monkeypatch):
    """Clusters of eight numbers, in place of features of drawings."""

    def some(classes, seed):
        rng = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, 1, 8, generator=rng)
        rows = centres + 0.1 * torch.randn(classes, 20, 8, generator=rng)
        return rows.view(-1, 8, 1, 1), torch.arange(classes).repeat_interleave(20)

    parts = meta.Features(some(12, 0), some(11, 1), some(11, 2))
    monkeypatch.setattr(meta, "features", lambda seed: parts)
    return parts


@pytest.mark.parametrize("row", meta_rows.ROWS)
@pytest.mark.usefixtures("features")
def test_every_row_is_made_and_can_be_made_again(row):
    run = meta.Run(row=row, gamma=0.01, further=row in ("gaussian", "cnf"), **SMALL)
    found = meta.execute(run)
    assert [r["row"] for r in found] == [row, f"{row}_ada"][: 1 + run.further]
    again = meta.execute(run)
    times = ("cpu_seconds", "wall_seconds")
    for one, other in zip(found, again, strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {
            k: v for k, v in other.items() if k not in times
        }
        assert 0 <= one["ece"] <= 1 and one["nll"] <= one["nll_losses"] + 1e-4
        assert one["settings"]["test_tasks"] == 3 and one["setting"] in one["validation"]
    if row in ("prototypes", "linear", "dkt"):
        assert found[0]["accuracy"] > 0.9 and found[0]["auroc_distance"] > 0.9
    if row == "none":
        assert found[0]["nll"] == pytest.approx(1.60944) and found[0]["auroc_entropy"] == 0.5


def test_scores_by_hand():
    given = meta_scores.Episodes(
        torch.eye(2)[None],
        torch.tensor([[0, 1]]),
        torch.eye(2)[None],
        torch.tensor([[0, 1]]),
        torch.full((1, 2, 2), 5.0),
    )
    given = meta_scores.Episodes(*(torch.cat([part, part]) for part in given))  # two equal tasks
    logits = torch.tensor([[[[2.0, 0.0], [0.0, 1.0]]], [[[2.0, 0.0], [3.0, 0.0]]]])

    def predict(x, y, q):
        assert q.shape == (2, 4, 2)
        return torch.cat([logits, torch.zeros(2, 1, 2, 2)], 2).repeat(1, 2, 1, 1)

    said = meta_scores.ask(predict, given)
    probs = logits.softmax(-1).mean(0)
    assert torch.allclose(said.seen, probs.repeat(2, 1, 1))
    sure = -(probs * probs.log()).sum(-1)
    each = logits.softmax(-1)
    each = -(each * each.log()).sum(-1).mean(0)
    assert torch.allclose(said.seen_information[:1], sure - each, atol=1e-6)
    assert said.seen_information[0, 0] < 1e-6 < 0.1 < said.seen_information[0, 1]
    found = meta_scores.scores(said, given, torch.tensor(1.0))
    assert found["accuracy"] == 0.5 and found["nll"] == found["nll_scaled"]
    assert found["nll"] == pytest.approx(-probs[0, [0, 1], [0, 1]].log().mean().item(), abs=1e-4)
    assert found["auroc_entropy"] == 1 and found["auroc_distance"] == 1
    hot = meta_scores.scores(said, given, torch.tensor(2.0))
    assert hot["nll"] == found["nll"] and hot["nll_scaled"] != found["nll_scaled"]


@pytest.mark.usefixtures("features")
def test_command_makes_no_row_twice(tmp_path, monkeypatch):
    out = tmp_path / "meta.json"
    sizes = ["--updates", "2", "--tasks", "2", "--test-tasks", "3", "--threads", "0"]
    asked = ["meta", "--rows", "prototypes,gaussian", "--gammas", "0,0.01", "--shots", "1"]
    done = CliRunner().invoke(app, [*asked, *sizes, "--further", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    names = [(row["row"], row["gamma"]) for row in rows]
    assert len(names) == len(set(names)) == 8
    monkeypatch.setattr(meta, "execute", lambda run: pytest.fail("made twice"))
    again = CliRunner().invoke(app, [*asked, *sizes, "--further", "--out", str(out)])
    assert again.exit_code == 0 and json.loads(out.read_text())["rows"] == rows


@pytest.mark.usefixtures("features")
def test_unknown_row_is_named():
    with pytest.raises(ValueError, match="row must be one of none, prototypes"):
        meta.execute(meta.Run(row="magic"))


def recorded(row, name, gamma=0.0, shots=1):
    """By seed, a number of the rows of the book's record."""
    path = Path(__file__).parents[2] / "results" / "meta.json"
    rows = json.loads(path.read_text())["rows"]
    mine = [r for r in rows if (r["row"], r["shots"], r["gamma"]) == (row, shots, gamma)]
    assert [r["seed"] for r in mine] == list(range(len(mine))) and len(mine) >= 3
    return torch.tensor([r[name] for r in mine], dtype=torch.float64)


@pytest.mark.claim("obs-bayesian-hypermaml-unseen")
def test_distance_tells_more_than_the_weights():
    distance = recorded("prototypes", "auroc_distance")
    assert (distance - distance.std() * 3).min() > 0.7  # null: the information below
    for gamma in (0.0, 0.01):
        for name in ("auroc_information", "auroc_entropy"):
            found = recorded("gaussian", name, gamma)
            gap = distance - found
            assert found.max() < 0.66 and gap.mean() - 3 * gap.std() > 0.05  # null: 0


@pytest.mark.claim("obs-bayesian-hypermaml-linear")
def test_a_linear_head_has_the_smaller_loss():
    linear = recorded("linear", "nll")
    assert (recorded("none", "nll") - linear).min() > 0.5
    for row, gamma in (("hypermaml", 0.0), ("gaussian", 0.0), ("gaussian", 0.01)):
        gap = recorded(row, "nll", gamma) - linear
        assert gap.mean() - 3 * gap.std() > 0.03  # null: 0
    gap = recorded("hypermaml", "nll_scaled") - linear
    assert gap.abs().max() < 0.04


@pytest.mark.claim("obs-bayesian-hypermaml-gamma")
def test_the_divergence_mends_calibration():
    without, having = (recorded("gaussian", "ece", gamma) for gamma in (0.0, 0.01))
    assert (without / having).min() > 3  # null: 1
    lost = recorded("gaussian", "accuracy") - recorded("gaussian", "accuracy", 0.01)
    assert lost.abs().max() < 0.02
    scaled = recorded("gaussian", "nll_scaled", 0.01) - recorded("gaussian", "nll_scaled")
    assert scaled.min() > 0.05


@pytest.mark.claim("obs-bayesian-hypermaml-sweep")
def test_a_weight_can_be_too_large():
    none, small, large = (recorded("gaussian", "ece", gamma, 5) for gamma in (0.0, 0.001, 0.1))
    assert small.max() < 0.015 and none.min() > 0.05 and large.min() > 0.25
    assert (large - small).mean() - 3 * (large - small).std() > 0.1  # null: 0
    assert (none - small).mean() - 3 * (none - small).std() > 0.01  # null: 0
    accuracies = [recorded("gaussian", "accuracy", gamma, 5) for gamma in (0.001, 0.1)]
    lost = accuracies[0] - accuracies[1]
    assert lost.mean().item() == pytest.approx(0.037, abs=6e-4)
    assert lost.mean() - 3 * lost.std() > 0.01  # null: 0
