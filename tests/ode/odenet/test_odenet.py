"""ODE blocks and the networks around them: what they compute, count and cost."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torchdiffeq
from torch import nn

from nodes_tutorial.nets import TimeMLP, count_parameters
from nodes_tutorial.ode import METHODS, solve
from nodes_tutorial.ode.odenet.classifiers import (
    ConvODEFunc,
    ODEBlock,
    ODENet,
    ResBlock,
    ResNet,
    RKNet,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL = {"width": 8, "groups": 4, "downsamplings": 1}
ROOT = Path(__file__).parents[3]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stem_count(kind, width, downsamplings):
    each = 16 * width**2 + 3 * width if kind == "conv" else 19 * width**2 + 4 * width
    return 10 * width + downsamplings * each


def odenet_count(kind, width, downsamplings=2, time_channels=1, classes=10):
    field = 2 * (9 * (width + time_channels) * width + width) + 6 * width
    head = 2 * width + classes * width + classes
    return stem_count(kind, width, downsamplings) + field + head


def resnet_count(kind, width, downsamplings=2, blocks=6):
    body = blocks * (18 * width**2 + 4 * width)
    return stem_count(kind, width, downsamplings) + body + 12 * width + 10


@pytest.mark.claim("prop-odenet-parameters")
def test_parameter_counts(measured):
    """The four numbers of the published program, and the formulas at other sizes."""
    published = {
        ("conv", ODENet): 208_266,
        ("conv", ResNet): 576_778,
        ("res", ODENet): 232_970,
        ("res", ResNet): 601_482,
    }
    for (stem, make), count in published.items():
        assert count_parameters(make(stem=stem)) == count
    worst = 0
    for stem in ("conv", "res"):
        for width, downsamplings in ((8, 0), (16, 1), (24, 3), (64, 2)):
            layout = {"stem": stem, "downsamplings": downsamplings, "groups": 4}
            gap = count_parameters(ODENet(width, **layout))
            worst = max(worst, abs(gap - odenet_count(stem, width, downsamplings)))
            for blocks in (0, 1, 6):
                gap = count_parameters(ResNet(width, blocks=blocks, **layout))
                worst = max(worst, abs(gap - resnet_count(stem, width, downsamplings, blocks)))
    for classes in (2, 7):
        gap = count_parameters(ODENet(16, classes=classes, groups=4))
        worst = max(worst, abs(gap - odenet_count("conv", 16, classes=classes)))
    assert measured(worst, "parameters") == 0
    assert count_parameters(RKNet()) == 208_266
    # wrong: a field that does not see the time
    assert odenet_count("conv", 64, time_channels=0) != count_parameters(ODENet())


@pytest.mark.claim("prop-odenet-parameters")
def test_one_block_matches_the_ode_net():
    """The parameter-matched control differs by the time channels, biases and one norm."""
    for width in (16, 64):
        ode, matched = odenet_count("conv", width), resnet_count("conv", width, blocks=1)
        assert count_parameters(ResNet(width, blocks=1)) == matched
        assert ode - matched == 22 * width == count_parameters(ODENet(width)) - matched
    net = ODENet(64)
    more = net.body.field.conv1.conv.weight[:, :1].numel() * 2  # the time channels
    more += net.body.field.conv1.conv.bias.numel() * 2
    more += sum(p.numel() for p in net.body.field.norm3.parameters())
    assert more == 22 * 64 and more < 0.01 * count_parameters(net)


def van_der_pol(t, y):
    return torch.stack([y[..., 1], 5 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


@pytest.mark.claim("prop-odenet-nfe")
@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].fsal and METHODS[m].b_error])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_evaluations_of_an_adaptive_solve(method, tol, measured):
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return van_der_pol(t, y)

    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    ends = torch.tensor([0.0, 8.0], dtype=torch.float64)
    run = solve(counted, y0, ends, rtol=tol, atol=tol, method=method)
    attempts = run.accepted + run.rejected
    assert run.rejected > 0 or tol < 1e-3
    assert len(run.step_sizes) == run.accepted
    formula = 2 + (METHODS[method].stages - 1) * attempts
    assert measured(abs(calls - formula), "evaluations") == 0
    assert run.nfe == calls
    # wrong: rejected steps are free; no stage is used twice
    free = 2 + (METHODS[method].stages - 1) * run.accepted
    assert (free == calls) == (run.rejected == 0)
    assert 2 + METHODS[method].stages * attempts != calls
    calls = 0  # outputs inside steps cost nothing
    many = torch.linspace(0, 8, 50, dtype=torch.float64)
    solve(counted, y0, many, rtol=tol, atol=tol, method=method)
    if method == "dopri8":  # its interpolant has stages of its own: the hypothesis is needed
        assert calls > run.nfe
    else:
        assert calls == run.nfe
    calls = 0
    given = solve(counted, y0, ends, rtol=tol, atol=tol, method=method, options={"first_step": 0.1})
    attempts = given.accepted + given.rejected
    assert calls == 1 + (METHODS[method].stages - 1) * attempts


@pytest.mark.claim("prop-odenet-nfe")
def test_torchdiffeq_spends_the_same():
    class Counted(nn.Module):
        """A field that counts its calls; the callbacks are the library's own."""

        def __init__(self):
            super().__init__()
            self.calls = self.accepted = self.rejected = 0

        def forward(self, t, y):
            self.calls += 1
            return van_der_pol(t, y)

        def callback_accept_step(self, t, y, dt):
            self.accepted += 1

        def callback_reject_step(self, t, y, dt):
            self.rejected += 1

    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    rejected = 0
    for tol in (1e-3, 1e-5, 1e-7):
        run = Counted()
        torchdiffeq.odeint(run, y0, torch.tensor([0.0, 8.0]).double(), rtol=tol, atol=tol)
        assert run.calls == 2 + 6 * (run.accepted + run.rejected)
        assert run.accepted > 10
        rejected += run.rejected
    assert rejected > 0


def ideal_steps(g, tau, p, share=lambda i: 1.0):
    """Steps of a controller that spends share(i) of the tolerance; the last one as a fraction."""
    t, steps = 0.0, 0
    while True:
        h = (share(steps) * tau) ** (1 / p) / g(t)
        if t + h >= 1:
            return steps + (1 - t) / h
        t, steps = t + h, steps + 1


@pytest.mark.claim("thm-odenet-tolerance")
def test_steps_of_an_ideal_controller(measured):
    """Richardson's extrapolation removes the first-order gap to the limit."""

    def g(t):
        return 2 + math.sin(3 * t)

    limit = 2 + (1 - math.cos(3)) / 3
    for p in (3, 5, 8):
        taus = [2e-4**p, 1e-4**p]
        coarse, fine = (tau ** (1 / p) * ideal_steps(g, tau, p) for tau in taus)
        assert measured(abs(2 * fine - coarse - limit), "steps times tolerance^(1/p)") < 1e-6
        wrong = [tau ** (1 / (p + 1)) * ideal_steps(g, tau, p) for tau in taus]
        assert abs(wrong[1] / wrong[0] - 1) > 0.05  # order p instead of p - 1: no limit
    draws = torch.rand(200_000, generator=seeded(), dtype=torch.float64).tolist()
    c, p, tau = 0.3, 5, 1e-3**5
    count = tau ** (1 / p) * ideal_steps(g, tau, p, lambda i: c + (1 - c) * draws[i])
    assert limit <= count <= c ** (-1 / p) * limit
    below = tau ** (1 / p) * ideal_steps(g, tau, p, lambda i: 0.5 * c)
    assert below > c ** (-1 / p) * limit  # wrong: a controller that wastes more than c allows
    # k exceptions, whatever they spend, cost at most k steps; a share of all steps costs more
    exact = tau ** (1 / p) * ideal_steps(g, tau, p)
    few = tau ** (1 / p) * ideal_steps(g, tau, p, lambda i: 1e-10 if i < 7 else 1.0)
    assert exact + 6 * tau ** (1 / p) < few <= exact + 7 * tau ** (1 / p)
    often = tau ** (1 / p) * ideal_steps(g, tau, p, lambda i: 1e-10 if i % 10 == 0 else 1.0)
    assert often > 1.1 * limit


@pytest.mark.claim("thm-odenet-tolerance")
def test_steps_of_dopri5(measured):
    """On y' = -y the estimate is |P(h)| y with a known polynomial P = E h^5 + O(h^6).

    The statement is a limit, so the bounds hold up to 2 % at the tolerances that can be run, and
    up to the first step, whose length is not the controller's.
    """
    tableau = METHODS["dopri5"]
    a = torch.zeros(7, 7, dtype=torch.float64)
    for i, row in enumerate(tableau.a, start=1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b_error, ones = (
        torch.tensor(tableau.b_error, dtype=torch.float64),
        torch.ones(7, dtype=torch.float64),
    )
    powers = [b_error @ torch.linalg.matrix_power(a, k) @ ones for k in range(7)]
    assert max(abs(power) for power in powers[:4]) < 1e-14  # order 4: E is the next one
    constant = abs(powers[4].item())
    limit = constant**0.2 * 5 * (1 - math.exp(-1 / 5))  # integral of (E exp(-t))^(1/5)
    y0, ends = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    counts = []
    for tau in (1e-10, 1e-12, 1e-14):
        run = solve(lambda t, y: -y, y0, ends, rtol=0.0, atol=tau)
        h = run.step_sizes
        estimate = sum((-h) ** (k + 1) * power for k, power in enumerate(powers)).abs()
        shares = (estimate * (-run.step_times).exp() / tau)[3:-1]
        assert shares.max() <= 1
        scaled = tau**0.2 * run.accepted
        counts.append(scaled)
        assert 0.98 * limit <= scaled
        # c from prop-pi-controller, and the exceptions k counted: at both ends, never more
        steady = 0.9 ** (5 / 0.65)
        shares = estimate * (-run.step_times).exp() / tau
        c = 0.93 * steady  # the steady state is a limit, too
        exceptions = int((shares < c).sum())
        assert exceptions <= 6
        assert scaled - exceptions * tau**0.2 <= 1.01 * c**-0.2 * limit
        assert (shares > 0.5).sum() <= 6  # a larger c would have nearly all steps as exceptions
    assert abs(counts[2] / counts[1] - 1) < 0.04  # one step is 0.6 %
    measured(abs(counts[2] / counts[1] - 1), "change of steps times tolerance^(1/5)")
    wrong = [count * tau**-0.03 for count, tau in zip(counts, (1e-10, 1e-12, 1e-14), strict=True)]
    assert abs(wrong[2] / wrong[1] - 1) > 0.1  # exponent 0.17, that of order 5, is no limit


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_block_against_torchdiffeq(device, dtype):
    torch.manual_seed(0)
    field = ConvODEFunc(8, 4, "tanh").to(device, dtype)
    x = torch.randn(5, 8, 3, 3, generator=seeded(), dtype=dtype).to(device)
    y = ODEBlock(field, rtol=1e-7, atol=1e-7)(x)
    ends = torch.tensor([0.0, 1.0], dtype=dtype, device=device)
    other = torchdiffeq.odeint(field, x, ends, rtol=1e-7, atol=1e-7)[-1]
    torch.testing.assert_close(y, other, rtol=1e-4, atol=1e-5)
    assert y.dtype == dtype


def test_field_sees_the_time_one_for_all_or_one_for_each():
    field = ConvODEFunc(4, 2).double()
    x = torch.randn(3, 4, 5, 5, generator=seeded(), dtype=torch.float64)
    t = torch.rand(3, 1, 1, 1, generator=seeded(1), dtype=torch.float64)
    each = torch.cat([field(t[i, 0, 0, 0], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(field(t, x), each)
    assert (field(t + 0.5, x) - each).abs().max() > 1e-3
    block = ODEBlock(field, rtol=1e-6, atol=1e-6, options={"per_sample": True})
    alone = torch.cat([block(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(block(x), alone, rtol=1e-10, atol=1e-12)


def test_block_counts_forward_and_backward():
    y = torch.randn(6, 3, generator=seeded())
    field = TimeMLP(3, [8], generator=seeded(1))
    nfe = {}
    for gradient in ("direct", "checkpoint", "adjoint"):
        block = ODEBlock(field, gradient=gradient)
        out = block(y)
        assert (
            block.nfe_forward == solve(field, y, torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3).nfe
        )
        assert block.nfe_backward == 0
        out.sum().backward()
        nfe[gradient] = block.nfe_backward
    assert nfe["direct"] == 0
    assert nfe["adjoint"] % 6 == 2
    assert nfe["checkpoint"] >= 6
    block = ODEBlock(field, method="rk4", options={"step_size": 0.25})
    block(y)
    assert block.nfe_forward == 16


@pytest.mark.parametrize("stem", ["conv", "res"])
@pytest.mark.parametrize("make", [ODENet, RKNet, ResNet])
def test_networks_classify_and_train(make, stem):
    net = make(**SMALL, stem=stem, generator=seeded())
    again = make(**SMALL, stem=stem, generator=seeded())
    x = torch.rand(4, 1, 8, 8, generator=seeded(1))
    assert torch.equal(net(x), again(x))
    assert net(x).shape == (4, 10)
    nn.functional.cross_entropy(net(x), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_gradient_modes_agree():
    x = torch.rand(4, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    grads = {}
    for gradient in ("direct", "checkpoint", "adjoint"):
        tight = {"rtol": 1e-10, "atol": 1e-10, "activation": "tanh", "gradient": gradient}
        net = ODENet(**SMALL, **tight, generator=seeded()).double()
        nn.functional.cross_entropy(net(x), torch.arange(4)).backward()
        grads[gradient] = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(grads["checkpoint"], grads["direct"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(grads["adjoint"], grads["direct"], rtol=1e-6, atol=1e-8)


def test_backward_evaluations_are_not_half():
    """What a paper's solver did is no law: here the backward solve takes 0.6 to 1.3 times."""
    net = ODENet(**SMALL, generator=seeded())
    x = torch.rand(16, 1, 8, 8, generator=seeded(1))
    ratios = []
    for tol in (1e-2, 1e-3, 1e-4, 1e-5):
        net.body.rtol = net.body.atol = tol
        net(x).square().sum().backward()
        ratios.append(net.body.nfe_backward / net.body.nfe_forward)
    assert min(ratios) > 0.6
    assert sum(ratios) / len(ratios) > 0.75


def test_residual_block_is_an_euler_step_of_a_field_that_ignores_time():
    """With its time weights at zero and no last norm, the field's Euler step is a ResBlock."""
    block, field = ResBlock(4, groups=2).double(), ConvODEFunc(4, 2).double()
    with torch.no_grad():
        for mine, theirs in ((block.conv1, field.conv1.conv), (block.conv2, field.conv2.conv)):
            theirs.bias.zero_()
            theirs.weight[:, :1].zero_()
            theirs.weight[:, 1:] = mine.weight
    field.norm3 = nn.Identity()
    x = torch.randn(2, 4, 3, 3, generator=seeded(), dtype=torch.float64)
    euler = ODEBlock(field, method="euler", options={"step_size": 1.0})
    torch.testing.assert_close(euler(x), block(x))


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="stem"):
        ODENet(stem="dense")
    with pytest.raises(ValueError, match="method"):
        ODEBlock(TimeMLP(2, []), method="rk5")(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("make", "name", "wrong"),
    [(RKNet, "steps", 0), (ODENet, "width", 0), (ResNet, "width", 0), (ResNet, "blocks", -1)],
)
def test_a_count_that_is_too_small_is_named(make, name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        make(**{name: wrong})


@pytest.fixture(scope="module")
def recorded():
    found: dict[str, list[dict]] = {}
    for row in json.loads((ROOT / "results" / "odenet_mnist.json").read_text())["rows"]:
        assert (row["dataset"], row["epochs"], row["width"]) == ("mnist", 5, 64)
        found.setdefault(row["network"], []).append(row)
    assert all([row["seed"] for row in rows] == [0, 1, 2] for rows in found.values())
    return found


def test_chapter_prints_the_recorded_run(recorded):
    """The table of the long run in the chapter is the record's."""
    text = (ROOT / "book" / "ode" / "odenet.md").read_text()
    assert len(recorded) == 5
    for name, rows in recorded.items():
        errors = [100 * row["wrong"] / row["test_images"] for row in rows]
        cells = ", ".join(f"{error:.2f}" for error in errors)
        size = f"{rows[0]['parameters']:,}"
        line = rf"\| {name} \| {size} \| {cells} \| {sum(errors) / 3:.2f} \|"
        assert re.search(line, text), line


@pytest.mark.claim("obs-odenet-mnist")
def test_any_block_lowers_the_error_and_the_kinds_are_not_told_apart(recorded):
    """Two shares of 0.005 among 10,000 images differ by 0.001 of sampling error."""
    wrong = {name: [row["wrong"] for row in rows] for name, rows in recorded.items()}
    bare = wrong.pop("stem only")
    assert max(map(max, wrong.values())) == 62 < min(bare) == 88
    means = [sum(counts) / 3 for counts in wrong.values()]
    sampling = (2 * 10_000 * 0.005 * 0.995) ** 0.5
    assert max(means) - min(means) < sampling


def test_chapter_says_how_the_recorded_counts_changed(recorded):
    """All 20, but for one backward count of the first epoch."""
    counts = [row["nfe"] for row in recorded["ODE-Net"]]
    assert all(forward == 20 for run in counts for forward, _ in run)
    assert [run[0][1] for run in counts] == [20, 14, 20]
    assert all(backward == 20 for run in counts for _, backward in run[1:])
    text = " ".join((ROOT / "book" / "ode" / "odenet.md").read_text().split())
    assert "the forward count is 20 in every epoch of the three seeds" in text
    assert "So is the backward count, but for one first epoch with 14" in text
