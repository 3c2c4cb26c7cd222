"""Claims of the chapter on the variational contrastive divergence."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from nodes_tutorial.bayes import (
    FullRankGaussian,
    HMCKernel,
    MeanFieldGaussian,
    discrete_kl,
    hamiltonian,
    isotropic_vcd,
    isotropic_vcd_scale,
    leapfrog_mixing,
    vcd_gradient,
)
from nodes_tutorial.flows import RealNVP

F64 = torch.float64
AS_AT_THE_USERS = pytest.mark.usefixtures("as_at_the_users")
NARROW = torch.tensor([1.95, 0.05], dtype=F64)  # eigenvalues of two variables correlated by .95


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def spd(dim, seed):
    root = randn(dim, dim + 1, seed=seed)
    return root @ root.T / dim


# --- the identity on a finite set --------------------------------------------------------------


def law(n=5, seed=0):
    return randn(n, seed=seed).softmax(0)


def metropolis(p):
    """Proposes a neighbour on a line; p is invariant."""
    n = len(p)
    kernel = torch.zeros(n, n, dtype=F64)
    for i in range(n):
        for j in (i - 1, i + 1):
            if 0 <= j < n:
                kernel[i, j] = 0.5 * min(1.0, float(p[j] / p[i]))
        kernel[i, i] = 1 - kernel[i].sum()
    return kernel


def round_trip(p):
    """Half of the flow goes round a circle in one sense, so no detailed balance; p is invariant."""
    flow = 0.5 * p.min()
    kernel = torch.eye(len(p), dtype=F64)
    for i in range(len(p)):
        kernel[i, i] -= flow / p[i]
        kernel[i, (i + 1) % len(p)] += flow / p[i]
    return kernel


def divergence(q, p, kernel, t):
    """The three divergences, as the definition has them."""
    after = q @ torch.linalg.matrix_power(kernel, t)
    return discrete_kl(q, p) - discrete_kl(after, p) + discrete_kl(after, q)


def two_means(q, p, kernel, t, constant=0.0):
    after = q @ torch.linalg.matrix_power(kernel, t)
    return ((after - q) * (p.log() + constant - q.log())).sum()


@pytest.mark.claim("thm-vcd-identity")
@pytest.mark.parametrize("make", [metropolis, round_trip])
@pytest.mark.parametrize("t", [1, 2, 7])
def test_identity_and_sign_on_five_states(make, t, measured):
    p = law(seed=1)
    kernel = make(p)
    assert (p @ kernel - p).abs().max() < 1e-15
    for seed in range(2, 12):
        q = law(seed=seed)
        value = divergence(q, p, kernel, t)
        error = abs(value - two_means(q, p, kernel, t, constant=-7.0))
        assert measured(error, "identity") < 1e-14
        assert value > 1e-4
    assert abs(divergence(p, p, kernel, t)) < 1e-15
    swapped = ((q - q @ kernel) * (p / q).log()).sum()
    assert abs(swapped - divergence(q, p, kernel, 1)) > 1e-3  # the sign matters


@pytest.mark.claim("thm-vcd-identity")
def test_limit_is_the_symmetrized_divergence(measured):
    p, q = law(seed=1), law(seed=2)
    both = discrete_kl(q, p) + discrete_kl(p, q)
    gaps = [abs(float(divergence(q, p, metropolis(p), t) - both)) for t in (1, 10, 100, 1000)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0.1
    assert measured(gaps[-1], "limit") < 1e-13
    two = torch.zeros(5, 5, dtype=F64)  # two classes that are never left: t alone does not help
    two[:2, :2], two[2:, 2:] = p[:2] / p[:2].sum(), p[2:] / p[2:].sum()
    assert abs(divergence(q, p, two, 1000) - both) > 0.01


@pytest.mark.claim("thm-vcd-identity")
def test_each_hypothesis_of_the_sign_is_needed():
    uniform = torch.full((2,), 0.5, dtype=F64)
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=F64)
    q = torch.tensor([0.9, 0.1], dtype=F64)
    assert divergence(q, uniform, swap, 1) > 0.5
    assert abs(divergence(q, uniform, swap, 2)) < 1e-15  # irreducible, and yet 0 for every q
    p, other = law(seed=1), law(seed=3)
    q = (0.7 * p.log() + 0.3 * other.log()).softmax(0)  # the kernel of another law pulls it away
    assert divergence(q, p, metropolis(other), 3) < -0.01


# --- estimates without sampling error ----------------------------------------------------------


NODES = torch.tensor([0, 0, 0, 0, 1, -1], dtype=F64) * math.sqrt(3)
"""Six equal weights with the moments of N(0, 1) up to degree 5."""


def lattice(dim):
    """All pairs of nodes for the draw and nodes for the kernel's noise, each of shape (n, dim)."""
    rows = torch.cartesian_prod(*[NODES] * (2 * dim))
    return rows[:, :dim], rows[:, dim:]


class Exact(nn.Module):
    """A Gaussian whose draws are the lattice."""

    path, at_moved, at_start = True, True, True  # which derivatives are kept

    def __init__(self, q):
        super().__init__()
        self.q, self.calls = q, 0

    def rsample_and_log_prob(self, n, generator=None):
        noise, _ = lattice(len(self.q.mean))
        assert n == len(noise)
        factor = self.q.scale.diag() if isinstance(self.q, MeanFieldGaussian) else self.q.factor
        w = self.q.mean + noise @ factor.mT
        log_q = self.q.log_prob(w)
        return (w, log_q) if self.path else (w.detach(), log_q.detach() + 0 * log_q)

    def log_prob(self, w):
        self.calls += 1
        value = self.q.log_prob(w)
        kept = self.at_moved if self.calls == 1 else self.at_start
        return value if kept else value.detach() + 0 * value


class Relaxation:
    """z -> m + A(z - m) + noise, with A = exp(-τ Σ⁻¹) and N(m, Σ) invariant; t steps at once."""

    def __init__(self, mean, cov, tau=0.3, t=2):
        values, axes = torch.linalg.eigh(cov)
        shrink = (-tau * t / values).exp()
        self.mean, self.axes = mean, axes
        self.A = axes @ shrink.diag() @ axes.T
        self.noise = axes @ (values * (1 - shrink**2)).sqrt().diag()

    def __call__(self, z, generator=None):
        _, noise = lattice(len(self.mean))
        return self.mean + (z - self.mean) @ self.A.T + noise @ self.noise.T


def problem(dim=2, kind=MeanFieldGaussian):
    mean, cov = randn(dim, seed=1), spd(dim, 2)
    target = MultivariateNormal(mean, cov)
    spread = spd(dim, 5) if kind is FullRankGaussian else 0.4 + randn(dim, seed=4).abs()
    q = kind(randn(dim, seed=3), spread)
    return target, Exact(q), Relaxation(mean, cov)


def exact_divergence(target, q, kernel):
    """By three divergences of Gaussians, with gradients to q's parameters."""
    after_mean = kernel.mean + kernel.A @ (q.mean - kernel.mean)
    after_cov = kernel.A @ q.covariance @ kernel.A.T + kernel.noise @ kernel.noise.T
    before, after = (
        MultivariateNormal(q.mean, q.covariance),
        MultivariateNormal(after_mean, after_cov),
    )
    return (
        kl_divergence(before, target) - kl_divergence(after, target) + kl_divergence(after, before)
    )


def estimate(target, exact, kernel, baseline="none"):
    n = len(lattice(len(exact.q.mean))[0])
    log_joint = lambda z: target.log_prob(z) - 5.0  # noqa: E731  a constant, as an evidence has
    return vcd_gradient(log_joint, exact, kernel, n, baseline=baseline, generator=None)


def worst(gradient, truth):
    return max(
        float((gradient[f"q.{name}"] - value).abs().max() / value.abs().max())
        for name, value in truth.items()
    )


def true_gradient(target, q, kernel):
    names, weights = zip(*q.named_parameters(), strict=True)
    rows = torch.autograd.grad(exact_divergence(target, q, kernel), weights)
    return dict(zip(names, rows, strict=True))


@pytest.mark.claim("thm-vcd-identity", "thm-vcd-gradient")
@pytest.mark.parametrize("kind", [MeanFieldGaussian, FullRankGaussian])
@pytest.mark.parametrize("dim", [1, 2])
def test_loss_and_gradient_without_sampling_error(kind, dim, measured):
    target, exact, kernel = problem(dim, kind)
    found = estimate(target, exact, kernel)
    value = exact_divergence(target, exact.q, kernel).detach()
    assert measured(abs(float(found.loss / value) - 1), "loss") < 1e-11
    truth = true_gradient(target, exact.q, kernel)
    assert measured(worst(found.gradient, truth), "gradient") < 1e-10
    other = estimate(target, exact, kernel, baseline=torch.tensor(-3.0, dtype=F64))
    assert measured(worst(other.gradient, truth), "with a constant baseline") < 1e-10


@pytest.mark.claim("thm-vcd-gradient")
@pytest.mark.parametrize("part", ["path", "at_moved", "at_start"])
def test_each_of_the_three_terms_is_needed(part):
    target, exact, kernel = problem()
    setattr(exact, part, False)
    truth = true_gradient(target, exact.q, kernel)
    assert worst(estimate(target, exact, kernel).gradient, truth) > 0.05


@pytest.mark.claim("thm-vcd-gradient")
def test_hypotheses_of_the_gradient():
    target, exact, kernel = problem()
    truth = true_gradient(target, exact.q, kernel)
    values = estimate(target, exact, kernel).values
    dependent = estimate(target, exact, kernel, baseline=values).gradient
    assert worst(dependent, truth) > 0.05  # a baseline that depends on the draws

    class Adapted(Relaxation):
        """Its time depends on the spread of what it is given, and so on q."""

        def __init__(self, scale):
            super().__init__(kernel.mean, spd(2, 2), tau=float(scale.detach()), t=1)

    fixed = Adapted(exact.q.scale.mean())
    step = 1e-5
    rho = exact.q.rho.detach().clone()
    slopes = torch.zeros(2, dtype=F64)
    for i in range(2):
        for sign in (1, -1):
            with torch.no_grad():
                exact.q.rho.copy_(rho)
                exact.q.rho[i] += sign * step
            moved = Adapted(exact.q.scale.mean())
            value = exact_divergence(target, exact.q, moved)
            slopes[i] += sign * float(value.detach()) / (2 * step)
    with torch.no_grad():
        exact.q.rho.copy_(rho)
    found = estimate(target, exact, fixed).gradient["q.rho"]
    assert (found - slopes).abs().max() > 0.02


def test_leave_one_out_has_the_same_mean_and_less_spread():
    log_joint = lambda z: -0.5 * z.square().sum(-1) / NARROW[1] - 100.0  # noqa: E731
    kernel = HMCKernel(log_joint, steps=1, leapfrog=2, step_size=0.1)
    q = MeanFieldGaussian(torch.zeros(2, dtype=F64), 0.4)
    rows = {
        baseline: torch.stack(
            [
                vcd_gradient(log_joint, q, kernel, 50, baseline=baseline, generator=g).gradient[
                    "rho"
                ]
                for g in map(rng, range(100))
            ]
        )
        for baseline in ("none", "leave-one-out")
    }
    spread = {name: row.std(0) for name, row in rows.items()}
    assert (spread["none"] > 5 * spread["leave-one-out"]).all()
    gap = (rows["none"].mean(0) - rows["leave-one-out"].mean(0)).abs()
    assert (gap < 4 * spread["none"] / math.sqrt(100)).all()


# --- the Gaussian ------------------------------------------------------------------------------


@pytest.mark.claim("thm-vcd-gaussian")
@pytest.mark.parametrize("stationary", [False, True])
def test_divergence_of_an_isotropic_gaussian(stationary, measured):
    values = torch.tensor([2.0, 0.7, 0.1], dtype=F64)
    kept = values * torch.tensor([1.1, 1.3, 1.02], dtype=F64) if stationary else values
    decay = torch.tensor([0.9, -0.5, 0.2], dtype=F64)
    mixing = 1 - decay**2
    zero = torch.zeros(3, dtype=F64)
    target = MultivariateNormal(zero, values.diag())
    for scale in (0.3, 0.8, 2.0):
        q = MultivariateNormal(zero, scale**2 * torch.eye(3, dtype=F64))
        after = MultivariateNormal(zero, (kept + decay**2 * (scale**2 - kept)).diag())
        truth = kl_divergence(q, target) - kl_divergence(after, target) + kl_divergence(after, q)
        found = isotropic_vcd(scale, values, mixing, kept if stationary else None)
        assert measured(abs(float(found - truth)), "divergence") < 1e-12
    best = float(isotropic_vcd_scale(values, mixing, kept))
    search = minimize_scalar(
        lambda s: float(isotropic_vcd(s, values, mixing, kept)),
        bounds=(0.05, 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert measured(abs(search.x - best), "minimum") < 1e-6  # flat there
    assert abs(float(isotropic_vcd_scale(values, decay**2, kept)) - best) > 0.05  # c is 1 - a²


@pytest.mark.claim("thm-vcd-gaussian")
def test_mean_of_the_law_belongs_at_the_middle(measured):
    values, decay = torch.tensor([2.0, 0.1], dtype=F64), torch.tensor([0.9, -0.3], dtype=F64)
    target = MultivariateNormal(torch.zeros(2, dtype=F64), values.diag())
    mean, scale = torch.tensor([0.7, -0.4], dtype=F64), 0.5
    q = MultivariateNormal(mean, scale**2 * torch.eye(2, dtype=F64))
    after_cov = (values + decay**2 * (scale**2 - values)).diag()
    after = MultivariateNormal(decay * mean, after_cov)
    value = kl_divergence(q, target) - kl_divergence(after, target) + kl_divergence(after, q)
    mixing = 1 - decay**2
    extra = 0.5 * ((mixing / values + (1 - decay) ** 2 / scale**2) * mean**2).sum()
    found = isotropic_vcd(scale, values, mixing) + extra
    assert measured(abs(float(found - value)), "with a mean") < 1e-12
    still = torch.tensor([1.0, -0.3], dtype=F64)  # an axis that never mixes has no say
    free = 0.5 * ((1 - still**2) / values + (1 - still) ** 2 / scale**2)
    assert free[0] == 0 and free[1] > 0


@pytest.mark.claim("thm-vcd-gaussian", "prop-vcd-leapfrog")
@pytest.mark.parametrize("step_size", [0.05, 0.1, 0.15])
def test_estimator_against_the_closed_form_at_three_step_sizes(step_size, measured):
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64) / math.sqrt(2)
    precision = turn @ (1 / NARROW).diag() @ turn.T
    assert (torch.linalg.inv(precision)[0, 1] - 0.95).abs() < 1e-12
    log_joint = lambda z: -0.5 * ((z @ precision) * z).sum(-1)  # noqa: E731
    kernel = HMCKernel(log_joint, steps=3, leapfrog=5, step_size=step_size, adjust=False)
    mixing, kept = leapfrog_mixing(NARROW, steps=3, leapfrog=5, step_size=step_size)
    best = float(isotropic_vcd_scale(NARROW, mixing, kept))
    for scale in (0.8 * best, 1.3 * best):
        s = torch.tensor(scale, dtype=F64, requires_grad=True)
        (slope,) = torch.autograd.grad(isotropic_vcd(s, NARROW, mixing, kept), s)
        q = MeanFieldGaussian(torch.zeros(2, dtype=F64), scale)
        slope = float(slope * q.rho.detach()[0].sigmoid())  # both scales move with rho
        rows = [
            vcd_gradient(log_joint, q, kernel, 4000, generator=g).gradient["rho"].sum()
            for g in map(rng, range(20))
        ]
        rows = torch.stack(rows)
        error = abs(float(rows.mean()) - slope) / float(rows.std() / math.sqrt(20))
        assert measured(error, "standard errors") < 4
        ones = torch.ones(2, dtype=F64)  # as if the chain had mixed
        (other,) = torch.autograd.grad(isotropic_vcd(s, NARROW, ones, kept), s)
        other = float(other * q.rho.detach()[0].sigmoid())
        assert abs(float(rows.mean()) - other) > 8 * float(rows.std() / math.sqrt(20))


@pytest.mark.claim("thm-vcd-gaussian")
@pytest.mark.parametrize(
    ("step_size", "scales"),
    [
        (0.05, (0.2822, 0.3279, 0.3959)),
        (0.1, (0.3873, 0.4362, 0.5049)),
        (0.15, (0.7481, 0.7152, 0.6553)),
    ],
)
def test_scales_that_the_chapter_prints(step_size, scales):
    for steps, scale in zip((1, 3, 8), scales, strict=True):
        mixing, kept = leapfrog_mixing(NARROW, steps=steps, leapfrog=5, step_size=step_size)
        assert abs(float(isotropic_vcd_scale(NARROW, mixing, kept)) - scale) < 5e-5


@pytest.mark.claim("prop-vcd-order")
def test_order_of_the_scales(measured):
    assert abs(float(isotropic_vcd_scale(NARROW, torch.ones(2, dtype=F64))) - 0.5588) < 5e-5
    assert abs(float(isotropic_vcd_scale(NARROW, 1 / NARROW)) - 0.2659) < 5e-5
    for seed in range(20):
        values = randn(4, seed=seed).exp()
        variational = (4 / (1 / values).sum()).sqrt()
        mixed = isotropic_vcd_scale(values, torch.full((4,), 0.3, dtype=F64))
        short = isotropic_vcd_scale(values, 1 / values)
        assert short < variational < mixed
        both = (values.mean() * variational**2) ** 0.25
        assert measured(abs(float(mixed - both)), "equal mixing") < 1e-13
        any_mixing = torch.rand(4, generator=rng(seed), dtype=F64)
        scale = isotropic_vcd_scale(values, any_mixing)
        assert values.min().sqrt() < scale < values.max().sqrt()
        one = torch.zeros(4, dtype=F64)
        one[2] = 0.4
        assert abs(float(isotropic_vcd_scale(values, one) - values[2].sqrt())) < 1e-14
    same = torch.full((4,), 0.7, dtype=F64)
    for mixing in (torch.ones(4, dtype=F64), 1 / same):
        assert abs(float(isotropic_vcd_scale(same, mixing)) ** 2 - 0.7) < 1e-14


@pytest.mark.claim("prop-vcd-leapfrog")
@pytest.mark.parametrize("value", [0.05, 1.95])
def test_leapfrog_turns_a_gaussian(value, measured, monkeypatch):
    z, v = randn(50, 1, seed=1), randn(50, 1, seed=2)
    monkeypatch.setattr(hamiltonian, "draw", lambda *args, **how: v)
    log_prob = lambda z: -0.5 * z.square().sum(-1) / value  # noqa: E731
    h, m = 0.15, 5
    angle = math.acos(1 - h**2 / (2 * value))
    kept = value / (1 - h**2 / (4 * value))
    found = HMCKernel(log_prob, steps=1, leapfrog=m, step_size=h, adjust=False)(z)
    turned = math.cos(m * angle) * z + math.sin(m * angle) * math.sqrt(kept) * v
    assert measured((found - turned).abs().max(), "one path") < 1e-12
    values = torch.tensor([value], dtype=F64)
    mixing, stationary = leapfrog_mixing(values, steps=3, leapfrog=m, step_size=h)
    assert measured(abs(float(stationary) - kept), "stationary variance") < 1e-14
    assert measured(abs(float(mixing) - 1 + math.cos(m * angle) ** 6), "mixing") < 1e-14
    assert abs(float(kept) - value) > 1e-3 * value  # not the variance of the target
    with pytest.raises(ValueError, match="step_size must be positive and below"):
        leapfrog_mixing(values, steps=1, leapfrog=1, step_size=2 * math.sqrt(value))


def test_without_the_score_term_the_scale_lies_between():
    """The exercise: the zero of the first two terms, from VI to the limit as the chain mixes."""

    def zero(c):
        inverse, still, pull = (1 / NARROW).sum(), (1 - c).sum(), (c * NARROW).sum()
        u = (still + (still**2 + 4 * inverse * pull).sqrt()) / (2 * inverse)
        return float(u.sqrt())

    mixing, _ = leapfrog_mixing(NARROW, steps=3, leapfrog=5, step_size=0.1)
    assert abs(zero(0 * mixing) - 0.3122) < 5e-5 and abs(zero(0 * mixing + 1) - 0.5588) < 5e-5
    assert 0.3122 < zero(mixing) < 0.5588


# --- protocol, bad input -----------------------------------------------------------------------


def quadratic(z):
    return -0.5 * z.square().sum(-1)


KERNEL = HMCKernel(quadratic, steps=2, leapfrog=3, step_size=0.3)


@AS_AT_THE_USERS
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", ["mean field", "full rank", "flow"])
def test_every_law_can_be_trained(kind, dtype):
    q = {
        "mean field": lambda: MeanFieldGaussian(torch.zeros(2, dtype=dtype), 0.5),
        "full rank": lambda: FullRankGaussian(torch.ones(2, dtype=dtype)),
        "flow": lambda: RealNVP(2, 2, [4], "tanh", rng(0)).to(dtype),
    }[kind]()
    found = vcd_gradient(quadratic, q, KERNEL, 6, generator=rng(1))
    assert set(found.gradient) == {name for name, _ in q.named_parameters()}
    for name, weight in q.named_parameters():
        assert found.gradient[name].shape == weight.shape and weight.grad is None
        assert found.gradient[name].dtype == dtype and found.gradient[name].isfinite().all()
    assert found.moved.shape == (6, 2) and found.values.shape == (6,)
    assert not (found.moved.requires_grad or found.values.requires_grad or found.loss.requires_grad)
    with torch.no_grad():
        again = vcd_gradient(quadratic, q, KERNEL, 6, generator=rng(1))
    assert torch.equal(again.loss, found.loss)
    assert not torch.equal(vcd_gradient(quadratic, q, KERNEL, 6, generator=rng(2)).loss, found.loss)


def test_frozen_parameters_get_no_gradient():
    q = MeanFieldGaussian(torch.zeros(2), 0.5)
    q.mean.requires_grad_(False)
    assert set(vcd_gradient(quadratic, q, KERNEL, 5, generator=rng(0)).gradient) == {"rho"}


class Spare(MeanFieldGaussian):
    def __init__(self):
        super().__init__(torch.zeros(2))
        self.spare = nn.Parameter(torch.zeros(()))


@AS_AT_THE_USERS
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 2"),
        ({"n": 1}, ValueError, "n must be at least 2"),
        ({"n": 0, "baseline": "none"}, ValueError, "n must be at least 1"),
        ({"n": 2.0}, TypeError, "n must be an integer"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator"),
        ({"baseline": "mean"}, ValueError, "baseline must be one of"),
        ({"baseline": torch.zeros(3)}, ValueError, "baseline must be one number"),
        ({"baseline": 1.0}, TypeError, "baseline must be a tensor"),
        ({"q": object()}, TypeError, "q must be a module"),
        ({"q": MeanFieldGaussian(torch.zeros(2)).requires_grad_(False)}, ValueError, "q must have"),
        ({"q": Spare()}, ValueError, "q must depend on all its parameters, got none of spare"),
        ({"log_joint": lambda z: z}, ValueError, "log_joint must return one number"),
        ({"log_joint": lambda z: 0.0}, TypeError, "the value of log_joint must be a tensor"),
        ({"kernel": lambda z, g: z[:1]}, ValueError, "kernel must return points of shape"),
        ({"kernel": lambda z, g: None}, TypeError, "the value of kernel must be a tensor"),
        ({"kernel": lambda z, g: z.double()}, TypeError, "the value of kernel must be torch.float"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"log_joint": quadratic, "kernel": KERNEL, "n": 5, "generator": rng(0)}
    arguments |= {"q": MeanFieldGaussian(torch.zeros(2))} | change
    with pytest.raises(error, match=message):
        vcd_gradient(**arguments)


@AS_AT_THE_USERS
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eigenvalues": torch.tensor([1.0, 0.0])}, ValueError, "eigenvalues must be a vector"),
        ({"eigenvalues": torch.ones(2, 2)}, ValueError, "eigenvalues must be a vector"),
        ({"eigenvalues": torch.ones(2).long()}, TypeError, "eigenvalues must hold floating"),
        ({"mixing": torch.ones(3)}, ValueError, "mixing must have a number for each"),
        ({"stationary": torch.ones(3)}, ValueError, "stationary must have a number for each"),
        ({"stationary": torch.zeros(2)}, ValueError, "stationary must hold positive"),
    ],
)
def test_bad_axes_are_named(change, error, message):
    arguments = {"eigenvalues": torch.ones(2), "mixing": torch.ones(2)} | change
    with pytest.raises(error, match=message):
        isotropic_vcd_scale(**arguments)
    with pytest.raises(error, match=message):
        isotropic_vcd(1.0, **arguments)


def test_a_kernel_that_never_moves_and_a_scale_of_zero_are_named():
    with pytest.raises(ValueError, match="mixing must be positive along some axis"):
        isotropic_vcd_scale(torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match="scale must be positive"):
        isotropic_vcd(torch.tensor([1.0, 0.0]), torch.ones(2), torch.ones(2))
