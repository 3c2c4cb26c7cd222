"""Hamiltonian Monte Carlo and the diagnostics of chains: the law, the order, bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm, rankdata

from nodes_tutorial.bayes import HMCKernel, effective_sample_size, hamiltonian, hmc, r_hat
from nodes_tutorial.ode.stability import leapfrog

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("as_at_the_users")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=F64).to(dtype)


def quartic(x):
    """Independent entries with a density that is no Gaussian, and not even."""
    return -(x**4 / 4 - x.square() / 2 + x / 3).sum(-1)


def slope(x):
    return x**3 - x + 1 / 3


def run(log_prob=quartic, x0=None, **settings):
    x0 = randn(6, 2) if x0 is None else x0
    settings = {"steps": 20, "leapfrog": 4, "step_size": 0.2, "generator": rng(1)} | settings
    return hmc(log_prob, x0, **settings)


# --- the law -----------------------------------------------------------------------------------


def moment(power):
    weight = lambda x: math.exp(-(x**4 / 4 - x**2 / 2 + x / 3))  # noqa: E731
    return quad(lambda x: x**power * weight(x), -9, 9)[0] / quad(weight, -9, 9)[0]


def draws_of_the_quartic(n, seed=3):
    """Exact draws, by the inverse of the distribution function on a fine grid."""
    grid = torch.linspace(-5, 5, 200_001, dtype=F64)
    mass = quartic(grid[:, None]).exp().cumsum(0)
    u = torch.rand(n, generator=rng(seed), dtype=F64)
    return grid[torch.searchsorted(mass / mass[-1], u)][:, None]


def deviations(x):
    """How far the first four moments are from the exact ones, in standard errors."""
    x = x.flatten()
    return [
        float((x**k).mean() - moment(k)) / float((x**k).std() / math.sqrt(len(x)))
        for k in range(1, 5)
    ]


COARSE = {"steps": 3, "leapfrog": 3, "step_size": 0.7}


def test_the_law_is_invariant_with_coarse_steps(measured):
    x0 = draws_of_the_quartic(50_000)
    assert max(map(abs, deviations(x0))) < 4
    chains = run(x0=x0, **COARSE)
    assert 0.5 < chains.accept.mean() < 0.9  # so the decision matters
    assert measured(max(map(abs, deviations(chains.x[-1]))), "moments, standard errors") < 4
    jittered = HMCKernel(quartic, **COARSE, jitter=0.3)(x0, rng(1))
    assert measured(max(map(abs, deviations(jittered))), "with jitter") < 4


def test_wrong_kernels_move_the_law(monkeypatch):
    x0 = draws_of_the_quartic(50_000)
    accepting = HMCKernel(quartic, **COARSE, adjust=False)(x0, rng(1))
    assert not max(map(abs, deviations(accepting))) < 15

    def euler(x, v, grad, h, steps):
        for _ in range(steps):
            x, v = x + h * v, v - h * grad(x)
        grad(x)
        return x, v

    monkeypatch.setattr(hamiltonian, "integrate", euler)
    assert not max(map(abs, deviations(run(x0=x0, **COARSE).x[-1]))) < 15  # or no number


def test_chains_find_the_law_of_a_gaussian_with_correlation(measured):
    cov = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=F64)
    precision = torch.linalg.inv(cov)
    log_prob = lambda x: -0.5 * ((x @ precision) * x).sum(-1)  # noqa: E731
    chains = run(log_prob, 3 * randn(64, 2), steps=500, warmup=100, step_size=0.1, jitter=0.2)
    assert r_hat(chains.x).max() < 1.01
    error = chains.x.mean((0, 1)) / (cov.diagonal() / effective_sample_size(chains.x)).sqrt()
    assert measured(error.abs().max(), "mean, standard errors") < 4
    found = torch.cov(chains.x.flatten(0, 1).T)
    assert measured((found - cov).abs().max(), "covariance") < 0.05


# --- the path ----------------------------------------------------------------------------------


def literal(x, steps, count, h, generator):
    """The method as it is written in the books."""
    energy = lambda x, v: -quartic(x) + 0.5 * v.square().sum(-1)  # noqa: E731
    states, errors = [], []
    for _ in range(steps):
        v = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x_new, v_new = leapfrog(x, v, slope, h, count)
        error = energy(x_new, v_new) - energy(x, v)
        u = torch.rand(len(x), generator=generator, dtype=x.dtype)
        x = torch.where((u < (-error).exp())[:, None], x_new, x)
        states.append(x)
        errors.append(error)
    return torch.stack(states), torch.stack(errors)


def test_the_kept_gradients_are_those_of_the_literal_method(measured):
    chains = run(step_size=0.6)
    states, errors = literal(randn(6, 2), 20, 4, 0.6, rng(1))
    assert measured((chains.x - states).abs().max(), "states") < 1e-12
    relative = (chains.energy_error - errors).abs() / errors.abs().clamp(min=1)
    assert measured(relative.max(), "energy errors") < 1e-11
    assert (chains.accept - (-errors).exp().clamp(max=1)).abs().max() < 1e-11
    assert 0 < (chains.accept < 1).double().mean() < 1
    kernel = HMCKernel(quartic, steps=20, leapfrog=4, step_size=0.6)
    assert torch.equal(kernel(randn(6, 2), rng(1)), chains.x[-1])


@pytest.mark.parametrize("warmup", [0, 3])
def test_a_path_costs_as_many_gradients_as_steps(warmup):
    calls = []

    def counted(x):
        calls.append(len(x))
        return quartic(x)

    run(counted, steps=5, leapfrog=7, warmup=warmup)
    assert calls == [6] * (1 + 7 * (5 + warmup))


def mean_error(h, integrate=None):
    chains = run(x0=randn(500, 3), steps=1, leapfrog=round(1.2 / h), step_size=h)
    return float(chains.energy_error.abs().mean())


def test_energy_error_is_of_second_order(measured, monkeypatch):
    sizes = [0.1, 0.05, 0.025]
    order = np.polyfit(np.log(sizes), np.log([mean_error(h) for h in sizes]), 1)[0]
    assert measured(abs(order - 2), "order") < 0.05

    def kick_then_drift(x, v, grad, h, steps):
        for _ in range(steps):
            v = v - h * grad(x)
            x = x + h * v
        grad(x)
        return x, v

    monkeypatch.setattr(hamiltonian, "integrate", kick_then_drift)
    order = np.polyfit(np.log(sizes), np.log([mean_error(h) for h in sizes]), 1)[0]
    assert abs(order - 1) < 0.1


def test_rows_are_chains_of_their_own_and_seeds_repeat():
    x0 = randn(6, 2)
    first, again, other = run(), run(), run(generator=rng(2))
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)
    x0[1:] += 0.1
    moved = run(x0=x0)
    assert torch.equal(first.x[:, 0], moved.x[:, 0])
    assert not torch.equal(first.x[:, 1], moved.x[:, 1])
    torch.manual_seed(5)
    one = run(generator=None)
    torch.manual_seed(5)
    assert torch.equal(one.x, run(generator=None).x)
    assert not x0.requires_grad and not first.x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_stays(dtype):
    chains = run(x0=randn(6, 2, dtype=dtype), warmup=5, jitter=0.1)
    for value in (chains.x, chains.accept, chains.energy_error, chains.step_size):
        assert value.dtype == dtype
    assert chains.divergent.dtype == torch.bool
    same = {"steps": 1, "step_size": 0.001}  # so small that every path is accepted
    error = (run(x0=randn(6, 2, dtype=dtype), **same).x - run(**same).x).abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-15)


def test_a_law_with_parameters_keeps_their_gradients_out():
    scale = torch.ones(2, dtype=F64, requires_grad=True)
    chains = run(lambda x: -0.5 * (x * scale).square().sum(-1))
    assert not chains.x.requires_grad and scale.grad is None
    with torch.no_grad():
        assert torch.equal(run(lambda x: -0.5 * (x * scale).square().sum(-1)).x, chains.x)


# --- the step size -----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-3, 20.0])
@pytest.mark.parametrize("target", [0.8, 0.9])
def test_warmup_finds_the_acceptance_that_was_asked_for(start, target, measured):
    x0 = randn(64, 10)
    scale = torch.linspace(1, 4, 10, dtype=F64)  # many frequencies, so that no path closes
    log_prob = lambda x: -0.5 * (x / scale).square().sum(-1)  # noqa: E731
    settings = {"leapfrog": 5, "warmup": 200, "target": target, "jitter": 0.2}
    chains = run(log_prob, x0, steps=200, step_size=start, **settings)
    assert measured(abs(float(chains.accept.mean()) - target), "acceptance") < 0.04
    fixed = run(log_prob, x0, steps=5, leapfrog=3)
    assert float(fixed.step_size) == 0.2 and int(fixed.warmup_divergences) == 0


def test_jitter_opens_a_path_that_closes_on_itself():
    log_prob = lambda x: -0.5 * x.square().sum(-1)  # noqa: E731
    turn = 2 * math.asin(0.05)  # angle of one step of size 0.1, by the cosine 1 - h²/2
    count = round(2 * math.pi / turn)
    settings = {"steps": 10, "leapfrog": count, "step_size": 2 * math.sin(math.pi / count)}
    stuck = run(log_prob, **settings)
    assert (stuck.x - randn(6, 2)).abs().max() < 1e-6
    free = run(log_prob, **settings, jitter=0.5)
    assert (free.x[-1] - randn(6, 2)).abs().max() > 0.5
    assert free.x.var() > 0.3


# --- divergences -------------------------------------------------------------------------------


def test_divergent_paths_are_counted_and_the_chain_stays():
    x0 = torch.tensor([[0.0, 0.1], [2.5, 2.0]], dtype=F64)
    chains = run(x0=x0, step_size=1.5, steps=30)
    assert chains.x.shape == (30, 2, 2) and chains.x.isfinite().all()
    assert 0 < chains.divergences == int(chains.divergent.sum())
    before = torch.cat([x0[None], chains.x[:-1]])
    assert torch.equal(chains.x[chains.divergent], before[chains.divergent])
    assert (chains.accept[chains.divergent] == 0).all()
    large = ~(chains.energy_error <= 1000)
    assert torch.equal(large, chains.divergent)
    early = run(x0=x0, step_size=50.0, steps=5, warmup=30)
    assert int(early.warmup_divergences) > 0


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_value_that_is_not_finite_is_a_divergence(bad):
    def half(x):
        return torch.where((x > 0).all(-1), -0.5 * x.square().sum(-1), bad)

    chains = run(half, randn(6, 2).abs(), step_size=0.5, steps=50)
    assert chains.divergences > 0 and (chains.x > 0).all()


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"leapfrog": 0}, ValueError, "leapfrog must be at least 1"),
        ({"warmup": -1}, ValueError, "warmup must be at least 0"),
        ({"step_size": 0.0}, ValueError, "step_size must be a positive number"),
        ({"step_size": math.inf}, ValueError, "step_size must be a positive number"),
        ({"step_size": torch.tensor(0.1)}, TypeError, "step_size must be a positive number"),
        ({"target": 1.0}, ValueError, "target must be a number between 0 and 1"),
        ({"jitter": 1.0}, ValueError, "jitter must be a number from 0"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator"),
        ({"x0": randn(2)}, ValueError, "x0 must be a matrix"),
        ({"x0": randn(0, 2)}, ValueError, "x0 must be a matrix"),
        ({"x0": torch.zeros(2, 2, dtype=torch.long)}, TypeError, "x0 must hold floating"),
        ({"x0": randn(2, 2) / 0}, ValueError, "x0 must lie where log_prob is finite"),
        ({"log_prob": lambda x: x}, ValueError, "log_prob must return one number"),
        ({"log_prob": lambda x: 0.0}, TypeError, "the value of log_prob must be a tensor"),
        ({"log_prob": lambda x: x.detach().sum(-1)}, ValueError, "log_prob must have a deriv"),
    ],
)
def test_bad_input_is_named(settings, error, message):
    with pytest.raises(error, match=message):
        run(**settings)
    kernel = {k: v for k, v in settings.items() if k not in ("x0", "warmup", "target", "generator")}
    if kernel:
        kernel = {"log_prob": quartic, "steps": 2, "leapfrog": 2, "step_size": 0.1} | kernel
        with pytest.raises(error, match=message):
            HMCKernel(**kernel)(randn(3, 2))


@pytest.mark.parametrize("function, chains", [(r_hat, 1), (r_hat, 0), (effective_sample_size, 0)])
def test_too_few_chains_or_steps_are_named(function, chains):
    with pytest.raises(ValueError, match=r"x must have the shape .* chains, got \(9, "):
        function(torch.zeros(9, chains))
    with pytest.raises(ValueError, match="at least 4 steps"):
        function(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="x must have the shape"):
        function(torch.zeros(9))
    with pytest.raises(TypeError, match="x must hold floating-point"):
        function(torch.zeros(9, 5, dtype=torch.long))


# --- diagnostics -------------------------------------------------------------------------------


def split(x):
    half = len(x) // 2
    return [chain for k in range(x.shape[1]) for chain in (x[:half, k], x[-half:, k])]


def r_hat_by_hand(x):
    parts = split(x)
    n = len(parts[0])
    within = np.mean([np.var(part, ddof=1) for part in parts])
    between = n * np.var([part.mean() for part in parts], ddof=1)
    return math.sqrt(((n - 1) / n * within + between / n) / within)


def bulk_by_hand(x):
    """As Vehtari et al. (2021) write it, one number after the other."""
    ranks = rankdata(x, method="average").reshape(x.shape)
    parts = split(norm.ppf((ranks - 3 / 8) / (x.size + 1 / 4)))
    n, m = len(parts[0]), len(parts)
    within = np.mean([np.var(part, ddof=1) for part in parts])
    total = (n - 1) / n * within + np.var([part.mean() for part in parts], ddof=1)
    rho = [1.0]
    for lag in range(1, n):
        each = [
            sum((part[i] - part.mean()) * (part[i + lag] - part.mean()) for i in range(n - lag))
            for part in parts
        ]
        rho.append(1 - (within - np.mean(each) / (n - 1)) / total)
    tau, least = -1.0, math.inf
    for k in range(0, n - n % 2, 2):
        pair = rho[k] + rho[k + 1]
        if pair <= 0:
            break
        least = min(least, pair)
        tau += 2 * least
    return n * m / max(tau, 1 / math.log10(n * m))


def autoregression(rho, steps, chains, seed=0):
    noise = randn(steps, chains, seed=seed)
    x = [noise[0]]
    for row in noise[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(x)


@pytest.mark.parametrize(
    "rho, shape", [(0.0, (40, 3)), (0.8, (60, 4)), (-0.6, (50, 2)), (-0.97, (400, 3))]
)
def test_diagnostics_against_the_definitions(rho, shape, measured):
    x = autoregression(rho, *shape)
    if rho > -0.9:
        x[3] = x[2]  # a rejection makes ties
    else:  # each draw nearly minus the one before: the limit holds
        assert abs(float(effective_sample_size(x)) / (1200 * math.log10(1200)) - 1) < 1e-12
    error = abs(float(r_hat(x)) - r_hat_by_hand(x.numpy()))
    assert measured(error, "R-hat") < 1e-12
    found, slow = float(effective_sample_size(x)), bulk_by_hand(x.numpy())
    assert measured(abs(found / slow - 1), "effective sample size") < 1e-10
    both = torch.stack([x, 5 - 2 * x.exp()], -1)
    assert effective_sample_size(both).shape == (2,) and r_hat(both).shape == (2,)
    same = effective_sample_size(both.double())[1]
    assert abs(float(same) / found - 1) < 1e-9  # ranks do not notice a monotone map
    assert abs(float(r_hat(x)) - r_hat_by_hand(x.numpy()[:, ::-1])) < 1e-12


@pytest.mark.parametrize("rho", [0.9, 0.0, -0.5])
def test_effective_sample_size_of_an_autoregression(rho, measured):
    x = autoregression(rho, 20_000, 8, seed=4)
    exact = x.numel() * (1 - rho) / (1 + rho)
    assert measured(abs(float(effective_sample_size(x)) / exact - 1), "AR(1)") < 0.1


def test_r_hat_by_hand_and_chains_that_disagree():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [2.0, 3.0]], dtype=F64)
    # halves (0, 2), (1, 3) twice each: W = 2, means 1, 2, 1, 2 with variance 1/3, n = 2
    assert abs(float(r_hat(x)) - math.sqrt((1 + 1 / 3) / 2)) < 1e-15
    drift = autoregression(0.0, 200, 4) + torch.linspace(0, 3, 200, dtype=F64)[:, None]
    assert float(r_hat(drift)) > 1.2  # only the split sees a common drift
    assert float(effective_sample_size(drift)) < 40
    stuck = torch.arange(3.0).expand(10, 3)
    assert r_hat(stuck).isinf() and r_hat(torch.ones(10, 3)).isnan()
    assert effective_sample_size(torch.ones(10, 3)).isnan()
    assert effective_sample_size(torch.randn(10, 1, generator=rng(0))).isfinite()
