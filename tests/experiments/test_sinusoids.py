"""The runs of MAML and iMAML on sinusoids: gradients, resumed, recorded, refused."""

import json

import pytest
import torch
from torch.func import grad
from typer.testing import CliRunner

from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.experiments import sinusoids
from nodes_tutorial.experiments.__main__ import app

SMALL = {"steps": 3, "tasks": 2, "inner_steps": 2, "test_tasks": 4, "looks": 3}
F64 = torch.float64


def lasting(rows):
    kept = []
    for row in rows:
        row = {k: v for k, v in row.items() if k not in ("cpu_seconds", "wall_seconds", "command")}
        points = [{k: v for k, v in p.items() if k != "seconds"} for p in row["curve"]]
        kept.append(row | {"curve": points, "seeds_of_batch": None})
    return kept


@pytest.mark.parametrize("method", sinusoids.METHODS)
def test_a_run_goes_on_as_if_it_had_never_stopped(method, tmp_path, monkeypatch):
    run = sinusoids.Run(method, **SMALL)
    whole, theta = sinusoids.execute(run, [0, 1], progress=False)
    checkpoint, fit = str(tmp_path / "run.pt"), sinusoids.fit

    def cut(step, **how):
        def some(i):
            if i == 2:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(sinusoids, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        sinusoids.execute(run, [0, 1], checkpoint=checkpoint, every=1, progress=False)
    monkeypatch.setattr(sinusoids, "fit", fit)
    again, resumed = sinusoids.execute(run, [0, 1], checkpoint=checkpoint, every=1, progress=False)
    assert lasting(again) == lasting(whole)
    assert torch.equal(theta, resumed)
    assert [point["steps"] for point in whole[0]["curve"]] == [1, 2, 3]


@pytest.mark.parametrize("method", sinusoids.METHODS)
def test_a_seed_is_trained_as_if_it_were_alone(method):
    run = sinusoids.Run(method, **SMALL)
    both, _ = sinusoids.execute(run, [0, 1], progress=False)
    alone, _ = sinusoids.execute(run, [1], progress=False)
    for one, other in zip(both[1]["curve"], alone[0]["curve"], strict=True):
        for name in ("before", "adapted", "plain_ten"):
            assert one[name] == pytest.approx(other[name], rel=1e-3)


@pytest.mark.parametrize("method", sinusoids.METHODS)
def test_gradient_is_that_of_the_adapted_loss(method):
    """Against differences along a direction, in double precision and with a converged descent."""
    run = sinusoids.Run(method, lam=20.0, inner_steps=150, inner_lr=0.01, products=100)
    drawn = Sinusoids(10, 10, dtype=F64).sample(4, torch.Generator().manual_seed(0))
    tasks = Tasks(*(part.unflatten(0, (2, 2)) for part in drawn))
    g = torch.Generator().manual_seed(1)
    theta = 0.1 * torch.randn(2, 1761, generator=g, dtype=F64)
    direction = torch.randn(2, 1761, generator=g, dtype=F64) / 1761**0.5
    slope, _ = sinusoids.meta_gradient(run, theta, tasks)
    h = 1e-4
    ends = [sinusoids.meta_gradient(run, theta + s * direction, tasks)[1] for s in (h, -h)]
    wanted = (ends[0] - ends[1]) / (2 * h)
    assert torch.allclose((slope * direction).sum(1), wanted, rtol=1e-4)


def test_errors_before_and_after_ten_steps():
    """The weights 0 answer 0, and ten steps are those of a loop over one task."""
    run = sinusoids.Run("maml", **SMALL)
    tasks = Sinusoids(10, 10).sample(3, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    theta = torch.stack([torch.zeros(1761), 0.3 * torch.randn(1761, generator=g)])
    found = sinusoids.errors(run, theta, tasks)
    assert found["before"][0] == pytest.approx(float(tasks.query_y.square().mean()), rel=1e-5)
    losses = []
    for sx, sy, qx, qy in zip(*tasks, strict=True):
        w = theta[1]
        for _ in range(10):
            w = w - run.inner_lr * grad(sinusoids.loss)(w, sx, sy)
        losses.append(float(sinusoids.loss(w, qx, qy)))
    assert found["plain_ten"][1] == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_command_writes_a_row_for_each_seed(tmp_path):
    out = tmp_path / "sinusoids.json"
    sizes = ["--steps=2", "--tasks=2", "--inner-steps=2", "--looks=1"]
    arguments = ["sinusoids", "--method", "maml", "--seeds", "0,1", "--out", str(out), *sizes]
    done = CliRunner().invoke(app, [*arguments, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["settings"]["inner_lr"] == 0.01
    refused = CliRunner().invoke(app, ["sinusoids", "--method", "reptile", "--out", str(out)])
    assert refused.exit_code == 1 and "method must be one of maml, imaml" in refused.output
