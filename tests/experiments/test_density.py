"""The runs behind the page of results: killed and resumed, recorded, refused with a reason."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.data import DataError, registry, tabular, toy2d
from nodes_tutorial.experiments import density, images, matching, record
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.training import read_checkpoint

COMMAND = [sys.executable, "-m", "nodes_tutorial.experiments"]
SMALL = ["--batch", "16", "--hidden", "8", "--test-points", "50"]
TIMES = ("cpu_seconds", "wall_seconds", "command")


def start(*arguments, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *arguments], cwd=folder, env=environment, **quiet)


def invoke(*arguments):
    """The command in this process."""
    return CliRunner().invoke(app, [*arguments, "--threads", "0"])


def rows(path):
    return json.loads(path.read_text())["rows"]


def test_import_of_the_package_stays_cheap():
    code = "import sys, nodes_tutorial; print(any(m in sys.modules for m in ('typer', 'torch')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_killed_run_resumes_bit_for_bit(tmp_path):
    arguments = ["ffjord", "--model", "realnvp", "--steps", "300", "--every", "20", *SMALL]
    saved, cut, whole = tmp_path / "deep" / "run", tmp_path / "cut.json", tmp_path / "whole.json"
    path = saved.with_suffix(".0.pt")
    process = start(*arguments, "--checkpoint", str(saved), "--out", str(cut), folder=tmp_path)
    try:
        limit = time.monotonic() + 90
        while not path.is_file():
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert 0 < read_checkpoint(path)["done"] < 300
    assert not cut.exists()
    resumed = invoke(*arguments, "--checkpoint", str(saved), "--out", str(cut))
    assert resumed.exit_code == 0 and "8gaussians realnvp seed 0" in resumed.output
    assert invoke(*arguments, "--out", str(whole)).exit_code == 0
    one, two = ({k: v for k, v in rows(f)[0].items() if k not in TIMES} for f in (cut, whole))
    assert one == two
    last = read_checkpoint(path)
    assert last["done"] == 300 and last["history"]["loss"].shape == (300,)


def small(model, **options):
    sizes = {"steps": 3, "batch": 16, "hidden": (8,), "test_points": 50, "train_points": 100}
    return density.Run("8gaussians", model, **(sizes | options))


@pytest.mark.parametrize("model", density.MODELS)
def test_every_model_runs_and_is_recorded(model, tmp_path):
    row, fitted = density.execute(small(model), progress=False)
    path = tmp_path / "density.json"
    record.append(path, row, ("dataset", "model", "seed"))
    (back,) = rows(path)
    assert back == json.loads(json.dumps(row))
    for name in ("command", "date", "torch", "device", "seed", "parameters", "cpu_seconds"):
        assert back[name] is not None
    x = toy2d.sample("8gaussians", 50, torch.Generator().manual_seed(density.TEST_SEED))
    with torch.no_grad():
        nll = -fitted.log_prob(x).double()
        gap = nll + toy2d.log_prob("8gaussians", x.double())
    assert abs(back["nll"] - nll.mean()) < 1e-5
    assert abs(back["excess"] - gap.mean()) < 1e-5
    assert (back["nfe"] is not None) == (model in ("cnf", "fm"))


def test_seed_decides_and_penalties_count():
    results = {}
    for name, options in (
        ("one", {}),
        ("two", {}),
        ("other", {"seed": 1}),
        ("probes", {"trace": "hutchinson"}),
        ("penalty", {"kinetic": 1.0, "jacobian": 0.5}),
    ):
        row, _ = density.execute(small("cnf", rate=0.05, **options), progress=False)
        results[name] = row["nll"]
    assert results["one"] == results["two"]
    assert len(set(results.values())) == 4


def test_rows_are_replaced_by_key(tmp_path):
    path = tmp_path / "deep" / "rows.json"
    for value, seed in ((1, 0), (2, 1), (3, 0)):
        record.append(path, {"seed": seed, "value": value}, ("seed",))
    assert rows(path) == [{"seed": 0, "value": 3}, {"seed": 1, "value": 2}]
    assert not list(path.parent.glob(".*"))


def test_clock_goes_on_after_an_interruption():
    clock = record.Clock()
    clock.load_state_dict({"cpu": 100.0, "wall": 200.0})
    after = clock.state_dict()
    assert 100 <= after["cpu"] < 101 and 200 <= after["wall"] < 201


def test_provenance_outside_a_checkout(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    found = record.provenance()
    assert found["commit"] is None and found["package_changed_since"] is None


@pytest.mark.parametrize("method", matching.METHODS)
def test_matching_row(method):
    row = matching.measure(
        matching.train(method, "8gaussians", 0.2, 0, width=8)[0], "8gaussians", points=50, pairs=20
    )
    assert set(row["w2_euler"]) == {"1", "2", "4", "8", "16"}
    assert all(np.isfinite(v) for v in (row["excess"], row["w2"], row["straightness"]))
    assert row["loss"] > 1


# --- tabular sets ---------------------------------------------------------------------------------


def archive(path, arrays):
    with tarfile.open(path, "w:gz") as tar:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            info = tarfile.TarInfo(name)
            info.size = content.tell()
            content.seek(0)
            tar.addfile(info, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_command_records_bits_and_draws_samples(tmp_path, monkeypatch):
    out, picture = tmp_path / "images.json", tmp_path / "row.png"
    arguments = ["images", "--dataset", "digits", "--steps", "8", "--width", "8", "--depth", "1"]
    done = invoke(*arguments, "--out", str(out), "--picture", str(picture))
    assert done.exit_code == 0 and "digits seed 0" in done.output
    (row,) = rows(out)
    assert row["train_images"] == 1500 and row["test_images"] == 297
    run = images.Images("digits", steps=8, width=8, depth=1)
    again, flow = images.execute(run, progress=False)
    assert again["bits_per_dim"] == row["bits_per_dim"]
    _, test = images.split("digits")
    exact = images.bits(flow, test, 17).mean().item()
    assert exact == row["bits_per_dim"] and 2 < exact < 6
    seen, held = (set(map(bytes, part.byte().numpy())) for part in images.split("digits"))
    assert len(seen & held) < 5  # a few digits of the set are equal
    assert plt.imread(picture).shape[:2] == (8, 8 * 12)
    monkeypatch.setattr(images, "mnist", lambda part: (images.digits()[0], part))
    whole, its_test = images.split("mnist")  # MNIST has a test set of its own
    assert torch.equal(whole, its_test) and whole.max() == 255
    refused = invoke("images", "--dataset", "cifar", "--out", str(out))
    assert refused.exit_code == 1 and "dataset must be one of" in refused.output


@pytest.fixture
def tables(tmp_path):
    """A small archive of the public one's form."""
    draw = np.random.default_rng(0)
    arrays = {
        "data/power/data.npy": draw.normal(3, 2, (1000, 8)).round(2),
        "data/miniboone/data.npy": draw.normal(-1, 5, (505, 43)),
    }
    path = tmp_path / "data.tar.gz"
    return path, archive(path, arrays), arrays


def test_miniboone_is_split_and_scaled_in_order(tables):
    path, sha256, arrays = tables
    splits = tabular.load("miniboone", path, sha256)
    assert [len(part) for part in splits] == [410, 45, 50]  # int(0.1 n), as published
    assert all(part.dtype == torch.float32 for part in splits)
    rows = arrays["data/miniboone/data.npy"]
    rest = rows[:455]
    expected = (rows - rest.mean(0)) / rest.std(0)
    np.testing.assert_allclose(torch.cat(splits).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.cat(splits[:2]).mean(0).abs().max() < 1e-5


def test_power_is_shuffled_and_blurred_as_published(tables):
    """Step by step with an index list, in place of shuffled rows."""
    path, sha256, arrays = tables
    splits = tabular.load("power", path, sha256)
    assert [len(part) for part in splits] == [810, 90, 100]
    draw = np.random.RandomState(42)
    rows = arrays["data/power/data.npy"][draw.permutation(1000)]
    kept = np.delete(rows, [1, 3], axis=1)
    kept[:, 1] += 0.01 * draw.rand(1000)
    kept[:, 0] += 0.001 * draw.rand(1000)
    kept[:, 2:5] += draw.rand(1000, 3)
    rest = kept[:900]
    expected = (kept - rest.mean(0)) / rest.std(0)
    np.testing.assert_allclose(torch.cat(splits).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_own_npy_file_and_the_environment_variable(tables, tmp_path, monkeypatch):
    path, sha256, arrays = tables
    own = tmp_path / "own.npy"
    np.save(own, arrays["data/miniboone/data.npy"])
    checksum = hashlib.sha256(own.read_bytes()).hexdigest()
    one = tabular.load("miniboone", own, checksum)
    assert torch.equal(one.test, tabular.load("miniboone", path, sha256).test)
    folder = tmp_path / "cache"
    (folder / "maf").mkdir(parents=True)
    (folder / "maf" / "data.tar.gz").write_bytes(path.read_bytes())
    monkeypatch.setenv(registry.ENVIRONMENT, str(folder))
    with pytest.raises(DataError, match="has md5"):  # not the public archive
        tabular.load("miniboone")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    known = {tabular.ARCHIVE: (f"md5:{md5}", registry.FILES[tabular.ARCHIVE][1])}
    monkeypatch.setattr(registry, "FILES", known)
    assert torch.equal(tabular.load("miniboone").test, one.test)


def test_unverified_data_is_refused(tables, tmp_path):
    path, sha256, _ = tables
    with pytest.raises(ValueError, match="sha256"):
        tabular.load("power", path)
    with pytest.raises(DataError, match="sha256"):
        tabular.load("power", path, "0" * 64)
    with pytest.raises(DataError, match="no file"):
        tabular.load("power", tmp_path / "none.npy", sha256)
    with pytest.raises(ValueError, match="name"):
        tabular.load("gas")
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.zeros((200, 3)))
    with pytest.raises(DataError, match="8 columns"):
        tabular.load("power", narrow, hashlib.sha256(narrow.read_bytes()).hexdigest())
    text = tmp_path / "text.npy"
    text.write_text("no array")
    with pytest.raises(DataError, match="no array"):
        tabular.load("power", text, hashlib.sha256(text.read_bytes()).hexdigest())
    empty = archive(tmp_path / "empty.tar.gz", {"data/gas/data.npy": np.zeros((200, 8))})
    with pytest.raises(DataError, match="no array"):
        tabular.load("power", tmp_path / "empty.tar.gz", empty)


def test_the_archive_is_named_by_a_published_checksum():
    checksum, address = registry.FILES[tabular.ARCHIVE]
    assert checksum.startswith("md5:") and len(checksum) == 36
    assert address.startswith("https://zenodo.org/record/1161203/")


def test_command_trains_on_a_table_given_by_path(tables, tmp_path):
    path, sha256, _ = tables
    given = ["--data", str(path), "--sha256", sha256, "--out", str(tmp_path / "t.json")]
    sizes = ["--model", "maf", "--steps", "6", "--every", "3", *SMALL]
    done = invoke("ffjord", "--dataset", "miniboone", *sizes, *given)
    assert done.exit_code == 0, done.output
    (row,) = rows(tmp_path / "t.json")
    assert row["test_points"] == 50 and "floor" not in row
    assert "miniboone maf" in done.output


def test_best_weights_are_kept():
    net = torch.nn.Linear(1, 1)
    best = density.Best(net)
    first = net.weight.detach().clone()
    best.offer(1.0)
    with torch.no_grad():
        net.weight.add_(1)
    best.offer(2.0)
    again = density.Best(net)
    again.load_state_dict(best.state_dict())
    again.restore()
    assert torch.equal(net.weight, first)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ffjord", "--dataset", "moon"], "dataset must be one of"),
        (["ffjord", "--model", "glow"], "model must be one of"),
        (["ffjord", "--hidden", "a,b"], "hidden must be whole numbers"),
        (["ffjord", "--steps", "0"], "steps must be at least 1"),
        (["matching", "--method", "VP"], "method must be one of"),
        (["ffjord", "--dataset", "power", "--data", "x.npy"], "sha256 must be given"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, reason, tmp_path):
    done = invoke(*arguments, "--out", str(tmp_path / "x.json"))
    assert done.exit_code == 1
    assert f"error: {reason}" in done.output
    assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "x.json").exists()


def test_offline_message_names_the_address(tmp_path, monkeypatch):
    import pooch

    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path)
    address = "http://127.0.0.1:9/data.tar.gz"  # the discard port: nothing answers
    entry = {tabular.ARCHIVE: (registry.FILES[tabular.ARCHIVE][0], address)}
    monkeypatch.setattr(registry, "FILES", entry)
    with pytest.raises(DataError, match=rf"{address}.*{registry.ENVIRONMENT}"):
        tabular.load("power")
