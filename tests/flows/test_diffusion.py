"""Score and noise: the identities of the score, and laws that noise on the way does not change."""

import math

import pytest
import torch

from nodes_tutorial.flows import PosteriorVelocity, score_from_velocity, stochastic_push

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


CENTERS = torch.tensor([[-2.0, 0.5], [1.0, 1.0], [0.5, -2.0]], dtype=F64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
FIELD = PosteriorVelocity(CENTERS, 0.4, WEIGHTS)


def log_density(x, t):
    """The law of (1 - t) x0 + t x1, whose components have variance (1 - t)² + t² sd²."""
    t = torch.as_tensor(t, dtype=F64)
    a = (1 - t) ** 2 + (t * 0.4) ** 2
    distance = (x[:, None] - t * CENTERS).square().sum(-1)
    return (WEIGHTS.log() - distance / (2 * a) - (math.tau * a).log()).logsumexp(-1)


@pytest.mark.claim("prop-diffusion-score")
@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.99])
def test_score_is_the_slope_of_the_log_density(t):
    x = torch.randn(50, 2, generator=rng(), dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(log_density(x, t).sum(), x)
    velocity = FIELD(torch.tensor(t, dtype=F64), x.detach())
    found = score_from_velocity(velocity, t, x.detach())
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-9)
    if t:  # data minus noise, not the other way round
        other = score_from_velocity(-velocity, t, x.detach())
        assert (other - slope).abs().max() > 0.1


@pytest.mark.claim("prop-diffusion-score")
def test_score_is_the_mean_noise_behind_a_place():
    """By counting: pairs of a finite law of data and many draws of noise that meet near a place."""
    t, place = 0.6, torch.tensor([0.4, -0.3], dtype=F64)
    x0 = torch.randn(2_000_000, 2, generator=rng(1), dtype=F64)
    which = torch.multinomial(WEIGHTS, len(x0), replacement=True, generator=rng(2))
    x1 = CENTERS[which] + 0.4 * torch.randn(x0.shape, generator=rng(3), dtype=F64)
    near = ((1 - t) * x0 + t * x1 - place).norm(dim=-1) < 0.05
    mean = x0[near].mean(0)
    score = score_from_velocity(FIELD(torch.tensor(t, dtype=F64), place), t, place)
    spread = 5 / math.sqrt(int(near.sum())) + 0.02  # of draws, and the width of the disc
    assert (mean + (1 - t) * score).abs().max() < spread


def test_losses_are_the_same_regression():
    x0, x1 = torch.randn(2, 100, 3, generator=rng(4), dtype=F64)
    t = torch.rand(100, 1, generator=rng(5), dtype=F64)
    guess = torch.randn(100, 3, generator=rng(6), dtype=F64)
    score = score_from_velocity(guess, t, (1 - t) * x0 + t * x1)
    by_score = (t / (1 - t)) ** -2 * (score + x0 / (1 - t)).square()
    torch.testing.assert_close(by_score, (guess - (x1 - x0)).square())


@pytest.mark.claim("thm-diffusion-noise")
@pytest.mark.parametrize("noise", [0.0, 0.5, 4.0])
def test_affine_fields_keep_the_law_exactly(noise):
    """From N(0, 1) to N(1, 4) the mean and variance of the equation solve two linear equations.

    They are integrated without draws; every strength must give mean t and variance a(t).
    """

    def rates(t, mean, variance):
        a = (1 - t) ** 2 + 4 * t * t
        slope = (4 * t - (1 - t)) / a  # of the velocity in x
        velocity = 1 + slope * (mean - t)
        pull = slope + noise / 2 * (t * slope - 1)
        drift = velocity + noise / 2 * (t * velocity - mean)
        return drift, 2 * pull * variance + noise * (1 - t)

    steps, mean, variance = 2000, 0.0, 1.0
    for k in range(steps):
        t, h = k / steps, 1 / steps
        d1, e1 = rates(t, mean, variance)
        d2, e2 = rates(t + h, mean + h * d1, variance + h * e1)
        mean, variance = mean + h * (d1 + d2) / 2, variance + h * (e1 + e2) / 2
    assert abs(mean - 1) < 1e-5 and abs(variance - 4) < 1e-4


@pytest.mark.claim("thm-diffusion-noise")
@pytest.mark.parametrize("noise", [0.0, 2.0, 10.0])
def test_noise_does_not_change_where_the_points_arrive(noise, measured):
    x0 = torch.randn(40_000, 2, generator=rng(7), dtype=F64)
    x1 = stochastic_push(FIELD, x0, noise, steps=200, generator=rng(8))
    mean = WEIGHTS @ CENTERS
    square = WEIGHTS @ CENTERS.square().sum(-1) + 2 * 0.4**2
    assert measured((x1.mean(0) - mean).abs().max(), "mean") < 0.05
    assert measured(abs(x1.square().sum(-1).mean() / square - 1), "square") < 0.04
    nearest = torch.cdist(x1, CENTERS).argmin(-1)
    shares = torch.bincount(nearest, minlength=3) / len(x1)
    assert measured((shares - WEIGHTS).abs().max(), "shares") < 0.03


def derivatives(log_density, x, t):
    """Of the density itself: slope in time, gradient and Laplacian in the place."""
    density = lambda t, x: log_density(x[None], t)[0].exp()  # noqa: E731
    every = torch.func.vmap
    time = every(lambda x: torch.func.jacfwd(density)(t, x))(x)
    gradient = every(lambda x: torch.func.grad(density, 1)(t, x))(x)
    second = every(lambda x: torch.func.hessian(density, 1)(t, x))(x)
    return time, gradient, second.diagonal(dim1=1, dim2=2).sum(-1)


@pytest.mark.claim("thm-diffusion-noise")
@pytest.mark.parametrize("noise", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("time", [0.1, 0.6, 0.95])
def test_walkers_obey_the_equation_of_the_noise(noise, time, measured):
    """Fokker and Planck's equation in the plane, place by place, by automatic differentiation."""
    x, t = torch.randn(30, 2, generator=rng(11), dtype=F64), torch.tensor(time, dtype=F64)

    def drift(x):
        v = FIELD(t, x)
        return v + noise / 2 * (t * v - x)

    rate, gradient, laplacian = derivatives(log_density, x, t)
    matrices = torch.func.vmap(torch.func.jacfwd(drift))(x)
    density = log_density(x, t).exp()
    flux = matrices.diagonal(dim1=1, dim2=2).sum(-1) * density + (drift(x) * gradient).sum(-1)
    error = (rate + flux - noise * (1 - t) / 2 * laplacian).abs().max()
    assert measured(error, "residual") < 1e-10
    if noise:  # noise of a strength that does not fade
        assert (rate + flux - noise / 2 * laplacian).abs().max() > 1e-3


@pytest.mark.claim("cor-diffusion-behind")
@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_diffusion_behind_the_field(s, measured):
    """Its equation for the laws p of 1 - s, and its probability flow, which is the field's."""
    x, s = torch.randn(30, 2, generator=rng(12), dtype=F64), torch.tensor(s, dtype=F64)
    backwards = lambda x, s: log_density(x, 1 - s)  # noqa: E731
    rate, gradient, laplacian = derivatives(backwards, x, s)
    density = backwards(x, s).exp()
    pull = (2 * density + (x * gradient).sum(-1)) / (1 - s)  # of the drift -x / (1 - s)
    spread = s / (1 - s) * laplacian
    assert measured((rate - pull - spread).abs().max(), "residual") < 1e-10
    assert (rate + pull - spread).abs().max() > 1e-3  # a drift away from 0
    assert (rate - pull - spread / 2).abs().max() > 1e-3  # half of the noise
    flow = -x / (1 - s) - s / (1 - s) * gradient / density[:, None]
    assert measured((flow + FIELD(1 - s, x)).abs().max(), "probability flow") < 1e-9


@pytest.mark.claim("cor-diffusion-behind")
@pytest.mark.parametrize("s", [0.2, 0.7, 0.95])
def test_diffusion_from_one_data_point(s, measured):
    """Mean and variance of a linear equation, by the classical Runge-Kutta method."""

    def rates(s, mean, variance):
        return -mean / (1 - s), -2 * variance / (1 - s) + 2 * s / (1 - s)

    mean, variance, h = 1.0, 0.0, s / 4000
    for k in range(4000):
        a = rates(k * h, mean, variance)
        b = rates((k + 0.5) * h, mean + h / 2 * a[0], variance + h / 2 * a[1])
        c = rates((k + 0.5) * h, mean + h / 2 * b[0], variance + h / 2 * b[1])
        d = rates((k + 1) * h, mean + h * c[0], variance + h * c[1])
        mean += h / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0])
        variance += h / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1])
    assert measured(abs(mean - (1 - s)), "mean") < 1e-9
    assert measured(abs(variance - s**2), "variance") < 1e-9
    assert abs(variance - s) > 0.04  # not that of the bridge of the noise


def test_noise_without_its_drift_changes_the_law():
    """The correction of the drift is needed: noise alone spreads the points."""
    x, h = torch.randn(5000, 2, generator=rng(9), dtype=F64), 1 / 200
    for k in range(200):
        t = torch.tensor(k * h, dtype=F64)
        kick = torch.randn(x.shape, generator=rng(10 + k), dtype=F64)
        x = x + h * FIELD(t, x) + (4.0 * (1 - t) * h).sqrt() * kick
    square = WEIGHTS @ CENTERS.square().sum(-1) + 2 * 0.4**2
    assert x.square().sum(-1).mean() > 1.3 * square


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
def test_kicks_narrow_points_that_are_paired_with_themselves(noise, measured):
    """The formula of the score is for independent pairs: here the field is 0 and data are noise."""
    x0 = torch.randn(40_000, 1, generator=rng(20), dtype=F64)
    x1 = stochastic_push(lambda t, x: 0 * x, x0, noise, steps=200, generator=rng(21))
    fade = math.exp(-noise)
    closed = fade + (1 - (1 + noise) * fade) / noise
    assert measured(abs(x1.var() - closed), "variance") < 0.03  # 40,000 draws and 200 steps
    assert closed < 0.85  # the data have 1


def test_steps_are_those_of_the_flow_without_noise():
    x0 = torch.randn(7, 2, generator=rng(), dtype=F64)
    x, h = x0, 0.25
    for k in range(4):
        x = x + h * FIELD(torch.tensor(k * h, dtype=F64), x)
    torch.testing.assert_close(stochastic_push(FIELD, x0, 0, steps=4), x)


def test_precision_and_draws_are_those_asked_for():
    x0 = torch.randn(5, 2, generator=rng())
    field = PosteriorVelocity(CENTERS.float(), 0.4)
    first = stochastic_push(field, x0, 1.0, steps=3, generator=rng(1))
    again = stochastic_push(field, x0, 1.0, steps=3, generator=rng(1))
    assert first.dtype == torch.float32 and torch.equal(first, again)
    assert not torch.equal(first, stochastic_push(field, x0, 1.0, steps=3, generator=rng(2)))


X = torch.zeros(3, 2)
BAD = {
    "time 1": (lambda: score_from_velocity(X, 1.0, X), "t must"),
    "time below 0": (lambda: score_from_velocity(X, -0.1, X), "t must"),
    "time nan": (lambda: score_from_velocity(X, math.nan, X), "t must"),
    "velocities of other points": (lambda: score_from_velocity(X[:2], 0.5, X), "velocity must"),
    "velocities in another precision": (
        lambda: score_from_velocity(X.double(), 0.5, X),
        "velocity must",
    ),
    "negative noise": (lambda: stochastic_push(FIELD, X, -1.0, steps=2), "noise must"),
    "infinite noise": (lambda: stochastic_push(FIELD, X, math.inf, steps=2), "noise must"),
    "no steps": (lambda: stochastic_push(FIELD, X, 1.0, steps=0), "steps must"),
    "points of integers": (
        lambda: stochastic_push(FIELD, X.long(), 1.0, steps=1),
        "x0 must",
    ),
}


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
