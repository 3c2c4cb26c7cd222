"""Claims of the chapter on updates with a loss, and the functions that it uses."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from scipy.stats import t as student_law

from nodes_tutorial.bayes import (
    INVERSE_SLOPES,
    bootstrap,
    divergence_posterior,
    gibbs_objective,
    gibbs_posterior,
    loss_scale,
    sandwich,
)

F64 = torch.float64
GENERATORS = {  # generator of the divergence
    "kl": lambda t: t * np.log(t) - t + 1,
    "reverse_kl": lambda t: t - 1 - np.log(t),
    "hellinger": lambda t: 2 * (np.sqrt(t) - 1) ** 2,
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def law(*shape, seed=0):
    return randn(*shape, seed=seed).log_softmax(-1)


# --- the variational principle ------------------------------------------------------------------


@pytest.mark.claim("thm-generalized-variational")
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_objective_is_the_divergence_from_the_gibbs_posterior(scale, measured):
    loss, prior, other = 3 * randn(20, 5), law(20, 5, seed=1), law(20, 5, seed=2)
    best = gibbs_posterior(loss, prior, scale=scale)
    log_z = (prior - scale * loss).logsumexp(-1)
    right = (other.exp() * (other - best)).sum(-1) - log_z
    left = gibbs_objective(other, loss, prior, scale=scale)
    assert measured((left - right).abs().max(), "identity") < 1e-12
    assert (
        measured((gibbs_objective(best, loss, prior, scale=scale) + log_z).abs().max(), "") < 1e-12
    )
    assert (left > gibbs_objective(best, loss, prior, scale=scale)).all()
    for wrong in (gibbs_posterior(-loss, prior, scale=scale), gibbs_posterior(loss, -prior)):
        assert (gibbs_objective(wrong, loss, prior, scale=scale) + log_z).abs().max() > 1e-2


@pytest.mark.claim("thm-generalized-variational")
def test_minimizer_by_a_numerical_search(measured):
    loss, prior = np.array([0.0, 1.0, 3.0, 0.4]), np.array([0.1, 0.4, 0.3, 0.2])

    def objective(logits):
        q = np.exp(logits - np.logaddexp.reduce(logits))
        return 0.7 * q @ loss + q @ np.log(q / prior)

    found = minimize(objective, np.zeros(4), tol=1e-14).x
    found = np.exp(found - np.logaddexp.reduce(found))
    ours = gibbs_posterior(torch.tensor(loss), torch.tensor(prior).log(), scale=0.7).exp()
    assert measured(abs(found - ours.numpy()).max(), "probabilities") < 1e-6


@pytest.mark.claim("thm-generalized-variational")
def test_infinite_losses_and_laws_off_the_prior():
    loss = torch.tensor([0.0, math.inf, 1.0], dtype=F64)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=F64).log()
    best = gibbs_posterior(loss, prior)
    assert best[1] == -math.inf
    assert gibbs_objective(best, loss, prior) == pytest.approx(-math.log(0.2 + 0.3 / math.e))
    assert gibbs_objective(torch.zeros(3, dtype=F64), loss, prior) == math.inf
    half = torch.tensor([0.5, 0.0, 0.5], dtype=F64).log()
    assert gibbs_objective(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), half) == math.inf
    with pytest.raises(ValueError, match="loss and log_prior must leave"):
        gibbs_posterior(torch.full((2,), math.inf), torch.zeros(2))  # Z = 0
    with pytest.raises(ValueError, match="loss and log_prior must leave"):
        gibbs_posterior(torch.tensor([-math.inf, 0.0]), torch.zeros(2))  # not bounded below


def test_functions_give_the_same_posterior():
    theta = torch.linspace(-3, 3, 50, dtype=F64)
    loss, log_prior = (lambda t: (t - 1).abs()), (lambda t: -0.5 * t.square())
    values = gibbs_posterior(loss, log_prior, scale=2.0)(theta)
    grid = gibbs_posterior(loss(theta), log_prior(theta), scale=2.0)
    assert (values.log_softmax(-1) - grid).abs().max() < 1e-12


def test_log_likelihood_gives_bayes_rule():
    """Beta-Bernoulli on a fine grid: the mean of the posterior in closed form."""
    theta = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    loss = -(3 * theta.log() + 5 * (1 - theta).log())
    mass = gibbs_posterior(loss, torch.zeros_like(theta)).exp()
    assert abs((mass * theta).sum() - 4 / 10) < 1e-7


# --- the demands --------------------------------------------------------------------------------


def gibbs(loss, prior):
    return gibbs_posterior(loss, prior, scale=0.8)


def of_factor(log_u):
    return lambda loss, prior: (prior + log_u(loss)).log_softmax(-1)


squashed = of_factor(lambda loss: -torch.nn.functional.softplus(loss))


def own_scales(loss, prior, elements=None):
    """Each element of the whole set has a scale of its own."""
    elements = elements or list(range(loss.shape[-1]))
    scales = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=F64)[elements]
    return (prior - scales * loss).log_softmax(-1)


def escort(loss, prior):
    """The Gibbs update of another coordinate of the law: p / (1 + 3p), normalized."""

    def there(log_p):
        return (log_p - (3 * log_p.exp()).log1p()).log_softmax(-1)

    goal = gibbs(loss, there(prior))
    low, high = (
        torch.full_like(goal[..., :1], -60.0),
        torch.full_like(goal[..., :1], math.log(1 / 3)),
    )
    for _ in range(200):  # p/(1 + 3p) = c e^goal, with c so that p sums to one
        c = (low + high) / 2 - goal.amax(-1, keepdim=True)
        part = (goal + c).exp()
        p = part / (1 - 3 * part)
        over = p.sum(-1, keepdim=True) > 1
        middle = (low + high) / 2
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return p.log().log_softmax(-1)


def demands(rule):
    """Which of the demands a rule satisfies on many laws on three and four parameters."""
    found = {
        "neutral": True,
        "restriction": True,
        "monotone": True,
        "coherent": True,
        "order": True,
    }
    for k in (3, 4):
        prior, one, two = law(200, k, seed=k), randn(200, k, seed=5), randn(200, k, seed=6)
        close = lambda a, b: bool((a.exp() - b.exp()).abs().max() < 1e-9)  # noqa: E731
        after = rule(one, prior)
        found["neutral"] &= close(rule(torch.full_like(one, 1.3), prior), prior)
        found["coherent"] &= close(rule(two, after), rule(one + two, prior))
        found["order"] &= close(rule(two, after), rule(one, rule(two, prior)))
        for size in range(1, k):
            for part in itertools.combinations(range(k), size):
                part = list(part)
                if size > 1:
                    where = (part,) if rule is own_scales else ()
                    inside = rule(one[:, part], prior[:, part].log_softmax(-1), *where)
                    found["restriction"] &= close(inside, after[:, part].log_softmax(-1))
                raised = one.clone()
                raised[:, part] += 0.5
                less = rule(raised, prior).exp()[:, part].sum(-1) < after.exp()[:, part].sum(-1)
                found["monotone"] &= bool(less.all())
    return {name for name, holds in found.items() if holds}


ALL = {"neutral", "restriction", "monotone", "coherent", "order"}


@pytest.mark.claim("thm-generalized-update")
def test_which_rule_meets_which_demand():
    """The Gibbs posterior meets all; for each demand there is a rule that misses it alone."""
    assert demands(gibbs) == ALL
    assert demands(squashed) == ALL - {"coherent"}
    assert demands(own_scales) == ALL - {"neutral"}
    assert demands(of_factor(lambda loss: loss)) == ALL - {"monotone"}
    assert demands(lambda loss, prior: escort(loss, prior)) == ALL - {"restriction"}
    # the package's function with the wrong part put in
    assert demands(lambda loss, prior: gibbs_posterior(loss, 0.5 * prior)) < ALL
    assert demands(lambda loss, prior: gibbs_posterior(loss.square(), prior)) < ALL


@pytest.mark.claim("thm-generalized-update")
def test_factor_is_recovered_from_a_rule(measured):
    """Odds are multiplied by u(l_a)/u(l_b), the same u for all pairs."""
    for rule, log_u in (
        (gibbs, lambda x: -0.8 * x),
        (squashed, lambda x: -torch.nn.functional.softplus(x)),
    ):
        loss, prior = randn(100, 4, seed=7), law(100, 4, seed=8)
        gain = rule(loss, prior) - prior
        for a, b in itertools.combinations(range(4), 2):
            error = gain[:, a] - gain[:, b] - log_u(loss[:, a]) + log_u(loss[:, b])
            assert measured(error.abs().max(), "log odds") < 1e-12


@pytest.mark.claim("thm-generalized-update")
def test_two_parameters_allow_more():
    """Log-odds L with L + sin(L)/2 lowered by delta: all demands hold, and it is not Gibbs."""
    bent = lambda x: x + 0.5 * math.sin(x)  # noqa: E731

    def move(x, delta):
        low, high = bent(x) - delta - 1, bent(x) - delta + 1
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if bent(middle) < bent(x) - delta else (low, middle)
        return low

    for x in (-2.0, 0.3, 1.0):
        assert abs(move(x, 0.0) - x) < 1e-12
        assert abs(move(move(x, 0.4), 0.9) - move(x, 1.3)) < 1e-12
        assert move(x, 0.1) < x
    assert abs((move(0.3, 0.4) - 0.3) - (move(2.0, 0.4) - 2.0)) > 1e-2


@pytest.mark.claim("prop-generalized-max")
@pytest.mark.parametrize("pool", [torch.maximum, torch.minimum, lambda a, b: (a + b) / 2])
def test_idempotent_pooling_contradicts_monotonicity(pool):
    """For the rules that exist, pooling fails at the very loss of the proof."""
    prior = law(3, seed=9)
    loss = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    assert torch.equal(pool(loss, loss), loss)
    for rule in (gibbs, squashed, lambda x, p: divergence_posterior(x, p, "hellinger")):
        once = rule(loss, prior)
        twice, pooled = rule(loss, once), rule(pool(loss, loss), prior)
        assert (pooled - once).abs().max() < 1e-12
        assert rule(0 * loss, once).exp()[0] - twice.exp()[0] > 1e-2
        assert (twice - pooled).abs().max() > 1e-2
    # not idempotent: the sum, which the Gibbs posterior follows
    assert (gibbs(loss, gibbs(loss, prior)) - gibbs(loss + loss, prior)).abs().max() < 1e-12
    # not neutral: the rule that forgets its prior pools by "the last", which is idempotent
    forget = lambda x, p: (-x).log_softmax(-1)  # noqa: E731
    other = torch.tensor([0.0, 2.0, 1.0], dtype=F64)
    assert torch.equal(forget(other, forget(loss, prior)), forget(other, prior))
    # not monotone: the rule that ignores data pools by anything
    ignore = lambda x, p: p  # noqa: E731
    assert torch.equal(ignore(loss, ignore(loss, prior)), ignore(pool(loss, loss), prior))


# --- divergences --------------------------------------------------------------------------------


@pytest.mark.claim("thm-generalized-divergence")
@pytest.mark.parametrize("name", GENERATORS)
def test_minimizer_of_a_divergence_against_a_search(name, measured):
    generator = GENERATORS[name]
    loss, prior = np.array([0.3, 1.0, 2.2, -0.4]), np.array([0.1, 0.4, 0.3, 0.2])

    def objective(logits):
        q = np.exp(logits - np.logaddexp.reduce(logits))
        return q @ loss + prior @ generator(q / prior)

    found = minimize(objective, np.log(prior), tol=1e-14).x
    found = np.exp(found - np.logaddexp.reduce(found))
    ours = divergence_posterior(torch.tensor(loss), torch.tensor(prior).log(), name).exp()
    assert measured(abs(found - ours.numpy()).max(), "probabilities") < 1e-6
    assert abs(objective(np.log(found)) - objective(ours.log().numpy())) < 1e-12


@pytest.mark.claim("thm-generalized-divergence")
def test_only_one_divergence_is_coherent(measured):
    prior, one, two = law(100, 3, seed=10), randn(100, 3, seed=11), randn(100, 3, seed=12)
    for name, slope in INVERSE_SLOPES.items():
        gap = {}
        for which in (name, slope):
            update = lambda loss, p, which=which: divergence_posterior(loss, p, which)  # noqa: E731
            twice = update(two, update(one, prior)).exp()
            gap[which] = float((twice - update(one + two, prior).exp()).abs().max())
        if name == "kl":
            assert measured(gap[name], "two updates against one") < 1e-12
            assert (update(one, prior) - gibbs_posterior(one, prior)).abs().max() < 1e-12
        else:
            assert gap[name] > 0.05
        assert abs(gap[name] - gap[slope]) < 1e-12
    half = lambda u: (u / 2).exp()  # noqa: E731
    scaled = divergence_posterior(one, prior, half)
    exact = gibbs_posterior(one, prior, scale=0.5)
    assert measured((scaled - exact).abs().max(), "twice the divergence") < 1e-12


@pytest.mark.claim("thm-generalized-divergence")
def test_without_an_infinite_slope_at_zero_the_support_shrinks():
    """The chi-squared distance has slope -2 at 0, and its minimizer gives mass 0."""
    loss, prior = np.array([0.0, 0.1, 9.0]), np.array([0.3, 0.3, 0.4])

    def objective(q):
        return q @ loss + prior @ (q / prior - 1) ** 2

    found = minimize(
        objective, prior, bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1}, tol=1e-12,
    ).x  # fmt: skip
    assert found[2] < 1e-9
    full = divergence_posterior(torch.tensor(loss), torch.tensor(prior).log(), "hellinger").exp()
    assert full.min() > 1e-3


# --- the median ---------------------------------------------------------------------------------


def absolute_loss(x, theta):
    return (x[..., None, :] - theta[..., None]).abs().sum(-1)


def moments(x, w, reach, log_prior=lambda t: torch.zeros_like(t)):
    """Mean and standard deviation of the Gibbs posterior of medians, on a grid."""
    middle = x.median(-1, keepdim=True).values
    theta = middle + reach * torch.linspace(-1, 1, 1501, dtype=F64)
    ordered = x.sort(-1).values
    below = torch.searchsorted(ordered, theta)
    sums = torch.cat([torch.zeros_like(x[..., :1]), ordered.cumsum(-1)], -1)
    loss = (2 * below - x.shape[-1]) * theta + sums[..., -1:] - 2 * sums.gather(-1, below)
    if x.shape[-1] < 100:
        assert (loss - absolute_loss(x, theta)).abs().max() < 1e-9
    mass = gibbs_posterior(loss, log_prior(theta), scale=w).exp()
    mean = (mass * theta).sum(-1, keepdim=True)
    return mean[..., 0], (mass * (theta - mean).square()).sum(-1).sqrt(), middle[..., 0]


def students(m, n, seed):
    noise, scale = randn(m, n, seed=seed), randn(m, n, 3, seed=seed + 1)
    return noise / scale.square().mean(-1).sqrt()


@pytest.mark.claim("thm-generalized-median")
def test_numbers_of_students_law_at_4000_points(measured):
    f = float(student_law(3).pdf(0))
    assert abs(f - 2 / (math.pi * math.sqrt(3))) < 1e-12
    for w, expected in ((1.0, 0.01844), (2 * f, 0.02151)):
        exact = 1 / math.sqrt(2 * w * f * 4000)
        assert abs(exact - expected) < 5e-6
        _, sd, _ = moments(students(60, 4000, 20), w, 0.15)
        # one data set varies by 5 %, the mean of sixty by 0.7 %; the limit is 0.5 % away
        assert measured(abs(float(sd.mean()) / exact - 1), "relative, 60 data sets") < 0.03
        assert abs(float(sd.mean()) / exact * math.sqrt(2) - 1) > 0.3  # 1/(4wf) in place of 1/(2wf)
    assert abs(1 / (2 * f * math.sqrt(4000)) - 0.02151) < 5e-6


@pytest.mark.claim("thm-generalized-median")
@pytest.mark.parametrize("w", [0.5, 2.0])
def test_limit_of_the_posterior(w, measured):
    """An asymmetric law and a prior that is not flat: normal shape, right width, right center."""
    n, median = 200_000, math.log(2)
    x = -torch.rand(4, n, generator=rng(30), dtype=F64).log()
    f = 0.5
    exact = 1 / math.sqrt(2 * w * f * n)
    tilted = lambda t: 3 * t - t.square()  # noqa: E731
    mean, sd, middle = moments(x, w, 8 * exact, tilted)
    # the bends of 200,000 points: 3 % of the width
    assert measured((sd / exact - 1).abs().max(), "width") < 0.06
    assert measured(((mean - middle) / exact).abs().max(), "center, in widths") < 0.15
    assert ((middle - median) * 2 * f * math.sqrt(n)).abs().max() < 4
    prior_free, _, _ = moments(x, w, 8 * exact)
    assert ((mean - prior_free) / exact).abs().max() < 0.02  # the prior is forgotten
    half = lambda t: torch.where(t < median, 0.0, -math.inf)  # noqa: E731
    _, cut, _ = moments(x, w, 8 * exact, half)
    assert (cut / exact).min() < 0.8  # a prior that is not continuous at the median is not


@pytest.mark.claim("thm-generalized-median")
def test_sample_medians_vary_as_claimed(measured):
    f = float(norm.pdf(0))
    middles = randn(3000, 801, seed=40).median(-1).values
    ratio = float(middles.std()) * 2 * f * math.sqrt(801)
    # 3,000 draws of a standard deviation: 1.3 %
    assert measured(abs(ratio - 1), "relative, 3,000 medians") < 0.05
    assert abs(ratio * math.sqrt(2) - 1) > 0.3


@pytest.mark.claim("thm-generalized-median")
def test_a_density_that_vanishes_at_the_median_breaks_it():
    """F is flat at m: the medians do not concentrate at the rate of the theorem."""
    x = randn(400, 1001, seed=41)
    gap = x.sign() * (1 + x.abs())  # no mass in (-1, 1)
    assert gap.median(-1).values.std() > 0.8
    _, sd, _ = moments(gap[:5], 1.0, 3.0)
    assert (sd > 0.02).any()


# --- sandwich and scale -------------------------------------------------------------------------


@pytest.mark.claim("prop-generalized-scale")
def test_quadratic_losses(measured):
    """Gibbs posterior, sandwich and scale against covariances by hand, in three dimensions."""
    root, n = randn(3, 3, seed=50), 40
    H = root @ root.T + torch.eye(3, dtype=F64)
    xi = randn(n, 3, seed=51) @ randn(3, 3, seed=52)
    xi = xi - xi.mean(0)  # so that the estimate is at 0
    V = xi.T @ xi / n
    inverse = torch.linalg.inv(H)
    assert measured((sandwich(-xi, H) - inverse @ V @ inverse / n).abs().max(), "sandwich") < 1e-12
    w = loss_scale(-xi, H)
    left, right = n * w * H, n * H @ torch.linalg.inv(V) @ H
    assert measured(abs(left.trace() / right.trace() - 1), "traces of precisions") < 1e-10
    assert (left - right).abs().max() > 1  # no number fits the whole matrix
    assert abs(loss_scale(-xi, 2 * H) / w - 2) < 1e-10
    matched = torch.linalg.cholesky(1.7 * H)
    rows = math.sqrt(3) * matched.T  # three gradients with mean square 1.7 H
    assert measured(abs(loss_scale(rows, H) - 1 / 1.7), "V = 1.7 H") < 1e-10
    # the posterior of one coordinate with the others fixed, on a grid
    theta = torch.linspace(-3, 3, 6001, dtype=F64)
    loss = n * 0.5 * H[0, 0] * theta.square()
    mass = gibbs_posterior(loss, torch.zeros_like(theta), scale=float(w)).exp()
    variance = (mass * theta.square()).sum()
    assert measured(abs(variance * n * w * H[0, 0] - 1), "width of the posterior") < 1e-9


@pytest.mark.claim("prop-generalized-scale")
def test_mean_of_a_square_loss_in_one_dimension(measured):
    """H = 1 and V the variance: posterior and sampling variance agree."""
    x = 3 * randn(500, seed=53)
    gradients = (x.mean() - x)[:, None]
    H = torch.ones(1, 1, dtype=F64)
    w = loss_scale(gradients, H)
    variance = x.var(correction=0) / 500
    assert measured(abs(w - 1 / x.var(correction=0)), "scale") < 1e-12
    assert measured(abs(sandwich(gradients, H)[0, 0] - variance), "variance") < 1e-12
    assert measured(abs(1 / (500 * w) - variance), "posterior variance") < 1e-12
    fresh = randn(20_000, 500, seed=54).mul(3).mean(1)
    assert abs(fresh.var() / (9 / 500) - 1) < 0.04  # four spreads of 20,000 draws


def test_bootstrap_of_the_mean_and_of_the_median(measured):
    x = randn(201, 2, seed=55)
    means = bootstrap(lambda sets: sets.mean(1), x, 20_000, generator=rng(1))
    assert means.shape == (20_000, 2)
    exact = x.T.cov(correction=0) / 201
    assert measured((means.T.cov() / exact - 1).abs().diagonal().max(), "20,000 draws") < 0.05
    assert torch.equal(means, bootstrap(lambda sets: sets.mean(1), x, 20_000, generator=rng(1)))
    medians = bootstrap(lambda sets: sets.median(1).values, x[:, 0], 20_000, generator=rng(2))
    k = torch.arange(1, 202, dtype=F64)
    law_of_median = torch.distributions.Binomial(201, k[:-1] / 201)
    at_most = torch.stack(
        [law_of_median.log_prob(torch.tensor(float(j))).exp() for j in range(101, 202)]
    )
    mass = torch.cat([at_most.sum(0), torch.ones(1, dtype=F64)]).diff(
        prepend=torch.zeros(1, dtype=F64)
    )
    ordered = x[:, 0].sort().values
    mean = (mass * ordered).sum()
    sd = (mass * (ordered - mean).square()).sum().sqrt()
    assert measured(abs(medians.std() / sd - 1), "sd of medians, 20,000 draws") < 0.03


# --- averages of predictions --------------------------------------------------------------------


@pytest.mark.claim("prop-generalized-predictor")
def test_draws_and_averages(measured):
    heads, prior = torch.tensor([0.9, 0.1], dtype=F64), torch.tensor([0.9, 0.1], dtype=F64)
    expected = -0.5 * heads.log() - 0.5 * (1 - heads).log()
    assert measured((expected + 0.5 * math.log(0.09)).abs().max(), "loss of a draw") < 1e-14
    for scale in (1.0, 50.0):
        posterior = gibbs_posterior(expected, prior.log(), scale=scale).exp()
        assert measured((posterior - prior).abs().max(), "Gibbs is the prior") < 1e-12
    nu = torch.linspace(0.001, 0.999, 999, dtype=F64)
    q = 0.9 * nu + 0.1 * (1 - nu)
    averaged = -0.5 * q.log() - 0.5 * (1 - q).log()
    assert abs(nu[averaged.argmin()] - 0.5) < 1e-9
    assert measured(abs(averaged.min() - math.log(2)), "least loss of the average") < 1e-12
    assert abs(float(averaged[899]) - 0.957) < 5e-4 and averaged[899] > averaged.min() + 0.2
    # Jensen, for random laws and densities
    density, weights = randn(500, 6, seed=60).exp(), law(500, 6, seed=61).exp()
    gap = -(weights * density.log()).sum(-1) + (weights * density).sum(-1).log()
    assert (gap > 0).all()
    # another coin: there the Gibbs posterior moves
    biased = -0.8 * heads.log() - 0.2 * (1 - heads).log()
    assert (gibbs_posterior(biased, prior.log()).exp() - prior).abs().max() > 1e-2


# --- dtypes, batches, bad input -----------------------------------------------------------------


def test_batches_and_single_precision():
    loss, prior = randn(2, 5, 4, seed=70), law(2, 5, 4, seed=71)
    for compute in (
        gibbs_posterior,
        lambda x, p: divergence_posterior(x, p, "hellinger"),
        lambda x, p: gibbs_objective(p, x, p),
    ):
        whole = compute(loss, prior)
        for i, j in itertools.product(range(2), range(5)):
            assert (compute(loss[i, j], prior[i, j]) - whole[i, j]).abs().max() < 1e-12
        single = compute(loss.float(), prior.float())
        assert single.dtype == torch.float32 and (single - whole).abs().max() < 1e-4


def test_gradient_of_the_posterior_in_the_loss():
    loss, prior = randn(4, seed=72).requires_grad_(), law(4, seed=73)
    assert torch.autograd.gradcheck(lambda x: gibbs_posterior(x, prior, scale=0.7), loss)


def test_halving_is_enough():
    """The number of halvings leaves no more than rounding, for losses of a wide range."""
    loss, prior = 1e3 * randn(50, 6, seed=74), law(50, 6, seed=75)
    found = divergence_posterior(loss, prior, "reverse_kl").exp()
    assert (found.sum(-1) - 1).abs().max() < 1e-12
    multiplier = 1 - prior.exp() / found + loss  # lambda, the same for all parameters
    spread = multiplier.amax(-1) - multiplier.amin(-1)
    assert (spread / (loss.amax(-1) - loss.amin(-1))).max() < 1e-9


G, H1 = torch.ones(3, 1), torch.ones(1, 1)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: gibbs_posterior(torch.zeros(2), torch.abs), TypeError, "must both be tensors"),
        (lambda: gibbs_posterior(torch.zeros(2), torch.zeros(2), scale=0.0), ValueError, "scale"),
        (lambda: gibbs_posterior(torch.abs, torch.abs, scale=math.inf), ValueError, "scale must"),
        (lambda: gibbs_posterior(torch.zeros(2).long(), torch.zeros(2)), TypeError, "loss must"),
        (
            lambda: gibbs_posterior(torch.zeros(2), torch.zeros(2).long()),
            TypeError, "log_prior must hold",
        ),
        (
            lambda: gibbs_posterior(torch.tensor([math.nan, 0.0]), torch.zeros(2)),
            ValueError, "loss and log_prior must leave",
        ),
        (
            lambda: gibbs_objective(torch.zeros(2), torch.zeros(2), torch.zeros(2), scale=-1.0),
            ValueError, "scale must be a positive",
        ),
        (
            lambda: divergence_posterior(torch.zeros(2), torch.zeros(2), "chi"),
            ValueError, "divergence must be 'kl', 'reverse_kl', 'hellinger' or a function",
        ),
        (lambda: divergence_posterior([0.0], torch.zeros(1)), TypeError, "loss must be a tensor"),
        (lambda: sandwich(G, torch.ones(2, 2)), ValueError, r"gradients \(n, dim\) and hessian"),
        (lambda: sandwich(G[:0], H1), ValueError, "gradients must hold at least one"),
        (lambda: sandwich(G, -H1), ValueError, "hessian must be symmetric and positive definite"),
        (
            lambda: sandwich(torch.ones(3, 2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            ValueError, "hessian must be symmetric",
        ),
        (lambda: sandwich(G.double(), H1), TypeError, "hessian must be torch.float64"),
        (
            lambda: loss_scale(torch.ones(3, 2), torch.eye(2)),
            ValueError, "gradients must span all dimensions",
        ),
        (lambda: bootstrap(lambda s: s.mean(1), G, 0), ValueError, "draws must be at least 1"),
        (lambda: bootstrap(lambda s: s.mean(1), G[:0], 2), ValueError, "x must hold at least one"),
        (lambda: bootstrap(lambda s: s.mean(), G, 2), ValueError, "estimator must return 2"),
        (
            lambda: bootstrap(lambda s: s.mean(1), G, 2, generator=3),
            TypeError, "generator must be a torch.Generator",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_signature_is_the_documented_one():
    parameters = inspect.signature(inspect.unwrap(gibbs_posterior)).parameters
    assert list(parameters) == ["loss", "log_prior", "scale"]
    assert parameters["scale"].kind is inspect.Parameter.KEYWORD_ONLY
