"""The runs of prototype networks: resumed, recorded, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.experiments import few_shot
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.meta.encoders import read_encoder

TIMES = ("cpu_seconds", "wall_seconds", "command", "date", "package_changed_since")
SMALL = {"episodes": 4, "ways": 5, "halve": 2, "width": 3, "test_episodes": 6}


@pytest.fixture
def characters(monkeypatch):
    """A few noisy classes, which a network can learn to tell apart."""
    rng = torch.Generator().manual_seed(0)
    kinds = torch.rand(12, 1, 28, 28, generator=rng)
    images = kinds.repeat_interleave(20, 0) + 0.1 * torch.rand(240, 1, 28, 28, generator=rng)
    part = Characters(images, torch.arange(12).repeat_interleave(20), ("a/b",) * 12)
    monkeypatch.setattr(few_shot, "characters", lambda name: (part, {"twelve": part}))


def lasting(row):
    return {k: v for k, v in row.items() if k not in TIMES}


@pytest.mark.usefixtures("characters")
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    run = few_shot.Run(seed=1, **SMALL)
    whole, net = few_shot.execute(run, progress=False)
    checkpoint = str(tmp_path / "run.pt")
    fit = few_shot.fit

    def cut(step, **how):
        def some(i):
            if i == 3:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(few_shot, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        few_shot.execute(run, checkpoint=checkpoint, every=1, progress=False)
    monkeypatch.setattr(few_shot, "fit", fit)
    again, resumed = few_shot.execute(run, checkpoint=checkpoint, every=1, progress=False)
    assert lasting(again) == lasting(whole)
    for a, b in zip(net.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("characters")
def test_command_writes_rows_and_weights(tmp_path):
    out = tmp_path / "few_shot.json"
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = ["few_shot", "--seeds", "0,1", "--out", str(out), "--weights", str(tmp_path), *sizes]
    done = CliRunner().invoke(app, [*words, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    ways = [(test["ways"], test["shots"]) for test in rows[0]["tests"]]
    assert ways == [(5, 1), (5, 5)] and rows[0]["train_classes"] == 48
    assert all(test["pixels"] == 1 for test in rows[0]["tests"])
    assert read_encoder(tmp_path / "protonet-1.npz").features == 12
    refused = CliRunner().invoke(app, ["few_shot", "--part", "half", "--out", str(out)])
    assert refused.exit_code == 1 and "part must be one of full, no_latin" in refused.output
