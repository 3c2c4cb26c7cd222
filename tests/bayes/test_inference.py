"""Claims of the chapter on inference: evidence, bounds and their gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from torch import nn

from nodes_tutorial.bayes import (
    BetaBernoulli,
    FullRankGaussian,
    GaussianMean,
    LinearRegression,
    MeanFieldGaussian,
    discrete_kl,
    elbo,
    evidence_prior_sampling,
    gaussian_kl,
    importance_mean,
    importance_weighted_bound,
    path_gradients,
    score_gradients,
)
from nodes_tutorial.flows import Gaussian, StandardNormal, evidence

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def spd(dim, seed):
    root = randn(dim, dim + 1, seed=seed)
    return root @ root.T / dim


def regression(n=7, dim=3, noise=0.4):
    prior = Gaussian(randn(dim, seed=1), spd(dim, 2))
    return LinearRegression(randn(n, dim, seed=3), randn(n, seed=4), prior=prior, noise=noise)


class Sigma(nn.Module):
    """Draws of a Gaussian replaced by 2d points with its exact mean and covariance."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def rsample_and_log_prob(self, n, generator=None):
        dim = len(self.q.mean)
        assert n == 2 * dim
        rays = math.sqrt(dim) * torch.eye(dim, dtype=F64)
        factor = self.q.scale.diag() if isinstance(self.q, MeanFieldGaussian) else self.q.factor
        w = self.q.mean + torch.cat([rays, -rays]) @ factor.mT
        return w, self.q.log_prob(w)


class Nodes(nn.Module):
    """Draws of a Gaussian replaced by the nodes of a Gauss-Hermite rule with ``weights``."""

    def __init__(self, q, order):
        super().__init__()
        self.q = q
        node, weight = np.polynomial.hermite_e.hermegauss(order)
        dim = len(q.mean)
        self.z = torch.cartesian_prod(*[torch.from_numpy(node)] * dim).view(-1, dim)
        each = torch.cartesian_prod(*[torch.from_numpy(weight / weight.sum())] * dim)
        self.weights = each.view(-1, dim).prod(1)

    def rsample_and_log_prob(self, n, generator=None):
        w = self.q.mean + self.z * self.q.scale
        return w, self.q.log_prob(w)

    def sample(self, n, generator=None):
        return self.rsample_and_log_prob(n)[0].detach()

    def log_prob(self, w):
        return self.q.log_prob(w)

    def mean_of(self, rows):
        return torch.tensordot(self.weights, rows, 1)


# --- the mode ----------------------------------------------------------------------------------


TOSSES = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=F64)


@pytest.mark.claim("prop-inference-map")
@pytest.mark.parametrize("a, b", [(1.0, 1.0), (2.5, 0.5), (0.3, 4.0)])
def test_evidence_of_tosses_against_quadrature_and_one_toss_at_a_time(a, b, measured):
    coin = BetaBernoulli(TOSSES, a, b)
    prior = BetaBernoulli(TOSSES[:0], a, b)

    def joint(theta):
        theta = torch.tensor(theta, dtype=F64)
        lik = (TOSSES * theta.log() + (1 - TOSSES) * (1 - theta).log()).sum()
        return float((prior.log_joint(theta) + lik).exp())

    pieces = sum(quad(joint, *ends, epsabs=1e-13)[0] for ends in ((0, 0.01), (0.01, 1)))
    assert measured(abs(pieces - coin.log_evidence().exp()), "evidence") < 1e-8
    chain = 0.0
    for i, toss in enumerate(TOSSES):
        heads = BetaBernoulli(TOSSES[:i], a, b).mean()
        chain += float((heads if toss else 1 - heads).log())
    assert measured(abs(chain - coin.log_evidence()), "chain rule") < 1e-12
    other = BetaBernoulli(1 - TOSSES, a, b).log_evidence()
    assert a == b or abs(other - coin.log_evidence()) > 0.1  # heads and tails exchanged


@pytest.mark.claim("prop-inference-map")
def test_mode_moves_with_the_coordinates_and_the_mean_does_not(measured):
    coin = BetaBernoulli(TOSSES, 2.0, 1.0)
    at = lambda x: torch.as_tensor(x, dtype=F64)  # noqa: E731
    plain = minimize_scalar(
        lambda t: -float(coin.log_posterior(at(t))), bounds=(0, 1), method="bounded"
    )
    assert measured(abs(plain.x - coin.mode()), "mode of theta") < 1e-5  # flat at the maximum

    def in_odds(v):
        theta = at(v).sigmoid()
        return float(coin.log_posterior(theta) + theta.log() + (1 - theta).log())

    turned = minimize_scalar(lambda v: -in_odds(v), bounds=(-9, 9), method="bounded")
    assert measured(abs(at(turned.x).sigmoid() - coin.mean()), "mode of log-odds") < 1e-5
    assert abs(coin.mode() - coin.mean()) > 0.02
    mean = quad(lambda v: math.exp(in_odds(v)) * float(at(v).sigmoid()), -30, 30, epsabs=1e-12)[0]
    assert measured(abs(mean - coin.mean()), "prediction in other coordinates") < 1e-9
    without = quad(
        lambda v: math.exp(coin.log_posterior(at(v).sigmoid())) * float(at(v).sigmoid()), -30, 30
    )[0]
    assert abs(without - coin.mean()) > 0.1  # the density of theta is none of v
    even = BetaBernoulli(TOSSES[:2], 2.0, 2.0)
    assert even.mode() == even.mean()
    assert BetaBernoulli(TOSSES[:1], 1.0, 1.0).mode().isnan()  # no mode inside


# --- linear regression -------------------------------------------------------------------------


@pytest.mark.claim("prop-inference-linear")
def test_regression_against_inverses_and_bayes_rule(measured):
    model = regression()
    x, y, s = model.x.numpy(), model.y.numpy(), model.noise
    prior = np.linalg.inv(model.prior.covariance.numpy())
    precision = prior + x.T @ x / s**2
    mean = np.linalg.solve(precision, prior @ model.prior.mean.numpy() + x.T @ y / s**2)
    assert measured(np.abs(model.posterior.mean.numpy() - mean).max(), "mean") < 1e-12
    covariance = model.posterior.covariance.numpy()
    assert measured(np.abs(covariance @ precision - np.eye(3)).max(), "covariance") < 1e-11
    w = randn(5, 3, seed=5)
    everywhere = model.log_joint(w) - model.posterior.log_prob(w)
    assert measured((everywhere - model.log_evidence()).abs().max(), "Bayes' rule") < 1e-11
    law = multivariate_normal(
        x @ model.prior.mean.numpy(), s**2 * np.eye(7) + x @ model.prior.covariance.numpy() @ x.T
    )
    assert measured(abs(law.logpdf(y) - model.log_evidence()), "evidence") < 1e-11
    other = LinearRegression(model.x, model.y, prior=model.prior, noise=2 * s)
    assert ((other.log_joint(w) - model.posterior.log_prob(w)).std()) > 0.1
    centred = Gaussian(torch.zeros(3, dtype=F64), model.prior.covariance)
    moved = LinearRegression(model.x, model.y, prior=centred, noise=s)
    assert (moved.posterior.mean - model.posterior.mean).abs().max() > 1e-3


@pytest.mark.claim("prop-inference-linear")
def test_evidence_is_a_product_of_predictions(measured):
    model, total = regression(), 0.0
    for i in range(7):
        law = model.prior
        if i:
            law = LinearRegression(model.x[:i], model.y[:i], prior=model.prior, noise=0.4).posterior
        row = model.x[i]
        variance = row @ law.covariance @ row + 0.16
        total += Gaussian((row @ law.mean)[None], variance.view(1, 1)).log_prob(model.y[i : i + 1])
    assert measured(abs(total - model.log_evidence()), "chain rule") < 1e-11
    mean, variance = model.predict(model.x)
    assert (mean - model.x @ model.posterior.mean).abs().max() < 1e-13
    exact = (model.x @ model.posterior.covariance @ model.x.T).diagonal()
    assert measured((variance - exact).abs().max(), "predicted variance") < 1e-12


@pytest.mark.claim("prop-inference-linear")
def test_ridge_is_the_mode(measured):
    x, y = randn(9, 3, seed=6), randn(9, seed=7)
    prior = Gaussian(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64) / 2.5)
    mode = LinearRegression(x, y, prior=prior, noise=0.6).posterior.mean
    ridge = torch.linalg.solve(x.T @ x + 2.5 * 0.36 * torch.eye(3, dtype=F64), x.T @ y)
    assert measured((mode - ridge).abs().max(), "ridge") < 1e-12


@pytest.mark.claim("prop-inference-linear")
def test_without_its_hypotheses_there_is_no_such_posterior():
    flat = torch.zeros(2, 2, dtype=F64)
    with pytest.raises(ValueError, match="covariance must be positive definite"):
        Gaussian(torch.zeros(2, dtype=F64), flat)
    with pytest.raises(ValueError, match="noise must be a positive number"):
        regression(noise=0.0)


# --- draws from the prior ----------------------------------------------------------------------


PLACES = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
CHANCE = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
LIK = torch.tensor([0.9, 0.05, 0.4], dtype=F64)


@pytest.mark.claim("prop-inference-prior")
@pytest.mark.parametrize("n", [2, 3, 5])
def test_every_sample_of_a_finite_prior(n, measured):
    """The means over all 3^n samples, each with its probability: no sampling error is left."""
    z = float(CHANCE @ LIK)
    chi = float(CHANCE @ LIK**2) / z**2 - 1
    assert abs(chi - float((CHANCE * LIK / z) @ (LIK / z)) + 1) < 1e-14
    mean = square = log_mean = 0.0
    for picks in itertools.product(range(3), repeat=n):
        picks = list(picks)
        found = evidence(LIK[picks].log())
        p = float(CHANCE[picks].prod())
        mean += p * float(found.log_z.exp())
        square += p * float(found.log_z.exp()) ** 2
        log_mean += p * float(found.log_z)
        lik = LIK[picks]
        exact = float(lik.std() / lik.mean()) / math.sqrt(n)
        assert measured(abs(found.se - exact), "standard error") < 1e-7  # a root of a difference
        assert 1 - 1e-12 < found.ess < n + 1e-12 and found.se <= 1 + 1e-12
    assert measured(abs(mean - z), "unbiased") < 1e-12
    assert measured(abs(square / z**2 - 1 - chi / n), "relative variance") < 1e-12
    assert log_mean < math.log(z) - 1e-3


@pytest.mark.claim("prop-inference-prior")
def test_the_error_that_is_reported_is_at_most_one():
    for n in (2, 10, 1000):
        one_counts = torch.full((n,), -2000.0, dtype=F64)
        one_counts[0] = 500.0
        found = evidence(one_counts)
        assert abs(found.se - 1) < 1e-12 and abs(found.ess - 1) < 1e-12
        equal = evidence(torch.full((n,), -700.0, dtype=F64))
        assert equal.se < 1e-6 and abs(equal.ess - n) < 1e-9
        assert abs(equal.log_z + 700) < 1e-9  # no underflow


@pytest.mark.claim("prop-inference-prior")
def test_draws_of_a_prior_are_weighed_by_their_likelihood(measured):
    model, n = regression(), 40
    found = evidence_prior_sampling(model.log_lik, model.prior, n, generator=rng(2))
    lik = model.log_lik(model.prior.sample(n, rng(2))).exp()
    assert measured(abs(found.log_Z - lik.mean().log()), "mean likelihood") < 1e-12
    exact = lik.std() / lik.mean() / math.sqrt(n)
    assert measured(abs(found.se - exact), "standard error") < 1e-12
    assert measured(abs(found.ess - lik.sum() ** 2 / lik.square().sum()), "draws") < 1e-10
    wrong = evidence_prior_sampling(model.log_joint, model.prior, n, generator=rng(2))
    assert abs(wrong.log_Z - found.log_Z) > 1  # the prior counts twice


@pytest.mark.claim("prop-inference-prior")
def test_prediction_and_its_variance(measured):
    z = float(CHANCE @ LIK)
    mu = float((CHANCE * LIK) @ PLACES) / z
    exact = float((CHANCE * LIK**2) @ (PLACES - mu) ** 2) / z**2
    picks = torch.arange(3).repeat_interleave(torch.tensor([2000, 5000, 3000]))
    mean, se = importance_mean(PLACES[picks], LIK[picks].log())
    assert measured(abs(mean - mu), "prediction") < 1e-12
    assert measured(abs(1e4 * se**2 - exact), "variance") < 1e-10
    runs, n = 4000, 300
    drawn = torch.multinomial(CHANCE, runs * n, True, generator=rng(1)).view(runs, n)
    weight = LIK[drawn]
    found = (weight * PLACES[drawn]).sum(1) / weight.sum(1)
    ratio = n * float((found - mu).square().mean()) / exact
    assert 0.9 < ratio < 1.1  # four standard errors of a variance from 4,000 runs, 2.2 % each
    unweighted = n * float((PLACES[drawn].mean(1) - mu).square().mean()) / exact
    assert unweighted > 10


@pytest.mark.claim("prop-inference-prior")
def test_without_a_second_moment_the_effective_share_goes_to_zero():
    """L = w^-0.6 for uniform w has mean 2.5 and no second moment: ESS/n falls with n."""
    shares = []
    for n in (10**2, 10**4, 10**6):
        w = (torch.arange(n, dtype=F64) + 0.5) / n
        found = evidence(-0.6 * w.log())
        shares.append(float(found.ess) / n)
        bounded = evidence(-0.3 * w.log())  # 0.6 < 1: a second moment
        assert abs(float(bounded.ess) / n - 0.4 / 0.49) < 0.06
    assert shares[1] < 0.6 * shares[0] and shares[2] < 0.6 * shares[1]


@pytest.mark.claim("prop-inference-cost")
@pytest.mark.parametrize("s", [1.0, 0.5, 0.1])
def test_cost_of_the_gaussian_example_against_quadrature(s, measured):
    r = (1 + s**2) / (s * math.sqrt(2 + s**2))
    one = GaussianMean(
        torch.zeros(1, 1, dtype=F64),
        prior=Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)),
        noise=s**2 * torch.eye(1, dtype=F64),
    )

    def moment(k):
        def f(w):
            w = torch.tensor([w], dtype=F64)
            return float((k * one.log_lik(w) + one.prior.log_prob(w)).exp())

        return quad(f, -12, 12, points=[-s, 0, s], epsabs=1e-13, limit=200)[0]

    assert measured(abs(moment(2) / moment(1) ** 2 - r), "one dimension") < 1e-9
    assert measured(abs(math.log(moment(1)) - one.log_evidence()), "evidence") < 1e-9
    side = torch.linspace(-6, 6, 1201, dtype=F64)
    plane = torch.cartesian_prod(side, side)
    two = GaussianMean(
        torch.zeros(1, 2, dtype=F64),
        prior=Gaussian(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)),
        noise=s**2 * torch.eye(2, dtype=F64),
    )
    weight = two.prior.log_prob(plane).exp() * 1e-4
    lik = two.log_lik(plane).exp()
    ratio = float((weight @ lik**2) / (weight @ lik) ** 2)
    assert measured(abs(ratio / r**2 - 1), "two dimensions, relative") < 1e-8
    assert abs(ratio - r) > 0.1  # the dimension is in the exponent


@pytest.mark.claim("prop-inference-cost")
def test_needed_draws_that_the_chapter_prints():
    rounded = {(1, 10): 321, (0.5, 10): 16_438, (0.3, 10): 1.0e6, (0.1, 10): 3.4e10, (0.1, 2): 5e3}
    for (s, d), n in rounded.items():
        r = (1 + s**2) / (s * math.sqrt(2 + s**2))
        assert abs((r**d - 1) / 0.01 / n - 1) < 0.02


# --- the bound ---------------------------------------------------------------------------------


def laws():
    return [
        MeanFieldGaussian(randn(3, seed=8), randn(3, seed=9).exp()),
        FullRankGaussian(randn(3, seed=10), spd(3, 11)),
    ]


@pytest.mark.claim("thm-inference-elbo")
@pytest.mark.parametrize("q", laws(), ids=["mean field", "full rank"])
def test_bound_is_evidence_minus_divergence(q, measured):
    """For a quadratic logarithm six points with the right moments give the exact mean."""
    model = regression()
    bound = elbo(model.log_joint, Sigma(q), 6)
    gap = gaussian_kl(q, model.posterior)
    assert measured(abs(bound - model.log_evidence() + gap) / gap, "relative to the gap") < 1e-12
    split = elbo(model.log_joint, Sigma(q), 6) - gaussian_kl(q, q)
    assert split == bound
    fit = elbo(lambda w: model.log_lik(w) + q.log_prob(w), Sigma(q), 6)  # its mean likelihood
    parts = fit - gaussian_kl(q, model.prior)
    assert measured(abs(parts - bound) / gap, "fit minus divergence to the prior") < 1e-12
    assert abs(elbo(model.log_lik, Sigma(q), 6) - bound) > 0.1  # the prior is forgotten
    assert abs(fit - gaussian_kl(model.prior, q) - bound) > 0.1  # the other direction


@pytest.mark.claim("thm-inference-elbo")
def test_equality_only_at_the_posterior(measured):
    model = regression()
    one = elbo(model.log_joint, model.posterior, 1, generator=rng())
    assert measured(abs(one - model.log_evidence()), "one draw of the posterior") < 1e-11
    for factor, shift in ((1.1, 0.0), (1.0, 0.05), (0.9, 0.0)):
        near = Gaussian(model.posterior.mean + shift, factor * model.posterior.covariance)
        assert elbo(model.log_joint, Sigma(near), 6) < model.log_evidence() - 1e-4


@pytest.mark.claim("thm-inference-elbo")
def test_bound_of_a_posterior_that_is_not_gaussian(measured):
    """A bent posterior on a grid: bound and divergence are sums, the evidence a line integral."""
    prior = StandardNormal(2, dtype=F64)

    def log_joint(w):
        miss = (1 - w[..., 0] ** 2 - w[..., 1]) / 0.5
        return -0.5 * miss**2 - math.log(0.5 * math.sqrt(math.tau)) + prior.log_prob(w)

    def line(w):
        variance = 1 + 0.25
        normal = math.exp(-0.5 * w**2) / math.sqrt(math.tau)
        return normal * math.exp(-0.5 * (1 - w**2) ** 2 / variance) / math.sqrt(math.tau * variance)

    log_z = math.log(quad(line, -10, 10, epsabs=1e-14, limit=200)[0])
    side = (torch.arange(800, dtype=F64) + 0.5) / 50 - 8
    plane = torch.cartesian_prod(side, side)
    q = MeanFieldGaussian(torch.tensor([0.2, 0.4], dtype=F64), torch.tensor([0.5, 0.4], dtype=F64))
    log_q = q.log_prob(plane).detach()
    mass = log_q.exp() / 2500
    bound = float(mass @ (log_joint(plane) - log_q))
    divergence = float(mass @ (log_q - (log_joint(plane) - log_z)))
    assert measured(abs(bound + divergence - log_z), "bent posterior") < 1e-10
    draws = elbo(log_joint, q, 40_000, generator=rng(3)).detach()
    assert abs(draws - bound) < 0.05  # five standard errors


@pytest.mark.claim("thm-inference-elbo")
def test_discrete_divergence_and_mass_outside(measured):
    from scipy.stats import entropy

    q = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.4, 0.6]], dtype=F64)
    p = torch.tensor([[0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], dtype=F64)
    exact = torch.from_numpy(entropy(q.numpy(), p.numpy(), axis=1))
    assert measured((discrete_kl(q, p) - exact).abs().max(), "discrete") < 1e-14
    joint = 0.31 * p[0]
    bound = (q[0] * (joint.log() - q[0].log())).sum()
    gap = math.log(0.31) - discrete_kl(q[0], p[0])
    assert measured(abs(bound - gap), "bound of three coins") < 1e-14
    assert discrete_kl(p[1], q[1]) == math.inf
    cut = elbo(
        lambda w: torch.where(w[:, 0] > 0, 0.0, -math.inf),
        MeanFieldGaussian(torch.zeros(1)), 50, generator=rng(),
    )  # fmt: skip
    assert cut == -math.inf  # q has mass where the joint is 0: no finite bound


@pytest.mark.claim("thm-inference-elbo", "prop-inference-meanfield")
def test_divergence_of_gaussians_against_torch_and_between_classes(measured):
    from torch.distributions import MultivariateNormal, kl_divergence

    mean_field, full = laws()
    fixed = Gaussian(randn(3, seed=12), spd(3, 13))
    for q, p in itertools.product((mean_field, full, fixed), repeat=2):
        exact = kl_divergence(
            MultivariateNormal(q.mean, q.covariance), MultivariateNormal(p.mean, p.covariance)
        )
        error = measured(abs(gaussian_kl(q, p) - exact) / (1 + exact), "relative")
        assert error < 1e-11
        assert q is p or abs(gaussian_kl(q, p) - gaussian_kl(p, q)) > 1e-3
    other = MeanFieldGaussian(randn(3, seed=14), 0.7)
    dense = gaussian_kl(
        Gaussian(mean_field.mean, mean_field.covariance), Gaussian(other.mean, other.covariance)
    )
    assert measured(abs(gaussian_kl(mean_field, other) - dense), "diagonal form") < 1e-11


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.claim("thm-inference-reparam")
@pytest.mark.parametrize("q", laws(), ids=["mean field", "full rank"])
def test_path_gradient_is_the_gradient_of_the_divergence(q, measured):
    model = regression()
    gap = gaussian_kl(q, model.posterior)
    exact = dict(
        zip(dict(q.named_parameters()), torch.autograd.grad(-gap, [*q.parameters()]), strict=True)
    )
    rows = path_gradients(model.log_joint, Sigma(q), 6)
    without = path_gradients(model.log_joint, Sigma(q), 6, entropy=False)
    bound = elbo(model.log_joint, Sigma(q), 6)
    direct = torch.autograd.grad(bound, [*q.parameters()])
    for (name, right), backward in zip(exact.items(), direct, strict=True):
        found = rows["q." + name].mean(0)
        scale = right.abs().max()
        assert measured((found - right).abs().max() / scale, "path, relative") < 1e-11
        assert measured((backward - right).abs().max() / scale, "autograd, relative") < 1e-11
        if name == "rho":  # the entropy has the diagonal alone
            assert (without["q." + name].mean(0) - right).abs().max() > 0.1


def bumps(w):
    return w[..., 0].sin() + w[..., 0].square() * w[..., -1] + w[..., -1].cos()


@pytest.mark.claim("thm-inference-reparam", "prop-inference-score")
@pytest.mark.parametrize("entropy", [True, False])
def test_both_gradients_are_that_of_the_mean(entropy, measured):
    """Means over the draws as Gauss-Hermite sums; the oracle differentiates the sum itself."""
    q = MeanFieldGaussian(torch.tensor([0.3, -0.4], dtype=F64), torch.tensor([0.5, 0.8], dtype=F64))
    nodes = Nodes(q, 24)
    w, log_q = nodes.rsample_and_log_prob(len(nodes.weights))
    mean = nodes.weights @ (bumps(w) - log_q if entropy else bumps(w))
    exact = torch.autograd.grad(mean, [q.mean, q.rho])
    n = len(nodes.weights)
    for method, estimate in (("path", path_gradients), ("score", score_gradients)):
        rows = estimate(bumps, nodes, n, entropy=entropy)
        for name, right in zip(("q.mean", "q.rho"), exact, strict=True):
            found = nodes.mean_of(rows[name])
            assert measured((found - right).abs().max(), method) < 1e-10
    plus = score_gradients(lambda w: bumps(w) + 3, nodes, n, entropy=entropy)
    assert (nodes.mean_of(plus["q.mean"]) - exact[0]).abs().max() < 1e-10  # a constant is free
    scores = score_gradients(lambda w: torch.ones(len(w), dtype=F64), nodes, n, entropy=False)
    for name in ("q.mean", "q.rho"):
        assert measured(nodes.mean_of(scores[name]).abs().max(), "mean of the score") < 1e-12


def quantiles(n=40_000):
    return torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)


class Line(nn.Module):
    """One parameter, and draws that are a function of it and of normal quantiles."""

    def __init__(self, start, push, log_prob=None):
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(start, dtype=F64))
        self.push, self.density = push, log_prob

    def rsample_and_log_prob(self, n, generator=None):
        w = self.push(self.phi, quantiles(n))[:, None]
        return w, torch.zeros_like(w[:, 0])

    def sample(self, n, generator=None):
        return self.rsample_and_log_prob(n)[0].detach()

    def log_prob(self, w):
        return self.density(self.phi, w[..., 0])


def path_mean(q, f, n=40_000):
    return float(path_gradients(lambda w: f(w[:, 0]), q, n, entropy=False)["phi"].mean())


@pytest.mark.claim("thm-inference-reparam")
def test_each_hypothesis_is_needed():
    """Quantiles for draws: errors of the mean are below 1e-3, those of the theorem are not."""
    shift = Line(0.7, lambda phi, e: phi + e)
    assert abs(path_mean(shift, torch.sin) - math.exp(-0.5) * math.cos(0.7)) < 1e-3
    # a kink at one place is allowed
    relu = 0.5 * (1 + math.erf(0.7 / math.sqrt(2)))
    assert abs(path_mean(shift, torch.relu) - relu) < 1e-3
    clipped = Line(0.7, lambda phi, e: torch.relu(phi + e))  # not invertible, no density
    assert abs(path_mean(clipped, lambda w: w) - relu) < 1e-3
    # 3. a jump: the derivative is 0 at almost every draw, and not that of the mean
    step = path_mean(shift, lambda w: (w > 0).to(F64) + 0 * w)
    assert step == 0 and math.exp(-0.245) / math.sqrt(math.tau) > 0.3
    # 2. a kink at the same place for every draw: the mean |phi| sqrt(2/pi) has none either
    kink = Line(0.0, lambda phi, e: phi.abs() * e.abs())
    means = [float(Line(h, kink.push).sample(40_000).mean()) for h in (-1e-3, 0.0, 1e-3)]
    assert means[0] - means[1] > 7e-4 and means[2] - means[1] > 7e-4  # both sides go up
    assert path_mean(kink, lambda w: w) == 0
    # the law of the noise moves with phi: its share is lost
    moved = Line(0.7, lambda phi, e: e + phi.detach())
    assert path_mean(moved, lambda w: w) == 0
    # 1. no mean: the derivative is 1 for every draw, the mean does not settle
    cauchy = Line(
        0.7, lambda phi, e: phi + torch.tan(torch.special.ndtr(e) * math.pi - math.pi / 2)
    )
    assert abs(path_mean(cauchy, lambda w: w) - 1) < 1e-12
    sizes = [quad(lambda x: abs(x) / (1 + x * x), -r, r, limit=200)[0] for r in (1e2, 1e3, 1e4)]
    assert sizes[1] - sizes[0] > 4 and sizes[2] - sizes[1] > 4


@pytest.mark.claim("thm-inference-reparam")
def test_total_derivative_has_the_direct_term():
    """f(w, phi) = phi w with w = phi + e: the mean is phi^2."""
    q = Line(0.7, lambda phi, e: phi * (phi + e))
    assert abs(path_mean(q, lambda w: w) - 1.4) < 1e-9
    partial = Line(0.7, lambda phi, e: phi.detach() * (phi + e))
    assert abs(path_mean(partial, lambda w: w) - 0.7) < 1e-9


@pytest.mark.claim("prop-inference-score")
def test_score_needs_no_derivative_of_f_but_a_fixed_support():
    normal = Line(0.7, lambda phi, e: phi + e, lambda phi, w: -0.5 * (w - phi) ** 2)
    rows = score_gradients(lambda w: (w[:, 0] > 0).to(F64), normal, 40_000, entropy=False)["phi"]
    assert abs(rows.mean() - math.exp(-0.245) / math.sqrt(math.tau)) < 1e-3
    uniform = Line(
        2.0, lambda phi, e: phi * torch.special.ndtr(e), lambda phi, w: -phi.log() + 0 * w
    )
    ones = score_gradients(lambda w: torch.ones(len(w), dtype=F64), uniform, 100, entropy=False)
    assert abs(ones["phi"].mean() + 0.5) < 1e-12  # not 0, the derivative of a constant


@pytest.mark.claim("prop-inference-score")
def test_leave_one_out_is_unbiased_and_its_own_draw_is_not(measured):
    """All pairs of Gauss-Hermite nodes, each with its weight."""
    q = MeanFieldGaussian(torch.tensor([0.3], dtype=F64), 0.8)
    nodes = Nodes(q, 10)
    f = lambda w: w[:, 0] ** 2 + w[:, 0]  # noqa: E731
    exact = float(
        torch.autograd.grad(nodes.weights @ f(nodes.rsample_and_log_prob(10)[0]), q.mean)[0]
    )
    w, total, own = nodes.sample(10), 0.0, 0.0
    for i, j in itertools.product(range(10), repeat=2):
        pair = w[[i, j]]
        two = Nodes(q, 1)
        two.sample = lambda n, generator=None, pair=pair: pair
        p = float(nodes.weights[i] * nodes.weights[j])
        options = {"entropy": False, "baseline": "leave-one-out"}
        total += p * float(score_gradients(f, two, 2, **options)["q.mean"].mean())
        mean = f(pair).mean()
        wrong = score_gradients(lambda w, mean=mean: f(w) - mean, two, 2, entropy=False)
        own += p * float(wrong["q.mean"].mean())
    assert measured(abs(total - exact), "mean over all pairs") < 1e-10
    assert abs(own - exact / 2) < 1e-10  # a mean that holds the draw itself halves the gradient


@pytest.mark.claim("prop-inference-variance")
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_variances_of_the_two_gradients(dim, measured):
    sigma = 1.7
    q = MeanFieldGaussian(torch.zeros(dim, dtype=F64), sigma)
    nodes = Nodes(q, 6)  # exact to degree 11
    n = len(nodes.weights)

    def spread(rows):
        assert nodes.mean_of(rows).abs().max() < 1e-10
        return nodes.mean_of(rows.square()) / sigma**2

    f = lambda w: 0.5 * w.square().sum(-1)  # noqa: E731
    path = spread(path_gradients(f, nodes, n, entropy=False)["q.mean"])
    assert measured((path - 1).abs().max(), "path") < 1e-11
    table = {0.0: (dim + 2) * (dim + 4) / 4, dim / 2: (dim + 4) / 2, (dim + 2) / 2: (dim + 2) / 2}
    for c, exact in table.items():
        shifted = lambda w, c=c: f(w) - c * sigma**2  # noqa: E731
        found = spread(score_gradients(shifted, nodes, n, entropy=False)["q.mean"])
        assert measured((found - exact).abs().max(), "score") < 1e-9
    for c in ((dim + 1) / 2, (dim + 3) / 2):
        shifted = lambda w, c=c: f(w) - c * sigma**2  # noqa: E731
        found = spread(score_gradients(shifted, nodes, n, entropy=False)["q.mean"])
        assert (found > (dim + 2) / 2 + 0.2).all()


# --- mean field --------------------------------------------------------------------------------


def minimum(loss, q):
    optimizer = torch.optim.LBFGS(
        q.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        value = loss(q)
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss(q).detach())


@pytest.mark.claim("prop-inference-meanfield")
def test_best_mean_field_in_both_directions(measured):
    covariance = spd(4, 20) + 0.1 * torch.eye(4, dtype=F64)
    p = Gaussian(randn(4, seed=21), covariance)
    precision = torch.linalg.inv(covariance)
    log_det = float(torch.logdet(covariance))
    q = MeanFieldGaussian(torch.zeros(4, dtype=F64), 1.0)
    value = minimum(lambda q: gaussian_kl(q, p), q)
    assert measured((q.scale.square() * precision.diagonal() - 1).abs().max(), "reverse") < 1e-6
    assert measured((q.mean - p.mean).abs().max(), "mean") < 1e-6
    exact = 0.5 * (float(precision.diagonal().log().sum()) + log_det)
    assert measured(abs(value - exact), "reverse gap") < 1e-10
    for i in range(4):  # the conditional variance, by Schur's complement
        rest = [j for j in range(4) if j != i]
        cross = covariance[i, rest]
        left = covariance[i, i] - cross @ torch.linalg.solve(covariance[rest][:, rest], cross)
        assert measured(abs(left * precision[i, i] - 1), "conditional variance") < 1e-10
    q = MeanFieldGaussian(torch.zeros(4, dtype=F64), 1.0)
    value = minimum(lambda q: gaussian_kl(p, q), q)
    assert measured((q.scale.square() / covariance.diagonal() - 1).abs().max(), "forward") < 1e-6
    exact = 0.5 * (float(covariance.diagonal().log().sum()) - log_det)
    assert measured(abs(value - exact), "forward gap") < 1e-10
    assert (1 / precision.diagonal() < covariance.diagonal() - 1e-3).all()


@pytest.mark.claim("prop-inference-meanfield")
def test_without_correlation_both_directions_agree(measured):
    covariance = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=F64))
    covariance[1, 2] = covariance[2, 1] = 0.6
    precision = torch.linalg.inv(covariance)
    ratio = 1 / (precision.diagonal() * covariance.diagonal())
    assert measured(abs(ratio[0] - 1), "uncorrelated entry") < 1e-14
    assert (ratio[1:] < 0.7).all()


# --- more draws --------------------------------------------------------------------------------


class TwoPoints:
    """All 2^K samples of two weights, group after group, with equal probability."""

    def __init__(self, k):
        self.rows = torch.tensor([*itertools.product((0.0, 1.0), repeat=k)], dtype=F64).flatten()

    def rsample_and_log_prob(self, n, generator=None):
        assert n == len(self.rows)
        return self.rows[:, None], torch.full((n,), -math.log(2), dtype=F64)


def exact_bound(k, low=0.04, high=0.64):
    picks = range(k + 1)
    return sum(math.comb(k, j) / 2**k * math.log(low + (high - low) * j / k) for j in picks)


@pytest.mark.claim("prop-inference-weighted")
def test_bound_of_two_points_for_every_sample(measured):
    joint = lambda w: (0.02 + 0.3 * w[:, 0]).log()  # noqa: E731
    before = -math.inf
    for k in (1, 2, 3, 8):
        found = float(importance_weighted_bound(joint, TwoPoints(k), 2**k, k))
        assert measured(abs(found - exact_bound(k)), "binomial sum") < 1e-12
        assert before < found < math.log(0.34)
        before = found
    assert float(elbo(joint, TwoPoints(1), 2)) == pytest.approx(exact_bound(1), abs=1e-14)
    shuffled = float(importance_weighted_bound(joint, TwoPoints(3), 24, 1))
    assert abs(shuffled - exact_bound(3)) > 0.1  # k groups of one are the first bound


@pytest.mark.claim("prop-inference-weighted")
def test_gap_shrinks_like_one_over_k(measured):
    z, variance = 0.34, 0.3**2
    for k in (50, 200, 800):
        gap = math.log(z) - exact_bound(k)
        leading = variance / (2 * k * z**2)
        assert measured(abs(gap / leading - 1), "leading term") < 3 / k**0.5 / 5
    assert abs(gap / (leading / 2) - 1) > 0.9
    # without a > 0 the logarithm of a mean of zeros is no number, whatever K
    empty = lambda w: torch.where(w[:, 0] > 0, 0.0, -math.inf).to(F64)  # noqa: E731
    assert importance_weighted_bound(empty, TwoPoints(3), 8, 3) == -math.inf


@pytest.mark.claim("prop-inference-weighted")
def test_prior_as_posterior_is_sampling_from_the_prior(measured):
    model = regression()
    found = evidence_prior_sampling(model.log_lik, model.prior, 50, generator=rng(1))
    bound = importance_weighted_bound(model.log_joint, model.prior, 1, 50, generator=rng(1))
    assert measured(abs(found.log_Z - bound), "same draws") < 1e-10
