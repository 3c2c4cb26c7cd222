"""The runs on irregular series: resumed, recorded, of equal size, refused with a reason."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import latent
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.nets import count_parameters
from nodes_tutorial.training import read_checkpoint

TIMES = ("cpu_seconds", "command", "date")


@pytest.fixture(autouse=True)
def few_series(monkeypatch):
    monkeypatch.setattr(latent, "TRAIN", 30)
    monkeypatch.setattr(latent, "TEST", 6)


def small(model="latent-ode", dataset="periodic-code", steps=4):
    return latent.Run(dataset, model, steps, batch=4)


def values(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.mark.parametrize("model", latent.MODELS)
def test_every_model_runs_and_is_measured(model):
    rows, net = latent.execute(small(model, steps=2), [3, 5], progress=False)
    assert [row["seed"] for row in rows] == [3, 5]
    assert rows[0]["parameters"] * 2 == count_parameters(net)
    for task in latent.TASKS:
        for share in ("0.1", "0.2", "0.3", "0.5"):
            assert 0 < rows[0][f"{task} {share}"] < 5
    assert rows[0]["interpolate 0.3"] != rows[1]["interpolate 0.3"]


def test_models_have_about_the_same_size():
    for dim in (1, 2):
        counts = {m: count_parameters(latent.build(small(m), dim, [0])) for m in latent.MODELS}
        assert max(counts.values()) < 1.05 * min(counts.values()), counts


def test_measured_errors_are_those_of_a_loop(monkeypatch):
    run = small("rnn-dt", "periodic-paper", steps=1)
    rows, net = latent.execute(run, [0], progress=False)
    series, clean, half = latent.load(run.dataset)
    generator = torch.Generator().manual_seed(10**6)
    test = series.rows(slice(latent.TRAIN, None))
    seen = latent.seen_of(test, "interpolate", 0.1, half, generator)
    ahead = latent.seen_of(test, "extrapolate", 0.1, half, generator)
    assert not ahead.mask[:, series.times > half].any()
    total, count, later, behind = 0.0, 0, 0.0, 0
    with torch.no_grad():
        near, far = net(seen, series.times)[0], net(ahead, series.times)[0]
    for i in range(latent.TEST):
        for j, t in enumerate(series.times):
            if not seen.mask[i, j, 0]:
                total, count = total + float(near[i, j, 0] - clean[30 + i, j, 0]) ** 2, count + 1
            if t > half:
                later, behind = later + float(far[i, j, 0] - clean[30 + i, j, 0]) ** 2, behind + 1
    assert abs(rows[0]["interpolate 0.1"] - total / count) < 1e-5
    assert abs(rows[0]["extrapolate 0.1"] - later / behind) < 1e-5


def test_interrupted_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole, _ = latent.execute(small(), [0, 1], progress=False)
    path, calls, seen_of = str(tmp_path / "run.pt"), [], latent.seen_of

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return seen_of(*arguments)

    monkeypatch.setattr(latent, "seen_of", stop)
    with pytest.raises(KeyboardInterrupt):
        latent.execute(small(), [0, 1], checkpoint=path, every=2, progress=False)
    assert read_checkpoint(path)["done"] == 2
    resumed, _ = latent.execute(small(), [0, 1], checkpoint=path, every=2, progress=False)
    assert values(resumed) == values(whole)


def test_command_writes_a_row_for_each_seed(tmp_path):
    path = tmp_path / "latent.json"
    command = ["latent", "--dataset", "spirals", "--steps", "2", "--batch", "4"]
    command += ["--seeds", "0,1", "--threads", "0", "--out", str(path)]
    for model in ("rnn-dt", "latent-ode"):
        done = CliRunner().invoke(app, [*command, "--model", model])
        assert done.exit_code == 0, done.output
        assert f"spirals {model} seed 1: at 30 % observed" in done.output
    rows = json.loads(path.read_text())["rows"]
    assert [(row["model"], row["seed"]) for row in rows] == [
        (model, seed) for model in ("latent-ode", "rnn-dt") for seed in (0, 1)
    ]
    assert all(row["commit"] and row["settings"]["steps"] == 2 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dataset", "hopper"], "dataset must be one of"),
        (["--model", "gru-d"], "model must be one of"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--seeds", "x"], "seeds must be whole numbers"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, reason, tmp_path):
    out = str(tmp_path / "x.json")
    done = CliRunner().invoke(app, ["latent", *arguments, "--threads", "0", "--out", out])
    assert done.exit_code == 1 and f"error: {reason}" in done.output
    assert not (tmp_path / "x.json").exists()
