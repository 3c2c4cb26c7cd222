"""The long run of logistic factors: measured, resumed, recorded, refused, and its claim."""

import json
import math
from pathlib import Path
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import logistic
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.nets import MLP

RECORD = Path(__file__).resolve().parents[2] / "results" / "logistic.json"


def load(images, test_images):
    """Rows of a model with two factors in place of MNIST, where fewer pixels are enough."""
    generator = torch.Generator().manual_seed(0)
    weight = 2 * torch.randn(2, logistic.PIXELS, generator=generator)
    parts = []
    for count in (images, min(test_images, 30)):
        p = (torch.randn(count, 2, generator=generator) @ weight).sigmoid()
        parts.append((torch.rand(p.shape, generator=generator) < p).float())
    return tuple(parts)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(logistic, "PIXELS", 20)
    monkeypatch.setattr(logistic, "load", load)


def run(method="vcd", **change):
    settings = {"factors": 2, "hidden": 8, "images": 40, "steps": 6, "batch": 10}
    settings |= {"moves": 2, "test_images": 30, "test_draws": 100}
    return logistic.Run(method=method, **(settings | change))


def test_likelihood_of_a_model_that_is_known(small):
    """In two dimensions the evidence is a sum over a grid; posterior moments are sums too."""
    _, test = load(1, 30)
    generator = torch.Generator().manual_seed(1)
    model = logistic.Factors(test.mean(0), 2, generator)
    model.weight.data.mul_(20)
    encoder = MLP([20, 8, 4], "relu", generator=generator)
    found = logistic.measure(run(test_draws=4000), model, encoder, test)
    cells = (torch.arange(300) + 0.5) / 25 - 6
    z = torch.cartesian_prod(cells, cells)
    with torch.no_grad():
        log_p = torch.stack([model.log_joint(x.expand(len(z), -1), z) for x in test])
        log_z = log_p.double().logsumexp(1) - 2 * math.log(25)
        share = log_p.double().softmax(1)
        mean = share @ z.double()
        variance = share @ z.double().square() - mean.square()
        q = logistic.Amortized(encoder, test)
        ratio = (q.scale.double() / variance.sqrt()).log().mean()
        miss = ((q.mean - mean).square() / variance).mean()
    assert abs(found["log_likelihood"] - float(log_z.mean())) < 0.005
    assert abs(found["log_ratio_of_sd"] - float(ratio)) < 0.02
    assert abs(found["miss_of_mean"] / float(miss) - 1) < 0.1
    assert found["elbo"] < found["log_likelihood"] and found["least_ess"] > 0.2


@pytest.mark.parametrize("method", logistic.METHODS)
def test_a_killed_run_goes_on(small, tmp_path, monkeypatch, method):
    row, whole = logistic.execute(run(method))
    assert math.isfinite(row["log_likelihood"]) and 0 < row["accept"] <= 1
    path, fit = str(tmp_path / "run.pt"), logistic.fit

    class Cut(Exception):
        pass

    def dies(step, **how):
        def some(i):
            if i == 4:
                raise Cut
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(logistic, "fit", dies)
    with pytest.raises(Cut):
        logistic.execute(run(method), checkpoint=path, every=2)
    monkeypatch.setattr(logistic, "fit", fit)
    _, resumed = logistic.execute(run(method), checkpoint=path, every=2)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_command_adds_rows_and_refuses(small, tmp_path):
    out = tmp_path / "logistic.json"
    few = ("--images", "40", "--steps", "2", "--batch", "10", "--out", str(out), "--threads", "0")
    for method in logistic.METHODS:
        found = CliRunner().invoke(app, ["logistic", "--method", method, "--seeds", "0,1", *few])
        assert found.exit_code == 0, found.output
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in sorted(logistic.METHODS) for seed in (0, 1)
    ]
    for wrong in (("--method", "mcmc"), ("--batch", "41"), ("--factors", "0")):
        refused = CliRunner().invoke(app, ["logistic", *few, *wrong])
        assert refused.exit_code == 1 and "must be" in refused.output


def mean_of(entry, method, steps=2000):
    rows = json.loads(RECORD.read_text())["rows"]
    rows = [row for row in rows if (row["method"], row["steps"]) == (method, steps)]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    return fmean(row[entry] for row in rows)


@pytest.mark.claim("obs-vcd-mnist")
def test_factors_of_digits():
    """Three runs each; the spread of a likelihood is at most 0.4 and that of a log-scale 0.02."""
    likelihood = {method: mean_of("log_likelihood", method) for method in logistic.METHODS}
    longer = mean_of("log_likelihood", "vi", 12_000)
    assert 0.8 < mean_of("cpu_seconds", "vi", 12_000) / mean_of("cpu_seconds", "vcd") < 1.25
    assert longer - likelihood["vcd"] > 3  # null: 0
    assert longer - likelihood["moved"] > 3  # null: 0
    assert max(likelihood.values()) - min(likelihood.values()) < 1  # null: 4.5, as above
    assert min(likelihood.values()) - mean_of("independent_pixels", "vi") > 50  # null: 0
    assert mean_of("log_ratio_of_sd", "vcd") > 0.2  # null: 0
    assert mean_of("log_ratio_of_sd", "vi") < -0.05  # null: 0
    assert mean_of("elbo", "vi") - mean_of("elbo", "vcd") > 10  # null: 0
    printed = {"vi": -137.5, "moved": -137.3, "vcd": -137.1}
    assert all(abs(likelihood[name] - value) < 0.06 for name, value in printed.items())
    assert abs(longer + 132.7) < 0.06
    assert abs(math.exp(mean_of("log_ratio_of_sd", "vcd")) - 1.38) < 0.01
    assert abs(math.exp(mean_of("log_ratio_of_sd", "vi")) - 0.92) < 0.01
