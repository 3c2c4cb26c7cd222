"""Claims of the chapter on wrong equations: what they do to what is inferred."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.known_unknowns.identifiability import identify
from nodes_tutorial.ode.known_unknowns.sequences import pendulum_sequences
from nodes_tutorial.ode.known_unknowns.systems import (
    GRAVITY,
    pendulum,
    semi_implicit_pendulum,
)
from nodes_tutorial.ode.misspecified.circulation import (
    cardiovascular,
    cardiovascular_sequences,
    cardiovascular_signals,
)
from nodes_tutorial.ode.misspecified.partly_known import PartlyKnown
from tests.ode.films_cases import F64, TIGHT, films, rng


@pytest.mark.claim("prop-misspecified-missing")
def test_what_a_missing_friction_does_to_the_length(measured):
    b = 0.7
    t, z, theta = films(6, steps=40001, friction=b)
    angle, speed = z.unbind(-1)
    bend = pendulum(t, z, theta[:, None], friction=b)[..., 1:]
    design = (-GRAVITY * angle.sin())[..., None, None]
    found, _ = identify(design, bend, t)
    mass = torch.trapezoid(angle.sin().square(), t, dim=-1)
    shift = b / GRAVITY * (angle[:, 0].cos() - angle[:, -1].cos()) / mass
    error = found[:, 0] - 1 / theta[:, 0] - shift
    assert measured(error.abs().max(), "shift of 1/l against its closed form") < 1e-8
    assert shift.abs().max() > 1e-2 and (found[:, 0] - 1 / theta[:, 0] + shift).abs().max() > 1e-2
    # the general formula, and the cure: the missing column
    both = torch.stack([-GRAVITY * angle.sin(), -speed], -1)[..., None, :]
    found, _ = identify(both, bend, t)
    assert measured((found[:, 0] - 1 / theta[:, 0]).abs().max(), "1/l with the column") < 1e-9
    assert measured((found[:, 1] - b).abs().max(), "friction") < 1e-9


@pytest.mark.claim("prop-misspecified-missing")
def test_a_free_residual_hides_a_shift_of_the_inverse_length(measured):
    t, z, theta = films(5)
    for c in (-0.2, 0.3):
        shifted = 1 / (1 / theta + c)

        def with_residual(t, y, shifted=shifted, c=c):
            v = torch.stack([torch.zeros_like(y[:, 0]), c * GRAVITY * y[:, 0].sin()], -1)
            return pendulum(t, y, shifted) + v

        same = odeint(with_residual, z[:, 0], t, **TIGHT).transpose(0, 1)
        assert measured((same - z).abs().max(), "other length, other residual") < 1e-8
        alone = odeint(lambda t, y, s=shifted: pendulum(t, y, s), z[:, 0], t, **TIGHT)
        assert (alone.transpose(0, 1) - z).abs().max() > 1e-2
    # a function of the velocity alone does not hide it: many of them, fitted to what is missing
    angle, speed = z.flatten(0, 1).unbind(-1)
    hidden = GRAVITY * angle.sin()
    knots = torch.linspace(-4, 4, 33, dtype=F64)
    bumps = torch.exp(-((speed[:, None] - knots) ** 2) / 0.1)
    best = bumps @ torch.linalg.lstsq(bumps, hidden[:, None], driver="gelsd").solution
    assert (best[:, 0] - hidden).square().mean() > 0.5 * hidden.square().mean()
    both = torch.cat([bumps, hidden[:, None]], 1)
    gone = both @ torch.linalg.lstsq(both, hidden[:, None], driver="gelsd").solution
    assert measured((gone[:, 0] - hidden).abs().max(), "with the angle it is hidden") < 1e-8


@pytest.mark.claim("prop-misspecified-mismatch")
@pytest.mark.parametrize("h", [0.05, 0.2])
def test_semi_implicit_euler_is_a_pendulum_of_another_length(h, measured):
    length, small = torch.tensor([1.0, 1.5, 2.0], dtype=F64), 1e-5
    z0 = torch.tensor([[small, 0.3 * small]] * 3, dtype=F64)
    z = semi_implicit_pendulum(z0, length, 60, h)
    omega = (GRAVITY / length).sqrt()
    slow = 2 / h * torch.asin(h * omega / 2)
    k = torch.arange(60, dtype=F64) * h * slow[:, None]
    swing = (z[:, 1, :1] - z[:, 0, :1] * (h * slow[:, None]).cos()) / (h * slow[:, None]).sin()
    exact = z[:, 0, :1] * k.cos() + swing * k.sin()
    error = (z[..., 0] - exact).abs().max() / small
    assert measured(error, "relative to the linear solution") < 1e-8
    apparent = length * (omega / slow) ** 2
    series = length * (1 - (h * omega) ** 2 / 12)
    assert ((apparent - series).abs() < 0.02 * (h * omega) ** 4).all()
    assert (apparent < length).all()
    wrong = z[:, 0, :1] * (omega[:, None] * h * torch.arange(60)).cos()
    assert (wrong - z[..., 0]).abs().max() > 1e-2 * small


@pytest.mark.claim("prop-misspecified-volume")
def test_volume_grows_by_what_flows_in(measured):
    seen = cardiovascular_sequences(8, rng(1), noise=0.0, dtype=F64, steps=60)
    z0, theta = seen.z[:, 0] * 1.02, seen.theta + torch.tensor([0.3, -0.1], dtype=F64)
    z = odeint(lambda t, z: cardiovascular(t, z, theta), z0, seen.t, **TIGHT).transpose(0, 1)
    pa, pv = 100 * z[..., 0], 10 * z[..., 1]
    volume = 4 * pa + 111 * pv
    grown = volume - volume[:, :1] - theta[:, :1] * seen.t
    assert measured(grown.abs().max(), "volume minus inflow, ml") < 1e-6
    assert (4 * pa - 4 * pa[:, :1]).abs().max() > 1  # arteries alone do change
    slope = cardiovascular(seen.t, z, theta[:, None])
    rate = 2 / 3 + (3 - 2 / 3) * z[..., 2]
    resistance = (pa - pv) / (100 * z[..., 3] * rate - 4 * 100 * slope[..., 0])
    lost = 0.5335 + (2.134 - 0.5335) * z[..., 2] - resistance
    assert measured((lost - theta[:, None, 1]).abs().max(), "lost resistance") < 1e-9


@pytest.mark.claim("prop-misspecified-volume")
def test_at_rest_only_a_product_is_seen(measured):
    """Stroke volume times remaining resistance: another pair, the same three signals."""
    theta = torch.tensor([[0.0, 0.2]], dtype=F64)
    t = torch.linspace(0, 4000, 3, dtype=F64)
    start = torch.tensor([[0.8, 0.5, 0.2, 0.95]], dtype=F64)
    rest = odeint(lambda t, z: cardiovascular(t, z, theta), start, t, rtol=1e-10, atol=1e-12)[-1]
    assert cardiovascular(t, rest, theta).abs().max() < 1e-9
    full = 0.5335 + (2.134 - 0.5335) * rest[:, 2]
    other = rest.clone()
    other[:, 3] = 1.05 * rest[:, 3]
    lost = full - (full - theta[:, 1]) / 1.05
    theta2 = torch.stack([theta[:, 0], lost], -1)
    assert (lost - theta[:, 1]).abs() > 0.02
    again = cardiovascular(t, other, theta2)
    assert measured(again.abs().max(), "rates at the other rest state") < 1e-9
    signals = cardiovascular_signals(other) - cardiovascular_signals(rest)
    assert signals.abs().max() == 0
    assert cardiovascular(t, other, theta).abs().max() > 1e-3  # not with the old resistance


def test_signals_of_the_circulation():
    seen = cardiovascular_sequences(300, rng(0), steps=30, dt=2.0)
    assert set(seen.theta[:, 0].tolist()) == {-2.0, 0.0}
    assert set(seen.theta[:, 1].tolist()) == {0.0, 0.5}
    assert 100 < (seen.theta[:, 0] == 0).sum() < 200
    blur = seen.x - cardiovascular_signals(seen.z)
    assert abs(blur.std() - 0.05) < 2e-3 and abs(blur.mean()) < 2e-3
    start = cardiovascular_sequences(3, rng(0), steps=2, burn_in=0).z[:, 0]
    assert (start >= torch.tensor([0.75, 0.3, 0.15, 0.9])).all()
    assert (start <= torch.tensor([0.85, 0.7, 0.25, 1.0])).all()


def record(system, model, key):
    file = Path(__file__).parents[3] / "results" / "goku.json"
    rows = json.loads(file.read_text())["rows"]
    found = [row[key] for row in rows if (row["system"], row["model"]) == (system, model)]
    assert len(found) >= 3
    return found


def test_recorded_films_are_as_the_chapter_says():
    known = [v for m in ("goku", "goku-labels") for v in record("pendulum", m, "mse_later")]
    others = [v for m in ("latent-ode", "lstm") for v in record("pendulum", m, "mse_later")]
    assert max(known) < 0.0013 < 0.004 < min(others)
    films = pendulum_sequences(100, torch.Generator().manual_seed(10**6)).x
    for frame in (films[:, :50].mean(1, keepdim=True), films[:, 49:50]):
        assert max(known) < 0.2 * (frame - films[:, 50:]).square().mean()


def test_recorded_circulation_is_as_the_chapter_says():
    """A straight line through each signal is ahead of both models; one run has r wrong."""
    seen = cardiovascular_sequences(100, torch.Generator().manual_seed(10**6 + 1))
    clean = cardiovascular_signals(seen.z).numpy()
    t, error = seen.t.numpy(), []
    for x, truth in zip(seen.x.numpy(), clean, strict=True):
        line = np.polynomial.polynomial.polyfit(t[:200], x[:200], 1)
        error.append(
            ((np.polynomial.polynomial.polyval(t[200:], line).T - truth[200:]) ** 2).mean()
        )
    for model in ("goku", "lstm"):
        assert np.mean(error) < 0.2 * min(record("cvs", model, "mse_later"))
    assert sorted(r > 0.5 for r in record("cvs", "goku", "right_r")) == [False, True, True]
    assert min(record("cvs", "goku", "error_r")) > 0.05  # 0.019 without a network


# --- the pieces ---------------------------------------------------------------------------------


def test_a_partly_known_field_is_the_sum_and_trains_its_network():
    net = torch.nn.Linear(2, 2, dtype=F64)
    field = PartlyKnown(lambda t, z, theta: -theta * z, net)
    z, theta = torch.randn(3, 2, generator=rng(), dtype=F64), torch.full((3, 1), 0.7, dtype=F64)
    slope = field(torch.tensor(0.0), z, theta)
    torch.testing.assert_close(slope, -0.7 * z + z @ net.weight.T + net.bias)
    slope.sum().backward()
    assert net.weight.grad.abs().min() > 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1"):
        cardiovascular_sequences(0)
