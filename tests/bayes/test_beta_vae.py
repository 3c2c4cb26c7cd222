"""Claims of the chapter on autoencoders with a weight on the rate."""

import copy
import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from nodes_tutorial.bayes import (
    VAE,
    LinearVAE,
    active_units,
    best_linear_vae,
    discrete_kl,
    factor_information,
    gaussian_rates,
    mutual_information_gap,
    rate_parts,
)
from nodes_tutorial.nets import MLP, Stack

F64 = torch.float64
GAMMA = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.05], dtype=F64)
NOISE = math.sqrt(0.3)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def table(*shape, seed):
    """Positive rows that sum to 1."""
    return randn(*shape, seed=seed).softmax(-1)


def kl(q, p):
    return discrete_kl(q, p.expand_as(q))


def rotation(dim, seed):
    return torch.linalg.qr(randn(dim, dim, seed=seed))[0]


def turned(gamma=GAMMA, seed=1):
    axes = rotation(len(gamma), seed)
    return axes @ gamma.diag() @ axes.T, axes


# --- the loss ----------------------------------------------------------------------------------


class Sharp(nn.Module):
    """An encoder whose codes are certain: what is drawn is the mean."""

    def __init__(self, latent):
        super().__init__()
        self.net = MLP([5, 8, latent], generator=rng(2), dtype=F64)

    def forward(self, x):
        mean = self.net(x)
        return torch.cat([mean, torch.full_like(mean, -40.0)], -1)


@pytest.mark.parametrize("likelihood, noise", [("bernoulli", None), ("gaussian", 0.7)])
def test_terms_against_distributions(likelihood, noise):
    decoder = MLP([2, 8, 5], generator=rng(3), dtype=F64)
    x = torch.rand(7, 5, generator=rng(4), dtype=F64).round()
    vae = VAE(Sharp(2), decoder, 3.0, likelihood=likelihood, noise=noise)
    mean, scale = vae.posterior(x)
    found = vae(x, rng(5))
    out = decoder(mean)
    law = Bernoulli(logits=out) if likelihood == "bernoulli" else Normal(out, noise)
    assert (found.distortion + law.log_prob(x).sum(-1)).abs().max() < 1e-12
    exact = kl_divergence(Normal(mean, scale), Normal(0.0 * mean, 1.0))
    assert (found.rates - exact).abs().max() < 1e-12
    assert (found.rate - exact.sum(-1)).abs().max() < 1e-12
    assert (vae.decode(mean) - law.mean).abs().max() < 1e-15
    total = found.distortion.mean() + 3 * exact.sum(-1).mean()
    assert (vae.loss(x, rng(5)) - total).abs() < 1e-12


def test_rates_against_quadrature():
    for mean, scale in ((0.3, 0.2), (-1.5, 1.7), (0.0, 1.0)):
        q, p = Normal(mean, scale), Normal(0.0, 1.0)

        def term(z, q=q, p=p):
            z = torch.tensor(z, dtype=F64)
            return float(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)))

        exact = quad(term, mean - 12 * scale, mean + 12 * scale, epsabs=1e-12)[0]
        found = gaussian_rates(torch.tensor(mean, dtype=F64), torch.tensor(scale, dtype=F64))
        assert abs(float(found) - exact) < 1e-6  # Normal holds single precision


def test_copies_side_by_side_are_what_each_is_alone():
    seeds, betas = (0, 1, 2), torch.tensor([1.0, 2.0, 8.0], dtype=F64)
    nets = [
        (Stack([5, 8, 4], [rng(s)], dtype=F64), Stack([2, 8, 5], [rng(s + 9)], dtype=F64))
        for s in seeds
    ]
    together = VAE(
        Stack([5, 8, 4], [rng(s) for s in seeds], dtype=F64),
        Stack([2, 8, 5], [rng(s + 9) for s in seeds], dtype=F64),
        betas,
    )
    x = torch.rand(1, 7, 5, generator=rng(4), dtype=F64)
    loss = together.loss(x, rng(6))
    assert loss.shape == (3,)
    noise = torch.randn(3, 7, 2, generator=rng(6), dtype=F64)
    loss.sum().backward()
    for i, (encoder, decoder) in enumerate(nets):
        alone = VAE(encoder, decoder, float(betas[i]))
        mean, scale = alone.posterior(x)
        z = mean + scale * noise[i]
        law = Bernoulli(logits=decoder(z), validate_args=False)  # x may lie inside (0, 1)
        distortion = -law.log_prob(x.expand(1, 7, 5)).sum(-1).mean()
        rate = kl_divergence(Normal(mean, scale), Normal(0 * mean, 1.0)).sum(-1).mean()
        single = distortion + betas[i] * rate
        assert (single - loss[i]).abs() < 1e-12
        single.backward()
        mine, theirs = encoder.weights[0].grad[0], together.encoder.weights[0].grad[i]
        assert (mine - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_results_have_the_dtype_of_the_networks(dtype):
    encoder, decoder = MLP([5, 4], dtype=dtype), MLP([2, 5], dtype=dtype)
    x = torch.rand(3, 5, dtype=dtype)
    found = VAE(encoder, decoder)(x, rng())
    assert found.distortion.dtype == found.rates.dtype == dtype
    covariance = torch.eye(3, dtype=dtype)
    assert best_linear_vae(covariance, 2, noise=0.5).decoder.dtype == dtype
    parts = rate_parts(torch.zeros(4, 2, dtype=dtype), torch.ones(4, 2, dtype=dtype))
    assert parts.information.dtype == dtype


def test_bad_input_is_named(as_at_the_users):
    encoder, decoder, x = MLP([5, 4]), MLP([2, 5]), torch.rand(3, 5)
    for beta in (0.0, -1, math.inf, math.nan, torch.tensor([1.0, 0.0]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="beta must be a positive number"):
            VAE(encoder, decoder, beta)
    with pytest.raises(TypeError, match="beta"):
        VAE(encoder, decoder, torch.tensor([1, 4]))
    with pytest.raises(ValueError, match="likelihood must be one of"):
        VAE(encoder, decoder, likelihood="poisson")
    with pytest.raises(ValueError, match="noise must be a positive number"):
        VAE(encoder, decoder, likelihood="gaussian", noise=0.0)
    with pytest.raises(ValueError, match="noise belongs to the gaussian likelihood"):
        VAE(encoder, decoder, noise=0.1)
    with pytest.raises(ValueError, match="x must have an axis of examples"):
        VAE(encoder, decoder)(x[0])
    with pytest.raises(ValueError, match="encoder must return a mean and a log-scale"):
        VAE(MLP([5, 3]), decoder)(x)
    with pytest.raises(ValueError, match="decoder must return 5 entries, got 6"):
        VAE(encoder, MLP([2, 6]))(x)
    square = torch.eye(3, dtype=F64)
    for covariance, words in (
        (square[:2], "square"), (square - 2 * square[:1], "symmetric"), (-square, "semidefinite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            best_linear_vae(covariance, 2)
    with pytest.raises(ValueError, match="latent must be at most 3"):
        best_linear_vae(square, 4)
    for beta in (0.0, torch.tensor([1.0, -1.0], dtype=F64), math.inf):
        with pytest.raises(ValueError, match="beta must be a positive number"):
            best_linear_vae(square, 2, beta)
    with pytest.raises(ValueError, match="noise must be a positive number"):
        best_linear_vae(square, 2, noise=-1.0)
    ones = torch.ones(4, 2)
    with pytest.raises(ValueError, match="mean and scale must both be"):
        rate_parts(ones, ones[:3])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        rate_parts(ones, ones, 0)
    with pytest.raises(ValueError, match="two examples"):
        active_units(ones[:1])
    with pytest.raises(ValueError, match="threshold"):
        active_units(ones, -1.0)
    labels = torch.zeros(4, 1, dtype=torch.long)
    with pytest.raises(TypeError, match="factors must hold integers"):
        factor_information(ones, ones, labels.float())
    with pytest.raises(ValueError, match="factors"):
        factor_information(ones, ones, labels[:3])
    with pytest.raises(ValueError, match="from 0 on"):
        factor_information(ones, ones, labels - 1)
    with pytest.raises(ValueError, match="bins"):
        factor_information(ones, ones, labels, bins=1)
    with pytest.raises(ValueError, match="two latents"):
        mutual_information_gap(ones[:1], torch.ones(2))
    with pytest.raises(ValueError, match="entropy"):
        mutual_information_gap(ones, torch.zeros(2))


# --- dependence given the data -----------------------------------------------------------------


@pytest.mark.claim("prop-vae-explaining")
def test_posterior_factorizes_exactly_when_the_likelihood_does(measured):
    first, second = table(3, seed=1), table(4, seed=2)
    prior = first[:, None] * second
    a, b = randn(5, 3, seed=3).exp(), randn(5, 4, seed=4).exp()
    separate = a[:, :, None] * b[:, None]  # a(x, v1) b(x, v2), as a function of the factors
    mixed = randn(5, 3, 4, seed=5).exp()

    def dependence(likelihood):
        joint = prior * likelihood
        joint = joint / joint.sum((1, 2), keepdim=True)
        product = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
        return kl(joint.flatten(1), product.flatten(1))

    assert measured(dependence(separate).abs().max(), "separate") < 1e-12
    assert dependence(mixed).min() > 1e-3
    prior = table(12, seed=6).view(3, 4)  # dependent before: the factors of x do not suffice
    assert dependence(separate).min() > 1e-3


@pytest.mark.claim("prop-vae-explaining")
def test_noisy_or_of_two_causes(measured):
    """Leak .05, strength .8, both causes with probability .2."""
    p = torch.tensor([0.8, 0.2], dtype=F64)
    off = 0.95 * 0.2 ** torch.tensor([[0.0, 1.0], [1.0, 2.0]], dtype=F64)
    seen = p[:, None] * p * (1 - off)
    seen = seen / seen.sum()
    assert measured(abs(float(seen[:, 1].sum()) - 0.5098), "P(B | C), to 4 digits") < 5e-5
    given = seen[1, 1] / seen[1].sum()
    assert measured(abs(float(given) - 0.2289), "P(B | C, A), to 4 digits") < 5e-5
    product = seen.sum(1, keepdim=True) * seen.sum(0)
    information = (p[:, None] * p * (1 - off)).sum() * kl(seen.flatten(), product.flatten())
    assert measured(abs(float(information) - 0.0576), "I(A; B | C), to 4 digits") < 5e-5
    unseen = p[:, None] * p * off / (p[:, None] * p * off).sum()  # here the likelihood factorizes
    product = unseen.sum(1, keepdim=True) * unseen.sum(0)
    assert measured(kl(unseen.flatten(), product.flatten()).abs(), "without the effect") < 1e-12


@pytest.mark.claim("prop-vae-explaining")
def test_linear_decoder_explains_away_unless_its_columns_are_orthogonal(measured):
    """The posterior of two latents by Bayes' rule on a grid."""
    side = torch.linspace(-7, 7, 281, dtype=F64)
    z = torch.cartesian_prod(side, side)
    x = torch.tensor([0.3, -0.2], dtype=F64)
    for second, expected in (([0.0, 1.0], 0.0), ([1.0, 0.5], None)):
        decoder = torch.tensor([[1.0, 0.0], second], dtype=F64).T
        log_joint = -0.5 * ((x - z @ decoder.T).square().sum(1) + z.square().sum(1))
        share = log_joint.softmax(0)
        centred = z - share @ z
        covariance = centred.T @ (share[:, None] * centred)
        exact = torch.linalg.inv(torch.eye(2, dtype=F64) + decoder.T @ decoder)
        assert measured((covariance - exact).abs().max(), "covariance") < 1e-8
        if expected is None:
            assert covariance[0, 1] < -0.1  # one cause explains the other away
        else:
            assert abs(covariance[0, 1]) < 1e-12


# --- the rate ----------------------------------------------------------------------------------


class Joint:
    """Data, an encoder, a prior and a decoder over a few values."""

    def __init__(self, seed=0, values=6, codes=4):
        self.data, self.prior = table(values, seed=seed), table(codes, seed=seed + 1)
        self.encoder = table(values, codes, seed=seed + 2)
        self.decoder = table(codes, values, seed=seed + 3)
        self.joint = self.data[:, None] * self.encoder
        self.marginal = self.data @ self.encoder
        self.inverse = (self.joint / self.marginal).T
        self.entropy = -(self.data @ self.data.log())
        self.rate = self.data @ kl(self.encoder, self.prior)
        self.information = self.data @ kl(self.encoder, self.marginal)
        self.model = self.prior[:, None] * self.decoder

    def distortion(self, decoder):
        return -(self.joint * decoder.T.log()).sum()


@pytest.mark.claim("prop-vae-rate")
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_rate_is_information_plus_the_divergence_of_the_marginal(seed, measured):
    j = Joint(seed)
    entropy = -torch.special.xlogy(j.joint, j.joint).sum()
    codes = -torch.special.xlogy(j.marginal, j.marginal).sum()
    information = j.entropy + codes - entropy  # H[X] + H[Z] - H[X, Z]
    found = information + kl(j.marginal, j.prior)
    assert measured(abs(j.rate - found), "rate") < 1e-12
    assert abs(j.rate - information) > 1e-3  # one part alone
    shifted = table(6, seed=seed + 7) @ j.encoder  # the marginal of other data
    other = j.data @ kl(j.encoder, shifted) + kl(shifted, j.prior)
    assert abs(j.rate - other) > 1e-4


@pytest.mark.claim("prop-vae-rate")
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_divergence_of_the_two_joints(seed, measured):
    j = Joint(seed)
    between = kl(j.joint.T.flatten(), j.model.flatten())
    minus_elbo = j.distortion(j.decoder) + j.rate
    assert measured(abs(between - (minus_elbo - j.entropy)), "minus the bound") < 1e-12
    model_x = j.model.sum(0)
    exact_posterior = (j.model / model_x).T
    by_data = kl(j.data, model_x) + j.data @ kl(j.encoder, exact_posterior)
    by_codes = kl(j.marginal, j.prior) + j.marginal @ kl(j.inverse, j.decoder)
    assert measured(abs(between - by_data), "from the side of the data") < 1e-12
    assert measured(abs(between - by_codes), "from the side of the codes") < 1e-12
    assert abs(between - kl(j.model.flatten(), j.joint.T.flatten())) > 1e-3  # exchanged


@pytest.mark.claim("prop-vae-rate")
def test_both_divergences_vanish_only_without_information():
    j = Joint()
    silent = j.prior.expand(6, 4)
    assert (j.data @ kl(silent, j.prior)).abs() < 1e-15
    honest = torch.eye(4, dtype=F64)  # the code tells the example, and its law is the prior
    information = j.prior @ kl(honest, j.prior @ honest)
    assert kl(j.prior @ honest, j.prior) < 1e-15
    assert abs(information - j.prior @ kl(honest, j.prior)) < 1e-12 and information > 1


@pytest.mark.claim("prop-vae-rate")
def test_parts_of_gaussian_codes_against_quadrature(measured):
    mean, scale = 2 * randn(5, 1, seed=3), (0.5 * randn(5, 1, seed=4)).exp()
    codes, prior = Normal(mean[:, 0], scale[:, 0]), Normal(0.0, 1.0)
    z = torch.linspace(-25, 25, 100_001, dtype=F64)
    each = codes.log_prob(z[:, None])
    marginal = each.logsumexp(1) - math.log(5)
    integrands = (
        (each.exp() * (each - marginal[:, None])).mean(1),
        marginal.exp() * (marginal - prior.log_prob(z)),
    )
    exact = [float(torch.trapezoid(integrand, z)) for integrand in integrands]
    rate = float(gaussian_rates(mean, scale).sum(1).mean())
    assert measured(abs(rate - sum(exact)), "sum of the parts") < 1e-6
    many = mean.repeat(800, 1), scale.repeat(800, 1)  # the same law of the codes
    found = rate_parts(*many, draws=2, generator=rng(5))
    # 8,000 draws whose standard deviation is below 1.2: five standard errors
    assert abs(float(found.information) - exact[0]) < 0.07
    assert abs(float(found.marginal) - exact[1]) < 0.07
    wrong = rate_parts(many[0], 3 * many[1], draws=2, generator=rng(5))
    assert abs(float(wrong.information) - exact[0]) > 0.1


def test_parts_of_copies_and_of_many_latents():
    mean, scale = randn(2, 9, 3, seed=6), (0.3 * randn(2, 9, 3, seed=7)).exp()
    found = rate_parts(mean, scale, generator=rng(8))
    noise = torch.randn(2, 9, 3, generator=rng(8), dtype=F64)
    z = mean + scale * noise
    for c in range(2):
        own = Normal(mean[c], scale[c]).log_prob(z[c]).sum(-1)
        each = Normal(mean[c], scale[c]).log_prob(z[c][:, None]).sum(-1)
        mixture = each.logsumexp(1) - math.log(9)
        prior = Normal(0.0, 1.0).log_prob(z[c]).sum(-1)
        assert abs(found.information[c] - (own - mixture).mean()) < 1e-12
        assert abs(found.marginal[c] - (mixture - prior).mean()) < 1e-12
        assert found.information[c] < math.log(9) + 1e-12


# --- information maximization ------------------------------------------------------------------


@pytest.mark.claim("prop-vae-infomax")
@pytest.mark.parametrize("weight", [-0.75, -0.2, 0.0, 1.5])
def test_infomax_objective_is_bounded_by_the_loss_with_beta(weight, measured):
    beta = 1 / (1 + weight)
    for seed in (0, 10, 20):
        j = Joint(seed)
        objective = kl(j.marginal, j.prior) - weight * j.information

        def bound(decoder, beta=beta, j=j):
            return (1 + weight) * (j.distortion(decoder) + beta * j.rate - j.entropy)

        assert objective < bound(j.decoder) - 1e-3
        assert measured(abs(objective - bound(j.inverse)), "at the inverse encoder") < 1e-12
        if weight:
            assert abs(objective - bound(j.inverse, beta=1 + weight)) > 1e-3


@pytest.mark.claim("prop-vae-infomax")
def test_below_minus_one_the_bound_turns_round():
    j, weight = Joint(), -2.0
    objective = kl(j.marginal, j.prior) - weight * j.information
    bound = j.rate + (1 + weight) * (j.distortion(j.decoder) - j.entropy)
    assert objective > bound + 1e-3


@pytest.mark.claim("prop-vae-tradeoff")
def test_minimizers_trade_rate_for_distortion():
    rate = torch.linspace(0.1, 6, 60, dtype=F64)
    distortion = 9 / rate + randn(60, seed=2).abs()
    betas = torch.linspace(0.05, 20, 400, dtype=F64)
    best = (distortion + betas[:, None] * rate).argmin(1)
    assert (rate[best].diff() <= 0).all() and (distortion[best].diff() >= 0).all()
    assert len(best.unique()) > 3
    second = (distortion + betas[:, None] * rate).argsort(1)[:, 1]  # no minimizers
    assert (rate[second].diff() > 0).any()
    covariance, _ = turned()
    terms = best_linear_vae(covariance, 6, betas, NOISE).terms(covariance)
    assert (terms.rate.diff() <= 1e-12).all() and (terms.error.diff() >= -1e-12).all()


# --- the linear case ---------------------------------------------------------------------------


@pytest.mark.claim("prop-vae-rescale")
def test_beta_rescales_the_noise_of_any_gaussian_decoder(measured):
    encoder = MLP([5, 8, 4], generator=rng(1), dtype=F64)
    decoder = MLP([2, 8, 5], generator=rng(2), dtype=F64)
    x, sigma, beta = randn(9, 5, seed=3), 0.6, 4.0
    gaps = []
    for trial in range(3):
        moved = copy.deepcopy(decoder)
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=rng(trial), dtype=F64))
        weighted = VAE(encoder, moved, beta, likelihood="gaussian", noise=sigma)
        plain = VAE(encoder, moved, 1.0, likelihood="gaussian", noise=math.sqrt(beta) * sigma)
        with torch.no_grad():
            gaps.append(float(weighted.loss(x, rng(9)) - beta * plain.loss(x, rng(9))))
    constant = 5 / 2 * (math.log(math.tau * sigma**2) - beta * math.log(math.tau * beta * sigma**2))
    assert measured(max(abs(gap - constant) for gap in gaps), "one constant") < 1e-10
    weighted = VAE(encoder, decoder, beta, likelihood="gaussian", noise=sigma)
    other = VAE(encoder, decoder, 1.0, likelihood="gaussian", noise=beta * sigma)
    with torch.no_grad():
        gap = float(weighted.loss(x, rng(9)) - beta * other.loss(x, rng(9)))
    assert abs(gap - constant) > 0.1  # sigma in place of its square


@pytest.mark.claim("prop-vae-rescale")
def test_tempered_bernoulli_has_a_normalizer_that_depends_on_the_code():
    beta = 4.0
    normal = [
        quad(lambda x, m=m: math.exp(float(Normal(m, 0.6).log_prob(torch.tensor(x))) / beta),
             m - 30, m + 30, limit=200)[0]
        for m in (0.0, 2.0)
    ]  # fmt: skip
    assert abs(normal[0] - normal[1]) < 1e-5  # single precision in Normal
    tempered = [p ** (1 / beta) + (1 - p) ** (1 / beta) for p in (0.5, 0.9)]
    assert abs(tempered[0] - tempered[1]) > 0.1


def descend(covariance, latent, beta, noise, seed, full=False, train_noise=False):
    """The optimum by L-BFGS from random weights, by the closed form of the terms alone."""
    dim = len(covariance)
    decoder, encoder = 0.5 * randn(dim, latent, seed=seed), 0.5 * randn(latent, dim, seed=seed + 1)
    log_scale, log_noise = torch.zeros(latent, dtype=F64), torch.tensor(math.log(noise), dtype=F64)
    parameters = [decoder, encoder, log_scale, *([log_noise] if train_noise else [])]
    for p in parameters:
        p.requires_grad_(True)
    search = torch.optim.LBFGS(
        parameters, max_iter=1000, max_eval=2000, tolerance_grad=1e-13, tolerance_change=0,
        history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss():
        found = LinearVAE(decoder, encoder, log_scale.exp()).terms(covariance)
        return found.loss(dim, beta, log_noise.exp())

    def closure():
        search.zero_grad()
        value = loss()
        value.backward()
        return value

    search.step(closure)
    with torch.no_grad():
        found = LinearVAE(decoder.detach(), encoder.detach(), log_scale.detach().exp())
        return found, float(loss()), float(log_noise.exp())


def test_terms_of_a_linear_autoencoder_against_data_and_draws():
    covariance, axes = turned()
    rays = math.sqrt(6) * (axes * GAMMA.sqrt()).T
    x = torch.cat([rays, -rays])  # twelve points with exactly this covariance
    model = LinearVAE(randn(6, 2, seed=3), randn(2, 6, seed=4), torch.tensor([0.4, 1.3], dtype=F64))
    mean = x @ model.encoder.T
    found = model.terms(covariance)
    exact = kl_divergence(Normal(mean, model.scale), Normal(0 * mean, 1.0)).mean(0)
    assert (found.rates - exact).abs().max() < 1e-12
    node = torch.tensor([-1.0, 1.0], dtype=F64)  # exact for squares
    noise = torch.cartesian_prod(node, node)
    z = mean[:, None] + model.scale * noise
    error = (x[:, None] - z @ model.decoder.T).square().sum(-1).mean()
    assert abs(found.error - error) < 1e-11
    bare = torch.nn.Linear(6, 4, bias=False, dtype=F64)
    out = torch.nn.Linear(2, 6, bias=False, dtype=F64)
    with torch.no_grad():
        bare.weight.copy_(torch.cat([model.encoder, 0 * model.encoder]))
        out.weight.copy_(model.decoder)
    plain = VAE(bare, out, 2.0, likelihood="gaussian", noise=0.5)
    unit = model._replace(scale=torch.ones(2, dtype=F64)).terms(covariance)
    many = torch.stack([plain.loss(x, rng(s)) for s in range(400)]).detach()
    error = float(many.std()) / math.sqrt(400)
    assert abs(float(many.mean() - unit.loss(6, 2.0, 0.5))) < 5 * error


@pytest.mark.claim("thm-vae-linear")
@pytest.mark.parametrize("beta, active", [(1.0, 4), (4.0, 2), (16.0, 0)])
def test_optimum_of_the_linear_autoencoder(beta, active, measured):
    covariance, axes = turned()
    level, latent = beta * NOISE**2, 4
    claimed = best_linear_vae(covariance, latent, beta, NOISE)
    terms = claimed.terms(covariance)
    rate = 0.5 * (GAMMA[:active] / level).log().sum()
    assert measured(abs(terms.rate - rate), "rate") < 1e-8
    assert measured(abs(terms.error - GAMMA.clamp(max=level).sum()), "error") < 1e-8
    for seed in (0, 10):
        found, loss, _ = descend(covariance, latent, beta, NOISE, seed)
        assert measured(abs(loss - float(terms.loss(6, beta, NOISE))), "loss") < 1e-8
        square = found.decoder.T @ found.decoder
        length, order = square.diagonal().sort(descending=True)
        expected = (GAMMA[:latent] - level).clamp(min=0)
        # where nothing is kept the optimum is flat to second order at the threshold
        assert measured((length - expected).abs().max(), "lengths of the columns") < 1e-6
        off = square - square.diagonal().diag()
        assert measured(off.abs().max(), "columns are orthogonal") < 1e-6
        along = (axes.T @ found.decoder[:, order])[:, :active].abs()
        want = torch.zeros(6, active, dtype=F64)
        want[:active] = expected[:active].sqrt().diag()
        if active:
            assert measured((along - want).abs().max(), "principal axes") < 1e-6
        variance = found.scale[order].square()
        ideal = level / GAMMA[:latent].clamp(min=level)
        assert measured((variance - ideal).abs().max(), "posterior variance") < 1e-6
        product, best = found.decoder @ found.encoder, claimed.decoder @ claimed.encoder
        assert measured((product - best).abs().max(), "reconstruction") < 1e-6
    wrong = best_linear_vae(covariance, latent, math.sqrt(beta), NOISE).terms(covariance)
    assert beta == 1 or wrong.loss(6, beta, NOISE) > terms.loss(6, beta, NOISE) + 1e-3


@pytest.mark.claim("thm-vae-linear")
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_codes_of_gaussian_data_have_the_law_of_the_prior(beta, measured):
    """Both independences hold, and the information is the whole rate."""
    covariance, _ = turned()
    best = best_linear_vae(covariance, 4, beta, NOISE)
    noise = best.scale.square().diag()
    law = best.encoder @ covariance @ best.encoder.T + noise
    assert measured((law - torch.eye(4, dtype=F64)).abs().max(), "law of the codes") < 1e-10
    information = 0.5 * (torch.logdet(law) - torch.logdet(noise))
    rate = best.terms(covariance).rate
    assert measured(abs(information - rate), "information") < 1e-10 and information > 0.5
    other = best_linear_vae(covariance, 4, 2 * beta, NOISE)
    law = other.encoder @ covariance @ other.encoder.T + noise  # scales of another level
    assert (law - torch.eye(4, dtype=F64)).abs().max() > 0.05


@pytest.mark.claim("thm-vae-linear")
def test_no_model_near_the_optimum_costs_less():
    covariance, _ = turned()
    best = best_linear_vae(covariance, 4, 2.0, NOISE)
    value = best.terms(covariance).loss(6, 2.0, NOISE)
    for seed in range(30):
        step = 10.0 ** -(1 + seed % 3)
        moved = LinearVAE(
            best.decoder + step * randn(6, 4, seed=seed),
            best.encoder + step * randn(4, 6, seed=seed + 100),
            best.scale * (step * randn(4, seed=seed + 200)).exp(),
        )
        assert moved.terms(covariance).loss(6, 2.0, NOISE) > value


@pytest.mark.claim("thm-vae-linear")
def test_data_that_are_not_centred_have_other_axes():
    """The rows are then the axes of the second moments."""
    covariance, axes = turned()
    shift = 3 * (axes[:, 0] + axes[:, 3])
    second = covariance + shift[:, None] * shift
    found, _, _ = descend(second, 4, 1.0, NOISE, 0)
    longest = found.decoder[:, found.decoder.norm(dim=0).argmax()]
    along = (axes.T @ longest).abs() / longest.norm()
    assert along[0] < 0.95 and along[3] > 0.3  # for centred data 1 and 0


@pytest.mark.claim("thm-vae-linear")
def test_too_few_latents_leave_a_larger_error(measured):
    covariance, _ = turned()
    terms = best_linear_vae(covariance, 2, 1.0, NOISE).terms(covariance)
    level = NOISE**2
    exact = 2 * level + GAMMA[2:].sum()
    assert measured(abs(terms.error - exact), "error with two latents") < 1e-10
    assert terms.error > GAMMA.clamp(max=level).sum() + 0.5


@pytest.mark.claim("thm-vae-linear")
def test_equal_eigenvalues_have_no_axes():
    gamma = torch.tensor([3.0, 3.0, 0.1], dtype=F64)
    best = best_linear_vae(gamma.diag(), 2, 1.0, 0.5)
    turn = torch.eye(3, dtype=F64)
    turn[:2, :2] = rotation(2, 5)
    other = LinearVAE(turn @ best.decoder, best.encoder @ turn.T, best.scale)
    a, b = (m.terms(gamma.diag()).loss(3, 1.0, 0.5) for m in (best, other))
    assert abs(a - b) < 1e-12 and other.decoder[:2].abs().min() > 0.1
    apart = torch.tensor([3.5, 2.5, 0.1], dtype=F64)
    best = best_linear_vae(apart.diag(), 2, 1.0, 0.5)
    other = LinearVAE(turn @ best.decoder, best.encoder @ turn.T, best.scale)
    a, b = (m.terms(apart.diag()).loss(3, 1.0, 0.5) for m in (best, other))
    assert b > a + 1e-3


@pytest.mark.claim("thm-vae-linear")
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_a_trained_noise_switches_directions_off(beta):
    """At the optimum more than a share 1 - 1/beta of the directions is off."""
    covariance, _ = turned()
    _, _, sigma = descend(covariance, 4, beta, NOISE, 0, train_noise=True)
    level = beta * sigma**2
    off = [float(g) for i, g in enumerate(GAMMA) if g <= level or i >= 4]
    left = len(off) - sum(off) / level
    assert abs(left - (1 - 1 / beta) * 6) < 1e-5
    assert len(off) > (1 - 1 / beta) * 6
    assert abs(sigma - NOISE) > 0.05  # the fixed noise of the theorem is another one


# --- what the data do not tell -----------------------------------------------------------------


def full_loss(covariance, decoder, encoder, spread, beta, noise):
    """The loss of q(z|x) = N(Vx, spread) with any covariance, for centred Gaussian data."""
    dim, latent = decoder.shape
    miss = torch.eye(dim, dtype=F64) - decoder @ encoder
    error = (miss @ covariance @ miss.T).trace() + (decoder @ spread @ decoder.T).trace()
    second = (encoder @ covariance @ encoder.T).trace() + spread.trace()
    rate = 0.5 * (second - latent - torch.logdet(spread))
    return error / (2 * noise**2) + dim / 2 * math.log(math.tau * noise**2) + beta * rate


@pytest.mark.claim("prop-vae-rotation")
def test_rotated_models_cannot_be_told_apart(measured):
    covariance, _ = turned()
    best, turn = best_linear_vae(covariance, 4, 1.0, NOISE), rotation(4, 7)
    spread = best.scale.square().diag()
    plain = full_loss(covariance, best.decoder, best.encoder, spread, 1.0, NOISE)
    other = full_loss(
        covariance, best.decoder @ turn.T, turn @ best.encoder, turn @ spread @ turn.T, 1.0, NOISE
    )
    assert measured(abs(plain - other), "loss") < 1e-10
    assert abs(plain - best.terms(covariance).loss(6, 1.0, NOISE)) < 1e-10
    rotated = best.decoder @ turn.T
    same = best.decoder @ best.decoder.T - rotated @ rotated.T
    assert measured(same.abs().max(), "law of the data") < 1e-12
    stretched = best.decoder @ torch.diag(torch.tensor([2.0, 1, 1, 1], dtype=F64))
    assert (best.decoder @ best.decoder.T - stretched @ stretched.T).abs().max() > 0.1
    independent = LinearVAE(
        rotated, turn @ best.encoder, (turn @ spread @ turn.T).diagonal().sqrt()
    )
    assert independent.terms(covariance).loss(6, 1.0, NOISE) > plain + 1e-2  # a diagonal q sees it


@pytest.mark.claim("prop-vae-rotation")
def test_rotated_networks_have_the_same_loss_draw_by_draw(measured):
    decoder, turn = MLP([3, 8, 5], generator=rng(1), dtype=F64), rotation(3, 2)
    z = randn(2000, 3, seed=3)
    mean, factor = randn(3, seed=4), 0.3 * randn(3, 3, seed=5).tril() + 0.5 * torch.eye(3)
    codes = mean + z @ factor.T
    q = torch.distributions.MultivariateNormal(mean, factor @ factor.T)
    turned_q = torch.distributions.MultivariateNormal(
        turn @ mean, turn @ factor @ factor.T @ turn.T
    )
    prior = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), torch.eye(3).double())
    rates = [float(kl_divergence(law, prior)) for law in (q, turned_q)]
    assert measured(abs(rates[0] - rates[1]), "rate") < 1e-12
    gap = decoder((codes @ turn.T) @ turn) - decoder(codes)
    assert measured(gap.abs().max(), "decoded") < 1e-12
    moved = prior.log_prob(codes @ turn.T) - prior.log_prob(codes)
    assert measured(moved.abs().max(), "prior") < 1e-12
    uniform_square = torch.rand(2000, 2, generator=rng(6), dtype=F64) * 2 - 1
    corner = uniform_square @ rotation(2, 8)
    assert (corner.abs().max(1).values > 1).any()  # a prior that is not round betrays the turn


# --- measures ----------------------------------------------------------------------------------


def test_information_against_quadrature_and_its_bounds():
    mean, scale = randn(6, 2, seed=1), (0.5 * randn(6, 2, seed=2) - 1).exp()
    factors = torch.tensor([[0, 2], [0, 1], [1, 0], [1, 2], [1, 1], [0, 0]])
    found, entropy = factor_information(mean, scale, factors, bins=4000)
    assert (entropy - torch.tensor([2.0, 3.0], dtype=F64).log()).abs().max() < 1e-12
    for j, k in itertools.product(range(2), range(2)):

        def term(z, j=j, k=k):
            each = Normal(mean[:, j], scale[:, j]).log_prob(torch.tensor(z, dtype=F64)).exp()
            total = 0.0
            for v in factors[:, k].unique():
                given = each[factors[:, k] == v].mean()
                share = (factors[:, k] == v).double().mean()
                total += float(torch.special.xlogy(share * given, given / each.mean()))
            return total

        exact = quad(term, -6, 6, limit=600)[0]
        assert -1e-9 < exact - float(found[j, k]) < 2e-3  # bins lose a little
        coarse, _ = factor_information(mean, scale, factors, bins=8)
        assert coarse[j, k] < found[j, k] + 1e-12
    shuffled, _ = factor_information(mean, scale, factors[[2, 0, 5, 1, 4, 3]], bins=4000)
    assert (shuffled - found).abs().max() > 1e-2
    copies, _ = factor_information(
        torch.stack([mean, 0 * mean]), torch.stack([scale, scale[:1].expand(6, 2)]), factors, 4000
    )
    assert (copies[0] - found).abs().max() < 1e-12 and copies[1].abs().max() < 1e-12


def test_a_latent_that_knows_a_factor_alone_has_gap_one():
    factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    mean = factors.double() - 1.5
    found, entropy = factor_information(mean, torch.full_like(mean, 1e-3), factors)
    gap = mutual_information_gap(found, entropy)
    assert (gap - 1).abs().max() < 1e-9
    both = torch.stack([mean[:, 0], mean[:, 0]], 1)  # two latents that say the same
    gap = mutual_information_gap(*factor_information(both, torch.full_like(mean, 1e-3), factors))
    assert gap.abs().max() < 1e-9
    turn = mean @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=F64) / math.sqrt(2)
    gap = mutual_information_gap(*factor_information(turn, torch.full_like(mean, 0.3), factors))
    assert gap.max() < 0.6


def test_active_units_count_what_moves():
    mean = torch.zeros(3, 50, 4)
    mean[1, :, 0] = torch.linspace(-1, 1, 50)
    mean[2, :, :2] = torch.linspace(-1, 1, 50)[:, None]
    mean[2, :, 3] = 7.0
    assert active_units(mean).tolist() == [0, 1, 2]
    assert active_units(mean, 0.5).tolist() == [0, 0, 0]
