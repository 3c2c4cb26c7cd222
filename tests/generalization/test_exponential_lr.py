"""Claims of the chapter on exponential learning rates, and its schedules against plain runs."""

import itertools
import json
import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.func import grad

from nodes_tutorial.generalization import (
    CONVENTIONS,
    equivalent_schedule,
    heavy_ball,
    radial_cosines,
    rescale,
    stationary_factor,
)
from tools.project import ROOT

F64 = torch.float64
DIM = 5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=rng(seed), dtype=F64)


def loss(w, b, t=0):
    """Another loss at each step, of the direction of w and of all of b."""
    u = w / w.norm()
    matrix, wave = randn(DIM, DIM, seed=2 * t), randn(DIM, seed=2 * t + 1)
    return u @ matrix @ u * (1 + b[0]) + torch.sin(wave @ u + b[1]) + b.square().sum()


def spoiled(w, b, t=0):
    """Almost invariant: the hypothesis fails by a small term."""
    return loss(w, b, t) + 1e-3 * w.square().sum().sqrt()


def slope_of(of, b=None):
    held = torch.tensor([0.3, -0.2], dtype=F64) if b is None else b
    return lambda w, t: grad(of)(w, held, t)


W0 = randn(DIM, seed=900)


def gap(decayed, other, table):
    """Largest distance of the decayed iterates from P v, relative to their length."""
    apart = (decayed - table.scales[:, None] * other).norm(dim=1)
    return float((apart / decayed.norm(dim=1)).max())


# --- scale invariance ----------------------------------------------------------------------------


@pytest.mark.claim("prop-exponential-orthogonal")
def test_orthogonality_and_degree(measured):
    for seed in range(5):
        w, b, c = randn(DIM, seed=seed), randn(2, seed=50 + seed), 0.3 + seed
        gw, gb = grad(loss, (0, 1))(w, b)
        far_w, far_b = grad(loss, (0, 1))(c * w, b)
        assert measured(abs(w @ gw) / (w.norm() * gw.norm()), "cosine") < 1e-14
        assert measured((far_w - gw / c).abs().max() / gw.norm(), "degree -1") < 1e-13
        assert measured((far_b - gb).abs().max(), "other parameters") < 1e-13
        assert (far_w - gw).abs().max() > 1e-3  # degree 0 would be wrong
        assert abs(w @ grad(spoiled)(w, b)) > 1e-4


@pytest.mark.claim("prop-exponential-orthogonal")
def test_orthogonal_gradients_make_an_invariant_loss():
    """The other direction: along a ray the loss changes by the integral of the inner product."""
    w, b = randn(DIM, seed=3), randn(2, seed=4)
    for of, invariant in ((loss, True), (spoiled, False)):
        c = torch.linspace(1, 3, 2001, dtype=F64)
        inner = torch.stack([s * w @ grad(of)(s * w, b) / s for s in c[::200]])
        change = of(3 * w, b) - of(w, b)
        assert abs(torch.trapezoid(inner, c[::200]) - change) < 1e-12
        assert (abs(change) < 1e-12) == invariant


@pytest.mark.claim("prop-exponential-orthogonal")
def test_pythagoras_and_the_angle(measured):
    eta, lam = 0.2, 0.7
    for of, right in ((loss, True), (spoiled, False)):
        w = 2 * W0
        new = heavy_ball(slope_of(of), w, torch.tensor([eta], dtype=F64), weight_decay=lam)[1]
        g = slope_of(of)(w, 0)
        off = new.norm() ** 2 - (1 - eta * lam) ** 2 * w.norm() ** 2 - eta**2 * g.norm() ** 2
        assert (abs(off) < 1e-13) == right
    new = heavy_ball(slope_of(loss), w, torch.tensor([eta], dtype=F64), weight_decay=lam)[1]
    cosine = torch.cosine_similarity(w, new, dim=0)
    unit = slope_of(loss)(w / w.norm(), 0).norm()
    tangent = eta / ((1 - eta * lam) * w.norm() ** 2) * unit
    assert measured(abs(cosine - (1 - eta * lam) * w.norm() / new.norm()), "cosine") < 1e-14
    assert measured(abs(torch.tan(torch.acos(cosine)) - tangent), "tangent") < 1e-12


def test_length_grows_with_the_fourth_root():
    """The exercise: no decay, gradients that do not vanish."""
    path = heavy_ball(slope_of(loss), W0, torch.full((400,), 0.3, dtype=F64))
    unit = torch.stack([slope_of(loss)(w / w.norm(), t).norm() for t, w in enumerate(path[:-1])])
    bound = W0.norm() ** 4 + 2 * 0.09 * unit.square().cumsum(0)
    fourth = path[1:].norm(dim=1) ** 4
    assert bool((fourth >= bound).all())
    assert fourth[-1] < 2 * bound[-1]  # so at least half of it is attained
    assert bound[-1] > 10 * bound[0]


# --- without momentum ----------------------------------------------------------------------------


@pytest.mark.claim("thm-exponential-plain")
def test_one_step_from_any_state(measured):
    """A schedule in its middle: from v = w / P, one step of each."""
    eta, lam = 0.02 + 0.3 * rand(30, seed=1), 2 * rand(30, seed=2)
    table = equivalent_schedule(eta, lam)
    for t in range(30):
        w = randn(DIM, seed=t)
        v, slope = w / table.scales[t], slope_of(loss)
        after = w - eta[t] * (slope(w, t) + lam[t] * w)
        other = v - table.step_sizes[t] * slope(v, t)
        off = (after - table.scales[t + 1] * other).norm() / after.norm()
        assert measured(off, "one step") < 2e-14
        wrong = v - table.step_sizes[t] * (1 - eta[t] * lam[t]) * slope(v, t)  # eta / P^2
        assert (after - table.scales[t + 1] * wrong).norm() > 1e-6 or eta[t] * lam[t] < 1e-3


@pytest.mark.claim("thm-exponential-plain")
def test_whole_runs_with_other_parameters(measured):
    """Minibatch losses, a varying schedule, and parameters b with a rule of their own."""

    def run(of, eta, lam):
        w, b, path = W0, torch.tensor([0.3, -0.2], dtype=F64), []
        for t in range(25):
            gw, gb = grad(of, (0, 1))(w, b, t)
            w, b = w - eta[t] * (gw + lam[t] * w), b - 0.05 * torch.tanh(gb) - 0.01 * b
            path.append(torch.cat([w, b]))
        return torch.stack(path)

    eta, lam = 0.01 + 0.05 * rand(25, seed=5), 3 * rand(25, seed=6)
    table = equivalent_schedule(eta, lam)
    for of, right in ((loss, True), (spoiled, False)):
        a, c = run(of, eta, lam), run(of, table.step_sizes, 0 * lam)
        off = (a[:, :DIM] - table.scales[1:, None] * c[:, :DIM]).abs().max()
        both = max(float(off), float((a[:, DIM:] - c[:, DIM:]).abs().max()))
        assert (both < 1e-12) == right
        if right:
            measured(both, "25 steps")


@pytest.mark.claim("thm-exponential-plain")
def test_constant_step_sizes_are_a_geometric_series(measured):
    table = equivalent_schedule(torch.full((50,), 0.1, dtype=F64), 0.5)
    exact = [float(Fraction(1, 10) / Fraction(95, 100) ** (2 * t + 1)) for t in range(50)]
    off = (table.step_sizes / torch.tensor(exact, dtype=F64) - 1).abs().max()
    assert measured(off, "relative") < 1e-13


# --- with momentum -------------------------------------------------------------------------------


def tapered(steps=40):
    eta = torch.full((steps,), 0.01, dtype=F64)
    eta[steps // 2 :] = 0.001
    return eta


@pytest.mark.claim("thm-exponential-momentum")
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_runs_with_momentum(convention, gamma, measured):
    for eta in (tapered(), 0.005 + 0.01 * rand(40, seed=8)):
        lam = 0.2 * rand(40, seed=9)
        table = equivalent_schedule(eta, lam, momentum=gamma, convention=convention)
        how = {"convention": convention}
        decayed, other = [W0, W0], [W0, W0]
        for t in range(40):  # the definition, with buffers, and with another decay at each step
            for path, rate, mu, shrink in (
                (decayed, eta, gamma, lam[t]),
                (other, table.step_sizes, table.momenta[t], 0.0),
            ):
                ratio = rate[t] / rate[t - 1] if t and convention == "outside" else 1.0
                g = slope_of(loss)(path[-1], t) + shrink * path[-1]
                path.append(path[-1] + mu * ratio * (path[-1] - path[-2]) - rate[t] * g)
        off = gap(torch.stack(decayed[1:]), torch.stack(other[1:]), table)
        assert measured(off, "40 steps") < 1e-12
        same = heavy_ball(slope_of(loss), W0, table.step_sizes, momenta=table.momenta, **how)
        assert (same - torch.stack(other[1:])).norm() < 1e-10 * same.norm()


@pytest.mark.claim("thm-exponential-momentum")
def test_wrong_schedules_with_momentum():
    """Each part of the theorem left out is seen."""
    eta, slope = tapered(), slope_of(loss)
    for convention, mixed in itertools.permutations(CONVENTIONS):
        how = {"convention": convention}
        w = heavy_ball(slope, W0, eta, weight_decay=0.5, momenta=0.9, **how)
        table = equivalent_schedule(eta, 0.5, momentum=0.9, **how)
        plain = equivalent_schedule(eta, 0.5)
        other = equivalent_schedule(eta, 0.5, momentum=0.9, convention=mixed)
        for wrong in (plain, other, equivalent_schedule(eta, 0.5, momentum=0.8, **how)):
            v = heavy_ball(slope, W0, wrong.step_sizes, momenta=wrong.momenta, **how)
            assert gap(w, v, wrong) > 1e-3
        kept = heavy_ball(slope, W0, table.step_sizes, momenta=0.9, **how)
        assert (gap(w, kept, table) > 1e-3) == (convention == "inside")
        v = heavy_ball(slope_of(spoiled), W0, table.step_sizes, momenta=table.momenta, **how)
        w = heavy_ball(slope_of(spoiled), W0, eta, weight_decay=0.5, momenta=0.9, **how)
        assert gap(w, v, table) > 1e-6


def with_sgd(rates, weight_decay, gamma, buffer=None, of=loss):
    """The run of PyTorch's own optimizer."""
    w = W0.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=1.0, momentum=gamma, weight_decay=weight_decay)
    if buffer is not None:
        optimizer.state[w]["momentum_buffer"] = buffer.clone()
    path = [W0]
    for t, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        of(w, torch.tensor([0.3, -0.2], dtype=F64), t).backward()
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


@pytest.mark.claim("thm-exponential-momentum")
@pytest.mark.parametrize("start", [None, randn(DIM, seed=77)])
def test_optimizer_of_pytorch(start, measured):
    """Also from a buffer that is not empty, which is the same one in both runs."""
    eta = tapered()
    table = equivalent_schedule(eta, 0.5, momentum=0.9)
    w, v = with_sgd(eta, 0.5, 0.9, start), with_sgd(table.step_sizes, 0.0, 0.9, start)
    assert measured(gap(w, v, table), "40 steps") < 1e-12
    if start is None:
        ours = heavy_ball(slope_of(loss), W0, eta, weight_decay=0.5, momenta=0.9)
        assert measured((ours - w).abs().max(), "heavy_ball against SGD") < 1e-12
    else:
        v = with_sgd(table.step_sizes, 0.0, 0.9, start / table.factors[0])
        assert gap(w, v, table) > 1e-4


def test_decay_outside_the_buffer_is_another_run():
    """Decay of the weights beside the buffer, and a penalty that goes into it."""
    coupled, w, b = with_sgd(tapered(), 0.5, 0.9), W0, torch.zeros(DIM, dtype=F64)
    for t, eta in enumerate(tapered()):
        b = 0.9 * b + slope_of(loss)(w, t)
        w = w - eta * b - eta * 0.5 * w
    assert (w - coupled[-1]).norm() > 1e-2


# --- constant step size --------------------------------------------------------------------------


@pytest.mark.claim("prop-exponential-constant")
def test_factor_is_the_limit_of_the_recursion(measured):
    for eta, lam, gamma in ((0.1, 5e-4, 0.0), (0.1, 5e-4, 0.9), (0.5, 0.1, 0.5), (0.01, 0.1, 0.9)):
        alpha = stationary_factor(eta, lam, gamma)
        quadratic = alpha**2 - (1 + gamma - eta * lam) * alpha + gamma
        assert measured(abs(quadratic), "quadratic") < 1e-15
        table = equivalent_schedule(
            torch.full((2000,), eta, dtype=F64), lam, momentum=gamma, rebase=9
        )
        assert measured(abs(float(table.factors[-1]) - alpha), "limit") < 1e-13
        assert bool((table.factors[1:] <= table.factors[:-1]).all())
        assert bool((table.factors >= alpha - 1e-15).all())
        smaller = gamma / alpha
        assert smaller < alpha and abs(float(table.factors[-1]) - smaller) > 1e-2
    assert abs(stationary_factor(0.1, 5e-4, 0.9) - 0.99949773) < 5e-9
    growth = stationary_factor(0.1, 5e-4, 0.9) ** -2
    assert abs(growth - 1.00100530) < 5e-9 and abs(growth**391 - 1.4812) < 5e-5


@pytest.mark.claim("prop-exponential-constant")
@pytest.mark.parametrize("gamma", [0.25, 0.81])
def test_edge_of_the_schedule(gamma):
    edge = (1 - math.sqrt(gamma)) ** 2
    steps = torch.ones(5000, dtype=F64)
    assert stationary_factor(1.0, edge * (1 - 1e-12), gamma) == pytest.approx(
        math.sqrt(gamma), abs=1e-4
    )
    equivalent_schedule(steps, edge * 0.999, momentum=gamma, rebase=5)
    with pytest.raises(ValueError, match="positive factor"):
        equivalent_schedule(steps, edge * 1.001, momentum=gamma, rebase=5)
    with pytest.raises(ValueError, match="weight_decay times step_size"):
        stationary_factor(1.0, edge * 1.001, gamma)


@pytest.mark.claim("prop-exponential-constant")
def test_constant_growth_from_rest_is_not_equivalent(measured):
    eta, slope = torch.full((60,), 0.01, dtype=F64), slope_of(loss)
    alpha = stationary_factor(0.01, 0.1, 0.9)
    naive = 0.01 * alpha ** (-2 * torch.arange(60, dtype=F64) - 1)
    w = heavy_ball(slope, W0, eta, weight_decay=0.1, momenta=0.9)
    v = heavy_ball(slope, W0, naive, momenta=0.9)
    first = w[1] - alpha * v[1] - (1 - 0.001 - alpha) * W0
    assert measured(first.abs().max(), "first step") < 1e-15
    assert 1 - torch.cosine_similarity(w, v).min() > 1e-5
    # a displacement before the first step makes the constant factor right
    last_w = W0 + 0.01 * randn(DIM, seed=5)
    last_v = alpha * last_w
    w, v = W0, W0
    for t in range(60):
        ratio = alpha**-2
        new_w = w + 0.9 * (w - last_w) - 0.01 * (slope(w, t) + 0.1 * w)
        new_v = v + 0.9 * ratio * (v - last_v) - naive[t] * slope(v, t)
        last_w, w, last_v, v = w, new_w, v, new_v
    assert (w - alpha**60 * v).norm() < 1e-12


# --- floating point ------------------------------------------------------------------------------


@pytest.mark.claim("prop-exponential-exact")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_powers_of_two_give_equal_bits(dtype):
    def of(w, t):
        u = w / (w.square().sum() + eps).sqrt()
        return grad(lambda w: torch.sin(3 * (w / (w.square().sum() + eps).sqrt())).sum())(w) + 0 * u

    eta = 0.5 * 2.0 ** torch.arange(3).repeat(10).to(dtype)  # 1 − ηλ is one half each time
    lam = 0.5 / eta
    table, bits = equivalent_schedule(eta, lam), {}
    for eps in (0.0, 1e-5):
        w, v, same = W0.to(dtype), W0.to(dtype), True
        for t in range(30):
            w = (1 - eta[t] * lam[t]) * w - eta[t] * of(w, t)
            v = v - table.step_sizes[t] * of(v, t)
            same = same and torch.equal(w, table.scales[t + 1] * v)
        bits[eps] = same
    assert bits == {0.0: True, 1e-5: False}


@pytest.mark.claim("prop-exponential-exact")
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rebasing_changes_no_bit(gamma, convention):
    eta = torch.full((60,), 0.1, dtype=F64)
    how = {"momentum": gamma, "convention": convention}
    whole, parts = (equivalent_schedule(eta, 0.5, rebase=r, **how) for r in (None, 7))
    slope = slope_of(loss)
    runs = [
        heavy_ball(
            slope, W0, t.step_sizes, momenta=t.momenta, convention=convention, shifts=t.shifts
        )
        for t in (whole, parts)
    ]
    power = 2.0 ** -parts.shifts.cumsum(0)
    assert torch.equal(runs[0][:-1] * power[:, None], runs[1][:-1])
    assert parts.shifts.abs().max() > 0 and whole.shifts.abs().max() == 0
    assert parts.step_sizes.max() < whole.step_sizes.max() / 4
    wrong = heavy_ball(slope, W0, parts.step_sizes, momenta=parts.momenta, convention=convention)
    assert not torch.equal(wrong[-1], runs[1][-1])


@pytest.mark.claim("prop-exponential-exact")
def test_rescaled_optimizer_goes_on_with_the_same_bits():
    def run(shift, factor):
        w = W0.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        for t in range(20):
            if t == 10:
                rescale(optimizer, shift)
                optimizer.param_groups[0]["lr"] *= factor
            optimizer.zero_grad()
            loss(w, torch.tensor([0.3, -0.2], dtype=F64), t).backward()
            optimizer.step()
        return w.detach()

    plain = run(0, 1.0)
    for shift in (3, -5):
        assert torch.equal(run(shift, 4.0**-shift) * 2.0**shift, plain)
        assert not torch.equal(run(shift, 2.0**-shift) * 2.0**shift, plain)


@pytest.mark.claim("prop-exponential-horizon")
def test_horizon_is_attained_by_a_stretching_map():
    """Errors of opposite sign in exact arithmetic: the bound is the distance."""
    stretch, u = Fraction(3, 2), Fraction(1, 10**9)
    a = b = Fraction(1, 3)
    for t in range(1, 60):
        a, b = stretch * a + u, stretch * b - u
        assert a - b == 2 * u / (stretch - 1) * (stretch**t - 1)
    tau = 1e-3
    horizon = math.log1p(tau * 0.5 / 2e-9) / math.log(1.5)
    first = next(t for t in range(1, 99) if 4e-9 * (1.5**t - 1) > tau)
    assert first - 1 <= horizon < first


@pytest.mark.claim("prop-exponential-horizon")
def test_horizon_of_the_two_runs(measured):
    """Decayed and undecayed in float32, with the stretch and the errors of one step measured."""

    def of(w, t):  # a smooth loss of the direction of two weights
        return grad(lambda w: 4 * (w[0] / w.norm()) ** 3 - 3 * w[0] / w.norm())(w)

    def step(w):
        return 0.9 * w - 0.1 * of(w, 0)

    start = torch.tensor([-0.7, 0.7])
    table = equivalent_schedule(torch.full((30,), 0.1), 1.0)
    a = heavy_ball(of, start, torch.full((30,), 0.1), weight_decay=1.0).double()
    b = (heavy_ball(of, start, table.step_sizes) * table.scales[:, None]).double()
    errors = [(path[t + 1] - step(path[t])).norm() for path in (a, b) for t in range(30)]
    points = torch.cat([a, b])
    stretch = max(torch.linalg.matrix_norm(torch.func.jacrev(step)(w), 2) for w in points)
    u = max(errors)
    bound = 2 * u / (stretch - 1) * (stretch ** torch.arange(31) - 1)
    off = (a - b).norm(dim=1)
    assert stretch > 1 and bool((off <= bound + 1e-12).all())
    measured(off.max(), "float32")


def test_jumping_map_has_no_horizon():
    """The hypothesis is needed: without a Lipschitz constant one step is enough."""

    def jump(x):
        return x + (x > 0).to(x)

    tiny = torch.tensor(1e-300, dtype=F64)
    assert jump(tiny) - jump(-tiny) == 1


# --- a network, other shapes, bad input ----------------------------------------------------------


class Norm(nn.Module):
    def forward(self, x):
        x = x - x.mean((0, 2, 3), keepdim=True)
        return x / x.square().mean((0, 2, 3), keepdim=True).sqrt()


def network():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), Norm(), nn.SiLU(), nn.Flatten(), nn.Linear(48, 4)
    ).to(F64)
    size = sum(p.numel() for p in net.parameters())
    nn.utils.vector_to_parameters(0.3 * randn(size, seed=3), net.parameters())
    return net


def test_network_with_two_optimizers(measured):
    images, labels = randn(20, 1, 6, 6, seed=1), torch.arange(20) % 4
    table = equivalent_schedule(tapered(30), 0.5, momentum=0.9, rebase=8)
    ends = []
    for rates, lam in ((tapered(30), 0.5), (table.step_sizes, 0.0)):
        net = network()
        first = torch.optim.SGD([net[0].weight], lr=1.0, momentum=0.9, weight_decay=lam)
        rest = torch.optim.SGD(net[4].parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        for t in range(30):
            if not lam:
                rescale(first, int(table.shifts[t]))
            first.param_groups[0]["lr"] = float(rates[t])
            net.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            first.step()
            rest.step()
        ends.append(net(images).detach())
    assert measured((ends[0] - ends[1]).abs().max(), "outputs") < 1e-12


def test_radial_cosines_tell_invariant_tensors():
    net, images = network(), randn(20, 1, 6, 6, seed=1)
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def of(weights):
        outputs = torch.func.functional_call(net, weights, (images,))
        return nn.functional.cross_entropy(outputs, torch.arange(20) % 4)

    found = radial_cosines(of, weights)
    assert abs(found["0.weight"]) < 1e-13
    assert min(abs(found[name]) for name in ("4.weight", "4.bias")) > 1e-3
    w = torch.tensor([3.0, 4.0], dtype=F64)
    exact = radial_cosines(lambda p: p["a"] @ w, {"a": torch.tensor([1.0, 0.0], dtype=F64)})
    assert abs(exact["a"] - 0.6) < 1e-15


def test_batches_dtypes_and_tables():
    eta = 0.01 + 0.05 * rand(2, 3, 7, seed=4)
    table = equivalent_schedule(eta, eta * 2, momentum=0.5, rebase=3)
    for i, j in itertools.product(range(2), range(3)):
        one = equivalent_schedule(eta[i, j], eta[i, j] * 2, momentum=0.5, rebase=3)
        for whole, part in zip(table, one, strict=True):
            assert torch.equal(whole[i, j], part)
    half = equivalent_schedule(eta.float(), 0.3)
    assert half.step_sizes.dtype == half.scales.dtype == torch.float32
    assert half.shifts.dtype == torch.long
    starts = randn(4, 2, seed=6)
    slope = lambda w, t: torch.sin(w + t)  # noqa: E731
    rates = torch.full((5,), 0.1, dtype=F64)
    many = heavy_ball(slope, starts, rates, weight_decay=0.2, momenta=0.5)
    assert many.shape == (6, 4, 2)
    one = heavy_ball(slope, starts[2], rates, weight_decay=0.2, momenta=0.5)
    assert torch.equal(many[:, 2], one)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.1], 0.1), TypeError, "step_sizes must be a tensor"),
        ((torch.tensor([1]), 0.1), TypeError, "step_sizes must hold floating"),
        ((torch.tensor(0.1), 0.1), ValueError, "step_sizes must hold at least one"),
        ((torch.tensor([0.1, -0.1]), 0.1), ValueError, "step_sizes must be positive"),
        ((torch.tensor([0.1, math.inf]), 0.1), ValueError, "step_sizes must be positive"),
        ((torch.tensor([0.1]), -0.1), ValueError, "weight_decay must be finite and not below"),
        ((torch.tensor([0.1]), "0"), TypeError, "weight_decay must be a number"),
        ((torch.tensor([0.1]), torch.ones(2)), ValueError, "weight_decay must have the shape"),
        ((torch.tensor([0.1, 2.0]), 0.5), ValueError, "positive factor, got 0 at step 1"),
        ((torch.tensor([3.0]), 0.5), ValueError, "positive factor, got -0.5 at step 0"),
    ],
)
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_schedules(arguments, error, message):
    with pytest.raises(error, match=message):
        equivalent_schedule(*arguments)


@pytest.mark.usefixtures("as_at_the_users")
def test_other_bad_input():
    eta = torch.full((3,), 0.1)
    with pytest.raises(ValueError, match="momentum must be"):
        equivalent_schedule(eta, 0.1, momentum=1.0)
    with pytest.raises(ValueError, match="convention must be one of outside, inside"):
        equivalent_schedule(eta, 0.1, convention="torch")
    with pytest.raises(ValueError, match="rebase must be at least 1"):
        equivalent_schedule(eta, 0.1, rebase=0)
    with pytest.raises(OverflowError, match="float32 at step 64: pass rebase"):
        equivalent_schedule(torch.full((99,), 0.5), 1.0)
    with pytest.raises(ValueError, match="weight_decay times step_size"):
        stationary_factor(1.0, 1.0)
    with pytest.raises(ValueError, match="one entry for each step"):
        heavy_ball(lambda w, t: w, torch.ones(2), eta, momenta=torch.ones(2))
    with pytest.raises(TypeError, match="w must be a tensor"):
        heavy_ball(lambda w, t: w, [1.0], eta)
    with pytest.raises(ValueError, match="weights must hold"):
        radial_cosines(lambda p: torch.ones(()), {})
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"torch\.optim\.SGD, got Adam"):
        rescale(torch.optim.Adam([w]), 1)
    with pytest.raises(ValueError, match="without weight decay"):
        rescale(torch.optim.SGD([w], lr=1.0, weight_decay=0.1), 1)
    with pytest.raises(TypeError, match="exponent must be an integer"):
        rescale(torch.optim.SGD([w], lr=1.0), 0.5)


@pytest.mark.claim("obs-exponential-lr-mnist")
def test_record_of_the_two_runs_on_mnist():
    rows = json.loads((ROOT / "results" / "exponential.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3, 4]
    starts = []
    for row in rows:
        found = {(one["name"], one["dtype"]): one for one in row["contenders"]}
        assert found["growing", "float64"]["largest"] < 1e-12
        assert found["neither", "float64"]["largest"] > 0.2
        assert 1e-3 < found["growing", "float32"]["largest"] < 0.12
        assert {one["updates"] for one in row["contenders"]} == {468}
        assert round(row["growth"]) == 124 and round(row["centroid_accuracy"], 4) == 0.8203
        starts.append(found["growing", "float32"]["apart_at"])
    assert (min(starts), max(starts)) == (22, 45)
    assert round(sum(row["cpu_seconds"] for row in rows)) == 96
