"""Claims of the chapter on Bayesian networks: their gradients, samplers and scores."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus

from nodes_tutorial.bayes import (
    BayesianMLP,
    BayesianModule,
    DropoutMLP,
    Ensemble,
    FlatModule,
    LastLayerLaplace,
    LinearRegression,
    MeanFieldGaussian,
    NormalPrior,
    ScaleMixture,
    auroc,
    bbb_loss,
    brier,
    brier_parts,
    confidence_bins,
    coverage,
    ece,
    gaussian_kl,
    minibatch_joint,
    minibatch_loss,
    mixture_moments,
    nll,
    softmax_curvature,
    temperature_scale,
)
from nodes_tutorial.bayes.backprop import _DrawWithDivergence, draw_with_divergence
from nodes_tutorial.bayes.laplace import laplace
from nodes_tutorial.bayes.sgld import sgld
from nodes_tutorial.flows import Gaussian
from nodes_tutorial.nets import MLP

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def regression(n=9, dim=3, noise=0.7, seed=0):
    prior = Gaussian(torch.zeros(dim, dtype=F64), torch.eye(dim, dtype=F64))
    x = randn(n, dim, seed=seed + 1)
    return LinearRegression(x, randn(n, seed=seed + 2), prior=prior, noise=noise)


def squared(f, y):
    return -0.5 * (f[..., 0] - y).square()


class Plain(nn.Module):
    """One affine map without a bias, for closed forms."""

    def __init__(self, dim):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dim, dtype=F64))

    def forward(self, x):
        return (x @ self.w)[:, None]


# --- one vector of weights ----------------------------------------------------------------------


def test_flat_module_against_functional_call():
    net = MLP([2, 5, 3], generator=rng(), dtype=F64)
    flat = FlatModule(net)
    w, x = randn(4, flat.dim, seed=1), randn(6, 2, seed=2)
    found = flat(w, x)
    assert found.shape == (4, 6, 3)
    for i in range(4):
        torch.nn.utils.vector_to_parameters(w[i], net.parameters())
        assert torch.allclose(found[i], net(x), atol=1e-12)
    alone = flat(flat.start, x)  # products of one and of several rows may round differently
    assert torch.allclose(alone, flat(flat.start[None], x)[0], rtol=0, atol=1e-12)
    assert flat(w.view(2, 2, -1), x).shape == (2, 2, 6, 3)
    own = flat.paired(w, x.expand(4, 6, 2))
    assert torch.allclose(own, found, atol=1e-12)


def test_flat_module_refuses():
    with pytest.raises(ValueError, match="module must have no buffers"):
        FlatModule(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="module must have a parameter"):
        FlatModule(nn.ReLU())
    with pytest.raises(TypeError):
        FlatModule(lambda x: x)
    flat = FlatModule(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="w must end"):
        flat(torch.zeros(4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="x must hold inputs"):
        flat.paired(torch.zeros(2, 3), torch.zeros(3, 1, 2))


# --- Bayes by Backprop ---------------------------------------------------------------------------


def hand_gradients(model, log_joint, w, noise):
    """Δμ and Δρ of the free energy, written out."""
    leaf = w.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_joint(leaf), leaf)
    sigma, rho = model.posterior.scale, model.posterior.rho
    gate = torch.sigmoid(rho)
    return -slope, gate * (-slope * noise - 1 / sigma)


@pytest.mark.claim("prop-networks-bbb")
@pytest.mark.parametrize("n", [1, 3])
def test_one_pass_has_the_draws_the_divergence_and_their_gradients(n, measured):
    q, prior = MeanFieldGaussian(randn(6, seed=7), randn(6, seed=8).exp()), NormalPrior(0.8)
    along = randn(n, 6, seed=9)

    def gradients(w, kl):
        return torch.autograd.grad((along * w.sin()).sum() + 1.7 * kl, [q.mean, q.rho])

    w, kl = draw_with_divergence(q, prior, n, rng(10))
    plain, closed = q.rsample(n, rng(10)), prior.kl(q)
    torch.testing.assert_close((w, kl), (plain, closed), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(w, kl), gradients(plain, closed), strict=True):
        assert measured((mine - theirs).abs().max(), "gradient") < 1e-12
        assert (mine - theirs.roll(1)).abs().max() > 0.1


def test_one_pass_can_be_differentiated_twice_and_by_vmap():
    mean, rho, noise = randn(4).requires_grad_(), randn(4, seed=1).requires_grad_(), randn(2, 4)

    def both(mean, rho):
        return _DrawWithDivergence.apply(mean, rho, noise, 0.8)[:2]

    assert torch.autograd.gradcheck(both, (mean, rho))
    assert torch.autograd.gradgradcheck(both, (mean, rho))
    slope = torch.func.grad(lambda m: both(m, rho.detach())[1])
    many = torch.stack([mean.detach(), rho.detach()])
    torch.testing.assert_close(torch.func.vmap(slope)(many), many / 0.64)


@pytest.mark.claim("prop-networks-bbb")
@pytest.mark.parametrize("prior", [NormalPrior(0.8), ScaleMixture(1.0, 0.1, 0.3)])
def test_gradients_of_bayes_by_backprop_against_autograd(prior, measured):
    net = MLP([2, 4, 1], generator=rng(3), dtype=F64)
    model = BayesianModule(net, prior, scale=0.3)
    x, y, total = randn(5, 2, seed=4), randn(5, seed=5), 20
    seen = torch.randn((1, model.flat.dim), generator=rng(6), dtype=F64)[0]
    loss = bbb_loss(model, x, y, squared, total=total, closed=False, generator=rng(6))
    loss.backward()
    mean, sigma = model.posterior.mean, model.posterior.scale

    def log_joint(w):
        return total / 5 * squared(model.flat(w, x), y).sum() + prior.log_prob(w)

    by_hand = hand_gradients(model, log_joint, (mean + sigma * seen).detach(), seen)
    for name, mine in zip(("mean", "rho"), by_hand, strict=True):
        found = total * getattr(model.posterior, name).grad
        assert measured((found - mine).abs().max(), name) < 1e-9
    gate_left_out = by_hand[1] / torch.sigmoid(model.posterior.rho)
    assert (total * model.posterior.rho.grad - gate_left_out).abs().max() > 0.1


@pytest.mark.claim("prop-networks-bbb")
def test_mean_gradient_is_that_of_the_exact_bound(measured):
    """Over a lattice of noise that is exact for squares, against the closed form."""
    line = regression(dim=2)
    q = MeanFieldGaussian(torch.tensor([0.3, -0.4], dtype=F64), torch.tensor([0.5, 0.2], dtype=F64))
    node, weight = np.polynomial.hermite_e.hermegauss(4)
    z = torch.cartesian_prod(*[torch.from_numpy(node)] * 2)
    share = torch.cartesian_prod(*[torch.from_numpy(weight / weight.sum())] * 2).prod(-1)
    w = q.mean + q.scale * z
    (share @ (q.log_prob(w) - line.log_joint(w))).backward()
    found = q.mean.grad.clone(), q.rho.grad.clone()
    q.zero_grad()
    law = MeanFieldGaussian(q.mean.detach(), q.scale.detach())
    exact = gaussian_kl(Gaussian(law.mean.detach(), law.covariance.detach()), line.posterior)
    step = 1e-5
    for k, (name, by_draws) in enumerate(zip(("mean", "rho"), found, strict=True)):
        for j in range(2):
            values = []
            for sign in (1, -1):
                mean, rho = q.mean.detach().clone(), q.rho.detach().clone()
                (mean if k == 0 else rho)[j] += sign * step
                moved = Gaussian(mean, softplus(rho).square().diag())
                values.append(gaussian_kl(moved, line.posterior))
            slope = (values[0] - values[1]) / (2 * step)
            assert measured((slope - by_draws[j]).abs(), name) < 1e-6
    assert exact > 0


@pytest.mark.claim("prop-networks-bbb")
def test_closed_divergence_against_gaussians_and_draws():
    q = MeanFieldGaussian(randn(4, seed=1), randn(4, seed=2).abs() + 0.1)
    prior = NormalPrior(0.7)
    law = Gaussian(torch.zeros(4, dtype=F64), 0.49 * torch.eye(4, dtype=F64))
    exact = gaussian_kl(Gaussian(q.mean.detach(), q.covariance.detach()), law)
    assert (prior.kl(q) - exact).abs() < 1e-11
    w = randn(7, 4, seed=3)
    assert (prior.log_prob(w) - law.log_prob(w)).abs().max() < 1e-11
    model = BayesianModule(nn.Linear(3, 1).double(), prior, scale=0.4)
    draws = model.kl_draws(40_000, rng(4))
    assert (draws - model.kl()).abs() < 0.05  # five standard errors
    by_draws = BayesianModule(nn.Linear(3, 1).double(), ScaleMixture(1.0, 0.1), scale=0.4)
    assert torch.isfinite(by_draws.kl(5, rng(5)))


@pytest.mark.claim("prop-networks-bbb")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_mixture_prior_far_out_where_its_densities_underflow(dtype):
    prior = ScaleMixture(1.0, math.exp(-7), 0.25)
    w = torch.tensor([[0.5], [60.0], [1e3]], dtype=dtype, requires_grad=True)
    found = prior.log_prob(w)
    found.sum().backward()
    assert found.isfinite().all() and w.grad.isfinite().all()
    assert torch.allclose(w.grad[1:], -w[1:])  # the wide law alone
    exact = math.log(0.25) - 0.5 * 60.0**2 - 0.5 * math.log(math.tau)
    assert math.isclose(float(found[1].detach()), exact, rel_tol=1e-6)
    plain = 0.25 * torch.exp(-0.5 * w**2) + 0.75 * torch.exp(-0.5 * (w * math.exp(7)) ** 2)
    assert plain.log()[2].isinf().all()  # the mixture of densities, which underflow
    small = torch.linspace(-8, 8, 400_001, dtype=F64)[:, None]
    mass = torch.trapezoid(prior.log_prob(small).exp(), small[:, 0])
    assert abs(float(mass) - 1) < 1e-6


# --- weight of the divergence --------------------------------------------------------------------


@pytest.mark.claim("prop-networks-weight")
@pytest.mark.parametrize("c", [0.25, 1.0, 9.0])
def test_weighted_divergence_finds_the_tempered_posterior(c, measured):
    """The optimal Gaussian of c·KL − E log lik is the posterior whose noise grew by √c."""
    line, n = regression(noise=0.7), 9
    hotter = LinearRegression(line.x, line.y, prior=line.prior, noise=0.7 * math.sqrt(c))
    scale = (1 / torch.linalg.inv(hotter.posterior.covariance).diagonal()).sqrt()
    model = BayesianModule(Plain(3), NormalPrior(), scale=1.0)
    model.posterior.mean.data.copy_(hotter.posterior.mean)
    model.posterior.rho.data.copy_(torch.log(torch.expm1(scale)))
    w = model.posterior.mean + model.posterior.scale * SIGMA
    log_lik = -0.5 * ((w @ line.x.mT - line.y) / 0.7).square()
    loss = minibatch_loss(log_lik, model.kl(), total=n, kl_weight=c)
    loss.backward()
    for name in ("mean", "rho"):
        assert measured(getattr(model.posterior, name).grad.abs().max(), name) < 1e-10
    model.zero_grad()
    minibatch_loss(log_lik.detach(), model.kl(), total=n, kl_weight=c).backward()
    assert model.posterior.rho.grad.abs().max() > 1e-3  # the divergence alone is not at rest


@pytest.mark.claim("prop-networks-weight")
@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
def test_objective_is_a_divergence_from_the_tempered_posterior(c, measured):
    """c KL(q, p) − E log lik − c KL(q, p_c) is the same number for every Gaussian q."""
    line = regression(noise=0.7)
    hotter = LinearRegression(line.x, line.y, prior=line.prior, noise=0.7 * math.sqrt(c))
    left = []
    for seed in range(4):
        root = randn(3, 4, seed=seed)
        q = Gaussian(randn(3, seed=10 + seed), root @ root.mT / 4)
        square = (line.y - line.x @ q.mean).square().sum()
        square = square + (line.x @ q.covariance * line.x).sum()
        log_lik = -0.5 * (square / 0.49 + 9 * math.log(math.tau * 0.49))
        objective = c * gaussian_kl(q, line.prior) - log_lik
        left.append(objective - c * gaussian_kl(q, hotter.posterior))
    left = torch.stack(left)
    assert measured((left - left[0]).abs().max(), "constant") < 1e-9
    other = objective - c * gaussian_kl(q, line.posterior)
    assert c == 1.0 or (other - left[0]).abs() > 0.1


SIGMA = math.sqrt(3) * torch.cat([torch.eye(3, dtype=F64), -torch.eye(3, dtype=F64)])


@pytest.mark.claim("prop-networks-weight")
def test_batches_of_an_epoch_add_up_to_the_bound(measured):
    model = BayesianMLP([2, 4, 1], scale=0.1, generator=rng(1), dtype=F64)
    x, y = randn(12, 2, seed=2), randn(12, seed=3)
    w = model.posterior.sample(3, rng(4))
    log_lik, kl = squared(model.flat(w, x), y), model.kl().detach()
    whole = 12 * minibatch_loss(log_lik, kl, total=12)
    assert measured((whole - (kl - log_lik.sum(1).mean())).abs(), "bound") < 1e-11
    parts = [minibatch_loss(part, kl, total=12) for part in log_lik.split(4, dim=1)]
    assert (12 * torch.stack(parts).mean() - whole).abs() < 1e-11
    wrong = [minibatch_loss(part, kl, total=12, kl_weight=12) for part in log_lik.split(4, dim=1)]
    assert (12 * torch.stack(wrong).mean() - whole).abs() > 1


def test_minibatch_loss_refuses():
    kl = torch.tensor(1.0)
    with pytest.raises(ValueError, match="log_lik must have shape"):
        minibatch_loss(torch.zeros(5), kl, total=5)
    with pytest.raises(ValueError, match="total must be at least 5"):
        minibatch_loss(torch.zeros(1, 5), kl, total=4)
    with pytest.raises(ValueError, match="kl_weight"):
        minibatch_loss(torch.zeros(1, 5), kl, total=5, kl_weight=-1.0)
    with pytest.raises(TypeError, match="total"):
        minibatch_loss(torch.zeros(1, 5), kl, total=5.0)


def test_bbb_loss_refuses():
    model = BayesianMLP([2, 3, 1])
    x, y = torch.zeros(4, 2), torch.zeros(4)
    with pytest.raises(ValueError, match="log_lik must return shape"):
        bbb_loss(model, x, y, lambda f, y: f, total=4)
    with pytest.raises(ValueError, match="n must be at least 1"):
        bbb_loss(model, x, y, squared, total=4, n=0, local=True)
    with pytest.raises(TypeError, match="generator"):
        bbb_loss(model, x, y, squared, total=4, generator=3)
    with pytest.raises(TypeError, match="local needs a BayesianMLP"):
        bbb_loss(BayesianModule(nn.Linear(2, 1)), x, y, squared, total=4, local=True)
    with pytest.raises(ValueError, match="scale"):
        BayesianMLP([2, 1], scale=0.0)
    with pytest.raises(ValueError, match="weight"):
        ScaleMixture(1.0, 0.1, 1.0)
    with pytest.raises(ValueError, match="narrow"):
        ScaleMixture(1.0, 0.0)
    with pytest.raises(ValueError, match="scale"):
        NormalPrior(-1.0)


def test_mean_output_is_the_network_with_the_mean_weights():
    net = MLP([2, 3, 1], "relu", generator=rng(2), dtype=F64)
    model, x = BayesianModule(net, scale=0.5), randn(4, 2)
    assert torch.allclose(model.mean_output(x), net(x))
    assert model.state_dict().keys() == {"posterior.mean", "posterior.rho"}
    assert (model(x, 4000, rng(1)).mean(0) - net(x)).abs().max() > 0.01  # Jensen's gap


# --- local reparametrization ---------------------------------------------------------------------


@pytest.mark.claim("prop-networks-local")
def test_one_affine_layer_has_the_law_of_drawn_weights(measured):
    model = BayesianMLP([3, 2], scale=0.4, generator=rng(1), dtype=F64)
    model.posterior.rho.data.add_(randn(8, seed=2) / 2)
    x = randn(2, 3, seed=3)
    n = 200_000
    mean = model.flat(model.posterior.mean, x)
    sd2 = model.flat.split(model.posterior.scale.square())
    variance = x.square() @ sd2["layers.0.weight"].mT + sd2["layers.0.bias"]
    for local in (False, True):
        with torch.no_grad():
            found = model(x, n, rng(4), local=local)
        miss = (found.mean(0) - mean) / (variance / n).sqrt()
        assert measured(miss.abs().max(), "mean") < 5
        ratio = found.var(0) / variance - 1
        assert measured(ratio.abs().max(), "variance") < 5 * math.sqrt(2 / n)
        units = torch.corrcoef(found[:, 0].mT)[0, 1]
        assert units.abs() < 5 / math.sqrt(n)
        rows = torch.corrcoef(found[..., 0].mT)[0, 1]
        shared = (x[0] * x[1]) @ sd2["layers.0.weight"][0] + sd2["layers.0.bias"][0]
        exact = 0.0 if local else shared / variance[:, 0].prod().sqrt()
        assert (rows - exact).abs() < 5 / math.sqrt(n)


@pytest.mark.claim("prop-networks-local")
def test_each_example_of_a_deep_net_keeps_its_law():
    model = BayesianMLP([2, 3, 3, 1], scale=0.5, activation="tanh", generator=rng(1), dtype=F64)
    x, n = randn(1, 2, seed=2), 100_000
    with torch.no_grad():
        weights, local = (model(x, n, rng(3), local=k)[:, 0, 0] for k in (False, True))
    for power in (1, 2, 3, 4):
        a, b = weights**power, local**power
        assert ((a.mean() - b.mean()) / ((a.var() + b.var()) / n).sqrt()).abs() < 5


@pytest.mark.claim("prop-networks-local")
def test_variance_of_a_minibatch_by_its_two_terms():
    """Rows of a batch are independent given the weights; only shared weights correlate them."""
    model = BayesianMLP([2, 1], scale=0.6, generator=rng(1), dtype=F64)
    x, y, batch, n = randn(8, 2, seed=2), randn(8, seed=3), 4, 60_000
    rows = torch.randint(8, (n, batch), generator=rng(4))
    with torch.no_grad():
        shared = squared(model(x, n, rng(5)), y).gather(1, rows)
        own = torch.stack(
            [
                squared(model(x, n, rng(6 + k), local=True), y).gather(1, rows[:, k : k + 1])[:, 0]
                for k in range(batch)
            ],
            1,
        )
        g = squared(model(x, n, rng(5)), y).mean(1)
    each = shared[:, 0].var()
    for found, exact in (
        (own, each / batch),
        (shared, each / batch + (batch - 1) / batch * g.var()),
    ):
        assert (found.mean(1).var() / exact - 1).abs() < 0.06  # five spreads of a variance
    assert shared.mean(1).var() > 1.5 * own.mean(1).var()


@pytest.mark.claim("prop-networks-local")
def test_local_gradient_is_the_conditional_mean_of_the_weights_gradient(measured):
    """Given the pre-activation of a unit, gradients of drawn weights average to local ones."""
    x, mean = randn(3, seed=1), randn(3, seed=2)
    sigma = torch.tensor([0.5, 0.2, 0.9], dtype=F64)
    variance = (x * sigma).square().sum()
    a = (x @ mean + 0.7 * variance.sqrt()).clone().requires_grad_()
    (delta,) = torch.autograd.grad(torch.sin(2 * a), a)
    n = 400_000
    noise = randn(n, 3, seed=3)
    pull = x * sigma / variance.sqrt()
    noise = noise + (0.7 - noise @ pull)[:, None] * pull  # given the pre-activation
    drawn = delta * x * noise
    model = BayesianMLP([3, 1], scale=0.1, dtype=F64)
    model.posterior.mean.data.copy_(torch.cat([mean, mean.new_zeros(1)]))
    local = delta * x.square() * sigma / variance.sqrt() * 0.7
    assert measured((drawn.mean(0) - local).abs().max(), "mean") < 0.01
    whole = delta.square() * x.square()  # second moment before conditioning, noise of variance 1
    assert (local.square() < whole).all()


@pytest.mark.claim("prop-networks-local")
def test_local_gradients_are_less_noisy_than_those_of_weights():
    x, y = randn(1, 4, seed=2), randn(1, seed=3)
    spread = {}
    for local in (False, True):
        rows = []
        for seed in range(100):
            model = BayesianMLP([4, 1], scale=0.5, generator=rng(1), dtype=F64)
            bbb_loss(
                model, x, y, squared, total=1, local=local, kl_weight=0.0, generator=rng(seed)
            ).backward()
            rows.append(model.posterior.rho.grad)
        spread[local] = torch.stack(rows).var(0).sum()
    assert spread[True] < 0.7 * spread[False]


# --- Langevin dynamics ---------------------------------------------------------------------------


def normal_joint(precision, mean):
    return lambda w: -0.5 * ((w - mean) @ precision * (w - mean)).sum(-1)


@pytest.mark.claim("thm-networks-sgld")
def test_covariance_of_one_step_is_stationary(measured):
    """One step maps the stationary Gaussian to itself; its mean and covariance are exact."""
    root = randn(3, 4, seed=1)
    precision, eps = root @ root.mT / 4, 0.5
    mean, eye = randn(3, seed=2), torch.eye(3, dtype=F64)
    exact = torch.linalg.inv(precision @ (eye - eps / 4 * precision))

    def move(points):
        """The step without its noise, from the package."""
        joint = normal_joint(precision, mean)
        return sgld(joint, points, steps=1, step_size=eps, temperature=0)[0]

    ends = move(mean + torch.cat([eye, torch.zeros(1, 3, dtype=F64)]))
    assert (ends[-1] - mean).abs().max() < 1e-13
    linear = (ends[:3] - mean).mT
    again = linear @ exact @ linear.mT + eps * eye
    assert measured((again - exact).abs().max(), "covariance") < 1e-12
    posterior = torch.linalg.inv(precision)
    assert (linear @ posterior @ linear.mT + eps * eye - posterior).abs().max() > 0.01


@pytest.mark.claim("thm-networks-sgld")
@pytest.mark.parametrize(("eps", "a"), [(0.1, 2.0), (1.0, 2.0), (0.5, 1.0)])
def test_stationary_variance_of_many_chains(eps, a):
    n = 100_000
    joint = normal_joint(torch.tensor([[a]], dtype=F64), torch.zeros(1, dtype=F64))
    steps = math.ceil(20 / (eps * a)) + 1
    start = torch.zeros(n, 1, dtype=F64)
    (end,) = sgld(joint, start, steps=steps, step_size=eps, burn=steps - 1, generator=rng(1))
    exact = 1 / (a * (1 - eps * a / 4))
    assert abs(float(end.var()) / exact - 1) < 5 * math.sqrt(2 / n)
    if eps == 1.0:
        assert abs(float(end.var()) * a - 1) > 0.5  # the posterior's variance is missed by far


@pytest.mark.claim("thm-networks-sgld")
def test_no_law_is_left_from_a_step_of_four_over_the_curvature_on():
    joint = normal_joint(torch.eye(1, dtype=F64) * 2, torch.zeros(1, dtype=F64))
    start = torch.ones(4, 1, dtype=F64)
    with pytest.raises(FloatingPointError, match="4 of 4 chains ran away"):
        sgld(joint, start, steps=500, step_size=6.0, burn=499, generator=rng())
    (end,) = sgld(joint, start, steps=200, step_size=1.8, burn=199, generator=rng())
    assert end.isfinite().all()


@pytest.mark.claim("thm-networks-sgld")
def test_noise_of_a_minibatch_widens_the_law():
    """Variance (1 + εV/4)/(a(1 − εa/4)) with V the variance of the gradient."""
    y, batch, n, eps = 2 * randn(50, seed=1), 5, 60_000, 0.02

    def prior(w):
        return -0.5 * w.square().sum(-1)

    def log_lik(w, y):
        return -0.5 * (y - w).square()

    joint = minibatch_joint(prior, log_lik, [y], batch, rng(2))
    a, noise = 51.0, 50**2 / batch * float(y.var(correction=0))
    steps = math.ceil(20 / (eps * a)) + 1
    start = torch.zeros(n, 1, dtype=F64)
    (end,) = sgld(joint, start, steps=steps, step_size=eps, burn=steps - 1, generator=rng(3))
    exact = (1 + eps * noise / 4) / (a * (1 - eps * a / 4))
    assert abs(float(end.var()) / exact - 1) < 0.04
    full = 1 / (a * (1 - eps * a / 4))
    assert exact > 5 * full


def test_minibatch_joint_is_unbiased_and_exact_for_whole_sets():
    x, y = randn(6, 2, seed=1), randn(6, seed=2)
    w = randn(3, 2, seed=3)

    def log_lik(w, x, y):
        return -0.5 * (x @ w - y).square()

    exact = -0.5 * (w @ x.mT - y).square().sum(-1)
    draws = minibatch_joint(lambda w: 0 * w[:, 0], log_lik, [x, y], 2, rng(4))
    rows = torch.stack([draws(w) for _ in range(4000)])
    miss = (rows.mean(0) - exact) / (rows.std(0) / math.sqrt(4000))
    assert miss.abs().max() < 5
    assert not torch.equal(rows[0], rows[1])


def test_sgld_keeps_what_it_says_and_refuses():
    joint = normal_joint(torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64))
    start = torch.zeros(3, 2, dtype=F64)
    all_of_them = sgld(joint, start, steps=9, step_size=0.1, generator=rng())
    some = sgld(joint, start, steps=9, step_size=0.1, burn=3, thin=2, generator=rng())
    assert torch.equal(some, all_of_them[4::2])
    falling = sgld(joint, start, steps=9, step_size=lambda i: 0.1 / (1 + i), generator=rng())
    assert falling.shape == (9, 3, 2)
    for wrong, name in (
        ({"steps": 0}, "steps"),
        ({"burn": 9}, "burn"),
        ({"thin": 0}, "thin"),
        ({"step_size": 0.0}, "step_size"),
        ({"temperature": -1.0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=name):
            sgld(joint, start, **{"steps": 9, "step_size": 0.1} | wrong)
    with pytest.raises(ValueError, match="x0"):
        sgld(joint, start[0], steps=9, step_size=0.1)
    with pytest.raises(ValueError, match="log_joint must return"):
        sgld(lambda w: w.sum(), start, steps=1, step_size=0.1)
    with pytest.raises(ValueError, match="data"):
        minibatch_joint(joint, joint, [torch.zeros(3), torch.zeros(4)], 2)
    with pytest.raises(ValueError, match="batch"):
        minibatch_joint(joint, joint, [torch.zeros(3)], 0)


# --- ensembles, dropout ---------------------------------------------------------------------------


def test_ensemble_trains_as_its_members_do_alone():
    members = [MLP([2, 4, 1], generator=rng(seed), dtype=F64) for seed in range(3)]
    x, y = randn(7, 2, seed=5), randn(7, seed=6)
    ensemble = Ensemble(members)
    adam = torch.optim.Adam(ensemble.parameters(), 0.01)
    for _ in range(5):
        adam.zero_grad()
        (ensemble(x)[..., 0] - y).square().mean(-1).sum().backward()
        adam.step()
    for i, member in enumerate(members):
        alone = torch.optim.Adam(member.parameters(), 0.01)
        for _ in range(5):
            alone.zero_grad()
            (member(x)[..., 0] - y).square().mean().backward()
            alone.step()
        assert torch.allclose(ensemble(x)[i], member(x), atol=1e-10)
    own = ensemble(x.expand(3, 7, 2), paired=True)
    assert torch.allclose(own, ensemble(x))


@pytest.mark.claim("prop-networks-ensemble")
def test_anchored_members_of_a_linear_model_are_draws_from_the_posterior(measured):
    """Least squares towards a draw of the prior with a noisy target, in closed form."""
    line, n = regression(n=5, dim=2, noise=0.7), 200_000
    anchors = line.prior.sample(n, rng(1))
    targets = line.y + 0.7 * torch.randn((n, 5), generator=rng(2), dtype=F64)
    precision = torch.eye(2, dtype=F64) + line.x.mT @ line.x / 0.49
    members = torch.linalg.solve(precision, (anchors + targets @ line.x / 0.49).mT).mT
    exact = line.posterior
    sd = exact.covariance.diagonal().sqrt()
    miss = (members.mean(0) - exact.mean) / (sd / math.sqrt(n))
    assert measured(miss.abs().max(), "mean") < 5
    assert measured((members.mT.cov() / exact.covariance - 1).abs().max(), "covariance") < 0.03
    clean = torch.linalg.solve(precision, (anchors + line.y @ line.x / 0.49).mT).mT
    assert clean.var(0).max() < 0.7 * sd.square().max()  # without the noise: too narrow
    fixed = torch.linalg.solve(precision, (targets @ line.x / 0.49).mT).mT
    assert (fixed.var(0) < 0.95 * sd.square()).all()  # without the anchors


@pytest.mark.claim("prop-networks-ensemble")
def test_plain_members_of_a_convex_model_agree():
    line = regression()
    ensemble = Ensemble([Plain(3) for _ in range(4)])
    ensemble.weights.data.copy_(randn(4, 3, seed=7))
    sgd = torch.optim.SGD(ensemble.parameters(), 0.2)
    for _ in range(600):
        sgd.zero_grad()
        (ensemble(line.x)[..., 0] - line.y).square().mean(-1).sum().backward()
        sgd.step()
    assert ensemble.weights.detach().std(0).max() < 1e-6
    assert line.posterior.covariance.diagonal().min().sqrt() > 0.1


@pytest.mark.claim("prop-networks-ensemble")
def test_moments_of_a_mixture_against_draws_of_it():
    mean, sd = randn(3, seed=1), randn(3, seed=2).abs()
    n = 300_000
    which = torch.randint(3, (n,), generator=rng(3))
    draws = mean[which] + sd[which] * randn(n, seed=4)
    center, variance = mixture_moments(mean, sd.square())
    assert (draws.mean() - center).abs() < 5 * (variance / n).sqrt()
    assert (draws.var() / variance - 1).abs() < 0.02
    assert variance > sd.square().mean() + 0.01  # the mean of the variances leaves out a part


def test_dropout_draws_and_their_mean():
    net = DropoutMLP([2, 50, 1], 0.2, generator=rng(1), dtype=F64)
    x = randn(3, 2, seed=2)
    with torch.no_grad():
        draws = net(x, 40_000, rng(3))
        whole = net(x)
    error = draws.std(0) / math.sqrt(40_000)
    assert ((draws.mean(0) - whole) / error).abs().max() < 5  # one hidden layer: linear in masks
    assert torch.equal(
        DropoutMLP([2, 5, 1], 0.0, generator=rng())(x.float(), 2)[0],
        DropoutMLP([2, 5, 1], 0.0, generator=rng())(x.float()),
    )
    hidden = net.layers[1](net.layers[0](x)) * net.layers[2].weight[0]
    assert torch.allclose(draws[..., 0].var(0), hidden.square().sum(-1) * 0.2 / 0.8, rtol=0.1)


def test_ensembles_refuse():
    with pytest.raises(ValueError, match="members must hold"):
        Ensemble([])
    with pytest.raises(ValueError, match="same parameters"):
        Ensemble([nn.Linear(2, 1), nn.Linear(3, 1)])
    with pytest.raises(ValueError, match="rate"):
        DropoutMLP([2, 1], 1.0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        DropoutMLP([2, 3, 1])(torch.zeros(1, 2), 0)
    with pytest.raises(ValueError, match="variance must have the shape"):
        mixture_moments(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="variance must be 0 or more"):
        mixture_moments(torch.zeros(2), -torch.ones(2))


# --- Laplace --------------------------------------------------------------------------------------


@pytest.mark.claim("prop-networks-laplace")
def test_laplace_is_exact_for_a_linear_model(measured):
    line = regression()
    exact = line.posterior
    q = laplace(line.log_joint, exact.mean)
    assert measured((q.covariance - exact.covariance).abs().max(), "covariance") < 1e-10
    diagonal = laplace(line.log_joint, exact.mean, "diagonal")
    wanted = 1 / torch.linalg.inv(exact.covariance).diagonal()
    assert (diagonal.scale.square() - wanted).abs().max() < 1e-10
    assert (wanted < exact.covariance.diagonal() - 1e-3).any()


def softmax_problem(n=12, f=3, k=3):
    features, labels = randn(n, f, seed=1), torch.randint(k, (n,), generator=rng(2))
    phi = torch.cat([features, torch.ones(n, 1, dtype=F64)], 1)

    def joint(w):
        logits = phi @ w.view(k, f + 1).mT
        return -cross_entropy(logits, labels, reduction="sum") - 0.5 * 0.3 * w.square().sum()

    w = torch.zeros(k * (f + 1), dtype=F64)
    for _ in range(30):
        slope, curvature = torch.func.grad(joint)(w), torch.func.hessian(joint)(w)
        w = w - torch.linalg.solve(curvature, slope)
    return features, phi, joint, w


@pytest.mark.claim("prop-networks-laplace")
def test_last_layer_against_the_hessian_of_its_joint(measured):
    features, phi, joint, w = softmax_problem()
    logits = phi @ w.view(3, 4).mT
    q = laplace(joint, w)
    new = randn(5, 3, seed=3)
    rows = torch.cat([new, torch.ones(5, 1, dtype=F64)], 1)
    jacobian = torch.func.vmap(lambda row: torch.func.jacrev(lambda w: w.view(3, 4) @ row)(w))(rows)
    exact = jacobian @ q.covariance @ jacobian.mT
    last = LastLayerLaplace(features, softmax_curvature(logits), 0.3)
    assert measured((last.covariance(new) - exact).abs().max(), "dense") < 1e-9
    diagonal = LastLayerLaplace(features, softmax_curvature(logits), 0.3, "diagonal")
    alone = laplace(joint, w, "diagonal").scale.square()
    wanted = (jacobian.square() * alone).sum(-1).diag_embed()
    assert measured((diagonal.covariance(new) - wanted).abs().max(), "diagonal") < 1e-9
    kronecker = LastLayerLaplace(features, softmax_curvature(logits), 0.3, "kronecker")
    both = torch.kron(softmax_curvature(logits).mean(0), phi.mT @ phi)
    inverse = torch.linalg.inv(both + 0.3 * torch.eye(12, dtype=F64))
    wanted = jacobian @ inverse @ jacobian.mT
    assert measured((kronecker.covariance(new) - wanted).abs().max(), "kronecker") < 1e-9
    assert (kronecker.covariance(new) - exact).abs().max() > 1e-3


@pytest.mark.claim("prop-networks-laplace")
def test_kronecker_is_exact_where_all_curvatures_are_equal():
    features = randn(9, 2, seed=1)
    root = randn(3, 4, seed=2)
    curvature = (root @ root.mT).expand(9, 3, 3)
    new = randn(4, 2, seed=3)
    dense, kronecker = (
        LastLayerLaplace(features, curvature, 0.7, name).covariance(new)
        for name in ("dense", "kronecker")
    )
    assert (dense - kronecker).abs().max() < 1e-10


@pytest.mark.claim("prop-networks-laplace")
def test_softmax_curvature_is_the_hessian_and_draws_have_the_covariance():
    logits = randn(2, 3, seed=1)
    label = torch.tensor(1)
    for row in logits:
        exact = torch.func.hessian(lambda z: cross_entropy(z, label))(row)
        assert (softmax_curvature(row) - exact).abs().max() < 1e-12
    features = randn(6, 2, seed=2)
    last = LastLayerLaplace(features, softmax_curvature(randn(6, 3, seed=3)), 1.0)
    n = 100_000
    draws = last.sample(features[:2], logits, n, rng(4))
    for i in range(2):
        exact = last.covariance(features[:2])[i]
        assert (draws[:, i].mT.cov() - exact).abs().max() < 0.02 * exact.abs().max()
        assert ((draws[:, i].mean(0) - logits[i]) / (exact.diagonal() / n).sqrt()).abs().max() < 5


@pytest.mark.claim("prop-networks-laplace")
def test_far_away_the_mode_is_certain_and_the_laplace_average_is_not(measured):
    net = MLP([2, 8, 1], "relu", generator=rng(3), dtype=F64)
    x = randn(20, 2, seed=4)
    body = nn.Sequential(*list(net.layers)[:-1])
    with torch.no_grad():
        p = net(x).sigmoid()
        last = LastLayerLaplace(body(x), (p * (1 - p))[..., None], 1.0)
        direction = torch.tensor([[1.0, -0.3]], dtype=F64)
        node = torch.linspace(-9, 9, 400_001, dtype=F64)
        weight = (-0.5 * node**2).softmax(0)
        near, far = (t * direction for t in (1e6, 2e6))
        alpha = body(far) - body(near)
        a = float(net(far) - net(near))
        sd = float(last.covariance(far_features := body(far)).sqrt())
        z = float(net(far))
    assert abs(z / 2 - a) < 1e-3 * abs(a) and abs(z) > 1e3  # affine; the mode is certain
    assert torch.allclose(far_features / 2, alpha, rtol=1e-4, atol=2.0)
    spread = sd / 2  # of the slope: the deviation of the logit grows as fast as the logit
    averaged = float((z + sd * node).sigmoid() @ weight)
    limit = float(ndtr(a / spread))
    assert measured(abs(averaged - limit), "limit") < 0.02
    assert 0.5 < max(limit, 1 - limit) < 0.99


def test_laplace_refuses():
    with pytest.raises(ValueError, match="mode must be a maximum"):
        laplace(lambda w: w.square().sum(), torch.zeros(2))
    with pytest.raises(ValueError, match="mode must be a maximum"):
        laplace(lambda w: w.square().sum(), torch.zeros(2), "diagonal")
    with pytest.raises(ValueError, match="structure"):
        laplace(lambda w: -w.square().sum(), torch.zeros(2), "kronecker")
    with pytest.raises(ValueError, match="mode must be one vector"):
        laplace(lambda w: -w.square().sum(), torch.zeros(1, 2))
    features, curvature = torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2)
    with pytest.raises(ValueError, match="structure"):
        LastLayerLaplace(features, curvature, 1.0, "block")
    with pytest.raises(ValueError, match="precision"):
        LastLayerLaplace(features, curvature, 0.0)
    with pytest.raises(ValueError, match="curvature must hold"):
        LastLayerLaplace(features, curvature[:2], 1.0)
    for structure in ("dense", "kronecker"):
        with pytest.raises(ValueError, match="positive semidefinite"):
            LastLayerLaplace(torch.ones(3, 2), -curvature, 0.5, structure)
    with pytest.raises(ValueError, match="n must be"):
        LastLayerLaplace(features, curvature, 1.0).sample(features, torch.zeros(3, 2), 0)


# --- scores ---------------------------------------------------------------------------------------


def forecasts(n=400, k=3, seed=0):
    probs = (2 * randn(n, k, seed=seed)).softmax(-1)
    labels = torch.multinomial(probs, 1, generator=rng(seed + 1))[:, 0]
    return probs, labels


@pytest.mark.claim("prop-networks-brier")
@pytest.mark.parametrize("equal_mass", [False, True])
def test_parts_add_up_to_the_brier_score(equal_mass, measured):
    probs, labels = forecasts()
    groups = confidence_bins(probs.max(-1).values, 7, equal_mass=equal_mass)
    parts = brier_parts(probs, labels, groups)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert measured((total - brier(probs, labels)).abs(), "sum") < 1e-12
    assert parts.within.abs() > 1e-4


@pytest.mark.claim("prop-networks-brier")
def test_three_parts_where_forecasts_of_a_group_are_equal():
    groups = torch.randint(4, (300,), generator=rng(1))
    probs = randn(4, 3, seed=2).softmax(-1)[groups]
    labels = torch.randint(3, (300,), generator=rng(3))
    parts = brier_parts(probs, labels, groups)
    assert parts.within.abs() < 1e-12
    exact = brier(probs, labels)
    assert (parts.reliability - parts.resolution + parts.uncertainty - exact).abs() < 1e-12
    member = nn.functional.one_hot(groups, 4).double()
    target = nn.functional.one_hot(labels, 3).double()
    frequencies = member.mT @ target / member.sum(0)[:, None]
    calibrated = brier_parts(frequencies[groups], labels, groups)
    assert calibrated.reliability < 1e-12


@pytest.mark.claim("prop-networks-brier")
def test_calibration_error_by_hand_and_for_calibrated_forecasts():
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.55, 0.45]], dtype=F64)
    labels = torch.tensor([0, 1, 0, 1])
    # two bins of width: all four lie in the upper one
    assert abs(float(ece(probs, labels, 2)) - abs(0.5 - 0.7125)) < 1e-12
    # two bins of equal mass: {.55, .6} with 1 of 2 right and {.8, .9} with 1 of 2
    exact = 0.5 * abs(0.5 - 0.575) + 0.5 * abs(0.5 - 0.85)
    assert abs(float(ece(probs, labels, 2, equal_mass=True)) - exact) < 1e-12
    many, true = forecasts(200_000, seed=5)
    assert ece(many, true) < 0.01 and ece(many, true, equal_mass=True) < 0.01
    sharp = many.square() / many.square().sum(-1, keepdim=True)
    assert ece(sharp, true) > 0.05


@pytest.mark.claim("prop-networks-brier")
def test_temperature_against_a_grid_and_the_convexity_behind_it(measured):
    logits, labels = 3 * randn(300, 4, seed=1), torch.randint(4, (300,), generator=rng(2))
    labels = torch.where(torch.rand(300, generator=rng(3)) < 0.6, logits.argmax(-1), labels)
    found = temperature_scale(logits, labels)
    beta = torch.linspace(0.02, 2, 2000, dtype=F64)
    values = torch.stack([cross_entropy(b * logits, labels) for b in beta])
    assert measured((1 / found - beta[values.argmin()]).abs(), "grid") < 2e-3
    assert (values.diff().diff() > 0).all()
    p = (logits / found).softmax(-1)
    assert ((p * logits).sum(-1).mean() - logits.gather(1, labels[:, None]).mean()).abs() < 1e-9
    sure = temperature_scale(logits, logits.argmax(-1), most=100.0)
    assert abs(float(sure) - 0.01) < 1e-6


def test_nll_and_brier_against_plain_sums():
    probs, labels = forecasts(50)
    by_hand = -sum(math.log(float(probs[i, labels[i]])) for i in range(50)) / 50
    assert abs(float(nll(probs, labels)) - by_hand) < 1e-12
    square = 0.0
    for i in range(50):
        for c in range(3):
            square += (float(probs[i, c]) - (int(labels[i]) == c)) ** 2
    assert abs(float(brier(probs, labels)) - square / 50) < 1e-12
    assert nll(torch.tensor([[0.0, 1.0]]), torch.tensor([0])).isinf()


def test_area_under_the_curve_against_sklearn_with_ties():
    high = torch.randint(0, 6, (70,), generator=rng(1)).double()
    low = torch.randint(0, 5, (40,), generator=rng(2)).double()
    truth = np.r_[np.ones(70), np.zeros(40)]
    exact = roc_auc_score(truth, np.r_[high.numpy(), low.numpy()])
    assert abs(float(auroc(high, low)) - exact) < 1e-12
    assert float(auroc(torch.ones(3), torch.ones(5))) == 0.5


def test_coverage_of_exact_forecasts():
    y = randn(100_000, seed=1)
    cdf = torch.from_numpy(ndtr(y.numpy()))
    levels = torch.tensor([0.5, 0.9], dtype=F64)
    assert (coverage(cdf, levels) - levels).abs().max() < 0.01
    narrow = torch.from_numpy(ndtr(2 * y.numpy()))
    assert (coverage(narrow, levels) < levels - 0.2).all()


def test_scores_refuse():
    probs, labels = forecasts(5)
    for score in (nll, brier, ece):
        with pytest.raises(ValueError, match="sum to 1"):
            score(probs * 2, labels)
        with pytest.raises(ValueError, match="labels must be 0 to 2"):
            score(probs, labels + 3)
        with pytest.raises(ValueError, match="labels must have shape"):
            score(probs, labels[:4])
        with pytest.raises(TypeError, match="labels must be a tensor of integers"):
            score(probs, labels.double())
        with pytest.raises(ValueError, match="probs must hold at least one"):
            score(probs[:0], labels[:0])
    with pytest.raises(ValueError, match="sum to 1"):
        nll(torch.tensor([[1.5, -0.5]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        ece(probs, labels, 0)
    with pytest.raises(ValueError, match="cdf must hold numbers in"):
        coverage(torch.tensor([1.5]), torch.tensor([0.5]))
    with pytest.raises(ValueError, match="low must be one vector"):
        auroc(torch.zeros(2), torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="high must hold"):
        auroc(torch.zeros(0), torch.zeros(1))
    with pytest.raises(ValueError, match="groups must be 0 or more"):
        brier_parts(probs, labels, labels - 5)
    with pytest.raises(ValueError, match="groups must have shape"):
        brier_parts(probs, labels, labels[:2])
    with pytest.raises(ValueError, match="labels must be 0 to 2"):
        temperature_scale(probs, labels + 3)
    with pytest.raises(ValueError, match="labels must hold one class"):
        temperature_scale(probs, labels[:2])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_results_have_the_dtype_of_their_inputs(dtype):
    model = BayesianMLP([2, 3, 2], generator=rng(), dtype=dtype)
    x = torch.zeros(4, 2, dtype=dtype)
    assert model(x, 2, rng()).dtype == model(x, 2, rng(), local=True).dtype == dtype
    probs = model(x, 2, rng())[0].softmax(-1)
    labels = torch.zeros(4, dtype=torch.long)
    assert nll(probs, labels).dtype == ece(probs, labels).dtype == dtype
    last = LastLayerLaplace(x, softmax_curvature(probs), 1.0, "kronecker")
    assert last.sample(x, probs, 3, rng()).dtype == dtype
    assert DropoutMLP([2, 3, 1], dtype=dtype)(x, 2, rng()).dtype == dtype
    assert functional_call(model, dict(model.named_parameters()), (x,)).dtype == dtype
