"""Claims of the chapter on Bayesian HyperMAML: divergences, losses of several draws, GP heads."""

import math

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import cross_entropy

from nodes_tutorial.bayes import FullRankGaussian, MeanFieldGaussian, gaussian_kl
from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.flows import CNF, ContextField
from nodes_tutorial.flows.flow import Transform
from nodes_tutorial.meta import (
    DKT,
    BayesianHyperMAML,
    FlowWeights,
    GaussianWeights,
    JitterError,
    adapt_further,
    averaged_loss,
    bayesian_meta_loss,
    cholesky_with_jitter,
    dkt,
    head_logits,
    normal_kl,
    posteriors,
)

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=dtype)


# --- the hierarchical objective ------------------------------------------------------------------


def hierarchy(y, spread, q, members):
    """The parts of the bound for a number per task, all laws normal.

    theta ~ N(0, 1), theta_i ~ N(theta, spread^2), y_i ~ N(theta_i, 1).
    """
    (m, s), (mu, sigma) = q, members
    fit = -0.5 * ((y - mu) ** 2 + sigma**2 + math.log(math.tau))
    tie = 0.5 * ((sigma**2 + (mu - m) ** 2 + s**2) / spread**2 - 1) - (sigma / spread).log()
    top = 0.5 * (s**2 + m**2 - 1) - s.log()
    return fit.sum(), tie.sum(), top


@pytest.mark.claim("thm-bayesian-hierarchy")
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_hierarchical_bound_and_its_gap(spread, measured):
    y = randn(4, seed=1)
    n = len(y)
    q = randn(1, seed=2)[0], torch.tensor(0.4, dtype=F64)
    members = randn(n, seed=3), randn(n, seed=4).exp()
    fit, tie, top = hierarchy(y, spread, q, members)
    bound = fit - tie - top
    evidence = MultivariateNormal(
        torch.zeros(n, dtype=F64), (1 + spread**2) * torch.eye(n, dtype=F64) + 1
    ).log_prob(y)
    # the posterior of (theta, theta_1, ..., theta_n), by its precision
    precision = torch.zeros(n + 1, n + 1, dtype=F64)
    precision[0, 0] = 1 + n / spread**2
    precision[0, 1:] = precision[1:, 0] = -1 / spread**2
    precision[1:, 1:] = (1 + 1 / spread**2) * torch.eye(n, dtype=F64)
    covariance = torch.linalg.inv(precision)
    target = FullRankGaussian(covariance @ torch.cat([torch.zeros(1, dtype=F64), y]), covariance)
    ours = MeanFieldGaussian(
        torch.cat([q[0][None], members[0]]), torch.cat([q[1][None], members[1]])
    )
    as_full = FullRankGaussian(ours.mean.detach(), ours.scale.detach().square().diag_embed())
    gap = gaussian_kl(as_full, target)
    assert measured((evidence - bound - gap).abs().detach(), "gap of the bound") < 1e-9
    assert gap > 0.01
    for wrong in (fit - tie, fit - tie - n * top, fit - top):
        assert (evidence - wrong - gap).abs() > 0.01
    # without the last term the printed formula exceeds what it should bound
    best = torch.tensor(float(y.mean()), dtype=F64), torch.tensor(1e-3, dtype=F64)
    shrink = spread**2 / (1 + spread**2)
    exact = best[0] + shrink * (y - best[0]), torch.full((n,), shrink**0.5, dtype=F64)
    fit, tie, top = hierarchy(y, spread, best, exact)
    assert fit - tie > evidence > fit - tie - top


@pytest.mark.claim("thm-bayesian-hierarchy")
def test_fixed_prior_leaves_tasks_alone(measured):
    """One task of a linear model: the bound is tight exactly at the posterior."""
    x, y = randn(7, 3, seed=5), randn(7, seed=6)
    precision = torch.eye(3, dtype=F64) + x.T @ x
    covariance = torch.linalg.inv(precision)
    mean = covariance @ x.T @ y
    evidence = MultivariateNormal(
        torch.zeros(7, dtype=F64), x @ x.T + torch.eye(7, dtype=F64)
    ).log_prob(y)

    def bound(m, c):
        residual = y - x @ m
        fit = -0.5 * (residual @ residual + (x @ c @ x.T).trace() + 7 * math.log(math.tau))
        return fit - 0.5 * (m @ m + c.trace() - 3 - torch.logdet(c))

    assert measured((bound(mean, covariance) - evidence).abs(), "tight at the posterior") < 1e-9
    for m, c in ((mean + 0.3, covariance), (mean, 2 * covariance), (0 * mean, covariance)):
        gap = kl_divergence(MultivariateNormal(m, c), MultivariateNormal(mean, covariance))
        assert (evidence - bound(m, c) - gap).abs() < 1e-9 and gap > 0.05


# --- Gaussian weights ----------------------------------------------------------------------------


@pytest.mark.claim("prop-bayesian-gaussian")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_normal_kl_is_that_of_dense_gaussians(dtype, measured):
    mean, log_variance = randn(4, 6, seed=1, dtype=dtype), randn(4, 6, seed=2, dtype=dtype)
    found = normal_kl(mean, log_variance)
    assert found.dtype == dtype and found.shape == (4,)
    prior = MultivariateNormal(torch.zeros(6, dtype=F64), torch.eye(6, dtype=F64))
    dense = MultivariateNormal(mean.double(), log_variance.double().exp().diag_embed())
    exact = kl_divergence(dense, prior)
    assert measured((found - exact).abs().max(), f"{dtype}") < (1e-10 if dtype == F64 else 1e-4)
    for wrong in (normal_kl(mean, log_variance / 2), normal_kl(mean, 2 * log_variance)):
        assert (wrong - exact).abs().min() > 0.05  # a scale in place of a variance
    assert normal_kl(torch.zeros(6), torch.zeros(6)) == 0


@pytest.mark.claim("prop-bayesian-gaussian")
def test_normal_kl_is_of_the_weights_and_not_of_the_difference():
    start, shift, log_variance = randn(6, seed=1), randn(6, seed=2), randn(6, seed=3)
    right = normal_kl(start - shift, log_variance)
    wrong = normal_kl(-shift, log_variance)
    excess = 0.5 * ((start - shift).square().sum() - shift.square().sum())
    assert (right - wrong - excess).abs() < 1e-12 < 0.1 < excess.abs()


def test_gaussian_draws_have_the_moments():
    """40,000 draws, five standard errors."""
    mean, log_variance = randn(2, 3, seed=1), randn(2, 3, seed=2)
    law = GaussianWeights(mean, log_variance)
    weights = law.rsample(40_000, rng(3))
    scale = (0.5 * log_variance).exp()
    assert ((weights.mean(0) - mean).abs() < 5 * scale / 200).all()
    assert ((weights.var(0) / scale**2 - 1).abs() < 5 * math.sqrt(2) / 200).all()
    assert torch.equal(law.rsample(3, rng(4)), law.rsample(3, rng(4)))


# --- weights of a flow ---------------------------------------------------------------------------


class Affine(Transform):
    """z -> Bz + c, with a factor of the log-determinant that is 1."""

    def __init__(self, matrix, shift, sign=1.0):
        super().__init__()
        self.matrix, self.shift, self.sign = matrix, shift, sign

    def forward(self, z):
        ladj = self.sign * torch.linalg.slogdet(self.matrix)[1]
        return z @ self.matrix.mT + self.shift, ladj.expand(z.shape[:-1])


def sigma_points(d, t):
    """2d points with the mean and the covariance of N(0, tI): exact for quadratic functions."""
    unit = torch.eye(d, dtype=F64)
    return math.sqrt(d * t) * torch.cat([unit, -unit])


def affine_case(d=3, t=0.1):
    matrix, shift, start = randn(d, d, seed=1), randn(d, seed=2), randn(d, seed=3)
    law = MultivariateNormal(start + shift, t * matrix @ matrix.T)
    exact = kl_divergence(
        law, MultivariateNormal(torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))
    )
    return matrix, shift, start, exact


@pytest.mark.claim("thm-bayesian-flow")
@pytest.mark.parametrize("t", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("d", [1, 3, 7])
def test_flow_kl_of_an_affine_map_is_the_gaussian_one(d, t, measured):
    matrix, shift, start, exact = affine_case(d, t)
    weights, terms = FlowWeights(start, Affine(matrix, shift), t=t).weights_and_terms(
        sigma_points(d, t)
    )
    assert measured((terms.mean() - exact).abs(), "affine map, exact mean") < 1e-9
    assert (weights.mean(0) - start - shift).abs().max() < 1e-12


@pytest.mark.claim("thm-bayesian-flow")
def test_flow_kl_is_unbiased():
    """200,000 draws, five standard errors; single terms are negative, their mean is not."""
    matrix, shift, start, exact = affine_case()
    law = FlowWeights(start, Affine(matrix, shift), t=0.1)
    terms = law.weights_and_terms(law.noise(200_000, rng(4)))[1]
    assert (terms.mean() - exact).abs() < 5 * terms.std() / len(terms) ** 0.5
    assert terms.min() < 0 < exact


@pytest.mark.claim("thm-bayesian-flow")
def test_flow_kl_with_the_cnf_of_a_linear_field(measured):
    """x' = Ax: the end is exp(A) z, and the log-determinant the trace of A."""
    a, start, t = 0.5 * randn(3, 3, seed=1), randn(3, seed=2), 0.3
    cnf = CNF(lambda _, x: x @ a.mT, rtol=1e-10, atol=1e-10)
    matrix = torch.linalg.matrix_exp(a)
    exact = normal_kl(start, torch.zeros(3, dtype=F64)) * 0 + kl_divergence(
        MultivariateNormal(start, t * matrix @ matrix.T),
        MultivariateNormal(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64)),
    )
    terms = FlowWeights(start, cnf, t=t).weights_and_terms(sigma_points(3, t))[1]
    assert measured((terms.mean() - exact).abs(), "linear field") < 1e-7


@pytest.mark.claim("thm-bayesian-flow")
def test_the_jacobian_of_the_inverse_has_the_other_sign():
    a, z = 0.5 * randn(3, 3, seed=1), randn(5, 3, seed=4)
    cnf = CNF(lambda _, x: torch.tanh(x @ a.mT), rtol=1e-10, atol=1e-10)
    x, ladj = cnf(z)
    _, back = cnf.inverse(x)
    assert (ladj + back).abs().max() < 1e-7 < 0.01 < ladj.abs().max()


@pytest.mark.claim("prop-bayesian-errors")
@pytest.mark.parametrize("d, t", [(3, 0.1), (7, 0.1), (7, 2.0)])
def test_each_printed_error_shifts_the_kl_by_its_formula(d, t, monkeypatch, measured):
    matrix, shift, start, exact = affine_case(d, t)
    z = sigma_points(d, t)
    log_det = torch.linalg.slogdet(matrix)[1]

    def reading(flow, start=start, z=z, t=t):
        return FlowWeights(start, flow, t=t).weights_and_terms(z)[1].mean()

    right = Affine(matrix, shift)
    flipped = reading(Affine(matrix, shift, sign=-1.0))
    assert measured((flipped - exact - 2 * log_det).abs(), "sign") < 1e-9
    difference = reading(right, start=torch.zeros(d, dtype=F64))  # the prior sees F(z) alone
    assert (difference - exact + 0.5 * start @ start + start @ shift).abs() < 1e-9
    # noise t e, scored with the variance t; the law of the weights has the variance t^2
    narrow = math.sqrt(t) * z
    true_law = reading(right, z=narrow, t=t**2)
    scored = reading(right, z=narrow, t=t)
    assert (scored - true_law - d / 2 * (1 + math.log(t) - t)).abs() < 1e-9
    assert scored < true_law or t == 1
    plain = posteriors._log_normal

    def averaged(x, variance):
        return plain(x, variance) / (x.shape[-1] if x is z else 1)

    monkeypatch.setattr(posteriors, "_log_normal", averaged)
    by_mean = reading(right)
    assert (by_mean - exact - (d - 1) / 2 * (1 + math.log(math.tau * t))).abs() < 1e-9
    for wrong in (flipped, difference, scored, by_mean):
        assert (wrong - exact).abs() > 0.05


def test_flow_weights_with_contexts_are_batched():
    field = ContextField(4, 3, [8], generator=rng(), dtype=F64)
    cnf = CNF(field, rtol=1e-9, atol=1e-9)
    context, start = randn(2, 5, 3, seed=1), randn(4, seed=2)
    law = FlowWeights(start, cnf, context, t=0.2)
    z = law.noise(6, rng(3))
    weights, terms = law.weights_and_terms(z)
    assert weights.shape == (6, 2, 5, 4) and terms.shape == (6, 2, 5)
    one = FlowWeights(start, cnf, context[1, 3], t=0.2)
    alone, its = one.weights_and_terms(z[:, 1, 3])
    assert (alone - weights[:, 1, 3]).abs().max() < 1e-6
    assert (its - terms[:, 1, 3]).abs().max() < 1e-6
    pushed = law.rsample(6, rng(3))
    assert (pushed - weights).abs().max() < 1e-6
    again = law.with_numbers(*law.numbers()).rsample(6, rng(3))
    assert torch.allclose(again, pushed)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gradients_reach_start_context_and_flow(dtype):
    model = BayesianHyperMAML(4, "cnf", context=3, field=[8], generator=rng(), dtype=dtype)
    x, y = randn(2, 10, 4, dtype=dtype), torch.arange(5).repeat(2).expand(2, 10)
    weights, kl = model(x, y, 5).rsample_and_kl(3, rng(1))
    assert weights.dtype == kl.dtype == dtype
    (weights.square().sum() + kl.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# --- losses of several draws ---------------------------------------------------------------------


KINDS = ("losses", "probabilities", "logits")


def by_hand(logits, labels):
    """The three losses, written with loops."""
    out = {kind: [] for kind in KINDS}
    for i, y in enumerate(labels.tolist()):
        p = torch.stack([draw.softmax(-1)[y] for draw in logits[:, i]])
        out["losses"].append(-p.log().mean())
        out["probabilities"].append(-p.mean().log())
        out["logits"].append(-logits[:, i].mean(0).softmax(-1)[y].log())
    return {kind: torch.stack(values) for kind, values in out.items()}


@pytest.mark.claim("prop-bayesian-losses")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_three_losses_and_their_order(dtype, measured):
    logits, labels = 3 * randn(7, 40, 5, seed=1, dtype=dtype), torch.arange(40) % 5
    found = {kind: averaged_loss(logits, labels, kind) for kind in KINDS}
    for kind, expected in by_hand(logits, labels).items():
        error = measured((found[kind] - expected).abs().max(), f"{kind} {dtype}")
        assert error < (1e-12 if dtype == F64 else 1e-4)
    assert (found["losses"] > found["probabilities"]).all()
    assert (found["losses"] > found["logits"]).all()
    signs = (found["logits"] - found["probabilities"]).sign()
    assert signs.min() == -1 and signs.max() == 1  # these two have no order
    same = logits[:1].expand(7, 40, 5) + randn(7, 40, 1, seed=2, dtype=dtype)
    flat = [averaged_loss(same, labels, kind) for kind in KINDS]
    assert (flat[0] - flat[1]).abs().max() < 1e-5 > (flat[0] - flat[2]).abs().max()
    batch = averaged_loss(logits.view(7, 8, 5, 5), labels.view(8, 5), "logits")
    assert torch.allclose(batch.flatten(), found["logits"])


@pytest.mark.claim("prop-bayesian-losses")
def test_order_where_all_draws_are_right_or_all_are_wrong():
    n = 2000
    logits, labels = 3 * randn(3, n, 4, seed=1), torch.zeros(n, dtype=torch.long)
    p = logits.softmax(-1)[..., 0]
    right = (p >= 0.5).all(0)
    gap = averaged_loss(logits, labels, "logits") - averaged_loss(logits, labels, "probabilities")
    assert right.sum() > 5 and (gap[right] <= 0).all()
    assert (gap[~right] > 0).any()  # without the hypothesis the order may turn
    two = logits[..., :2]
    p = two.softmax(-1)[..., 0]
    gap = averaged_loss(two, labels, "logits") - averaged_loss(two, labels, "probabilities")
    assert (gap[(p >= 0.5).all(0)] <= 0).all() and (gap[(p <= 0.5).all(0)] >= 0).all()
    assert (p <= 0.5).all(0).sum() > 5
    # with three classes draws may be wrong in different ways, and the average of logits gains
    three = torch.tensor([[[0.0, 10.0, 0.0]], [[0.0, 0.0, 10.0]]], dtype=F64)
    at = {kind: averaged_loss(three, labels[:1], kind).item() for kind in KINDS}
    assert at["logits"] < 5.7 < 9.9 < at["probabilities"]


@pytest.mark.claim("prop-bayesian-losses")
def test_averaged_logits_of_a_linear_head_are_those_of_the_averaged_weights():
    weights, x, y = randn(5, 3, 4, seed=1), randn(8, 3, seed=2), torch.arange(8) % 3
    logits = head_logits(weights, x.expand(5, 8, 3))
    one = cross_entropy(head_logits(weights.mean(0), x), y, reduction="none")
    assert (averaged_loss(logits, y, "logits") - one).abs().max() < 1e-12
    assert (averaged_loss(logits, y, "probabilities") - one).abs().min() > 1e-6


@pytest.mark.claim("prop-bayesian-losses")
def test_expected_losses_fall_with_the_number_of_draws_but_for_the_mean_of_losses():
    """All subsets of six draws, exactly: the mean over subsets of each size."""
    from itertools import combinations

    logits, label = 3 * randn(6, 1, 3, seed=3), torch.tensor([0])
    means = {}
    for kind in KINDS:
        means[kind] = [
            torch.stack(
                [averaged_loss(logits[list(c)], label, kind)[0] for c in combinations(range(6), k)]
            ).mean()
            for k in range(1, 7)
        ]
    losses = torch.stack(means["losses"])
    assert (losses - losses[0]).abs().max() < 1e-12
    for kind in ("probabilities", "logits"):
        values = torch.stack(means[kind])
        assert (values[0] - losses[0]).abs() < 1e-12 and (values.diff() < -1e-4).all()


# --- the model -----------------------------------------------------------------------------------


def some_tasks(tasks=3, shots=2, queries=4, ways=5, features=4, seed=0, dtype=F64):
    x = randn(tasks, ways * (shots + queries), features, seed=seed, dtype=dtype)
    label = lambda n: torch.arange(ways).repeat_interleave(n).expand(tasks, ways * n)  # noqa: E731
    return Tasks(x[:, : ways * shots], label(shots), x[:, ways * shots :], label(queries))


@pytest.mark.parametrize("posterior", ["gaussian", "cnf"])
def test_meta_loss_is_the_sum_of_its_parts(posterior):
    model = BayesianHyperMAML(4, posterior, context=3, field=[8], generator=rng(), dtype=F64)
    tasks = some_tasks()
    given = {"ways": 5, "draws": 3, "generator": None}
    at = {}
    for gamma in (0.0, 0.5):
        model.load_state_dict(model.state_dict())
        if model.flow is not None:
            model.flow.generator = rng(5)
        at[gamma] = bayesian_meta_loss(model, tasks, **(given | {"generator": rng(1)}), gamma=gamma)
    assert (at[0.5].total - at[0.0].total - 0.5 * at[0.0].kl).abs() < 1e-9
    assert at[0.0].total == at[0.0].data
    if posterior == "gaussian":
        law = model(*tasks.support, 5)
        assert (at[0.0].kl - normal_kl(law.mean, law.log_variance).sum(-1).mean()).abs() < 1e-12
        weights = law.rsample(3, rng(1))
        slow = torch.stack(
            [
                cross_entropy(tasks.query_x[i] @ w[i, :, :-1].T + w[i, :, -1], tasks.query_y[i])
                for w in weights
                for i in range(3)
            ]
        ).mean()
        assert (slow - at[0.0].data).abs() < 1e-12


def test_classes_are_treated_alike():
    model = BayesianHyperMAML(4, generator=rng(), dtype=F64)
    tasks = some_tasks()
    order = torch.tensor([3, 0, 4, 1, 2])
    law, other = (
        model(tasks.support_x, order[tasks.support_y] if moved else tasks.support_y, 5)
        for moved in (False, True)
    )
    assert (other.mean[:, order] - law.mean).abs().max() < 1e-12
    shots = torch.randperm(10, generator=rng(1))
    shuffled = model(tasks.support_x[:, shots], tasks.support_y[:, shots], 5)
    assert (shuffled.mean - law.mean).abs().max() < 1e-12
    assert (model(tasks.support_x + 1, tasks.support_y, 5).mean - law.mean).abs().max() > 1e-3


@pytest.mark.parametrize("posterior", ["gaussian", "cnf"])
def test_further_steps_fit_each_support_alone(posterior):
    model = BayesianHyperMAML(
        4, posterior, context=3, field=[8], trace="exact", generator=rng(), dtype=F64
    )
    tasks = some_tasks(seed=2)
    law = model(*tasks.support, 5)
    nothing = adapt_further(law, *tasks.support, steps=0, lr=0.1)
    assert all(torch.equal(a, b) for a, b in zip(nothing.numbers(), law.numbers(), strict=True))
    moved = adapt_further(law, *tasks.support, steps=30, lr=0.5, draws=10, generator=rng(1))

    def support_loss(law):
        weights = law.rsample(100, rng(2))
        logits = head_logits(weights, tasks.support_x.expand(100, *tasks.support_x.shape))
        return averaged_loss(logits, tasks.support_y).mean(-1)

    assert (support_loss(moved) < support_loss(law) - 0.1).all()
    assert not any(part.requires_grad for part in moved.numbers())
    one = tasks._replace(support_x=tasks.support_x[:1], support_y=tasks.support_y[:1])
    alone = model(*one.support, 5)
    noise = lambda n: {"steps": 1, "lr": 0.5, "draws": n}  # noqa: E731
    a = adapt_further(law, *tasks.support, **noise(2000), generator=rng(3)).numbers()[0]
    b = adapt_further(alone, *one.support, **noise(2000), generator=rng(4)).numbers()[0]
    assert (a[0] - b[0]).abs().max() < 0.02  # other draws, the same task


def test_divergence_holds_the_variance_up():
    """Without it, training on one task lets the variance die; with it, it stays near the prior."""
    tasks = some_tasks(tasks=8, seed=3)
    scale = {}
    for gamma in (0.0, 0.1):
        model = BayesianHyperMAML(4, log_variance=-1.0, generator=rng(), dtype=F64)
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(100):
            loss = bayesian_meta_loss(model, tasks, ways=5, gamma=gamma, generator=rng(1))
            adam.zero_grad()
            loss.total.backward()
            adam.step()
        scale[gamma] = (0.5 * model(*tasks.support, 5).log_variance).exp().mean().item()
    assert scale[0.0] < 0.4 < 0.7 < scale[0.1]


# --- GP heads ------------------------------------------------------------------------------------


@pytest.mark.claim("prop-bayesian-dkt")
@pytest.mark.parametrize("kernel", ["cosine", "linear"])
def test_dkt_is_gp_regression_for_each_class(kernel, measured):
    head = DKT(kernel, scale=1.3, noise=0.4, dtype=F64)
    tasks = some_tasks(seed=4)
    mean, variance = head(*tasks.support, tasks.query_x, 5)
    evidence = head.log_evidence(*tasks.support, 5)
    scaled = {"cosine": nn.functional.normalize, "linear": lambda x: x / 2}[kernel]
    for i in range(3):
        x, q = scaled(tasks.support_x[i]), scaled(tasks.query_x[i])
        K = 1.69 * x @ x.T + 0.16 * torch.eye(10, dtype=F64)
        cross = 1.69 * x @ q.T
        cov = 1.69 * q @ q.T - cross.T @ torch.linalg.inv(K) @ cross
        assert measured((variance[i] - cov.diagonal()).abs().max(), "variance") < 1e-9
        total = 0.0
        for c in range(5):
            y = torch.where(tasks.support_y[i] == c, 1.0, -1.0).double()
            dense = cross.T @ torch.linalg.inv(K) @ y
            assert measured((mean[i, :, c] - dense).abs().max(), "mean") < 1e-9
            law = MultivariateNormal(torch.zeros(10, dtype=F64), K)
            total = total + law.log_prob(y)
        assert measured((evidence[i] - total).abs(), "evidence") < 1e-9


@pytest.mark.claim("prop-bayesian-dkt")
def test_dkt_agrees_with_scikit_learn():
    head = DKT("linear", scale=1.3, noise=0.4, dtype=F64)
    tasks = some_tasks(tasks=1, seed=4)
    x, q = tasks.support_x[0] / 2, tasks.query_x[0] / 2
    kernel = ConstantKernel(1.69, "fixed") * DotProduct(0.0, "fixed") + WhiteKernel(0.16, "fixed")
    y = torch.where(tasks.support_y[0] == 2, 1.0, -1.0)
    process = GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-12).fit(x, y)
    mean, std = process.predict(q.numpy(), return_std=True)
    found = head(*tasks.support, tasks.query_x, 5)
    assert abs(found.mean[0, :, 2].detach().numpy() - mean).max() < 1e-8
    assert abs(found.variance[0].detach().numpy() + 0.16 - std**2).max() < 1e-8


@pytest.mark.claim("prop-bayesian-dkt")
def test_dkt_with_much_noise_ranks_by_mean_kernels():
    head = DKT("cosine", scale=1.0, noise=1e4, dtype=F64)
    tasks = some_tasks(seed=5)
    mean = head(*tasks.support, tasks.query_x, 5).mean
    x, q = (nn.functional.normalize(part, dim=-1) for part in (tasks.support_x, tasks.query_x))
    similar = (q @ x.mT).view(3, 20, 5, 2).mean(-1)
    assert torch.equal(mean.argmax(-1), similar.argmax(-1))
    assert (mean.sum(-1) * 1e8 + 3 * 2 * similar.sum(-1)).abs().max() < 1e-4  # (2 - ways) k' 1
    little = DKT("cosine", scale=1.0, noise=0.1, dtype=F64)(*tasks.support, tasks.query_x, 5).mean
    assert not torch.equal(little.argmax(-1), similar.argmax(-1))


def test_evidence_trains_scale_and_noise():
    truth = DKT("linear", scale=2.0, noise=0.5, dtype=F64)
    x = randn(200, 12, 6, seed=1)
    K = truth.scale**2 * x @ x.mT / 6 + truth.noise**2 * torch.eye(12, dtype=F64)
    y = torch.linalg.cholesky(K).detach() @ randn(200, 12, 1, seed=2)
    fit = DKT("linear", dtype=F64)
    adam = torch.optim.Adam(fit.parameters(), 0.1)
    factor_of = dkt.cholesky_with_jitter

    def evidence():
        K = fit.scale**2 * x @ x.mT / 6 + fit.noise**2 * torch.eye(12, dtype=F64)
        white = torch.linalg.solve_triangular(factor_of(K), y, upper=False)
        return -0.5 * white.square().sum() - factor_of(K).diagonal(dim1=-2, dim2=-1).log().sum()

    for _ in range(150):
        adam.zero_grad()
        (-evidence() / 200).backward()
        adam.step()
    assert abs(fit.scale - 2.0) < 0.15 and abs(fit.noise - 0.5) < 0.05


def test_jitter_is_as_small_as_serves():
    good = torch.eye(3, dtype=F64).expand(2, 3, 3)
    assert torch.equal(cholesky_with_jitter(good), good)
    flat = torch.ones(4, 3, 3, dtype=F64)
    factor = cholesky_with_jitter(flat)
    assert 0 < (factor @ factor.mT - flat).abs().max() < 1e-6
    x = torch.ones(1, 4, 3)
    labels = torch.tensor([[0, 0, 1, 1]])
    head = DKT(noise=1e-30)
    assert head.log_evidence(x, labels, 2).isfinite().all()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_is_named():
    law = GaussianWeights(torch.zeros(5, 3), torch.zeros(5, 3))
    cnf = CNF(ContextField(3, 2, [4]))
    tasks = some_tasks(dtype=torch.float32)
    model = BayesianHyperMAML(4)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        law.rsample(0)
    with pytest.raises(TypeError, match="draws must be an integer"):
        law.rsample_and_kl(2.0)
    with pytest.raises(ValueError, match=r"log_variance must end in the axes \(5, 3\)"):
        GaussianWeights(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(TypeError, match=r"log_variance must be torch\.float32"):
        normal_kl(torch.zeros(3), torch.zeros(3, dtype=F64))
    with pytest.raises(TypeError, match="mean must hold floating-point"):
        normal_kl(torch.zeros(3, dtype=torch.long), torch.zeros(3))
    for t in (0.0, -0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="t must be a positive number"):
            FlowWeights(torch.zeros(3), cnf, torch.zeros(2), t=t)
    with pytest.raises(ValueError, match="context must be 2 entries"):
        FlowWeights(torch.zeros(3), cnf)
    with pytest.raises(ValueError, match="context must be None"):
        FlowWeights(torch.zeros(3), CNF(lambda t, x: x), torch.zeros(2))
    with pytest.raises(TypeError, match="flow must be a Transform"):
        FlowWeights(torch.zeros(3), nn.Linear(3, 3))
    for gamma in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="gamma must be a number of at least 0"):
            bayesian_meta_loss(model, tasks, ways=5, gamma=gamma)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        bayesian_meta_loss(model, tasks, ways=5, gamma=0.1, draws=0)
    with pytest.raises(ValueError, match="average must be one of losses"):
        bayesian_meta_loss(model, tasks, ways=5, gamma=0.1, average="mean")
    with pytest.raises(ValueError, match="posterior must be one of"):
        BayesianHyperMAML(4, "flow")
    with pytest.raises(ValueError, match="features must be at least 1"):
        BayesianHyperMAML(0)
    with pytest.raises(ValueError, match="t must be a positive number"):
        BayesianHyperMAML(4, "cnf", t=0)
    with pytest.raises(ValueError, match="log_variance must be a finite number"):
        BayesianHyperMAML(4, log_variance=-math.inf)
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        adapt_further(law, torch.zeros(3, 2), torch.tensor([0, 1, 2]), steps=-1, lr=0.1)
    with pytest.raises(ValueError, match="lr must be a number of at least 0"):
        adapt_further(law, torch.zeros(3, 2), torch.tensor([0, 1, 2]), steps=1, lr=-0.1)
    with pytest.raises(ValueError, match="labels must be between 0 and 4, got"):
        averaged_loss(torch.zeros(2, 3, 5), torch.tensor([0, 1, 5]))
    with pytest.raises(ValueError, match="logits must have an axis of draws"):
        averaged_loss(torch.zeros(5), torch.tensor(0))


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_of_gp_heads_is_named():
    tasks = some_tasks(dtype=torch.float32)
    with pytest.raises(ValueError, match="kernel must be one of cosine, linear"):
        DKT("rbf")
    with pytest.raises(ValueError, match="noise must be a positive number"):
        DKT(noise=0.0)
    with pytest.raises(TypeError, match=r"x must be torch.float32"):
        DKT().log_evidence(tasks.support_x.double(), tasks.support_y, 5)
    with pytest.raises(ValueError, match="y must have one label for each"):
        DKT().log_evidence(tasks.support_x, tasks.query_y, 5)
    with pytest.raises(ValueError, match="y must be between 0 and 3, got 0 to 4"):
        DKT().log_evidence(tasks.support_x, tasks.support_y, 4)
    with pytest.raises(JitterError, match="least eigenvalue is -1"):
        cholesky_with_jitter(torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(JitterError, match="least eigenvalue is nan"):
        cholesky_with_jitter(torch.full((2, 2), math.nan))
