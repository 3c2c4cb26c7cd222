"""The runs with decay and with growing step sizes: resumed, recorded, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import exponential
from nodes_tutorial.experiments.__main__ import app

TIMES = ("cpu_seconds", "wall_seconds", "command", "package_changed_since")
SMALL = {"steps": 12, "batch": 20, "width": 2, "decay": 0.02}


@pytest.fixture
def digits(monkeypatch):
    """Ten noisy classes of pictures, twenty of each."""
    source = torch.Generator().manual_seed(0)
    kinds = torch.randn(10, 1, 28, 28, generator=source)
    images = kinds.repeat(50, 1, 1, 1) + 0.3 * torch.randn(500, 1, 28, 28, generator=source)
    part = images, torch.arange(10).repeat(50)
    monkeypatch.setattr(exponential, "_digits", lambda name: part)


def lasting(row):
    row = {k: v for k, v in row.items() if k not in TIMES}
    ends = [{k: v for k, v in one.items() if k not in TIMES} for one in row["contenders"]]
    return row | {"contenders": ends}


@pytest.mark.usefixtures("digits")
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    run = exponential.Run(seed=1, **SMALL)
    whole = exponential.execute(run, progress=False)
    checkpoint, fit = str(tmp_path / "run.pt"), exponential.fit

    def cut(step, **how):
        def some(i):
            if i == 3:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(exponential, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        exponential.execute(run, checkpoint=checkpoint, progress=False)
    monkeypatch.setattr(exponential, "fit", fit)
    again = exponential.execute(run, checkpoint=checkpoint, progress=False)
    assert lasting(again) == lasting(whole)


@pytest.mark.usefixtures("digits")
def test_growing_step_sizes_have_the_losses_of_decay(monkeypatch):
    """Also across a change of scale, and a run without either is another one."""
    monkeypatch.setattr(exponential, "REBASE", 5)
    rows = exponential.execute(exponential.Run(**SMALL), progress=False)["contenders"]
    found = {(row["name"], row["dtype"]): row["largest"] for row in rows}
    assert found["decay", "float64"] == 0 and found["growing", "float64"] < 1e-12
    assert found["neither", "float64"] > 1e-4
    assert 0 < found["growing", "float32"] < 1e-1
    assert [len(row["losses"]) for row in rows] == [2] * 5
    wrong = exponential.equivalent_schedule
    monkeypatch.setattr(
        exponential, "equivalent_schedule", lambda *a, **k: wrong(*a, **{**k, "momentum": 0.0})
    )
    rows = exponential.execute(exponential.Run(**SMALL), progress=False)["contenders"]
    assert rows[1]["largest"] > 1e-4


@pytest.mark.usefixtures("digits")
def test_command_writes_a_row_for_each_seed(tmp_path):
    out = tmp_path / "exponential.json"
    sizes = [f"--{name}={value}" for name, value in SMALL.items()]
    arguments = ["exponential", "--seeds", "0,1", "--out", str(out), *sizes]
    done = CliRunner().invoke(app, [*arguments, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["growth"] > 1.2 and rows[0]["centroid_accuracy"] == 1
    for option, message in (
        ("--steps=0", "steps must be at least 1"),
        ("--decay=20", "weight_decay must leave a positive factor"),
        ("--momentum=1", "momentum must be"),
    ):
        refused = CliRunner().invoke(app, ["exponential", "--out", str(out), option])
        assert refused.exit_code == 1 and message in refused.output
