"""The runs of MAML and iMAML on Omniglot: resumed, recorded, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.experiments import imaml
from nodes_tutorial.experiments.__main__ import app

TIMES = ("cpu_seconds", "wall_seconds", "command")
SMALL = {"steps": 3, "width": 3, "tasks": 2, "inner_steps": 2, "test_tasks": 4, "looks": 3}


@pytest.fixture
def characters(monkeypatch):
    """A few noisy classes, which a network can learn to tell apart."""
    rng = torch.Generator().manual_seed(0)
    kinds = torch.rand(12, 1, 28, 28, generator=rng)
    images = kinds.repeat_interleave(8, 0) + 0.1 * torch.rand(96, 1, 28, 28, generator=rng)
    part = Characters(images, torch.arange(12).repeat_interleave(8), ("a/b",) * 12)
    monkeypatch.setattr(imaml, "_characters", lambda name: (part, part))


def lasting(row):
    row = {k: v for k, v in row.items() if k not in TIMES}
    row["curve"] = [{k: v for k, v in p.items() if k != "seconds"} for p in row["curve"]]
    return row


@pytest.mark.parametrize("method", imaml.METHODS)
@pytest.mark.usefixtures("characters")
def test_a_run_goes_on_as_if_it_had_never_stopped(method, tmp_path, monkeypatch):
    run = imaml.Run(method, seed=1, **SMALL)
    whole, net = imaml.execute(run, progress=False)
    checkpoint = str(tmp_path / "run.pt")
    fit = imaml.fit

    def cut(step, **how):
        def some(i):
            if i == 2:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(imaml, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        imaml.execute(run, checkpoint=checkpoint, every=1, progress=False)
    monkeypatch.setattr(imaml, "fit", fit)
    again, resumed = imaml.execute(run, checkpoint=checkpoint, every=1, progress=False)
    assert lasting(again) == lasting(whole)
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [point["steps"] for point in whole["curve"]] == [1, 2, 3]
    seconds = [point["seconds"] for point in again["curve"]]
    assert seconds == sorted(seconds)


@pytest.mark.usefixtures("characters")
def test_command_writes_a_row_for_each_seed(tmp_path):
    out = tmp_path / "imaml.json"
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    arguments = ["imaml", "--method", "maml", "--seeds", "0,1", "--out", str(out), *sizes]
    done = CliRunner().invoke(app, [*arguments, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["settings"]["maml_lr"] == 0.4 and rows[0]["pixels"] == rows[1]["pixels"] == 1
    refused = CliRunner().invoke(app, ["imaml", "--method", "reptile", "--out", str(out)])
    assert refused.exit_code == 1 and "method must be one of maml, imaml" in refused.output
    refused = CliRunner().invoke(app, ["imaml", "--rates", "fast", "--out", str(out)])
    assert refused.exit_code == 1 and "rates must be numbers and commas" in refused.output


@pytest.mark.usefixtures("characters")
def test_gradient_of_maml_is_that_of_the_adapted_loss():
    """Against differences of the loss itself, in double precision."""
    run = imaml.Run("maml", **{**SMALL, "steps": 1, "maml_steps": 2})
    train, _ = imaml.samplers(run)
    tasks = train.sample(2, torch.Generator().manual_seed(0))
    tasks = type(tasks)(*(x.double() if x.is_floating_point() else x for x in tasks))
    net = imaml.Conv4(width=3, classes=5, generator=torch.Generator().manual_seed(1)).double()
    gradients, loss, _ = imaml.meta_gradient(run, net, tasks)
    first = net.head.bias
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            first[0] += sign * 1e-5
        ends.append(float(imaml.meta_gradient(run, net, tasks)[1]))
        with torch.no_grad():
            first[0] -= sign * 1e-5
    slope = (ends[0] - ends[1]) / 2e-5
    assert abs(slope - float(gradients["head.bias"][0])) < 1e-8
    assert ends[0] != ends[1] and abs(float(loss) - sum(ends) / 2) < 1e-8


@pytest.mark.usefixtures("characters")
def test_pixels_tell_noisy_copies_apart_and_strangers_not():
    run = imaml.Run(**SMALL)
    tasks = imaml.samplers(run)[0].sample(20, torch.Generator().manual_seed(0))
    assert imaml.pixel_accuracy(tasks) == 1
    strangers = tasks._replace(query_x=torch.rand(tasks.query_x.shape))
    assert imaml.pixel_accuracy(strangers) < 0.5
