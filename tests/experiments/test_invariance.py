"""The runs on colored MNIST: resumed, recorded, refused; stacks of networks against single ones."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typer.testing import CliRunner

from nodes_tutorial.data.environments import color_weights
from nodes_tutorial.experiments import irm, selection
from nodes_tutorial.experiments.__main__ import app

TIMES = ("cpu_seconds", "wall_seconds", "command", "package_changed_since")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def digits(monkeypatch):
    """Ten classes of noisy pictures, in place of MNIST."""
    kinds = torch.rand(10, 1, 28, 28, generator=rng())
    labels = torch.arange(10).repeat(24)
    noise = torch.rand(240, 1, 28, 28, generator=rng(1))
    pictures = 0.8 * kinds[labels] + 0.2 * noise
    for module in (irm, selection):
        monkeypatch.setattr(module, "mnist", lambda part: (pictures, labels))
    return pictures, labels


def lasting(row):
    return {k: v for k, v in row.items() if k not in TIMES}


def cut_at(step, monkeypatch, module):
    """Let ``module.fit`` be interrupted at one step; returns the fit that is not."""
    fit = module.fit

    def cut(one, **how):
        def some(i):
            if i == step:
                raise KeyboardInterrupt
            return one(i)

        return fit(some, **how)

    monkeypatch.setattr(module, "fit", cut)
    return fit


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("module", "run"),
    [
        (irm, irm.Run(method="irm", seed=1, steps=9)),
        (irm, irm.Run(method="gray", steps=9)),
        (selection, selection.Run(method="rex", steps=9, images=50, hidden=4, anneal=3)),
    ],
    ids=["irm", "gray", "selection"],
)
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch, module, run):
    how = {"checkpoint": str(tmp_path / "run.pt"), "every": 3, "progress": False}
    whole = module.execute(run, progress=False)
    fit = cut_at(7, monkeypatch, module)
    with pytest.raises(KeyboardInterrupt):
        module.execute(run, **how)
    monkeypatch.setattr(module, "fit", fit)
    assert lasting(module.execute(run, **how)) == lasting(whole)


@pytest.mark.usefixtures("digits")
def test_commands_write_rows(tmp_path):
    out = tmp_path / "irm.json"
    common = ["irm", "--out", str(out), "--threads", "0", "--steps", "21"]
    first = [*common, "--methods", "erm,gray", "--seeds", "0,1"]
    second = [*common, "--study", "selection", "--methods", "irm", "--seeds", "0", "--images", "60"]
    for arguments in (first, second):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [(r["study"], r["method"], r["seed"]) for r in rows] == [
        ("released", "erm", 0),
        ("released", "erm", 1),
        ("released", "gray", 0),
        ("released", "gray", 1),
        ("selection", "irm", 0),
    ]
    assert rows[0]["curve"]["step"] == [0, 20] and rows[0]["images"] == [100, 100, 40]
    tried = rows[-1]["settings_tried"]
    assert len(tried) == 12 and len(tried[0]["left_out"]) == 2 and len(tried[0]["test"]) == 3
    for option, message in (
        ("--study=some", "study must be"),
        ("--methods=some", "method must be one of"),
        ("--steps=-1", "steps must be at least 0"),
    ):
        refused = CliRunner().invoke(app, ["irm", "--out", str(out), option])
        assert refused.exit_code == 1 and message in refused.output


def test_settings_are_twelve_for_each_method_and_parity_holds():
    assert {name: len(set(grid)) for name, grid in selection.GRID.items()} == {
        "erm": 12,
        "irm": 12,
        "rex": 12,
    }
    assert selection.GRID["irm"] == selection.GRID["rex"]


@pytest.mark.usefixtures("digits")
def test_environments_are_the_released_ones():
    envs = irm.environments(irm.Run(method="erm"))
    gray = irm.environments(irm.Run(method="gray"))
    for (x, y), (flat, z), flip in zip(envs, gray, irm.COLOR_FLIPS, strict=True):
        channels = x.view(len(x), 2, -1)
        assert torch.equal(y, z) and torch.equal(channels.sum(1), flat)
        color = channels.sum(2).argmax(1)
        assert (channels.sum(2).min(1).values == 0).all()
        # five standard errors of a share
        assert abs((color != y).float().mean() - flip) < 5 * math.sqrt(flip * (1 - flip) / len(y))


def test_objective_is_the_released_one():
    """Against a scale that autograd differentiates; before and after the step of the penalty."""
    setting = irm.RELEASED["irm"]
    z = torch.randn(2, 30, generator=rng(2), dtype=torch.float64)
    y = (torch.rand(2, 30, generator=rng(3)) < 0.5).double()
    scale = torch.ones(2, dtype=torch.float64, requires_grad=True)
    risks = [binary_cross_entropy_with_logits(scale[e] * z[e], y[e]) for e in range(2)]
    slopes = torch.stack([torch.autograd.grad(r, scale)[0].sum() for r in risks])
    squares = torch.tensor(7.0, dtype=torch.float64)
    ours = [irm.irm_penalty(z[e], y[e]) for e in range(2)]
    values = torch.stack(risks).detach(), torch.stack(ours), squares
    early = values[0].mean() + setting.l2 * 7 + slopes.square().mean()
    late = (values[0].mean() + setting.l2 * 7) / setting.weight + slopes.square().mean()
    assert abs(irm.objective("irm", setting, 189, *values) - early) < 1e-12
    assert abs(irm.objective("irm", setting, 190, *values) - late) < 1e-12
    rex = irm.objective("rex", setting, 0, *values) - values[0].mean() - setting.l2 * 7
    assert abs(rex - (values[0][0] - values[0][1]).square() / 4) < 1e-12
    erm = irm.objective("erm", irm.RELEASED["erm"], 0, *values)
    assert abs(erm - values[0].mean() - 0.001 * 7) < 1e-12


def test_stack_is_single_networks():
    """Outputs and three steps of Adam against torch's, one network at a time."""
    run = selection.Run(hidden=5)
    rates = torch.tensor([1e-3, 1e-2])
    nets = selection.Stack(run, rates, rng(4))
    images = torch.rand(6, selection.PIXELS, generator=rng(5))
    zeros = torch.zeros_like(images)
    colored = torch.stack([torch.cat([images, zeros], 1), torch.cat([zeros, images], 1)], 1)
    inputs = colored.flatten(0, 1)
    singles = []
    for k in range(2):
        layers = [nn.Linear(*shape) for shape in ((392, 5), (5, 5), (5, 1))]
        values = iter(w[k].detach() for w in nets.weights)
        for layer in layers:
            layer.weight.data, layer.bias.data = next(values).T.clone(), next(values)[0].clone()
        singles.append(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]))
    for net, rate in zip(singles, rates.tolist(), strict=True):
        adam = torch.optim.Adam(net.parameters(), rate)
        for _ in range(3):
            adam.zero_grad()
            net(inputs).square().mean().backward()
            adam.step()
    for _ in range(3):
        nets.update(nets.logits(images).square().mean(1).sum())
    found = nets.logits(images)
    for k, net in enumerate(singles):
        assert (found[k] - net(inputs)[:, 0]).abs().max() < 1e-5  # float32
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_integrated_risks_slopes_and_accuracies_are_expectations():
    """Against all eight cases of digit, color and label, with their probabilities."""
    labels = torch.tensor([2, 8])
    one = selection.part(torch.rand(2, 1, 28, 28, generator=rng(6), dtype=torch.float64), labels)
    logits = torch.randn(3, 4, generator=rng(7), dtype=torch.float64)
    flips = torch.tensor(selection.COLOR_FLIPS, dtype=torch.float64)
    risk, slope, right = (torch.zeros(3, 3, dtype=torch.float64) for _ in range(3))
    for i, digit in enumerate(labels.tolist()):
        for color in (0, 1):
            for y in (0, 1):
                of_label = 0.75 if y == (digit < 5) else 0.25
                chance = of_label * (flips if color != y else 1 - flips) / 2
                z = logits[:, 2 * i + color, None]
                loss = torch.nn.functional.softplus(-z if y else z)
                risk += chance * loss
                slope += chance * (z.sigmoid() - y) * z
                right += chance * ((z > 0) == bool(y))
    ours = selection.risks_and_slopes(logits, one)
    rights = selection.accuracies(logits, one)
    for found, wanted in zip((*ours, rights), (risk, slope, right), strict=True):
        assert (found - wanted).abs().max() < 1e-12
    weights = color_weights(labels, color_flips=selection.COLOR_FLIPS, dtype=torch.float64)
    assert torch.equal(one.total, weights.sum(3).flatten(1))


def test_objectives_see_only_their_environments():
    risks = torch.tensor([[1.0, 3.0], [1.0, 3.0]], dtype=torch.float64)
    slopes = torch.tensor([[2.0, 4.0], [2.0, 4.0]], dtype=torch.float64)
    seen = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([2.0, 3.0], dtype=torch.float64)
    mean, irm_term = selection.objectives("irm", seen, weights, risks, slopes)
    assert mean.tolist() == [2, 3] and irm_term.tolist() == [2 * 10, 3 * 16]
    assert selection.objectives("rex", seen, weights, risks, slopes)[1].tolist() == [2, 0]
