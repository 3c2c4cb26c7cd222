"""Claims of the chapter on evidence and cross-validation, and the functions that it uses."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from nodes_tutorial.bayes import (
    cumulative_cv,
    laplace_evidence,
    leave_p_out,
    leave_p_out_from_evidence,
    subset_masks,
)

F64 = torch.float64
NOISE = 0.4


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def gaussian_evidence(y, covariance):
    """log p(y_T) of a Gaussian vector by SciPy, as a function of a list of indices."""

    def log_evidence(kept):
        kept = list(kept)
        if not kept:
            return 0.0
        part = covariance[kept][:, kept].numpy()
        return float(multivariate_normal(np.zeros(len(kept)), part).logpdf(y[kept].numpy()))

    return log_evidence


def all_evidences(log_evidence, n):
    rows = [log_evidence(mask.nonzero()[:, 0].tolist()) for mask in subset_masks(n)]
    return torch.tensor(rows, dtype=F64)


def joints():
    """Exchangeable, and not: nothing but a joint density is asked for."""
    root = randn(6, 6, seed=1)
    distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    return {
        "exchangeable": torch.eye(6, dtype=F64) + 2,
        "autoregressive": 0.8 ** distance.to(F64),
        "any": root @ root.T + 0.1 * torch.eye(6, dtype=F64),
    }


# --- the sum ------------------------------------------------------------------------------------


@pytest.mark.claim("thm-evidence-cv")
@pytest.mark.parametrize("name", joints())
def test_scores_sum_to_the_evidence(name, measured):
    y = randn(6, seed=2)
    log_evidence = gaussian_evidence(y, joints()[name])
    predictive = lambda i, train: log_evidence([*train, i]) - log_evidence(train)  # noqa: E731
    whole, table = log_evidence(range(6)), all_evidences(log_evidence, 6)
    scores = leave_p_out(predictive, 6)
    assert measured(abs(scores.sum() - whole), "sum") < 1e-10
    assert measured(abs(cumulative_cv(predictive, 6) - whole), "sum") < 1e-10
    assert measured((leave_p_out_from_evidence(table) - scores).abs().max(), "scores") < 1e-10
    loo = sum(predictive(i, [j for j in range(6) if j != i]) for i in range(6)) / 6
    assert measured(abs(scores[0] - loo), "leave-one-out") < 1e-10
    without = lambda i, train: (6 - len(train)) * predictive(i, train)  # noqa: E731
    assert abs(cumulative_cv(without, 6) - whole) > 1  # the factor 1/P dropped
    first = lambda i, train: predictive(min(set(range(6)) - set(train)), train)  # noqa: E731
    assert abs(cumulative_cv(first, 6) - whole) > 1e-2  # one point in place of all that are out
    fewer = lambda i, train: predictive(i, train[1:])  # noqa: E731
    assert abs(cumulative_cv(fewer, 6) - whole) > 1e-2  # one training point forgotten


@pytest.mark.claim("thm-evidence-cv")
def test_five_normal_points_to_rounding(measured):
    """N(mu, 1) with mu ~ N(0, 1): the predictive law in closed form, against the joint law."""
    y = randn(5, seed=3)

    def predictive(i, train):
        variance = 1 / (1 + len(train))
        spread = 1 + variance
        miss = float(y[i]) - variance * sum(float(y[j]) for j in train)
        return -0.5 * (miss**2 / spread + math.log(math.tau * spread))

    exact = multivariate_normal(np.zeros(5), np.eye(5) + 1).logpdf(y.numpy())
    assert measured(abs(cumulative_cv(predictive, 5) - exact), "nats") < 1e-13


@pytest.mark.claim("thm-evidence-cv")
@pytest.mark.parametrize("n", [3, 4, 5])
def test_how_often_a_term_occurs(n, measured):
    counts = {}
    for order in itertools.permutations(range(n)):
        for m, i in enumerate(order):
            term = (i, frozenset(order[:m]))
            counts[term] = counts.get(term, 0) + 1
    assert len(counts) == n * 2 ** (n - 1)
    assert len({frozenset(range(n)) - train for _, train in counts}) == 2**n - 1
    calls = []
    leave_p_out(lambda i, train: calls.append((i, frozenset(train))) or 0.0, n)
    assert sorted(map(str, calls)) == sorted(map(str, counts))
    value = {term: math.sin(1 + 7 * k) for k, term in enumerate(counts)}
    scores = leave_p_out(lambda i, train: value[i, frozenset(train)], n)
    for m in range(n):
        row = {term: count for term, count in counts.items() if len(term[1]) == m}
        assert set(row.values()) == {math.factorial(m) * math.factorial(n - m - 1)}
        total = sum(count * value[term] for term, count in row.items())
        error = abs(total - math.factorial(n) * float(scores[n - m - 1]))
        assert measured(error, "sum of a row") < 1e-10
    assert set(counts.values()) != {math.factorial(n)}


@pytest.mark.claim("thm-evidence-cv")
def test_scores_of_no_joint_density_sum_to_something_else():
    """The plug-in score: the sums along two orders differ."""
    y = 2 + randn(4, seed=4)
    plug_in = lambda i, train: -0.5 * float(y[i] - y[train].sum() / (1 + len(train))) ** 2  # noqa: E731
    sums = [
        sum(plug_in(i, list(order[:m])) for m, i in enumerate(order))
        for order in itertools.permutations(range(4))
    ]
    assert max(sums) - min(sums) > 0.5
    assert abs(float(cumulative_cv(plug_in, 4)) - sum(sums) / len(sums)) < 1e-12


def test_scores_of_several_models_at_once():
    y, covariances = randn(5, seed=5), [torch.eye(5, dtype=F64) + v for v in (1.0, 9.0)]
    each = [gaussian_evidence(y, c) for c in covariances]
    table = torch.stack([all_evidences(f, 5) for f in each])
    batched = leave_p_out_from_evidence(table)
    assert batched.shape == (2, 5)

    def predictive(i, train):
        return torch.tensor([f([*train, i]) - f(train) for f in each], dtype=F64)

    assert (leave_p_out(predictive, 5) - batched).abs().max() < 1e-10
    assert cumulative_cv(predictive, 5).shape == (2,)
    single = leave_p_out_from_evidence(table.float())
    assert single.dtype == torch.float32 and (single - batched).abs().max() < 1e-4


def test_masks_are_all_subsets():
    masks = subset_masks(4)
    assert masks.shape == (16, 4) and masks.dtype == torch.bool
    assert len({tuple(row) for row in masks.tolist()}) == 16
    assert not masks[0].any() and masks[-1].all() and masks[0b0110].tolist() == [0, 1, 1, 0]


# --- wide priors --------------------------------------------------------------------------------


def linear_evidence(features, y, log_v):
    """log p(y) of a linear model in one set of rows, by a Cholesky factor."""
    n = len(features)
    covariance = NOISE**2 * torch.eye(n, dtype=F64) + log_v.exp() * features @ features.T
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    return -0.5 * (
        white.square().sum() + 2 * factor.diagonal().log().sum() + n * math.log(math.tau)
    )


def linear_table(features, y, log_v):
    zero = torch.zeros((), dtype=F64)
    rows = [
        linear_evidence(features[mask], y[mask], log_v) if mask.any() else zero
        for mask in subset_masks(len(y))
    ]
    return torch.stack(rows)


FEATURES = {
    "general": randn(6, 3, seed=6),
    "equal columns": randn(6, 2, seed=7)[:, [0, 1, 1]],
    "two equal rows": torch.cat([randn(5, 3, seed=8), randn(5, 3, seed=8)[:1]]),
}


@pytest.mark.claim("thm-evidence-width")
@pytest.mark.parametrize("name", FEATURES)
def test_slope_of_the_evidence_in_the_width(name, measured):
    features, y = FEATURES[name], randn(6, seed=9)
    for v in (0.3, 20.0):
        log_v = torch.tensor(math.log(v), dtype=F64, requires_grad=True)
        (slope,) = torch.autograd.grad(linear_evidence(features, y, log_v), log_v)
        square = torch.linalg.svdvals(features).square()
        gamma = (v * square / (NOISE**2 + v * square)).sum()
        precision = features.T @ features / NOISE**2 + torch.eye(3, dtype=F64) / v
        mean = torch.linalg.solve(precision, features.T @ y / NOISE**2)
        error = abs(slope - 0.5 * (mean @ mean / v - gamma))
        assert measured(error, "slope") < 1e-10
        assert abs(slope - 0.5 * (mean @ mean - gamma)) > 1e-3  # without 1/v


@pytest.mark.claim("thm-evidence-width")
@pytest.mark.parametrize("name", FEATURES)
def test_slopes_of_the_scores_are_differences_of_ranks(name, measured):
    features, y = FEATURES[name], randn(6, seed=9)
    low, high = (torch.tensor(math.log(v), dtype=F64) for v in (1e5, 1e6))
    low, high = (leave_p_out_from_evidence(linear_table(features, y, u)) for u in (low, high))
    slope = (high - low).flip(0) / math.log(10)
    ranks = [
        np.mean([
            np.linalg.matrix_rank(features[list(rows)].numpy()) if rows else 0
            for rows in itertools.combinations(range(6), m)
        ])
        for m in range(7)
    ]  # fmt: skip
    expected = -0.5 * torch.tensor(np.diff(ranks))
    # what is left is of order 1/v
    assert measured((slope - expected).abs().max(), "slopes") < 1e-3
    simple = torch.tensor([-0.5] * 3 + [0.0] * 3, dtype=F64)
    assert ((slope - simple).abs().max() < 1e-3) == (name == "general")


def number(kept):
    """The row of a subset in the table."""
    return sum(1 << i for i in kept)


@pytest.mark.claim("thm-evidence-width")
def test_prepared_sum_converges_and_the_evidence_does_not(measured):
    features, y = FEATURES["general"], randn(6, seed=9)
    sums, whole = {}, {}
    for v in (1e5, 1e6, 1e7):
        table = linear_table(features, y, torch.tensor(math.log(v), dtype=F64))
        predictive = lambda i, train, t=table: t[number([*train, i])] - t[number(train)]  # noqa: E731
        for m in (0, 2, 3):
            sums[v, m] = float(cumulative_cv(predictive, 6, preparation=m))
        mean = torch.stack([table[number(c)] for c in itertools.combinations(range(6), 3)]).mean()
        assert measured(abs(sums[v, 3] - float(table[-1] - mean)), "telescoped") < 1e-9
        whole[v] = float(table[-1])
    assert measured(abs(sums[1e7, 3] - sums[1e6, 3]), "prepared") < 1e-3
    fall = whole[1e7] - whole[1e6]
    assert measured(abs(fall + 1.5 * math.log(10)), "fall of the evidence") < 1e-3
    assert abs(sums[1e7, 2] - sums[1e6, 2] + 0.5 * math.log(10)) < 1e-3  # one point too few
    assert sums[1e6, 0] == pytest.approx(whole[1e6], abs=1e-9)


# --- leave-one-out and a useless weight ---------------------------------------------------------


def flat_loo(features, y):
    """The formula of the chapter: summed leave-one-out score under a flat prior, rows of data."""
    hat = features @ torch.linalg.pinv(features)
    room = 1 - hat.diagonal()
    misfit = (y - y @ hat).square()
    return -0.5 * ((math.tau * NOISE**2 / room).log() + misfit / (NOISE**2 * room)).sum(-1)


@pytest.mark.claim("thm-evidence-loo")
def test_formula_is_the_limit_of_wide_priors(measured):
    features, y = FEATURES["general"], randn(6, seed=9)
    table = linear_table(features, y, torch.tensor(math.log(1e7), dtype=F64))
    score = 6 * leave_p_out_from_evidence(table)[0]
    assert measured(abs(score - flat_loo(features, y)) / 6, "limit, of order 1/v") < 1e-5
    hat = features @ torch.linalg.pinv(features)
    residual = y - hat @ y
    wrong = -0.5 * (math.log(math.tau * NOISE**2) + residual.square() / NOISE**2).sum()
    assert abs(score - wrong) > 0.1  # without the leverages


def polynomial(n, degree):
    return torch.linspace(-1, 1, n, dtype=F64)[:, None] ** torch.arange(degree + 1)


@pytest.mark.claim("thm-evidence-loo")
def test_leave_one_out_is_akaikes_difference(measured):
    """The difference less (z^2 - 2)/2 shrinks with the leverage; z is the new direction's share."""
    errors = []
    for n in (100, 1600):
        small, large = polynomial(n, 1), polynomial(n, 2)
        noise = NOISE * randn(300, n, seed=10)
        y = noise + small @ torch.tensor([1.0, -2.0], dtype=F64)
        direction = large[:, 2] - small @ torch.linalg.pinv(small) @ large[:, 2]
        z = noise @ direction / direction.norm() / NOISE
        gap = flat_loo(large, y) - flat_loo(small, y)
        errors.append(float((gap - 0.5 * (z.square() - 2)).square().mean().sqrt()))
    # the spread falls like the root of the largest leverage
    assert measured(errors[1], "root mean square at 1,600 points") < 0.1
    assert errors[1] < 0.5 * errors[0]
    halved = (gap - 0.5 * (z.square() - 1)).mean()
    assert abs(halved) > 0.4  # only one half of the penalty
    assert abs(math.erfc(1.0) - 0.157299) < 1e-6
    # 4,000 draws: the spread of a share of 0.157 is 0.006
    many = NOISE * torch.randn(4000, 400, generator=rng(11), dtype=F64)
    won = flat_loo(polynomial(400, 2), many) > flat_loo(polynomial(400, 1), many)
    assert measured(abs(won.double().mean() - math.erfc(1.0)), "share, 4,000 draws") < 0.025


@pytest.mark.claim("thm-evidence-loo")
def test_a_leverage_that_stays_large_changes_the_probability():
    """A column with one large entry: leverage near 1 for any n, and another share."""
    n = 400
    small = torch.ones(n, 1, dtype=F64)
    spike = torch.zeros(n, 1, dtype=F64)
    spike[0], spike[1] = 1, 0.05
    y = NOISE * torch.randn(4000, n, generator=rng(12), dtype=F64)
    won = flat_loo(torch.cat([small, spike], 1), y) > flat_loo(small, y)
    assert abs(won.double().mean() - math.erfc(1.0)) > 0.05


@pytest.mark.claim("thm-evidence-loo")
def test_one_more_column_in_the_evidence(measured):
    """The formula of the proof, and where its divergence comes from."""
    features, y, log_v = FEATURES["general"], randn(6, seed=9), torch.tensor(0.7, dtype=F64)
    v = float(log_v.exp())
    before = linear_evidence(features[:, :2], y, log_v)
    after = linear_evidence(features, y, log_v)
    column = features[:, 2]
    inverse = torch.linalg.inv(
        NOISE**2 * torch.eye(6, dtype=F64) + v * features[:, :2] @ features[:, :2].T
    )
    kappa, part = column @ inverse @ column, column @ inverse @ y
    gain = -0.5 * torch.log1p(v * kappa) + v * part**2 / (2 * (1 + v * kappa))
    assert measured(abs(after - before - gain), "nats") < 1e-10
    assert abs(after - before + 0.5 * torch.log1p(v * kappa)) > 1e-3  # without the fit

    def share(column_of, n):
        small = polynomial(n, 1)
        y = NOISE * torch.randn(500, n, generator=rng(13), dtype=F64)
        inverse = torch.linalg.inv(NOISE**2 * torch.eye(n, dtype=F64) + small @ small.T)
        column = column_of(n)
        kappa, part = column @ inverse @ column, y @ inverse @ column
        return float(((part**2 / (1 + kappa)) > torch.log1p(kappa)).double().mean())

    bent = lambda n: polynomial(n, 2)[:, 2]  # noqa: E731
    assert share(bent, 800) < 0.04 < 0.06 < share(bent, 10)
    few = lambda n: torch.cat([torch.ones(1, dtype=F64), torch.zeros(n - 1, dtype=F64)])  # noqa: E731
    assert share(few, 800) > 0.06  # a norm that does not grow: the evidence does not learn


# --- Laplace ------------------------------------------------------------------------------------


@pytest.mark.claim("prop-evidence-laplace")
def test_exact_for_a_linear_model(measured):
    features, y = FEATURES["general"], randn(2, 6, seed=14)
    widths = torch.tensor([0.5, 30.0], dtype=F64)

    def log_joint(w, y, v):
        misfit = (y - features @ w).square().sum() / NOISE**2 + 6 * math.log(math.tau * NOISE**2)
        return -0.5 * (misfit + w @ w / v + 3 * (math.tau * v).log())

    precision = features.T @ features / NOISE**2 + torch.eye(3, dtype=F64) / widths[:, None, None]
    mode = torch.linalg.solve(precision, (y @ features / NOISE**2)[..., None])[..., 0]
    found = laplace_evidence(log_joint, mode, y, widths)
    exact = torch.stack([linear_evidence(features, y[i], widths[i].log()) for i in range(2)])
    assert measured((found - exact).abs().max(), "nats") < 1e-9
    one = laplace_evidence(log_joint, mode[1], y[1], widths[1])
    assert one.shape == () and abs(one - exact[1]) < 1e-9
    unnormalized = lambda w, y, v: log_joint(w, y, v) + 1.5 * (math.tau * v).log()  # noqa: E731
    assert (laplace_evidence(unnormalized, mode, y, widths) - exact).abs().min() > 0.1
    doubled = lambda w, y, v: log_joint(w, y, v) - 0.5 * w @ w / v  # noqa: E731
    with pytest.raises(ValueError, match="mode must be a maximum"):
        laplace_evidence(doubled, mode, y, widths)


def one_unit(theta, x, y, v=4.0):
    """a tanh(w x) with a Gaussian prior on (w, a)."""
    miss = (y - theta[1] * torch.tanh(theta[0] * x)) / 0.1
    return -0.5 * miss.square().sum() - 0.5 * theta.square().sum() / v - math.log(math.tau * v)


@pytest.mark.claim("prop-evidence-laplace")
def test_copies_of_a_mode_by_quadrature(measured):
    x = torch.linspace(-2, 2, 9, dtype=F64)
    y = 1.5 * torch.tanh(x) + 0.1 * randn(9, seed=15)
    log_joint = lambda theta: one_unit(theta, x, y)  # noqa: E731
    mode = torch.tensor([1.0, 1.5], dtype=F64)
    for _ in range(20):
        slope = torch.func.grad(log_joint)(mode)
        mode = mode - torch.linalg.solve(torch.func.hessian(log_joint)(mode), slope)
    grid = torch.linspace(-6, 6, 401, dtype=F64)
    theta = torch.cartesian_prod(grid, grid)
    value = torch.func.vmap(log_joint)(theta) + 2 * math.log(0.03)
    whole = value.logsumexp(0)
    nearer = theta @ mode > 0  # than to the copy with both signs changed
    half = value[nearer].logsumexp(0)
    assert measured(abs(whole - math.log(2) - half), "one half") < 1e-6
    found = laplace_evidence(log_joint, mode)
    assert abs(found + math.log(2) - whole) < 0.05  # the error of the expansion itself
    assert abs(found - whole) > 0.5  # the copies forgotten
    # a prior that is not invariant: no halves
    shifted = lambda theta: log_joint(theta) + theta[0]  # noqa: E731
    value = torch.func.vmap(shifted)(theta) + 2 * math.log(0.03)
    assert abs(value.logsumexp(0) - math.log(2) - value[nearer].logsumexp(0)) > 0.1
    # a mode that is its own copy: nothing to multiply
    nothing = lambda theta: one_unit(theta, x, 0 * y)  # noqa: E731
    value = torch.func.vmap(nothing)(theta) + 2 * math.log(0.03)
    own = laplace_evidence(nothing, torch.zeros(2, dtype=F64))
    assert abs(own + math.log(2) - value.logsumexp(0)) > 0.1


@pytest.mark.claim("prop-evidence-laplace")
def test_a_layer_has_that_many_copies():
    """All maps that exchange units and change signs keep the function; others do not."""
    units, x = 3, torch.linspace(-2, 2, 7, dtype=F64)
    theta = randn(3, units, seed=16)  # slopes, shifts, gains

    def function(theta):
        return torch.tanh(x[:, None] * theta[0] + theta[1]) @ theta[2]

    images = set()
    for order in itertools.permutations(range(units)):
        for signs in itertools.product((1.0, -1.0), repeat=units):
            image = theta[:, list(order)] * torch.tensor(signs, dtype=F64)
            assert (function(image) - function(theta)).abs().max() < 1e-12
            assert abs(image.norm() - theta.norm()) < 1e-12
            images.add(tuple(image.flatten().tolist()))
    assert len(images) == 2**units * math.factorial(units)
    half = theta.clone()
    half[0] = -half[0]
    assert (function(half) - function(theta)).abs().max() > 0.1


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: leave_p_out(lambda i, t: 0.0, 0), ValueError, "n must be at least 1"),
        (lambda: leave_p_out(lambda i, t: 0.0, 21), ValueError, "n must be at most 20"),
        (lambda: leave_p_out(lambda i, t: 0.0, 2.5), TypeError, "n must be an integer"),
        (lambda: leave_p_out(lambda i, t: math.nan, 2), ValueError, "log_predictive must be fin"),
        (lambda: cumulative_cv(lambda i, t: -math.inf, 2), ValueError, "log_predictive must be f"),
        (
            lambda: cumulative_cv(lambda i, t: 0.0, 2, preparation=2),
            ValueError, "preparation must be below n = 2",
        ),
        (
            lambda: cumulative_cv(lambda i, t: 0.0, 2, preparation=-1),
            ValueError, "preparation must be at least 0",
        ),
        (lambda: subset_masks(0), ValueError, "n must be at least 1"),
        (lambda: subset_masks(21), ValueError, "n must be at most 20"),
        (
            lambda: leave_p_out_from_evidence(torch.zeros(6)),
            ValueError, r"log_evidence must end in 2\^n subsets",
        ),
        (lambda: leave_p_out_from_evidence(torch.zeros(1)), ValueError, "log_evidence must end"),
        (
            lambda: leave_p_out_from_evidence(torch.zeros(4, dtype=torch.long)),
            TypeError, "log_evidence must hold floating-point",
        ),
        (
            lambda: laplace_evidence(lambda t: t.square().sum(), torch.zeros(2)),
            ValueError, "mode must be a maximum of log_joint: 1 of 1",
        ),
        (
            lambda: laplace_evidence(lambda t: -t.square().sum(), torch.ones(2)),
            ValueError, "a Newton step promises up to 2 nats",
        ),
        (
            lambda: laplace_evidence(lambda t: -t.square().sum(), torch.zeros(1, 1, 2)),
            ValueError, "mode must have shape",
        ),
        (
            lambda: laplace_evidence(lambda t: -t.square().sum(), torch.zeros(2), tolerance=0.0),
            ValueError, "tolerance must be a positive number",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
