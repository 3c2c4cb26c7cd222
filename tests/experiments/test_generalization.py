"""The runs with an explicit penalty of the gradient: resumed, recorded, refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nodes_tutorial.experiments import penalty
from nodes_tutorial.experiments.__main__ import app

TIMES = ("cpu_seconds", "wall_seconds", "command", "package_changed_since")
SMALL = {"large": 0.1, "finer": 2, "epochs": 1, "batch": 20, "width": 5, "orders": 2}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def digits(monkeypatch):
    """Ten noisy classes of tiny pictures."""
    kinds = torch.randn(10, penalty.PIXELS, generator=rng())
    images = kinds.repeat(20, 1) + 0.3 * torch.randn(200, penalty.PIXELS, generator=rng(1))
    part = images, torch.arange(10).repeat(20)
    monkeypatch.setattr(penalty, "_digits", lambda name: part)
    return part


def lasting(row):
    row = {k: v for k, v in row.items() if k not in TIMES}
    ends = [{k: v for k, v in one.items() if k not in TIMES} for one in row["contenders"]]
    return row | {"contenders": ends}


@pytest.mark.usefixtures("digits")
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    run = penalty.Run(seed=1, **SMALL)
    whole = penalty.execute(run, progress=False)
    checkpoint, fit = str(tmp_path / "run.pt"), penalty.fit

    def cut(step, **how):
        def some(i):
            if i == 3:
                raise KeyboardInterrupt
            return step(i)

        return fit(some, **how)

    monkeypatch.setattr(penalty, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        penalty.execute(run, checkpoint=checkpoint, progress=False)
    monkeypatch.setattr(penalty, "fit", fit)
    assert lasting(penalty.execute(run, checkpoint=checkpoint, progress=False)) == lasting(whole)
    assert [one["updates"] for one in whole["contenders"]] == [10, 20, 20, 20, 20]
    assert whole["contenders"][0]["squared_distance"] == 0


@pytest.mark.usefixtures("digits")
def test_command_writes_a_row_for_each_seed(tmp_path):
    out = tmp_path / "penalty.json"
    sizes = [f"--{name}={value}" for name, value in SMALL.items()]
    arguments = ["penalty", "--seeds", "0,1", "--ratios", "0,1", "--out", str(out), *sizes]
    done = CliRunner().invoke(app, [*arguments, "--threads", "0"])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1] and rows[0]["centroid_accuracy"] == 1
    assert [one["coefficient"] for one in rows[0]["contenders"]] == [0, 0, 0.0125]
    for option, message in (("--orders=1", "orders must be at least 2"), ("--large=0", "large")):
        refused = CliRunner().invoke(app, ["penalty", "--out", str(out), option])
        assert refused.exit_code == 1 and message in refused.output


def test_penalized_step_is_the_gradient_of_the_penalized_loss(digits):
    """One step of a stack of two against autograd in double precision, and without the penalty."""
    images, labels = digits[0].double(), digits[1]
    run = penalty.Run(**SMALL)
    start = [w.double() for w in penalty.initial(run, rng(2))]
    part = torch.arange(20)[None]
    ends = penalty.descend(start, (images, labels), part, (0.1, 1, 0.3, 2), rng(3))

    def objective(weights):
        stack = [w[None] for w in weights]
        slope = torch.autograd.grad(
            penalty.losses(stack, images[None, :20], labels[None, :20]).sum(),
            weights,
            create_graph=True,
        )
        value = penalty.losses(stack, images[None, :20], labels[None, :20]).sum()
        return value + 0.3 * sum(g.square().sum() for g in slope)

    free = [w.clone().requires_grad_() for w in start]
    slope = torch.autograd.grad(objective(free), free)
    for w, g, end in zip(start, slope, ends, strict=True):
        assert (end - (w - 0.1 * g)).abs().max() < 1e-12
    plain = penalty.descend(start, (images, labels), part, (0.1, 1, 0.0, 2), rng(3))
    assert (plain[0] - ends[0]).abs().max() > 1e-4


def test_squared_mean_has_no_bias():
    """Draws around a vector: the mean over many stacks is its squared length."""
    center = torch.randn(8, generator=rng(4), dtype=torch.float64)
    draws = torch.randn(4000, 3, 8, generator=rng(5), dtype=torch.float64)
    found = torch.tensor([penalty.squared_mean([center + 2 * d]) for d in draws])
    # 4,000 stacks: five standard errors
    assert abs(found.mean() - center.square().sum()) < 5 * found.std() / 4000**0.5
    naive = (center + 2 * draws).mean(1).square().sum(1).mean()
    assert abs(naive - center.square().sum()) > 5  # the square of the mean has the bias 8 · 4 / 3
