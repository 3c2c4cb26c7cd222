"""The long run of autoencoders: resumed, recorded, refused, and its claims."""

import itertools
import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data import shapes
from nodes_tutorial.experiments import beta_vae
from nodes_tutorial.experiments.__main__ import app

RECORD = Path(__file__).resolve().parents[2] / "results" / "beta_vae.json"
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)


def few(device=None):
    """Thirty-six small pictures in place of all."""
    return shapes.ellipses(8, (3, 3, 2, 2), device=device)


def invoke(*arguments):
    return CliRunner().invoke(app, ["beta-vae", *arguments, "--threads", "0"])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(beta_vae, "ellipses", few)


def test_models_learn_and_a_killed_run_goes_on(small, tmp_path, monkeypatch):
    run = beta_vae.Run(seeds=(0, 1), steps=60, width=16, batch=16)
    rows, whole = beta_vae.execute(run)
    untrained = beta_vae.build((0, 1), 1.0, 16, 6, 64)
    before = beta_vae.measure(untrained, few()[0].flatten(1), few()[1])
    for new, old in zip(rows, before, strict=True):
        assert new["distortion"] < 0.7 * old["distortion"]
        assert abs(sum(new["rates"]) - new["rate"]) < 1e-2
        assert set(new["gaps"]) == set(shapes.FACTORS) and 0 <= new["mig"] <= 1
    path, fit = str(tmp_path / "run.pt"), beta_vae.fit

    class Cut(Exception):
        pass

    def dies(step, **how):
        def some(i):
            if i == 37:
                raise Cut
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(beta_vae, "fit", dies)
    with pytest.raises(Cut):
        beta_vae.execute(run, checkpoint=path, every=10)
    monkeypatch.setattr(beta_vae, "fit", fit)
    _, resumed = beta_vae.execute(run, checkpoint=path, every=10)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_command_adds_rows_and_refuses(small, tmp_path):
    out = tmp_path / "beta_vae.json"
    arguments = ("--steps", "2", "--width", "8", "--out", str(out))
    found = invoke("--betas", "1,4", "--seeds", "0,3", *arguments)
    assert found.exit_code == 0, found.output
    rows = json.loads(out.read_text())["rows"]
    assert [(r["beta"], r["seed"]) for r in rows] == [(1.0, 0), (1.0, 3), (4.0, 0), (4.0, 3)]
    for wrong in (("--betas", "0"), ("--steps", "0"), ("--betas", "one"), ("--seeds", "x")):
        refused = invoke(*wrong, "--out", str(out))
        assert refused.exit_code == 1 and "must be" in refused.output


def column(name):
    """The numbers of the record, by beta; ten seeds of each."""
    rows = json.loads(RECORD.read_text())["rows"]
    found = {beta: [r[name] for r in rows if r["beta"] == beta] for beta in BETAS}
    assert {len(values) for values in found.values()} == {10}
    assert all(r["steps"] == 3000 for r in rows)
    return found


@pytest.mark.claim("obs-vae-curve")
def test_rate_falls_and_distortion_rises_along_beta():
    """Three standard errors of a difference of means are at most .44 nats of rate, 2.1 of D."""
    rate, distortion = column("rate"), column("distortion")
    for low, high in itertools.pairwise(BETAS):
        assert fmean(rate[low]) - fmean(rate[high]) > 0.45  # null: 0
        assert fmean(distortion[high]) - fmean(distortion[low]) > 2.2  # null: 0
    assert [round(fmean(rate[b]), 2) for b in BETAS] == [5.5, 3.73, 2.02, 0.67, 0.0]


@pytest.mark.claim("obs-vae-mig")
def test_gap_falls_from_beta_two_to_four():
    """The standard error of the difference is .033: the bound is three of them below .171."""
    mig = column("mig")
    assert fmean(mig[2.0]) - fmean(mig[4.0]) > 0.07  # null: 0


@pytest.mark.claim("obs-vae-seeds")
def test_seeds_of_one_beta_differ_widely():
    mig = column("mig")[1.0]
    assert max(mig) - min(mig) > 0.3  # null: 0


@pytest.mark.claim("obs-vae-collapse")
def test_nothing_is_coded_at_beta_sixteen():
    rate = column("rate")
    assert max(rate[16.0]) < 0.001  # null: 0.67, the mean at beta 8
    assert min(rate[8.0]) > 0.3  # null: 0
