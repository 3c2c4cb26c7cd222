"""The runs of heads on frozen features: recorded, chosen by validation, resumed, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import hypermaml
from nodes_tutorial.experiments.__main__ import app

SMALL = {"steps": 4, "tasks": 2, "test_episodes": 6}
TIMES = ("cpu_seconds", "wall_seconds", "command", "package_changed_since")


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Twelve classes around points of their own, instead of encoded drawings."""
    source = torch.Generator().manual_seed(0)
    means = torch.randn(12, 128, generator=source)
    labels = torch.arange(12).repeat_interleave(20)
    names = ("train", "validation", "Latin", "en62")
    parts = {
        name: (means[labels] + 0.5 * torch.randn(240, 128, generator=source), labels)
        for name in names
    }
    shaped = {name: (z[..., None, None], y) for name, (z, y) in parts.items()}
    monkeypatch.setattr(hypermaml, "features", lambda part, seed: (shaped, 0.3))
    return parts


@pytest.mark.parametrize("head", hypermaml.HEADS)
def test_rows_have_what_the_page_reads(head):
    row = hypermaml.execute(hypermaml.Run(head=head, **SMALL), progress=False)
    assert row["tests"] == [["Latin", 1], ["en62", 1], ["Latin", 5], ["en62", 5]]
    assert len(row["accuracy"]) == len(row["nll"]) == 4
    best = max(row["rates_tried"], key=lambda one: one["validation"])
    assert row["rate"] == best["rate"]
    assert len(row["rates_tried"]) == (1 if head == "prototypes" else 3)
    if head == "prototypes":  # classes far apart
        assert min(row["accuracy"]) > 0.99


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    run = hypermaml.Run(**SMALL)
    whole = hypermaml.execute(run, progress=False)
    fit, calls = hypermaml.fit, []

    def killed(step, **kind):
        calls.append(kind["checkpoint"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(step, **kind)

    monkeypatch.setattr(hypermaml, "fit", killed)
    place = str(tmp_path / "run.pt")
    with pytest.raises(KeyboardInterrupt):
        hypermaml.execute(run, checkpoint=place, progress=False)
    row = hypermaml.execute(run, checkpoint=place, progress=False)
    assert len(set(calls)) == 3  # one file for each rate
    assert all(row[name] == whole[name] for name in whole if name not in TIMES)


def test_command_adds_rows_and_refuses(tmp_path):
    out = tmp_path / "rows.json"
    start = ["hypermaml", "--out", str(out), "--steps", "2", "--test-episodes", "4"]
    done = CliRunner().invoke(app, [*start, "--heads", "prototypes,HyperMAML", "--seeds", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert {row["head"] for row in rows} == {"prototypes", "HyperMAML"}
    for wrong in (["--heads", "trees"], ["--part", "half"], ["--steps", "0"], ["--rates", "a"]):
        failed = CliRunner().invoke(app, [*start, *wrong])
        assert failed.exit_code == 1 and wrong[0][2:].removesuffix("s") in failed.output
