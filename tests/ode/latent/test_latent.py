"""Claims of the chapter on latent ODEs: bounds, and what masks leave alone."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from nodes_tutorial.data.timeseries import Series, collate, observe, periodic
from nodes_tutorial.ode.irregular.baselines import RNNVAE, DeltaRNN
from nodes_tutorial.ode.latent.likelihood import gaussian_log_prob, iwae_bound, normal_kl
from nodes_tutorial.ode.latent.model import ODERNN, LatentODE, Posterior, kl_weight
from nodes_tutorial.ode.latent.odernn import GRU
from nodes_tutorial.ode.latent.rivals import line, middle
from nodes_tutorial.ode.latent.training import train
from tests.ode.series_cases import F64, TIGHT, rng, toy


def nodes(count):
    """Gauss–Hermite nodes and weights of the standard normal law."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


# --- bounds -------------------------------------------------------------------------------------


def linear_model(latent, dim=2):
    net = LatentODE(dim, latent, hidden=6, width=8, linear=True, noise=0.3, generator=rng(3),
                    **F64, **TIGHT)  # fmt: skip
    with torch.no_grad():
        net.emission.weights[0].mul_(2)
    return net


@torch.no_grad()
def exact(net, series, row):
    """Mean and covariance of the observed entries, and of z0 given them: linear algebra."""
    a, b = net.field.weights[0][0].T.numpy(), net.field.biases[0][0, 0].numpy()
    c, d = net.emission.weights[0][0].T.numpy(), net.emission.biases[0][0, 0].numpy()
    size = len(a)
    joint = np.block([[a, b[:, None]], [np.zeros((1, size + 1))]])
    rows, means, seen = [], [], []
    for i, t in enumerate(series.times.tolist()):
        flow = expm(joint * (t - float(series.times[0])))
        for j in range(len(c)):
            if series.mask[row, i, j]:
                rows.append(c[j] @ flow[:size, :size])
                means.append(c[j] @ flow[:size, size] + d[j])
                seen.append(float(series.values[row, i, j]))
    g, m, x = np.array(rows), np.array(means), np.array(seen)
    cov = g @ g.T + net.noise**2 * np.eye(len(x))
    solved = np.linalg.solve(cov, x - m)
    log_p = -0.5 * ((x - m) @ solved + np.linalg.slogdet(math.tau * cov)[1])
    post_mean = g.T @ solved
    post_cov = np.eye(size) - g.T @ np.linalg.solve(cov, g)
    return log_p, post_mean, post_cov


def gaussian_kl(m0, c0, m1, c1):
    inverse = np.linalg.inv(c1)
    miss = m1 - m0
    return 0.5 * float(
        np.trace(inverse @ c0)
        + miss @ inverse @ miss
        - len(m0)
        + np.linalg.slogdet(c1)[1]
        - np.linalg.slogdet(c0)[1]
    )


def ragged(dim=2, seed=5):
    """Two series with times of their own, and some entries of a time missing."""
    times = [torch.tensor([0.0, 0.3, 0.7, 1.1], **F64), torch.tensor([0.0, 0.5, 1.3], **F64)]
    values = [torch.randn(len(t), dim, generator=rng(seed), **F64) for t in times]
    series = collate(times, values)
    holes = torch.ones_like(series.mask)
    holes[0, 1, 0] = False
    return series.keep(holes)


@pytest.mark.claim("thm-latent-elbo")
@torch.no_grad()
def test_elbo_is_the_marginal_likelihood_minus_a_divergence(measured):
    """A linear field and read-out, where both sides are known; three nodes are exact for a
    quadratic."""
    net, series = linear_model(2), ragged()
    posterior = net.encode(series)
    x, w = nodes(3)
    grid = torch.cartesian_prod(x, x)[:, None, None]
    weight = (w[:, None] * w).flatten()
    path = net.decode(posterior.mean + posterior.std * grid, series.times)
    expected = (weight[:, None, None] * net.log_likelihood(path, series)).sum(0)
    bound = (expected - normal_kl(*posterior))[0]
    for row in range(2):
        log_p, mean, cov = exact(net, series, row)
        q_mean, q_cov = posterior.mean[0, row].numpy(), np.diag(posterior.std[0, row].numpy() ** 2)
        gap = gaussian_kl(q_mean, q_cov, mean, cov)
        error = measured(abs(bound[row] - (log_p - gap)), "log p(x) - KL(q || posterior)")
        assert error < 1e-7
        other_way = log_p - gaussian_kl(mean, cov, q_mean, q_cov)
        assert abs(bound[row] - other_way) > 0.1
        assert bound[row] < log_p
    everything = Series(series.times, series.values, torch.ones_like(series.mask))
    assert (net.log_likelihood(path, everything) - net.log_likelihood(path, series)).abs().max() > 1


@pytest.mark.claim("thm-latent-elbo")
@torch.no_grad()
def test_sampled_elbo_agrees_within_four_standard_errors():
    net, series = linear_model(2), ragged()
    draws = torch.stack([net.elbo(series, samples=50, generator=rng(s)) for s in range(40)])
    posterior = net.encode(series)
    for row in range(2):
        log_p, mean, cov = exact(net, series, row)
        q = posterior.mean[0, row].numpy(), np.diag(posterior.std[0, row].numpy() ** 2)
        truth = log_p - gaussian_kl(*q, mean, cov)
        assert abs(draws[:, row].mean() - truth) < 4 * draws[:, row].std() / 40**0.5


@torch.no_grad()
def given(net, series, mean, std):
    """The model with this law of the start in place of the encoder's."""
    n = series.values.shape[0]
    law = Posterior(torch.full((1, n, 1), mean, **F64), torch.full((1, n, 1), std, **F64))
    net.encode = lambda _: law
    return law


@torch.no_grad()
def log_weights(net, series, law, z):
    path = net.decode(z, series.times)
    prior = -0.5 * (z.square() + math.log(math.tau)).sum(-1)
    return net.log_likelihood(path, series) + prior - law.log_prob(z)


@pytest.mark.claim("thm-latent-iwae")
@torch.no_grad()
def test_iwae_grows_to_the_likelihood_and_is_flat_at_the_posterior(measured):
    net, series = linear_model(1), ragged().rows(slice(0, 1))
    log_p, mean, cov = exact(net, series, 0)
    law = given(net, series, float(mean[0]) + 0.1, 1.4 * math.sqrt(cov[0, 0]))
    x, w = nodes(60)
    w_at = log_weights(net, series, law, law.mean + law.std * x.view(-1, 1, 1, 1))[:, 0, 0]
    bounds = []
    for k in (1, 2, 3):  # exact means over k independent samples
        every = torch.cartesian_prod(*[torch.arange(60)] * k).view(-1, k)
        bounds.append(float((w[every].prod(1) * iwae_bound(w_at[every].T)).sum()))
    gap = gaussian_kl(law.mean[0, 0].numpy(), np.diag(law.std[0, 0].numpy() ** 2), mean, cov)
    assert measured(abs(bounds[0] - (log_p - gap)), "one sample is the ELBO") < 1e-7
    assert bounds[0] < bounds[1] - 1e-3 < bounds[2] - 2e-3 < log_p
    # importance weights have mean p(x)
    evidence = float(torch.logsumexp(w_at + w.log(), 0))
    assert measured(abs(evidence - log_p), "mean weight is p(x)") < 1e-7
    # at the posterior every weight is p(x), for any draws
    given(net, series, float(mean[0]), math.sqrt(cov[0, 0]))
    for samples in (1, 4):
        flat = net.iwae(series, samples=samples, generator=rng(samples))
        assert measured(abs(flat - log_p), "posterior: equality for all draws") < 1e-7
    # forgetting to divide by K is no bound
    assert float(flat) + math.log(4) > log_p + 1


@pytest.mark.claim("prop-latent-program")
@torch.no_grad()
def test_divergence_inside_the_logarithm_is_no_bound(measured):
    net, series = linear_model(1), ragged().rows(slice(0, 1))
    log_p, mean, cov = exact(net, series, 0)
    law = given(net, series, float(mean[0]), math.sqrt(cov[0, 0]))
    x, w = nodes(60)
    path = net.decode(law.mean + law.std * x.view(-1, 1, 1, 1), series.times)
    likelihood = net.log_likelihood(path, series)[:, 0, 0]
    values = []
    for k in (1, 2, 3):
        every = torch.cartesian_prod(*[torch.arange(60)] * k).view(-1, k)
        inside = iwae_bound(likelihood[every].T) - normal_kl(*law)[0, 0]
        values.append(float((w[every].prod(1) * inside).sum()))
    assert measured(abs(values[0] - log_p), "K = 1 at the posterior") < 1e-7
    assert log_p + 1e-2 < values[1] < values[2]
    # its limit in closed form: log E_q p(x|z) - KL, with p(x|z) = p(x) q(z) / p(z)
    s, m = law.std.item(), law.mean.item()
    precision = 2 / s**2 - 1
    assert precision > 0
    center = 2 * m / s**2 / precision
    log_mean = (
        log_p
        - 2 * math.log(s)
        - 0.5 * math.log(precision)
        + 0.5 * precision * center**2
        - m**2 / s**2
    )
    limit = log_mean - float(normal_kl(*law)[0, 0])
    found = float(torch.logsumexp(likelihood + w.log(), 0) - normal_kl(*law)[0, 0])
    assert measured(abs(found - limit), "limit in K") < 1e-7
    assert values[2] < limit
    # away from the posterior: above the bound L(q), which is the value for K = 1
    law = given(net, series, float(mean[0]) + 0.3, 1.5 * math.sqrt(cov[0, 0]))
    path = net.decode(law.mean + law.std * x.view(-1, 1, 1, 1), series.times)
    likelihood = net.log_likelihood(path, series)[:, 0, 0]
    gap = gaussian_kl(law.mean[0, 0].numpy(), np.diag(law.std[0, 0].numpy() ** 2), mean, cov)
    values = []
    for k in (1, 2):
        every = torch.cartesian_prod(*[torch.arange(60)] * k).view(-1, k)
        inside = iwae_bound(likelihood[every].T) - normal_kl(*law)[0, 0]
        values.append(float((w[every].prod(1) * inside).sum()))
    assert measured(abs(values[0] - (log_p - gap)), "K = 1 is the bound") < 1e-7
    assert values[1] > values[0] + 1e-2 and values[0] < log_p - 1e-2


def test_divergence_against_torch():
    mean, std = torch.randn(5, 3, generator=rng(), **F64), torch.rand(5, 3, **F64) + 0.1
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, std), normal(0.0 * mean, 1 + 0 * std))
    torch.testing.assert_close(normal_kl(mean, std), theirs.sum(-1))
    law = Posterior(mean[None], std[None])
    z = law.rsample(7, rng(1))
    torch.testing.assert_close(law.log_prob(z), normal(mean, std).log_prob(z).sum(-1))


def test_masked_entries_are_not_looked_at():
    x, mean = torch.randn(2, 5, 3, generator=rng(), **F64), torch.zeros(5, 3, **F64)
    mask = torch.rand(2, 5, 3, generator=rng(1)) < 0.5
    holes = torch.where(mask, x, float("nan"))
    normal = torch.distributions.Normal(0.0, 0.7).log_prob(x)
    expected = torch.where(mask, normal, 0.0).sum((1, 2))
    torch.testing.assert_close(gaussian_log_prob(holes, mean, 0.7, mask), expected)


def test_warm_up():
    assert [kl_weight(k, 3, 0.5) for k in range(6)] == [0, 0, 0, 0, 0.5, 0.75]


# --- masks ----------------------------------------------------------------------------------------


def padded(series, extra):
    """The same observations on a finer grid."""
    grid, place = torch.unique(torch.cat([series.times, extra]), return_inverse=True)
    shape = (*series.values.shape[:-2], len(grid), series.values.shape[-1])
    values, mask = series.values.new_zeros(shape), torch.zeros(shape, dtype=torch.bool)
    kept = place[: len(series.times)]
    values[..., kept, :], mask[..., kept, :] = series.values, series.mask
    return Series(grid, values, mask)


def on_union_grid(net, series):
    """The published way: a step of the solver for every interval of the grid, then the update."""
    h = torch.zeros(1, series.values.shape[0], net.hidden, **F64)
    before = series.times[-1]
    for i in reversed(range(len(series.times))):
        h = h * series.mask[:, i + 1 :].any(-1).any(-1, keepdim=True)  # 0 until something is seen
        h = net._advance(h, (series.times[i] - before).expand(1, h.shape[1], 1), 1)
        x = torch.cat([series.values[:, i], series.mask[:, i].double()], -1)
        new = net.gru(h, net.gru.inputs(x[None]))
        h = torch.where(series.mask[:, i].any(-1, keepdim=True), new, h)
        before = series.times[i]
    return h


@pytest.mark.claim("prop-latent-padding")
@torch.no_grad()
@pytest.mark.parametrize("kind", [ODERNN, DeltaRNN])
def test_times_without_observations_change_nothing(kind, measured):
    whole, seen = toy(seed=3)
    extra = 2 * torch.rand(30, generator=rng(9), **F64)
    finer = padded(seen, extra)
    net = LatentODE(1, 3, encoder=kind(1, 6, width=8, generator=rng(), **F64), width=8,
                    generator=rng(1), **F64, **TIGHT)  # fmt: skip
    assert torch.equal(net.encoder.encode(seen), net.encoder.encode(finer))
    gap = net.elbo(seen, samples=2, generator=rng()) - net.elbo(finer, samples=2, generator=rng())
    assert measured(gap.abs().max(), "ELBO on two grids") < 1e-7
    assert torch.equal(net.encoder(seen, whole.times), net.encoder(finer, whole.times))
    # nor do batch mates, up to the rounding of matrix products of another size
    alone = torch.cat([net.encoder.encode(seen.rows(slice(i, i + 1))) for i in range(4)], 1)
    assert measured((alone - net.encoder.encode(seen)).abs().max(), "alone or in a batch") < 1e-12
    # a batch mate or an empty time that moves t0 does change the code: t0 has to be fixed
    late = seen.window(start=0.5)
    cut = int((late.times < 0.5).sum())
    later = Series(late.times[cut:], late.values[:, cut:], late.mask[:, cut:])
    moved = (net.encode(later).mean - net.encode(late).mean).abs().max()
    assert moved > 1e-4 or kind is DeltaRNN
    before = padded(later, torch.tensor([0.0], **F64))
    torch.testing.assert_close(net.encode(before).mean, net.encode(late).mean)
    # forecasts behind and before the first observation do not feel the grid either
    assert torch.equal(
        net.encoder(late, whole.times), net.encoder(padded(late, extra), whole.times)
    )
    if kind is ODERNN:  # Euler steps on the union grid do feel them
        net.encoder.field.weights[-1].mul_(3)
        moved = on_union_grid(net.encoder, seen) - on_union_grid(net.encoder, finer)
        assert moved.abs().max() > 1e-3


@pytest.mark.claim("prop-latent-padding")
@torch.no_grad()
def test_a_split_gap_moves_the_state_by_the_formula(measured):
    """What is left behind the second power is of the third: halving the gap divides it by 8."""
    net = ODERNN(1, 5, width=6, generator=rng(), **F64)
    h, part = torch.randn(1, 1, 5, generator=rng(1), **F64), 1 / 3
    _, turn = torch.func.jvp(net.field, (h,), (net.field(h),))
    left = []
    for gap in (2.0**-9, 2.0**-10):
        d = torch.full((1, 1, 1), gap, **F64)
        moved = net.evolve(net.evolve(h, part * d), (1 - part) * d) - net.evolve(h, d)
        formula = part * (1 - part) * gap**2 * turn
        assert measured((moved / formula - 1).abs().max(), "relative, O(gap)") < 5e-2
        wrong = part * gap**2 * turn  # without 1 - θ
        assert (moved / wrong - 1).abs().max() > 0.2
        left.append((moved - formula).norm())
    assert 7 < left[0] / left[1] < 9


@pytest.mark.claim("prop-latent-padding")
@torch.no_grad()
def test_gaps_that_are_cut_by_the_longest_feel_their_batch_mates():
    """With `step_size` a gap is no longer one step: the hypothesis of part 1 is needed."""
    times = [torch.tensor([0.0, 0.5, 1.0], **F64), torch.tensor([0.0, 0.1, 1.0], **F64)]
    both = collate(times, [torch.randn(3, 1, generator=rng(s), **F64) for s in (0, 1)])
    for step_size, same in ((None, True), (0.3, False)):
        net = ODERNN(1, 5, width=6, step_size=step_size, generator=rng(), **F64)
        net.field.weights[-1].mul_(3)
        moved = (net.encode(both)[:, :1] - net.encode(both.rows(slice(0, 1)))).abs().max()
        assert moved < 1e-12 if same else moved > 1e-4


@pytest.mark.claim("prop-latent-padding")
@torch.no_grad()
def test_short_steps_reach_the_flow_between_observations(measured):
    """Against scipy on every interval of the union grid."""
    _, seen = toy(n=2, points=8, seed=4)
    net = ODERNN(1, 5, width=6, step_size=0.02, method="rk4", generator=rng(), **F64)
    weights = [w[0].numpy() for w in net.field.weights]
    biases = [b[0, 0].numpy() for b in net.field.biases]

    def rhs(_, y):
        h = y.reshape(2, 5)
        return (np.tanh(h @ weights[0] + biases[0]) @ weights[1] + biases[1]).ravel()

    h = np.zeros((2, 5))
    times = seen.times.numpy()
    for i in reversed(range(len(times))):
        before = times[min(i + 1, len(times) - 1)]
        if i < len(times) - 1:
            run = solve_ivp(rhs, (before, times[i]), h.ravel(), rtol=1e-11, atol=1e-12)
            moved = run.y[:, -1].reshape(2, 5)
            begun = seen.mask[:, i + 1 :].any(-1).any(-1).numpy()
            h = np.where(begun[:, None], moved, h)
        x = torch.cat([seen.values[:, i], seen.mask[:, i].double()], -1)[None]
        new = net.gru(torch.from_numpy(h)[None], net.gru.inputs(x))[0].numpy()
        h = np.where(seen.mask[:, i].any(-1, keepdim=True).numpy(), new, h)
    error = (net.encode(seen)[0] - torch.from_numpy(h)).abs().max()
    assert measured(error, "flow by scipy on the union grid") < 1e-7


# --- the networks ---------------------------------------------------------------------------------


def test_gru_is_torchs():
    cell, theirs = GRU(3, 5, [rng()], **F64), torch.nn.GRUCell(3, 5, **F64)
    with torch.no_grad():
        theirs.weight_ih.copy_(cell.inputs.weights[0][0].T)
        theirs.weight_hh.copy_(cell.state.weights[0][0].T)
        theirs.bias_ih.copy_(cell.inputs.biases[0][0, 0])
        theirs.bias_hh.copy_(cell.state.biases[0][0, 0])
    h, x = (torch.randn(7, s, generator=rng(s), **F64) for s in (5, 3))
    torch.testing.assert_close(cell(h[None], cell.inputs(x[None]))[0], theirs(x, h))


@torch.no_grad()
@pytest.mark.parametrize("kind", [ODERNN, DeltaRNN])
def test_forecast_sees_the_past_only(kind):
    whole, seen = toy()
    net = kind(1, 6, width=8, generator=rng(), **F64)
    times = torch.linspace(0, 2, 21, **F64)
    first = net(seen, times)
    changed = seen.values.clone()
    changed[:, 6:] += 1
    later = net(Series(seen.times, torch.where(seen.mask, changed, 0.0), seen.mask), times)
    early = times <= whole.times[6]
    assert torch.equal(first[:, early], later[:, early])
    assert (first[:, ~early] - later[:, ~early]).abs().max() > 1e-3
    # the last state, and the time since, decide what comes after
    ahead = net(seen, torch.tensor([2.5, 3.0], **F64))
    when, states = net.states(seen)
    gap = 3.0 - when[-1]
    by_hand = net.evolve(states[-1], gap)
    by_hand = net.readout(torch.cat([by_hand, *[gap[0][None]] * net.elapsed], -1))
    torch.testing.assert_close(ahead[:, 1], by_hand[0])
    assert torch.equal(net(seen, times[:1])[:, 0].std(0), torch.zeros(1, **F64))  # nothing seen yet
    late = seen.window(start=1.0)
    waiting = net(late, times[times < 0.9])  # the state waits at 0, whatever the time
    at_zero = torch.zeros(1, 1, 6 + net.elapsed, **F64)
    expected = net.readout(at_zero)[0, 0]
    torch.testing.assert_close(waiting, expected.expand_as(waiting))


@pytest.mark.parametrize("kind", [LatentODE, RNNVAE])
def test_stacked_networks_do_not_see_each_other(kind):
    """Values and gradients of a stack are those of its networks alone, up to the solver."""
    whole, seen = toy()
    extra = TIGHT if kind is LatentODE else {}
    stack = kind(1, 3, hidden=5, width=6, generator=[rng(s) for s in (0, 1, 2)], **F64, **extra)
    z = torch.randn(2, 3, 4, 3, generator=rng(5), **F64)
    x = stack.decode(z, whole.times).x
    mean = stack.encode(seen).mean
    (x.square().sum() + mean.square().sum()).backward()
    for i in range(3):
        one = kind(1, 3, hidden=5, width=6, generator=[rng(i)], **F64, **extra)
        with torch.no_grad():
            for mine, theirs in zip(one.parameters(), stack.parameters(), strict=True):
                mine.copy_(theirs[i : i + 1])
        own, own_mean = one.decode(z[:, i : i + 1], whole.times).x, one.encode(seen).mean
        torch.testing.assert_close(own[:, 0], x[:, i], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(own_mean[0], mean[i])
        (own.square().sum() + own_mean.square().sum()).backward()
        for mine, theirs in zip(one.parameters(), stack.parameters(), strict=True):
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad[0], theirs.grad[i], rtol=1e-5, atol=1e-7)


def test_copies_may_see_different_data():
    whole, seen = toy()
    other = observe(whole, 0.6, rng(8))
    both = Series(
        whole.times, *(torch.stack(pair) for pair in zip(seen[1:], other[1:], strict=True))
    )
    net = LatentODE(1, 3, hidden=5, width=6, generator=[rng(0), rng(0)], **F64, **TIGHT)
    torch.testing.assert_close(net.encode(both).mean[1], net.encode(other).mean[0])
    assert net.elbo(both, whole).shape == (2, 4)
    seer = ODERNN(1, 5, width=6, generator=[rng(0), rng(0)], **F64)
    torch.testing.assert_close(seer(both, whole.times)[1], seer(other, whole.times)[1])


def test_bounds_train_every_weight():
    whole, seen = toy()
    net = LatentODE(1, 3, hidden=5, width=6, intensity=True, generator=rng(), **F64)
    net.elbo(seen, whole, samples=2, generator=rng()).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.iwae(seen, whole, samples=3, generator=rng()).sum().backward()
    assert net.sample(seen, whole.times, 5, rng()).shape == (5, 4, 12, 1)
    assert net(seen, whole.times).shape == (4, 12, 1)


def test_a_series_without_observations_has_a_code_of_its_own():
    whole, seen = toy()
    nothing = seen.window(stop=-1.0)
    net = LatentODE(1, 3, hidden=5, width=6, generator=rng(), **F64)
    mean = net.encode(nothing).mean
    assert torch.equal(mean[0, 0], mean[0, 3])
    assert (gaussian_log_prob(nothing.values, whole.values, 0.1, nothing.mask) == 0).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ODERNN(0), "dim, hidden and width must be at least 1"),
        (lambda: ODERNN(1, method="magic"), "method must be one of"),
        (lambda: ODERNN(1, step_size=0.0), "step_size must be positive"),
        (lambda: LatentODE(1, 0), "dim, latent and width must be at least 1"),
        (lambda: LatentODE(1, noise=0.0), "noise must be positive"),
        (lambda: LatentODE(1, generator=[]), "generator must be one"),
        (lambda: LatentODE(1, encoder=ODERNN(1), generator=[rng()]), "encoder must have copies"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bounds_name_what_does_not_fit():
    whole, seen = toy()
    net = LatentODE(1, 3, hidden=5, width=6, generator=rng(), **F64)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        net.elbo(seen, samples=0)
    with pytest.raises(ValueError, match="readout must be True"):
        net.encoder(seen, whole.times)
    late = Series(whole.times + 1, whole.values, whole.mask)
    with pytest.raises(ValueError, match="target must begin at the time of seen"):
        net.elbo(seen, late)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    whole, seen = toy()
    net = LatentODE(1, 3, hidden=5, width=6, generator=[rng(0), rng(1)], **F64)
    here = net(seen, whole.times)
    there = Series(*(part.cuda() for part in seen))
    torch.testing.assert_close(
        net.cuda()(there, whole.times.cuda()).cpu(), here, rtol=1e-3, atol=1e-3
    )


def test_draws_of_a_posterior_are_mean_plus_std_times_noise():
    posterior = Posterior(torch.tensor([[[1.0, -2.0]]], **F64), torch.tensor([[[0.5, 3.0]]], **F64))
    draws = posterior.rsample(4, torch.Generator().manual_seed(0))
    noise = torch.randn(4, 1, 1, 2, generator=torch.Generator().manual_seed(0), **F64)
    assert torch.equal(draws, posterior.mean + posterior.std * noise)


@pytest.mark.parametrize("networks", [None, 2])
def test_bounds_have_one_number_a_series_and_a_window_begins_at_the_grid(networks):
    def source(seed):
        return torch.Generator().manual_seed(seed)

    whole, _ = periodic(3, source(0))
    seen = observe(whole, 0.2, source(1))
    generator = source(2) if networks is None else [source(seed) for seed in range(networks)]
    net = LatentODE(1, 2, hidden=4, width=5, generator=generator)
    shape = (3,) if networks is None else (networks, 3)
    assert net.elbo(seen, generator=source(3)).shape == shape
    assert net.iwae(seen, samples=2, generator=source(3)).shape == shape
    for late in (lambda t: net(seen, t), lambda t: net.sample(seen, t, 2)):
        with pytest.raises(ValueError, match="times must begin at the time of seen"):
            late(whole.times[50:])


def test_values_without_an_axis_of_features_are_refused():
    with pytest.raises(ValueError, match=r"values\[0\] must have two axes"):
        getattr(collate, "__wrapped__", collate)([torch.arange(3.0)], [torch.ones(3)])


def test_a_ruler_is_numpys_interpolation_and_the_mean_is_the_mean():
    _, seen = toy()
    times = torch.linspace(-0.5, 2.5, 31, **F64)
    lines, means = line(seen, times), middle(seen, times)
    for row in range(4):
        there = seen.mask[row, :, 0]
        own, values = seen.times[there].numpy(), seen.values[row, there, 0]
        expected = torch.from_numpy(np.interp(times.numpy(), own, values.numpy()))
        torch.testing.assert_close(lines[row, :, 0], expected)
        torch.testing.assert_close(means[row, :, 0], values.mean().expand(31))
    nothing = seen.window(stop=-1.0)
    assert (line(nothing, times) == 0).all() and (middle(nothing, times) == 0).all()


def test_training_makes_the_updates_that_it_counts():
    """One update by hand, and the weight of the divergence by its effect."""
    whole, seen = toy()
    asked, watched = [], []

    def batch(i):
        asked.append(i)
        return seen, whole

    def net():
        return LatentODE(1, 3, hidden=5, width=6, generator=rng(), **F64, **TIGHT)

    ours, by_hand = net(), net()
    assert train(ours, batch, 4, rate=0.1, generator=rng(1), watch=watched.append) is ours
    assert asked == watched == [0, 1, 2, 3]
    adam, noise = torch.optim.Adam(by_hand.parameters(), 0.1), rng(1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, 0.1, total_steps=4, div_factor=3, pct_start=0.1
    )
    for beta in (0.0, 0.5, 1.0, 1.0):
        adam.zero_grad()
        bound = by_hand.elbo(seen, whole, beta=beta, generator=noise)
        (-bound.mean() / len(whole.times)).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 10.0)
        adam.step()
        schedule.step()
    for mine, theirs in zip(by_hand.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
