"""Long runs of known unknowns, stable networks and ODE blocks: resumed, recorded, refused."""

import json
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import goku, odenet, stability
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.ode.known_unknowns.systems import pendulum
from nodes_tutorial.training import read_checkpoint

TIMES = ("cpu_seconds", "wall_seconds", "command")


def invoke(*arguments):
    """The command in this process."""
    return CliRunner().invoke(app, [*arguments, "--threads", "0"])


def rows(path):
    return [
        {k: v for k, v in row.items() if k not in TIMES}
        for row in json.loads(path.read_text())["rows"]
    ]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(goku, "TRAIN", dict.fromkeys(goku.SYSTEMS, 12))
    monkeypatch.setattr(goku, "TEST", 6)
    films, signals = goku.pendulum_sequences, goku.cardiovascular_sequences
    monkeypatch.setattr(goku, "pendulum_sequences", partial(films, steps=12))
    monkeypatch.setattr(goku, "cardiovascular_sequences", partial(signals, steps=12))
    monkeypatch.setattr(goku, "SEEN", dict.fromkeys(goku.SYSTEMS, 6))
    return {"steps": 3, "batch": 4, "hidden": 6, "side": 4}


class Cut(Exception):
    """Stands for a kill."""


def cut_after(module, monkeypatch, count):
    """``fit`` that dies after some steps; checkpoints stay as a kill would leave them."""
    fit = module.fit

    def wrapped(step, **how):
        def some(i):
            if i == count:
                raise Cut
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(module, "fit", wrapped)


@pytest.mark.parametrize("model", goku.MODELS)
def test_every_model_runs_on_every_system(model, small):
    for system in goku.SYSTEMS:
        row, _ = goku.execute(goku.Run(system, model, **small), progress=False)
        assert row["parameters"] > 0 and row["mse_later"] > 0
        known = model.startswith("goku")
        for name in goku.PARAMETERS[system]:
            assert (f"corr_{name}" in row) == (f"error_{name}" in row) == known
            assert (f"right_{name}" in row) == (known and system == "cvs")
        for name in ("command", "date", "torch", "device", "settings", "cpu_seconds"):
            assert row[name] is not None


def test_goku_goes_on_where_it_was_cut(small, tmp_path, monkeypatch):
    run = goku.Run("friction", "goku-labels", **(small | {"steps": 6}))
    path = str(tmp_path / "run.pt")
    whole, _ = goku.execute(run, progress=False)
    with monkeypatch.context() as patch:
        cut_after(goku, patch, 4)
        with pytest.raises(Cut):
            goku.execute(run, checkpoint=path, every=2, progress=False)
    assert read_checkpoint(path)["done"] == 4
    resumed, _ = goku.execute(run, checkpoint=path, every=2, progress=False)
    assert {k: v for k, v in whole.items() if k not in TIMES} == {
        k: v for k, v in resumed.items() if k not in TIMES
    }


def test_measures_of_a_perfect_prediction_and_the_labels(small, monkeypatch):
    run = goku.Run("pendulum", "goku", **small)
    _, test, clean = goku.load(run)
    net = goku.build(run, test)
    path = goku.Path(test.theta, test.z, test.x)
    with monkeypatch.context() as patch:
        patch.setattr(type(net), "predict", lambda self, x, t: path)
        row = goku.measure(run, net, test, clean)
    assert row["mse_seen"] == row["l1_later"] == row["error_l"] == 0
    assert abs(row["corr_l"] - 1) < 1e-9 and abs(row["corr_state"] - 1) < 1e-9
    monkeypatch.setattr(goku, "LABELS", 0.5)
    one, two = (
        goku.execute(goku.Run("pendulum", m, **(small | {"steps": 4})), progress=False)[0]
        for m in ("goku", "goku-labels")
    )
    assert one["mse_seen"] != two["mse_seen"]  # the grounding loss is used where asked for


def test_friction_is_not_in_the_known_field(small):
    run = goku.Run("friction", "goku", **small)
    train, _, _ = goku.load(run)
    field = goku.build(run, train).field
    assert field.known is pendulum
    z = torch.tensor([[0.3, 1.0], [-0.2, 1.0]])
    added = field(torch.tensor(0.0), z, torch.ones(2, 1)) - pendulum(
        torch.tensor(0.0), z, torch.ones(2, 1)
    )
    assert torch.allclose(added[0], added[1], atol=1e-6) and added[0, 0] == 0


def test_goku_command_records_rows_by_key(small, tmp_path):
    out = tmp_path / "goku.json"
    few = ["--steps", "2", "--batch", "4", "--side", "4", "--seeds", "0,1", "--out", str(out)]
    for _ in range(2):
        done = invoke("goku", "--model", "lstm", *few)
        assert done.exit_code == 0, done.output
    assert [row["seed"] for row in rows(out)] == [0, 1]
    assert "pendulum lstm seed 1: later mse" in done.output


# --- stable networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", stability.DATASETS)
@pytest.mark.parametrize("model", stability.MODELS)
def test_every_network_trains_level_by_level(dataset, model, monkeypatch):
    train, valid = stability.load(dataset)
    few = tuple((x[:60], c[:60]) for x, c in (train, valid))
    monkeypatch.setattr(stability, "load", lambda dataset: few)
    run = stability.Run(dataset, model, levels=2, iterations=1)
    found, net = stability.execute(run, progress=False)
    assert [row["layers"] for row in found] == [4, 8] and net.layers == 8
    for row in found:
        assert row["iterations"] == 1 and row["objective_end"] <= row["objective_start"]
        assert 0 <= row["valid_accuracy"] <= 1
    assert found[0]["settings"]["T"] == stability.SETTINGS[dataset].T


def test_sizes_are_those_of_the_paper():
    for dataset, train, valid in (
        ("ellipses", 1000, 200),
        ("swissroll", 514, 512),
        ("peaks", 4000, 1000),
    ):
        (x, c), (y, d) = stability.load(dataset)
        assert (len(x), len(y)) == (train, valid) == (len(c), len(d))
    assert stability.build(stability.Run("peaks", "plain")).dim == 8
    assert stability.build(stability.Run("peaks", "verlet")).dim == 2


def test_levels_go_on_where_they_were_cut(tmp_path, monkeypatch):
    run = stability.Run("ellipses", "verlet", levels=3, iterations=2)
    path = str(tmp_path / "run.pt")
    whole, net = stability.execute(run, progress=False)
    with monkeypatch.context() as patch:
        cut_after(stability, patch, 2)
        with pytest.raises(Cut):
            stability.execute(run, checkpoint=path, progress=False)
    resumed, again = stability.execute(run, checkpoint=path, progress=False)
    assert torch.equal(net.K, again.K) and again.layers == 16
    for one, two in zip(whole, resumed, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMES} == {
            k: v for k, v in two.items() if k not in TIMES
        }


def test_stability_command_records_each_level(tmp_path):
    out = tmp_path / "stability.json"
    few = ["--model", "plain", "--levels", "2", "--iterations", "1", "--out", str(out)]
    done = invoke("stability", *few, "--checkpoint", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    assert sorted(row["layers"] for row in rows(out)) == [4, 8]
    assert "right with 8 layers" in done.output
    assert (tmp_path / "run.plain.0.pt").is_file()


@pytest.fixture
def few_images(monkeypatch):
    """Twenty images for training and six for the test."""
    draws = torch.Generator().manual_seed(1)
    x, y = torch.rand(26, 1, 28, 28, generator=draws), torch.arange(26) % 10
    monkeypatch.setattr(odenet, "mnist10k", lambda: (x, y))
    monkeypatch.setattr(odenet, "CUT", 20)
    parts = {"train": (x[:20], y[:20]), "test": (x[20:], y[20:])}
    monkeypatch.setattr(odenet, "mnist", parts.get)
    return {"batch": 8, "width": 2, "groups": 1}


@pytest.mark.parametrize("network", odenet.NETWORKS)
def test_every_classifier_trains(network, few_images):
    for dataset in odenet.DATASETS:
        row, net = odenet.execute(
            odenet.Run(dataset, network, epochs=2, **few_images), progress=False
        )
        assert (row["train_images"], row["test_images"]) == (20, 6) and 0 <= row["wrong"] <= 6
        assert len(row["nfe"]) == (2 if network in ("ODE-Net", "RK-Net") else 0)
        assert row["parameters"] == sum(p.numel() for p in net.parameters())
    assert {"command", "commit", "torch", "date", "device"} <= set(row)


def test_a_classifier_goes_on_where_it_was_cut(few_images, tmp_path, monkeypatch):
    run, path = odenet.Run(network="ODE-Net", epochs=3, **few_images), str(tmp_path / "run.pt")
    whole, net = odenet.execute(run, progress=False)
    with monkeypatch.context() as patch:
        cut_after(odenet, patch, 3)
        with pytest.raises(Cut):
            odenet.execute(run, checkpoint=path, every=1, progress=False)
    resumed, again = odenet.execute(run, checkpoint=path, every=1, progress=False)
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert {k: v for k, v in whole.items() if k not in TIMES} == {
        k: v for k, v in resumed.items() if k not in TIMES
    }


def test_each_epoch_sees_other_batches_of_all_images():
    orders = [
        torch.cat([odenet.batch_rows(7, 5 * epoch + i, 21, 4) for i in range(5)])
        for epoch in range(3)
    ]
    assert all(len(order.unique()) == 20 for order in orders)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])


def test_odenet_command_records_a_row_for_each_seed(few_images, tmp_path):
    out = tmp_path / "odenet.json"
    few = ["--batch", "8", "--width", "2", "--groups", "1", "--epochs", "1", "--out", str(out)]
    for data in ("mnist", "mnist10k", "mnist"):
        more = ["--data", data, "--seeds", "0,1", "--checkpoint", str(tmp_path / "run")]
        done = invoke("odenet", "--network", "stem only", *few, *more)
        assert done.exit_code == 0, done.output
    assert [(row["dataset"], row["seed"]) for row in rows(out)] == [
        ("mnist", 0),
        ("mnist", 1),
        ("mnist10k", 0),
        ("mnist10k", 1),
    ]
    assert "% wrong" in done.output and (tmp_path / "run.mnist.stem-only.1.0.pt").is_file()


def test_the_split_of_the_ten_thousand_is_fixed(few_images):
    (x, _), (test_x, _) = odenet.load("mnist10k")
    (again, _), _ = odenet.load("mnist10k")
    assert torch.equal(x, again)
    assert len(torch.cat([x, test_x]).flatten(1).unique(dim=0)) == 26
    assert torch.equal(odenet.load("mnist")[0][0], odenet.mnist("train")[0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["goku", "--system", "spring"], "system must be one of"),
        (["goku", "--model", "gan"], "model must be one of"),
        (["goku", "--steps", "0"], "steps must be at least 1"),
        (["goku", "--seeds", "x"], "seeds must be whole numbers"),
        (["stability", "--dataset", "moons"], "dataset must be one of"),
        (["stability", "--model", "gru"], "model must be one of"),
        (["stability", "--levels", "0"], "levels must be at least 1"),
        (["odenet", "--data", "cifar"], "dataset must be one of mnist, mnist10k"),
        (["odenet", "--network", "GRU"], "network must be one of ResNet"),
        (["odenet", "--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, reason, tmp_path):
    done = invoke(*arguments, "--out", str(tmp_path / "x.json"))
    assert done.exit_code == 1
    assert f"error: {reason}" in done.output
    assert not (tmp_path / "x.json").exists()
