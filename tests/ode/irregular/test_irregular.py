"""Claims of the chapter on irregular series: observation times, the record, and who chooses."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from nodes_tutorial.data.timeseries import observe, periodic, spirals
from nodes_tutorial.ode.irregular.baselines import RNNVAE
from nodes_tutorial.ode.irregular.choice import reported
from nodes_tutorial.ode.latent.likelihood import gaussian_log_prob, poisson_log_prob
from nodes_tutorial.ode.latent.model import LatentODE
from tests.ode.series_cases import F64, TIGHT, rng, toy

# --- observation times ----------------------------------------------------------------------------


def rate(t):
    return 2.0 * np.exp(0.5 * np.sin(3 * t))


@pytest.mark.claim("thm-irregular-poisson")
def test_density_of_times_is_the_limit_of_independent_counts(measured):
    """Counts of small bins are Poisson; two extrapolations remove the first powers of the width."""
    times, total = np.array([0.31, 0.52, 1.4]), quad(rate, 0, 2, epsabs=1e-13)[0]
    ours = poisson_log_prob(
        torch.from_numpy(np.log(rate(times))), torch.tensor(total, **F64), torch.ones(3).bool()
    )

    def by_bins(width):
        value = 0.0
        for t in times:  # one event in the bin centred at t, and none elsewhere
            mean = quad(rate, t - width / 2, t + width / 2, epsabs=1e-14)[0]
            value += math.log(mean) - math.log(width)
        return value - total

    coarse, fine, finest = (by_bins(h) for h in (0.08, 0.04, 0.02))
    first = (4 * fine - coarse) / 3, (4 * finest - fine) / 3
    limit = (16 * first[1] - first[0]) / 15
    assert measured(abs(ours - limit), "limit of bins") < 1e-7
    assert abs(float(ours) - (rate(times).sum() - total)) > 0.1  # rates in place of their logs


@pytest.mark.claim("thm-irregular-poisson")
def test_density_of_times_integrates_to_one(measured):
    """Over no time, one time and two ordered times by quadrature, the rest by the Poisson law."""
    span = 0.8
    total = quad(rate, 0, span, epsabs=1e-13)[0]

    def density(*times):
        log_rate = torch.tensor(np.log(rate(np.array(times))), **F64)
        mask = torch.ones(len(times), dtype=torch.bool)
        return float(poisson_log_prob(log_rate, torch.tensor(total, **F64), mask).exp())

    x, w = np.polynomial.legendre.leggauss(20)
    x, w = span * (x + 1) / 2, span * w / 2
    one = sum(b * density(t) for t, b in zip(x, w, strict=True))
    two = 0.0  # the triangle s < t as t times the unit square
    for t, b in zip(x, w, strict=True):
        two += sum(b * c * t / span * density(s * t / span, t) for s, c in zip(x, w, strict=True))
    rest = 1 - sum(math.exp(-total) * total**n / math.factorial(n) for n in range(3))
    assert measured(abs(density() + one + two + rest - 1), "total mass") < 1e-8
    assert abs(two - math.exp(-total) * total**2) > 0.1  # without the order: twice too much


@pytest.mark.claim("thm-irregular-poisson")
def test_simulated_times_have_the_mean_log_density_of_the_closed_form():
    """Thinning of a faster process; Campbell's formula gives the mean; four standard errors."""
    draw, top, span = np.random.default_rng(0), 2 * math.exp(0.5), 3.0
    total = quad(rate, 0, span)[0]
    mean = quad(lambda t: rate(t) * np.log(rate(t)), 0, span)[0] - total
    values = []
    for _ in range(4000):
        times = draw.uniform(0, span, draw.poisson(top * span))
        kept = times[draw.uniform(0, top, len(times)) < rate(times)]
        log_rate = torch.from_numpy(np.log(rate(kept)))
        mask = torch.ones(len(kept), dtype=torch.bool)
        values.append(float(poisson_log_prob(log_rate, torch.tensor(total, **F64), mask)))
    assert abs(np.mean(values) - mean) < 4 * np.std(values) / len(values) ** 0.5


@pytest.mark.claim("thm-irregular-poisson")
@torch.no_grad()
def test_integral_comes_with_the_solve(measured):
    whole, seen = toy()
    net = LatentODE(1, 3, hidden=5, width=7, intensity=True, generator=rng(), **F64, **TIGHT)
    plain = LatentODE(1, 3, hidden=5, width=7, generator=rng(), **F64, **TIGHT)
    z = torch.randn(2, 1, 4, 3, generator=rng(2), **F64)
    path = net.decode(z, whole.times)
    fine = torch.linspace(0, float(whole.times[-1]), 2001, **F64)
    rates = net.decode(z, fine).log_rate.exp()
    simpson = torch.ones(2001, **F64)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    total = (rates * simpson).sum(-1) * (fine[1] - fine[0]) / 3
    error = measured(
        (path.integral[..., -1] - total).abs().max(), "integral against Simpson's rule"
    )
    assert error < 1e-8
    assert (path.integral[..., 0] == 0).all() and (path.integral.diff(dim=-1) > 0).all()
    extra = net.log_likelihood(path, seen) - gaussian_log_prob(
        seen.values, path.x, net.noise, seen.mask
    )
    there = seen.mask.any(-1)
    by_hand = torch.where(there, path.log_rate, 0.0).sum(-1) - total
    torch.testing.assert_close(extra, by_hand, rtol=0, atol=1e-8)
    assert plain.decode(z, whole.times).integral is None


@torch.no_grad()
def test_decoder_of_the_rnn_vae_is_a_loop():
    whole, _ = toy(points=6)
    net = RNNVAE(1, 3, hidden=5, width=6, generator=rng(), **F64)
    z = torch.randn(1, 1, 4, 3, generator=rng(2), **F64)
    h, before, rows = z[0], whole.times[0], []
    for i, t in enumerate(whole.times):
        if i:
            x = torch.cat([rows[-1], torch.full_like(rows[-1], float(t - before))], -1)
            h = net.field(h, net.field.inputs(x))
        rows.append(net.emission(h))
        before = t
    torch.testing.assert_close(net.decode(z, whole.times).x[0], torch.stack(rows, -2))


# --- the record ---------------------------------------------------------------------------------


def record(dataset="periodic-code"):
    """Squared errors of the recorded runs: by model, for each task and share a list over seeds."""
    path = Path(__file__).parents[3] / "results" / "latent.json"
    rows = [row for row in json.loads(path.read_text())["rows"] if row["dataset"] == dataset]
    found = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        for task in ("interpolate", "extrapolate"):
            for share in (0.1, 0.2, 0.3, 0.5):
                errors = found.setdefault(row["model"], {}).setdefault((task, share), [])
                errors.append(row[f"{task} {share:g}"])
    assert all(len(errors) >= 3 for model in found.values() for errors in model.values())
    return found


@pytest.mark.claim("obs-irregular-forecaster")
def test_the_forecaster_with_an_equation_comes_first():
    found = record()
    assert set(found) == {"ode-rnn", "latent-ode", "rnn-dt", "latent-ode-rnn", "rnn-vae"}
    for where, best in found["ode-rnn"].items():
        rivals = [v for model, errors in found.items() if model != "ode-rnn" for v in errors[where]]
        assert max(best) < min(rivals)
    assert max(found["ode-rnn"]["interpolate", 0.3]) < 0.011
    assert max(found["ode-rnn"]["extrapolate", 0.3]) < 0.034
    assert min(found["latent-ode"]["interpolate", 0.3]) > 0.033
    assert min(found["latent-ode"]["extrapolate", 0.3]) > 0.047


@pytest.mark.claim("obs-irregular-period")
def test_the_period_is_lost_without_an_equation():
    found = record()
    gaps, ahead = ((task, 0.3) for task in ("interpolate", "extrapolate"))
    assert max(found["rnn-dt"][gaps]) < 0.0225 < 0.033 < min(found["latent-ode"][gaps])
    assert min(found["rnn-dt"][ahead]) > 0.2 > 0.082 > max(found["latent-ode"][ahead])


@pytest.mark.claim("obs-irregular-encoder")
def test_the_encoder_matters():
    found = record()
    where = ("extrapolate", 0.3)
    pairs = zip(found["latent-ode"][where], found["latent-ode-rnn"][where], strict=True)
    assert all(recurrent > 2 * ours for ours, recurrent in pairs)


def ruler(seen, times):
    """Straight lines between a series' own observations, by NumPy; constant beyond them."""
    rows = []
    for values, mask in zip(seen.values[..., 0], seen.mask[..., 0], strict=True):
        own = np.interp(times.numpy(), seen.times[mask].numpy(), values[mask].numpy())
        rows.append(torch.from_numpy(own))
    return torch.stack(rows)[..., None]


@pytest.mark.claim("obs-irregular-ruler")
def test_a_ruler_is_good_at_gaps():
    """On the recorded runs' test series, with the same points seen."""
    found, generator = record(), rng(10**6)
    series, clean = periodic(1000, generator)
    test, goal, draws, error = series.rows(slice(800, None)), clean[800:], rng(10**6), {}
    for share in (0.1, 0.2, 0.3, 0.5):
        seen = observe(test, share, draws)
        miss = (ruler(seen, series.times) - goal)[test.mask & ~seen.mask]
        error[share] = float(miss.square().mean())
        observe(test.window(stop=2.5), share, draws)  # what the record drew for the other task
    assert error[0.5] < 0.5 * min(found["latent-ode"]["interpolate", 0.5])
    assert error[0.5] > 2 * max(found["ode-rnn"]["interpolate", 0.5])
    for model in ("ode-rnn", "rnn-dt", "latent-ode"):
        assert max(found[model]["interpolate", 0.1]) < 0.22 < 0.37 < error[0.1]


@pytest.mark.claim("obs-irregular-spirals")
def test_spirals_go_on():
    found = record("spirals")
    _, clean = spirals(1000, rng(10**6))
    goal, last = clean[800:, 100:] / 3, clean[800:, 99:100] / 3
    simple = min(((v - goal) ** 2).mean() for v in (last, clean[800:, :100].mean(1, True) / 3))
    for share in (0.1, 0.2, 0.3, 0.5):
        where = ("extrapolate", share)
        ours = max(found["latent-ode"][where]) ** 0.5
        assert ours < 0.33 * min(found["rnn-dt"][where]) ** 0.5
        assert ours < 0.33 * simple**0.5


# --- who chooses --------------------------------------------------------------------------------

# Squared errors of three networks on four series; a test set has two of them, drawn with
# replacement. All sixteen test sets can be listed, so means over test sets are exact.
ERRORS = torch.tensor([[0.1, 0.9, 0.4, 0.6], [0.8, 0.2, 0.5, 0.7], [0.6, 0.5, 0.3, 0.7]], **F64)


def every_set(size):
    """The mean error of each network on every test set of this size, all equally probable."""
    rows = torch.tensor(list(itertools.product(range(4), repeat=size)))
    return ERRORS[:, rows].mean(-1)


@pytest.mark.claim("prop-irregular-chosen")
def test_the_best_on_the_test_set_is_reported_too_well(measured):
    true = ERRORS.mean(1)
    for size in (1, 2, 3):
        tests = every_set(size)
        assert measured((tests.mean(1) - true).abs().max(), "each network alone") < 1e-12
        same = reported(tests, tests)
        assert torch.equal(same, tests.amin(0))
        assert same.mean() < true.min() - 0.02
    # equality if one network is best on every test set
    tests = every_set(2) + torch.tensor([[-1.0], [0.0], [0.0]], **F64)
    assert measured(abs(reported(tests, tests).mean() - tests.mean(1).min()), "equality") < 1e-12


@pytest.mark.claim("prop-irregular-chosen")
def test_another_set_chooses_and_the_report_is_right(measured):
    """All pairs of a set that chooses and a set that measures, independent of each other."""
    a = every_set(2)
    choosing, measuring = a[:, :, None].expand(-1, 16, 16), a[:, None].expand(-1, 16, 16)
    found = reported(choosing.contiguous(), measuring.contiguous())
    picked = choosing.argmin(0)
    true = ERRORS.mean(1)
    for k in range(3):
        where = picked == k
        assert where.any()
        assert measured(abs(found[where].mean() - true[k]), "mean, given the choice") < 1e-12
    assert found.mean() >= true.min()
    # not independent: the mean given the choice is below that network's error
    own = reported(a, a)
    assert all(own[a.argmin(0) == k].mean() < true[k] - 0.02 for k in range(3))


@pytest.mark.claim("prop-irregular-chosen")
@pytest.mark.parametrize("count", [2, 10, 100])
def test_how_much_too_well(count, measured):
    """Independent normal errors: the mean of the smallest, by quadrature, and the bound."""

    def density(x):
        return x * count * norm.pdf(x) * norm.sf(x) ** (count - 1)

    smallest = quad(density, -12, 12, epsabs=1e-12, limit=200)[0]
    bound = math.sqrt(2 * math.log(count))
    assert 0.45 * bound < -smallest < bound  # 0.48 for two, 0.83 for a hundred
    # the mean level and the spread enter as in the statement
    draws = torch.randn(count, 20000, generator=rng(count), **F64)
    errors = 0.7 + 0.1 * draws
    gap = float(reported(errors, errors).mean()) - (0.7 + 0.1 * smallest)
    assert measured(abs(gap), "by sampling, four standard errors") < 4 * 0.1 / 20000**0.5
    # a rare large gain has the same spread and is beyond the bound: normality is needed
    chance = 1 / 400
    rare = (1 - (1 - chance) ** 400) / math.sqrt(chance * (1 - chance))
    rare -= math.sqrt(chance / (1 - chance))
    assert rare > 3 * math.sqrt(2 * math.log(400))


def test_choices_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="measured_on must have the shape of chosen_by"):
        getattr(reported, "__wrapped__", reported)(torch.ones(3), torch.ones(2))
