"""The trained Gaussians and the exact references: protocol, precision, batches, bad input."""

import math

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from nodes_tutorial.bayes import (
    BetaBernoulli,
    FullRankGaussian,
    GaussianMean,
    GaussianProcess,
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
    squared_exponential,
)
from nodes_tutorial.flows import (
    AffineCoupling,
    Density,
    Flow,
    Gaussian,
    RealNVP,
    StandardNormal,
    half_mask,
)
from nodes_tutorial.nets import MLP

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("as_at_the_users")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=F64).to(dtype)


def spd(dim, seed=2):
    root = randn(dim, dim + 1, seed=seed)
    return root @ root.T / dim


def coupled(dtype):
    net = MLP([1, 8, 4], generator=rng(3), dtype=F64).to(dtype)
    base = MeanFieldGaussian(randn(3, seed=4, dtype=dtype), 0.7)
    return Flow(base, [AffineCoupling(half_mask(3), net)])


CASES = {
    "mean field": lambda dtype: MeanFieldGaussian(
        randn(3, seed=1, dtype=dtype), torch.tensor([0.3, 1.0, 2.0], dtype=dtype)
    ),
    "full rank": lambda dtype: FullRankGaussian(randn(3, seed=1, dtype=dtype), spd(3).to(dtype)),
    "flow on a mean field": coupled,
}
every = pytest.mark.parametrize("name", CASES)
GAUSSIANS = pytest.mark.parametrize("name", ["mean field", "full rank"])


@every
def test_it_is_a_density_that_can_be_differentiated(name):
    q = CASES[name](F64)
    assert isinstance(q, Density) and q.event_shape == (3,)
    w, log_q = q.rsample_and_log_prob(6, rng())
    assert (q.log_prob(w) - log_q).abs().max() < 1e-12
    assert (q.rsample(6, rng()) - w).abs().max() == 0 if hasattr(q, "rsample") else True
    drawn = q.sample(6, rng())
    assert not drawn.requires_grad and torch.equal(drawn, w)
    assert q.sample(0).shape == (0, 3)
    for gradient in torch.autograd.grad(w.square().sum() + log_q.sum(), [*q.parameters()]):
        assert gradient.abs().max() > 0


@GAUSSIANS
def test_log_prob_is_that_of_the_fixed_gaussian(name):
    q = CASES[name](F64)
    fixed = Gaussian(q.mean.detach(), q.covariance.detach())
    x = randn(2, 4, 3, seed=5)
    assert (q.log_prob(x) - fixed.log_prob(x)).abs().max() < 1e-12
    assert abs(q.entropy() - fixed.entropy()) < 1e-12
    assert q.log_prob(x[0, 0]).shape == () and q.log_prob(x).shape == (2, 4)
    assert (q.log_prob(x)[1, 2] - q.log_prob(x[1, 2])).abs() < 1e-13
    w = q.sample(200_000, rng())
    assert (w.mean(0) - q.mean).abs().max() < 0.02
    assert (w.T.cov() - q.covariance).abs().max() < 0.1


@GAUSSIANS
def test_start_is_what_was_given(name):
    q = CASES[name](F64)
    target = torch.diag(torch.tensor([0.09, 1.0, 4.0], dtype=F64)) if "mean" in name else spd(3)
    assert (q.covariance - target).abs().max() < 1e-12
    assert torch.equal(q.mean.detach(), randn(3, seed=1))
    tiny = MeanFieldGaussian(torch.zeros(2), torch.tensor([1e-6, 50.0]))
    assert (tiny.scale / torch.tensor([1e-6, 50.0]) - 1).abs().max() < 1e-5


@every
def test_gradients_against_differences(name):
    q = CASES[name](F64)
    x = randn(4, 3, seed=6)

    def value():
        w, log_q = q.rsample_and_log_prob(5, rng(7))
        return (w + 0.3 * w.sin()).sum() + log_q.sum() + q.log_prob(x).square().sum()

    leaves = [*q.parameters()]
    for leaf, gradient in zip(leaves, torch.autograd.grad(value(), leaves), strict=True):
        direction, start = randn(*leaf.shape, seed=8), leaf.detach().clone()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                leaf.copy_(start + sign * 1e-5 * direction)
                ends.append(float(value()))
        with torch.no_grad():
            leaf.copy_(start)
        slope = (ends[0] - ends[1]) / 2e-5
        assert math.isclose(slope, float((gradient * direction).sum()), rel_tol=1e-6, abs_tol=1e-6)


@every
def test_single_precision_and_state(name):
    q, single = CASES[name](F64), CASES[name](torch.float32)
    x = randn(5, 3, seed=9)
    low = single.log_prob(x.float())
    assert low.dtype == torch.float32
    assert ((low - q.log_prob(x)) / q.log_prob(x)).abs().max() < 1e-4
    other = CASES[name](F64)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.2)
    assert (other.log_prob(x) - q.log_prob(x)).abs().max() > 1e-3
    other.load_state_dict(q.state_dict())
    assert torch.equal(other.log_prob(x), q.log_prob(x))


@every
def test_copies_side_by_side(name):
    """`vmap` over stacked weights, for the density and for the bound with its own draws."""
    copies = [CASES[name](F64) for _ in range(3)]
    with torch.no_grad():
        for i, q in enumerate(copies):
            for weight in q.parameters():
                weight.add_(0.1 * i)
    x = randn(4, 3, seed=10)

    class Call(torch.nn.Module):
        def __init__(self, q):
            super().__init__()
            self.q = q

        def forward(self, what):
            if what == "density":
                return self.q.log_prob(x)
            return elbo(lambda w: -w.square().sum(-1), self.q, 2000)

    calls = [Call(q) for q in copies]
    state = stack_module_state(calls)
    run = lambda what: vmap(  # noqa: E731
        lambda *s: functional_call(calls[0], s, (what,)), randomness="different"
    )(*state)
    exact = torch.stack([q.log_prob(x) for q in copies])
    assert (run("density") - exact).abs().max() < 1e-12
    torch.manual_seed(0)
    bounds = run("bound")
    alone = torch.stack([calls[i]("bound") for i in range(3)])
    assert ((bounds - alone) / (1 + alone.abs())).abs().max() < 0.3
    assert bounds[0] != bounds[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@every
def test_on_cuda(name):
    q = CASES[name](torch.float32).cuda()
    w, log_q = q.rsample_and_log_prob(5, rng())
    assert w.is_cuda and log_q.is_cuda and q.log_prob(w).is_cuda
    assert elbo(lambda w: -w.square().sum(-1), q, 5).is_cuda


def test_a_flow_and_a_gaussian_are_posteriors_and_have_gradients():
    flow = RealNVP(2, 2, [4], generator=rng())
    f = lambda w: -w.square().sum(-1)  # noqa: E731
    for q in (flow, MeanFieldGaussian(torch.zeros(2)), FullRankGaussian(torch.zeros(2))):
        for bound in (
            elbo(f, q, 8, generator=rng(1)),
            importance_weighted_bound(f, q, 4, 2, generator=rng(1)),
        ):
            assert all((g != 0).any() for g in torch.autograd.grad(bound, [*q.parameters()]))
        names = set(dict(q.named_parameters()))
        paths = path_gradients(f, q, 8, generator=rng(1))
        assert set(paths) == names
        assert set(score_gradients(f, q, 8, generator=rng(1))) == names
        bound = elbo(f, q, 8, generator=rng(1))
        direct = torch.autograd.grad(bound, [*q.parameters()])
        for rows, gradient in zip(paths.values(), direct, strict=True):
            assert (rows.mean(0) - gradient).abs().max() < 1e-4


# --- exact references --------------------------------------------------------------------------


def test_mean_of_gaussians_against_the_formula():
    prior, noise, x = Gaussian(randn(2, seed=1), spd(2)), spd(2, 3), randn(5, 2, seed=4)
    model = GaussianMean(x, prior=prior, noise=noise)
    inverse = torch.linalg.inv
    precision = inverse(prior.covariance) + 5 * inverse(noise)
    mean = inverse(precision) @ (inverse(prior.covariance) @ prior.mean + inverse(noise) @ x.sum(0))
    assert (model.posterior.mean - mean).abs().max() < 1e-11
    assert (model.posterior.covariance - inverse(precision)).abs().max() < 1e-11
    w = randn(4, 3, 2, seed=5)
    exact = sum(Gaussian(row, noise).log_prob(w) for row in x)
    assert (model.log_lik(w) - exact).abs().max() < 1e-11
    rule = model.log_joint(w) - model.posterior.log_prob(w) - model.log_evidence()
    assert rule.abs().max() < 1e-10
    blocks = torch.kron(torch.ones(5, 5, dtype=F64), prior.covariance)
    law = Gaussian(prior.mean.repeat(5), blocks + torch.kron(torch.eye(5, dtype=F64), noise))
    assert abs(law.log_prob(x.flatten()) - model.log_evidence()) < 1e-10


def test_process_with_a_linear_kernel_is_linear_regression():
    x, y, new = randn(6, 2, seed=1), randn(6, seed=2), randn(4, 2, seed=3)
    prior = Gaussian(torch.zeros(2, dtype=F64), spd(2))
    line = LinearRegression(x, y, prior=prior, noise=0.3)
    kernel = lambda a, b: a @ prior.covariance @ b.mT  # noqa: E731
    process = GaussianProcess(x, y, kernel, noise=0.3)
    assert abs(process.log_evidence() - line.log_evidence()) < 1e-10
    mean, covariance = process.predict(new)
    for found, exact in zip((mean, covariance.diagonal()), line.predict(new), strict=True):
        assert (found - exact).abs().max() < 1e-10
    assert (covariance - covariance.mT).abs().max() < 1e-12


def test_process_interpolates_and_jitter_is_told():
    x = torch.linspace(0, 1, 40, dtype=F64)[:, None]
    y = (3 * x[:, 0]).sin()
    with pytest.raises(ValueError, match="kernel must give a positive definite matrix"):
        GaussianProcess(x, y, squared_exponential(), noise=0.0)
    process = GaussianProcess(x, y, squared_exponential(), noise=0.0, jitter=1e-10)
    mean, _ = process.predict(x + 0.01)
    assert (mean - (3 * (x[:, 0] + 0.01)).sin()).abs().max() < 1e-3
    far, variance = process.predict(x[:1] + 50)
    assert abs(far) < 1e-12 and abs(variance - 1) < 1e-12
    wide = squared_exponential(2.0, 3.0)(x[:1], x[-1:])
    assert abs(wide - 9 * math.exp(-1 / 8)) < 1e-12


# --- bad input ---------------------------------------------------------------------------------


NORMAL = MeanFieldGaussian(torch.zeros(2))
PRIOR = Gaussian(torch.zeros(2), torch.eye(2))


def flat(w):
    return -w.square().sum(-1)


WRONG = {
    "mean of integers": (lambda: MeanFieldGaussian(torch.zeros(2, dtype=torch.long)), "mean must"),
    "mean of two axes": (lambda: MeanFieldGaussian(torch.zeros(2, 2)), "mean must be one finite"),
    "mean nan": (lambda: FullRankGaussian(torch.tensor([math.nan])), "mean must be one finite"),
    "scale zero": (lambda: MeanFieldGaussian(torch.zeros(2), 0.0), "scale must hold positive"),
    "scale negative": (lambda: MeanFieldGaussian(torch.zeros(2), -torch.ones(2)), "scale must"),
    "scale infinite": (lambda: MeanFieldGaussian(torch.zeros(2), math.inf), "scale must"),
    "scale nan": (lambda: MeanFieldGaussian(torch.zeros(2), math.nan), "scale must"),
    "scale of three": (lambda: MeanFieldGaussian(torch.zeros(2), torch.ones(3)), "scale must"),
    "scale double": (lambda: MeanFieldGaussian(torch.zeros(2), torch.ones(2).double()), "scale"),
    "not definite": (
        lambda: FullRankGaussian(torch.zeros(2), torch.ones(2, 2)),
        "covariance must be positive definite",
    ),
    "covariance of three": (lambda: FullRankGaussian(torch.zeros(2), torch.eye(3)), "covariance"),
    "x of three": (lambda: NORMAL.log_prob(torch.zeros(3)), "x must end in the axes"),
    "x double": (lambda: NORMAL.log_prob(torch.zeros(2).double()), "x must be torch.float32"),
    "n negative": (lambda: NORMAL.rsample(-1), "n must be at least 0"),
    "n real": (lambda: NORMAL.rsample_and_log_prob(2.0), "n must be an integer"),
    "generator": (lambda: NORMAL.sample(2, 0), "generator must be"),
    "kl of a flow": (lambda: gaussian_kl(RealNVP(2), NORMAL), "q must be a Gaussian"),
    "kl to a flow": (lambda: gaussian_kl(NORMAL, RealNVP(2)), "p must be a Gaussian"),
    "kl of dimensions": (
        lambda: gaussian_kl(NORMAL, MeanFieldGaussian(torch.zeros(3))), "p.mean must"
    ),
    "off the simplex": (
        lambda: discrete_kl(torch.tensor([0.5, 0.4]), torch.tensor([0.5, 0.5])),
        "q must hold probabilities",
    ),
    "negative": (
        lambda: discrete_kl(torch.tensor([0.5, 0.5]), torch.tensor([1.5, -0.5])),
        "p must hold probabilities",
    ),
    "nan on the simplex": (
        lambda: discrete_kl(torch.tensor([math.nan, 0.5]), torch.tensor([0.5, 0.5])), "q must"
    ),
    "elbo n": (lambda: elbo(flat, NORMAL, 0), "n must be at least 1"),
    "elbo generator": (lambda: elbo(flat, NORMAL, 1, generator=1), "generator must be"),
    "elbo q": (lambda: elbo(flat, None, 1), "q must have a method rsample_and_log_prob"),
    "elbo column": (lambda: elbo(lambda w: flat(w)[:, None], NORMAL, 3), "log_joint must return"),
    "elbo mean": (lambda: elbo(lambda w: flat(w).mean(), NORMAL, 3), "log_joint must return"),
    "elbo number": (lambda: elbo(lambda w: 1.0, NORMAL, 3), "value of log_joint must be a tensor"),
    "bound n": (lambda: importance_weighted_bound(flat, NORMAL, 0, 1), "n must be at least 1"),
    "bound k": (lambda: importance_weighted_bound(flat, NORMAL, 1, 0), "k must be at least 1"),
    "evidence n": (
        lambda: evidence_prior_sampling(flat, PRIOR, 0, generator=None), "n must be at least 1"
    ),
    "evidence prior": (
        lambda: evidence_prior_sampling(flat, flat, 1, generator=None), "prior must have"
    ),
    "evidence column": (
        lambda: evidence_prior_sampling(lambda w: w, PRIOR, 3, generator=None), "log_lik must"
    ),
    "evidence of nothing": (
        lambda: evidence_prior_sampling(lambda w: flat(w) - math.inf, PRIOR, 3, generator=None),
        "log_lik must be a number at one draw",
    ),
    "evidence nan": (
        lambda: evidence_prior_sampling(lambda w: flat(w) * math.nan, PRIOR, 3, generator=None),
        "log_lik must be a number at one draw",
    ),
    "weights of none": (
        lambda: importance_mean(torch.zeros(0), torch.zeros(0)), "log_weights must be one vector"
    ),
    "weights of two axes": (
        lambda: importance_mean(torch.zeros(2), torch.zeros(2, 2)), "log_weights must be one vector"
    ),
    "values": (lambda: importance_mean(torch.zeros(3), torch.zeros(2)), "values must have 2 rows"),
    "path n": (lambda: path_gradients(flat, NORMAL, 0), "n must be at least 1"),
    "path f": (lambda: path_gradients(lambda w: w, NORMAL, 3), "f must return"),
    "score baseline": (
        lambda: score_gradients(flat, NORMAL, 3, baseline="mean"), "baseline must be one of"
    ),
    "score one draw": (
        lambda: score_gradients(flat, NORMAL, 1, baseline="leave-one-out"), "n must be at least 2"
    ),
    "regression rows": (
        lambda: LinearRegression(torch.ones(3, 2), torch.ones(2), prior=PRIOR, noise=1.0),
        "y must hold one number for each row",
    ),
    "regression columns": (
        lambda: LinearRegression(torch.ones(3, 3), torch.ones(3), prior=PRIOR, noise=1.0),
        "x must end in the axes",
    ),
    "regression of nothing": (
        lambda: LinearRegression(torch.ones(0, 2), torch.ones(0), prior=PRIOR, noise=1.0),
        "x must hold at least one point",
    ),
    "regression noise": (
        lambda: LinearRegression(torch.ones(3, 2), torch.ones(3), prior=PRIOR, noise=-1.0),
        "noise must be a positive number",
    ),
    "mean noise": (
        lambda: GaussianMean(torch.ones(3, 2), prior=PRIOR, noise=-torch.eye(2)),
        "noise must be the covariance",
    ),
    "mean of a vector": (
        lambda: GaussianMean(torch.ones(2), prior=PRIOR, noise=torch.eye(2)), "x must have one row"
    ),
    "toss of two": (lambda: BetaBernoulli(torch.tensor([2.0])), "x must be one vector of zeros"),
    "toss of integers": (lambda: BetaBernoulli(torch.tensor([1])), "x must hold floating-point"),
    "coin a": (lambda: BetaBernoulli(torch.ones(1), 0.0), "a must be a positive number"),
    "coin b": (lambda: BetaBernoulli(torch.ones(1), 1.0, math.nan), "b must be a positive number"),
    "process rows": (
        lambda: GaussianProcess(
            torch.ones(3, 1), torch.ones(2), squared_exponential(), noise=1.0
        ),
        "y must hold one number",
    ),
    "process kernel": (
        lambda: GaussianProcess(torch.ones(3, 1), torch.ones(3), lambda a, b: a, noise=1.0),
        "kernel must return shape",
    ),
    "process jitter": (
        lambda: GaussianProcess(
            torch.ones(3, 1), torch.ones(3), squared_exponential(), noise=1.0, jitter=-1.0
        ),
        "jitter must be",
    ),
    "process x": (
        lambda: GaussianProcess(
            torch.ones(3, 1), torch.ones(3), squared_exponential(), noise=1.0
        ).predict(torch.ones(3, 2)),
        "x must end in the axes",
    ),
    "kernel length": (lambda: squared_exponential(0.0), "length must be a positive number"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named(name):
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_the_coin_outside_its_interval():
    coin = BetaBernoulli(torch.tensor([1.0, 0.0], dtype=F64))
    found = coin.log_joint(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1], dtype=F64))
    assert found[[0, 1, 3, 4]].tolist() == [-math.inf] * 4
    assert abs(found[2] - math.log(0.25)) < 1e-14


def test_standard_normal_is_a_prior():
    found = evidence_prior_sampling(flat, StandardNormal(2), 1, generator=rng())
    assert found.se == math.inf and abs(found.ess - 1) < 1e-6
