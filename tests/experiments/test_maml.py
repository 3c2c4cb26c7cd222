"""The runs of MAML on Omniglot: resumed, recorded, refused, and what queries tell of each other."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.experiments import maml
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.nets import Conv4

TIMES = ("cpu_seconds", "wall_seconds", "command")
SMALL = {"steps": 3, "width": 3, "tasks": 2, "test_tasks": 4, "looks": 3, "queries": 2}


@pytest.fixture
def characters(monkeypatch):
    """A few noisy classes, which a network can learn to tell apart."""
    rng = torch.Generator().manual_seed(0)
    kinds = torch.rand(12, 1, 28, 28, generator=rng)
    images = kinds.repeat_interleave(8, 0) + 0.1 * torch.rand(96, 1, 28, 28, generator=rng)
    part = Characters(images, torch.arange(12).repeat_interleave(8), ("a/b",) * 12)
    monkeypatch.setattr(maml, "_characters", lambda: (part, part))


def lasting(row):
    return {k: v for k, v in row.items() if k not in TIMES}


@pytest.mark.usefixtures("characters")
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    run = maml.Run(seed=1, **SMALL)
    whole, net = maml.execute(run, progress=False)
    checkpoint, fit = str(tmp_path / "run.pt"), maml.fit

    def cut(step, **how):
        def some(i):
            if i == 2:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(maml, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        maml.execute(run, checkpoint=checkpoint, every=1, progress=False)
    monkeypatch.setattr(maml, "fit", fit)
    again, resumed = maml.execute(run, checkpoint=checkpoint, every=1, progress=False)
    assert lasting(again) == lasting(whole)
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [point["steps"] for point in whole["curve"]] == [1, 2, 3]


@pytest.mark.usefixtures("characters")
def test_command_writes_a_row_for_each_seed(tmp_path):
    out = tmp_path / "maml.json"
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    arguments = ["maml", "--seeds", "0,1", "--out", str(out), *sizes]
    done = CliRunner().invoke(app, [*arguments, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["settings"]["inner_lr"] == 0.4 and rows[0]["pixels"] == 1
    refused = CliRunner().invoke(app, ["maml", "--order", "3", "--out", str(out)])
    assert refused.exit_code == 1 and "order must be one of (1, 2)" in refused.output


@pytest.mark.usefixtures("characters")
def test_only_queries_together_tell_of_each_other():
    run = maml.Run(**SMALL)
    net = Conv4(width=3, classes=5, generator=torch.Generator().manual_seed(1))
    tasks = maml.samplers(run)[1].sample(4, torch.Generator().manual_seed(2))
    found = maml.accuracies(run, net, tasks)
    assert set(found) == {"together", "before", "by_class", "alone", "pixels"}
    turned = tasks._replace(query_x=tasks.query_x.flip(1), query_y=tasks.query_y.flip(1))
    for name, (mean, half) in maml.accuracies(run, net, turned).items():
        if name != "by_class":  # its parts are other images then
            assert mean == found[name][0]
        assert half >= 0
    alone = tasks._replace(query_x=tasks.query_x[:, :2], query_y=tasks.query_y[:, :2])
    few = maml.accuracies(run, net, alone)
    assert few["together"] == few["by_class"]
