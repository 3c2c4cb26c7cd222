"""The runs of functions of sets: resumed, recorded, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import set_digits, set_medians, sets
from nodes_tutorial.experiments.__main__ import app
from nodes_tutorial.nets.stack import Stack

TIMES = ("cpu_seconds", "wall_seconds", "command", "package_changed_since")
SMALL = {"steps": 6, "batch": 4, "test_sets": 1000}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images(monkeypatch):
    """Ten noisy classes of pictures."""
    kinds = torch.randn(10, 784, generator=rng())
    labels = torch.arange(10).repeat(12)
    parts = [
        (kinds[labels] + 0.1 * torch.randn(120, 784, generator=rng(k)), labels) for k in (1, 2, 3)
    ]
    monkeypatch.setattr(set_digits, "_data", lambda: parts)
    return parts


def lasting(rows):
    rows = rows if isinstance(rows, list) else [rows]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def stopped(at):
    """`fit` that is killed before a step."""
    fit = sets.fit

    def cut(step, **how):
        calls = []

        def some(i):
            calls.append(i)
            if i == at:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    return cut


RUNS = {
    "median": lambda **how: set_medians.execute(
        set_medians.Run(elements=3, hidden=8, seeds=(0, 1), **SMALL), progress=False, **how
    ),
    "digits": lambda **how: set_digits.execute(
        set_digits.Run(steps=6, batch=4, test_sets=20, seeds=(0, 1)), progress=False, **how
    ),
}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("task", RUNS)
def test_a_run_goes_on_as_if_it_had_never_stopped(task, tmp_path, monkeypatch):
    whole = RUNS[task]()
    how = {"checkpoint": str(tmp_path / "run.pt"), "every": 2}
    fit = sets.fit
    monkeypatch.setattr(sets, "fit", stopped(4))
    with pytest.raises(KeyboardInterrupt):
        RUNS[task](**how)
    monkeypatch.setattr(sets, "fit", fit)
    assert lasting(RUNS[task](**how)) == lasting(whole)


@pytest.mark.usefixtures("images")
def test_the_command_writes_rows_and_refuses(tmp_path):
    out = tmp_path / "sets.json"
    shared = ["sets", "--steps", "3", "--batch", "4", "--seeds", "0,1", "--threads", "0"]
    shared += ["--out", str(out)]
    asked = [["--elements", "3", "--test-sets", "1000"], ["--task", "digits", "--test-sets", "20"]]
    for arguments in asked + asked:  # a second time in place of the first
        done = CliRunner().invoke(app, shared + arguments)
        assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row.get("pool", row["task"]) for row in rows] == ["max", "mean", "sum", "median"]
    (median,) = (row for row in rows if row["task"] == "median")
    assert median["widths"] == [1, 2, 3, 4, 5]
    assert [len(line) for line in median["rmse"]] == [2] * 5
    assert abs(median["constant_rmse"] - 0.05**0.5) < 0.02  # the median of three is Beta(2, 2)
    for row in rows[:3]:
        assert len(row["mae"]) == len(row["lengths"]) == len(row["constant_mae"])
        assert len(row["validation_mae"]) == 2 and row["rate"] in set_digits.RATES
    for option, message in (
        ("--task=mode", "task must be median or digits"),
        ("--steps=0", "steps must be at least 1"),
        ("--activation=step", "activation must be one of"),
    ):
        refused = CliRunner().invoke(app, [*shared, option])
        assert refused.exit_code == 1 and message in refused.output


def test_networks_side_by_side_are_networks_alone():
    """Each pool serves its own share, and features that are not kept do not matter."""
    copies, x = 6, torch.randn(5, 4, 2, generator=rng(7))
    phi = Stack([2, 8, 3], sets.sources(range(copies), 0), "silu")
    rho = Stack([3, 8, 1], sets.sources(range(copies), 50), "silu")
    keep = torch.tensor([[1.0, 1.0, 0.0]] * 2 + [[1.0, 1.0, 1.0]] * 4)
    found = sets.SetNets(phi, rho, ("sum", "mean", "max"), keep=keep)(x)
    laws = (torch.sum, torch.sum, torch.mean, torch.mean, torch.amax, torch.amax)
    for k, law in enumerate(laws):
        w, b, v, c = (p[k] for p in phi.parameters())
        z = law(torch.nn.functional.silu(x @ w + b) @ v + c, 1) * keep[k]
        w, b, v, c = (p[k] for p in rho.parameters())
        wanted = (torch.nn.functional.silu(z @ w + b) @ v + c)[:, 0]
        assert (found[k] - wanted).abs().max() < 1e-5
    with torch.no_grad():
        phi.weights[1][:2, :, 2] += 1
    changed = sets.SetNets(phi, rho, ("sum", "mean", "max"), keep=keep)(x)
    assert torch.equal(changed, found)
    free = sets.SetNets(phi, rho, ("sum", "mean", "max"))(x)
    assert (free - found)[:2].abs().max() > 1e-3


def test_sums_of_digits(images):
    x, y = set_digits._sums(images[0], 5, 7, rng(8))
    assert x.shape == (7, 5, 784)
    nearest = torch.cdist(x.flatten(0, 1), images[0][0][:10]).argmin(1)
    assert torch.equal(nearest.view(7, 5).sum(1).float(), y)
    # digits 0 … 9 with mean 4.5: the rival's error at one image is 2.5
    assert abs(set_digits._constant(images[2], 1, 2000) - 2.5) < 0.15
