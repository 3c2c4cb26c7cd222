"""The long run of learned images: resumed, recorded, refused, and its claim."""

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import distill
from nodes_tutorial.experiments.__main__ import app

RECORD = Path(__file__).resolve().parents[2] / "results" / "distill.json"


def load():
    """Ten classes of noisy bars in place of MNIST."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(10, 20, generator=generator, dtype=torch.float64)
    parts = []
    for count in (300, 100):
        labels = torch.arange(count) % 10
        noise = torch.randn(count, 20, generator=generator, dtype=torch.float64)
        parts.append(((centers[labels] + 0.3 * noise).clamp(0, 1), labels))
    return tuple(parts)


def invoke(*arguments):
    return CliRunner().invoke(app, ["distill", *arguments, "--threads", "0"])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(distill, "load", load)


def test_images_learn_and_a_killed_run_goes_on(small, tmp_path, monkeypatch):
    run = distill.Run(steps=30, batch=100, rate=0.05)
    row, whole = distill.execute(run)
    assert row["learned"] > row["one"] and whole.min() >= 0 and whole.max() <= 1
    path, fit = str(tmp_path / "run.pt"), distill.fit

    class Cut(Exception):
        pass

    def dies(step, **how):
        def some(i):
            if i == 17:
                raise Cut
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(distill, "fit", dies)
    with pytest.raises(Cut):
        distill.execute(run, checkpoint=path, every=5)
    monkeypatch.setattr(distill, "fit", fit)
    _, resumed = distill.execute(run, checkpoint=path, every=5)
    assert torch.equal(whole, resumed)


def test_command_adds_rows_and_refuses(small, tmp_path):
    out = tmp_path / "distill.json"
    for start in distill.STARTS:
        found = invoke(
            "--start", start, "--steps", "2", "--batch", "50", "--seeds", "0,1", "--out", str(out)
        )
        assert found.exit_code == 0, found.output
    rows = json.loads(out.read_text())["rows"]
    assert [(row["start"], row["seed"]) for row in rows] == [
        ("means", 0), ("means", 1), ("noise", 0), ("noise", 1),
    ]  # fmt: skip
    for wrong in (("--start", "zeros"), ("--batch", "301"), ("--steps", "0")):
        refused = invoke(*wrong, "--out", str(out))
        assert refused.exit_code == 1 and "must be" in refused.output


@pytest.mark.claim("obs-hyperparameters-mnist")
def test_ten_learned_images_of_mnist():
    """Three runs from the means; spreads are below 0.01, so that three of them are excluded."""
    rows = [row for row in json.loads(RECORD.read_text())["rows"] if row["start"] == "means"]
    assert len(rows) == 3 and {row["steps"] for row in rows} == {200}
    learned = fmean(row["learned"] for row in rows)
    assert learned - fmean(row["means"] for row in rows) > 0.08  # null: 0
    assert learned - fmean(row["nearest_mean"] for row in rows) > 0.06  # null: 0
    assert learned - max(row["one"] for row in rows) > 0.2  # null: 0
