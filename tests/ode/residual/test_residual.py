"""Claims of the chapter on residual networks, and the modules behind it."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from nodes_tutorial.ode.residual.convergence import Constants, euler_error_bound, field_constants
from nodes_tutorial.ode.residual.network import (
    ResidualNet,
    residual_states,
    sample_layers,
)
from nodes_tutorial.ode.residual.picard import picard_step
from nodes_tutorial.ode.residual.width import interpolating_net
from tests.ode.residual_cases import exact, gen, smooth_net

# --- width -------------------------------------------------------------------------------------

MODULI = {  # function, its modulus of continuity
    "root": (torch.sqrt, math.sqrt),
    "kink": (lambda x: 3 * (x - 0.3).abs(), lambda d: 3 * d),
    "wave": (lambda x: torch.sin(6 * x) / 6, lambda d: d),
}


@pytest.mark.claim("thm-residual-width")
@pytest.mark.parametrize("name", MODULI)
@pytest.mark.parametrize("n", [3, 20, 200])
@torch.no_grad()
def test_width_bound(name, n, measured):
    g, omega = MODULI[name]
    x = torch.linspace(0, 1, 5001, dtype=torch.float64)
    nodes = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    relu = interpolating_net(g(nodes), "relu")(x[:, None])[:, 0]
    oracle = torch.from_numpy(np.interp(x.numpy(), nodes.numpy(), g(nodes).numpy()))
    assert measured((relu - oracle).abs().max(), "ReLU network against numpy.interp") < 1e-12
    assert (relu - g(x)).abs().max() <= omega(1 / n)
    tanh = interpolating_net(g(nodes), "tanh")(x[:, None])[:, 0]
    assert (tanh - g(x)).abs().max() <= 2.32 * omega(1 / n)


@pytest.mark.claim("thm-residual-width")
@pytest.mark.parametrize("n", [3, 10])
@torch.no_grad()
def test_width_bound_is_attained(n, measured):
    """sin^2(pi n x) vanishes at all nodes and reaches 1 between them: the error is omega(1/n)."""
    x = torch.linspace(0, 1, 200 * n + 1, dtype=torch.float64)[:, None]
    zero = torch.zeros(n + 1, dtype=torch.float64)
    error = (interpolating_net(zero, "relu")(x) - torch.sin(torch.pi * n * x) ** 2).abs().max()
    assert measured(abs(error - 1), "ReLU against the modulus of continuity") < 1e-12


@pytest.mark.claim("thm-residual-width")
@pytest.mark.parametrize("n", [11, 41])
@torch.no_grad()
def test_width_bound_of_the_staircase_is_attained_by_more_than_half(n, measured):
    """Shelves that rise by 1 in each interval on both sides of a flat one with a notch of depth 1.

    A shift by 1/n moves every shelf to the next one, so the modulus at 1/n is 1. In the middle of
    the notch all stairs are too high: the error is 1 + 2 (S(-1) + S(-2) + ...) = 1.28.
    """
    j = (n - 1) // 2
    node = torch.arange(n + 1, dtype=torch.float64)
    values = (node - j - 0.5).abs() - 0.5
    fine = 64
    x = torch.arange(n * fine + 1, dtype=torch.float64) / fine  # in units of 1/n
    away = (x - j - 0.5).abs()
    g = away.floor() - 1 + (2 * away.frac()).clamp(max=1)
    assert (g[::fine] - values).abs().max() < 1e-12
    windows = g.unfold(0, fine + 1, 1)
    modulus = (windows.amax(1) - windows.amin(1)).max()
    assert abs(modulus - 1) < 1e-12
    net = interpolating_net(values, "tanh")
    error = (net((x / n)[:, None])[:, 0] - g).abs().max()
    tail = 2 * sum(1 / (1 + math.exp(2 * k)) for k in range(1, 30))
    assert measured(abs(error - 1 - tail), "staircase against its closed form") < 1e-4
    assert 0.5 * 2.32 < error <= 2.32


@pytest.mark.claim("thm-residual-width")
@torch.no_grad()
def test_width_needs_slope_differences_and_steep_steps():
    n, g = 100, MODULI["wave"][0]
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    values = g(torch.linspace(0, 1, n + 1, dtype=torch.float64))
    wrong = interpolating_net(values, "relu")
    wrong[2].weight.copy_(n * values.diff()[None])  # slopes, not differences of slopes
    assert (wrong(x[:, None])[:, 0] - g(x)).abs().max() > 0.5
    flat = interpolating_net(values, "tanh")
    for p in flat[0].parameters():
        p.div_(n)  # steps of fixed steepness do not sharpen with n
    assert (flat(x[:, None])[:, 0] - g(x)).abs().max() > 10 / n


# --- Grönwall ----------------------------------------------------------------------------------


def gronwall(a, b, c, t):
    return a * math.exp(b * t) + c * (math.expm1(b * t) / b if b else t)


@pytest.mark.claim("lem-residual-gronwall")
@pytest.mark.parametrize("a, b, c", [(1.0, 2.0, 0.5), (0.3, 0.0, 1.0), (0.0, 4.0, 0.1)])
def test_gronwall_is_attained(a, b, c, measured):
    """The bound itself satisfies the hypothesis with equality: it cannot be improved."""
    for t in (0.3, 1.0, 1.7):
        integral, _ = quad(lambda s: b * gronwall(a, b, c, s) + c, 0, t, epsabs=1e-13)
        error = abs(gronwall(a, b, c, t) - (a + integral)) / gronwall(a, b, c, t)
        assert measured(error, "integral hypothesis at the bound") < 1e-12
    h, e = 1.7 / 10**5, a
    for _ in range(10**5):
        e = (1 + h * b) * e + h * c
    assert e <= gronwall(a, b, c, 1.7) * (1 + 1e-10)
    assert e >= gronwall(a, b, c, 1.7) * (1 - 1.7 * h * b * b - 1e-9)  # (1 + hb)^l -> e^{bt}


@pytest.mark.claim("lem-residual-gronwall")
def test_gronwall_holds_and_linear_growth_does_not():
    a, b, c, steps, h = 0.5, 3.0, 0.2, 400, 0.005
    slack = torch.rand(1000, steps, generator=gen(), dtype=torch.float64)
    slack[0] = 0
    e = torch.full((1000,), a, dtype=torch.float64)
    for step in range(steps):
        e = ((1 + h * b) * e + h * c) * (1 - 0.01 * slack[:, step])
        assert (e <= gronwall(a, b, c, (step + 1) * h)).all()
    assert e[0] > 10 * (a + (b * a + c) * steps * h)  # without the exponential it is wrong


# --- Picard-Lindelöf ---------------------------------------------------------------------------


@pytest.mark.claim("thm-residual-picard")
def test_picard_iterates_are_taylor_polynomials(measured):
    K, t = 2.0, torch.linspace(0, 1, 20001, dtype=torch.float64)
    u = torch.ones(len(t), 1, dtype=torch.float64)
    taylor, term = torch.ones_like(u), torch.ones_like(u)
    for k in range(1, 25):
        u = picard_step(lambda s, y: K * y, u, t)
        term = term * K * t[:, None] / k
        taylor = taylor + term
        assert measured((u - taylor).abs().max(), "iterate against Taylor polynomial") < 1e-7
    assert measured((u - torch.exp(K * t)[:, None]).abs().max(), "limit against e^(Kt)") < 1e-7


@pytest.mark.claim("thm-residual-picard")
def test_picard_contracts_in_the_weighted_norm_only(measured):
    net = smooth_net(scale=2.0)
    K = field_constants(net, radius=5.0).K
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    y0 = torch.tensor([0.4, -0.7], dtype=torch.float64)
    with torch.no_grad():
        for seed in range(5):
            kick = torch.randn(2, 6, 2, generator=gen(seed), dtype=torch.float64)
            modes = torch.sin(torch.pi * torch.arange(1, 7) * t[:, None])
            u, v = (y0 + modes @ k for k in kick)

            def norm(x):
                return (x.norm(dim=1) * torch.exp(-2 * K * t)).max()

            images = picard_step(net.field, u, t), picard_step(net.field, v, t)
            assert norm(images[0] - images[1]) <= norm(u - v) / 2
        u = y0.expand(len(t), 2)
        for _ in range(30):
            u = picard_step(net.field, u, t)
    reference = exact(net, y0, t.numpy())
    assert measured((u - reference).abs().max(), "fixed point against DOP853") < 1e-6
    grown = picard_step(lambda s, y: 3 * y, torch.ones(len(t), 1, dtype=torch.float64), t) - 1
    assert grown.abs().max() > 2.9  # in the plain norm the map stretches 0 and 1 apart: K T = 3


@pytest.mark.claim("thm-residual-picard")
def test_the_factor_one_half_is_attained_in_the_limit():
    K, t = 10.0, torch.linspace(0, 1, 20001, dtype=torch.float64)
    v = torch.zeros(len(t), 1, dtype=torch.float64)
    u = torch.expm1(2 * K * t)[:, None]  # the same start, so that the same y_0 is used

    def norm(x):
        return ((x[:, 0]).abs() * torch.exp(-2 * K * t)).max()

    images = [picard_step(lambda s, y: K * y, x, t) for x in (u, v)]
    share = norm(images[0] - images[1]) / norm(u - v)
    assert 0.49 < share <= 0.5 + 1e-6  # the trapezoidal rule errs by 1e-7 here


@pytest.mark.claim("thm-residual-picard")
def test_picard_needs_lipschitz_in_y_not_in_t():
    """y' = 2 sqrt|y| does not depend on t at all, yet 0 and t^2 both start at 0."""
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    for u in (torch.zeros_like(t), t**2):
        image = picard_step(lambda s, y: 2 * y.abs().sqrt(), u, t[:, 0])
        assert (image - u).abs().max() < 1e-12  # both are fixed points
    # y' = 3 sqrt|t - 1/2| y is not Lipschitz in t and has its one solution in closed form
    sol = solve_ivp(lambda s, y: 3 * abs(s - 0.5) ** 0.5 * y, (0, 1), [1.0], rtol=1e-10, atol=1e-12)
    assert abs(sol.y[0, -1] - math.exp(2 * 2 * 0.5**1.5)) < 1e-6


# --- Euler -------------------------------------------------------------------------------------


@pytest.mark.claim("lem-residual-constants")
def test_constants_bound_the_field(measured):
    for seed in range(4):
        net = smooth_net(seed, scale=1.5, modes=4)
        R = 3.0
        K, lam, M = field_constants(net, R)
        t, s = torch.rand(2, 4000, 1, generator=gen(seed), dtype=torch.float64)
        s = t + 1e-3 * (s - t)
        x, y = torch.randn(2, 4000, 2, generator=gen(seed + 9), dtype=torch.float64)
        y = y * (
            R
            * torch.rand(4000, 1, generator=gen(5), dtype=torch.float64)
            / y.norm(dim=1, keepdim=True)
        )
        with torch.no_grad():
            f = net.field(t, y)
            assert (f.norm(dim=1) <= M).all()
            assert ((net.field(s, y) - f).norm(dim=1) <= lam * (s - t).abs()[:, 0]).all()
            near = y + 1e-3 * x
            assert ((net.field(t, near) - f).norm(dim=1) <= K * (near - y).norm(dim=1)).all()
    one = smooth_net(dim=1, width=1, modes=1)  # V tanh(W y + b): slope V W where the unit is at 0
    V, W, b = (float(p.detach()) for p in (one.V, one.W, one.b))
    y = torch.tensor([-b / W], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(one.field(torch.zeros((), dtype=torch.float64), y).sum(), y)
    K, lam, M = field_constants(one, 1.0)
    assert measured(abs(abs(float(slope)) - K), "K attained") < 1e-12
    assert lam == 0 and abs(V) == M


@pytest.mark.claim("lem-residual-constants")
@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize("curve", ["V", "W", "b"])
def test_each_term_of_lambda_is_attained(curve, units, measured):
    """Equal units in one dimension; only one weight moves, as size * cos(pi t), steepest at 1/2."""
    size, radius, step = 1e-2, 3.0, 1e-4
    net = smooth_net(dim=1, width=units, modes=2)
    with torch.no_grad():
        for weight in (net.V, net.W, net.b):
            weight.zero_()
        if curve == "V":
            net.b[0] = 20.0  # tanh is 1
        else:
            net.V[0] = 2.0
        getattr(net, curve)[1] = size
    claimed = {"V": math.pi * size, "W": 2 * math.pi * size * radius, "b": 2 * math.pi * size}
    K, lam, M = field_constants(net, radius)
    assert measured(abs(lam / (units * claimed[curve]) - 1), "Lambda against its one term") < 1e-9
    y = torch.full((1,), radius, dtype=torch.float64)
    zero, early, late = torch.tensor([0.0, 0.5 - step, 0.5 + step], dtype=torch.float64)
    with torch.no_grad():
        seen = abs(float(net.field(late, y) - net.field(early, y))) / (2 * step)
        largest, steep = abs(float(net.field(zero, y))), float(net.field(zero, 1e-4 * y)) / 1e-4
    assert 0.999 * lam < seen <= lam
    if curve == "V":  # all units say 1
        assert 0.999 * M < largest <= M
    if curve == "W":  # all units are at their steepest place
        assert 0.999 * K < steep / radius <= K


@pytest.mark.claim("thm-residual-euler")
@pytest.mark.parametrize("seed", range(3))
def test_euler_bound_and_slope(seed, measured):
    net = smooth_net(seed)
    y0 = torch.randn(20, 2, generator=gen(seed + 7), dtype=torch.float64)
    M = field_constants(net, 1.0).M
    constants = field_constants(net, float(y0.norm(dim=1).max()) + M)
    depths = [4 * 2**k for k in range(9)]
    t = np.linspace(0, 1, depths[-1] + 1)
    y = exact(net, y0, t)
    errors = []
    with torch.no_grad():
        for L in depths:
            gap = (net.states(y0, depth=L) - y[:: depths[-1] // L]).norm(dim=-1).max().item()
            assert gap <= euler_error_bound(constants, L)
            errors.append(gap)
    slope, _ = np.polyfit(np.log(depths), np.log(errors), 1)
    assert measured(abs(slope + 1), "slope of log error against log depth, plus one") < 0.05


@pytest.mark.claim("thm-residual-euler")
def test_euler_constant_cannot_be_halved(measured):
    y0 = torch.zeros(1, 1, dtype=torch.float64)
    for L in (1, 7, 100):
        # f = t: K = 0, lam = 1. The sum of t_l h is 1/2 - h/2, the solution ends at 1/2.
        end = residual_states(sample_layers(lambda t, y: t + 0 * y, L, y0), y0, 1 / L)[-1].item()
        bound = euler_error_bound(Constants(0.0, 1.0, 1.0), L)
        assert measured(abs(0.5 - end - bound), "f = t against the bound") < 1e-12
        assert euler_error_bound(Constants(0.0, 0.0, 1.0), L) < 0.5 - end  # lam dropped: wrong
        assert L == 1 or 0.5 - end > bound / L  # a bound of second order, C h^2: wrong
        # f = K y with K = 0.1, lam = 0, M = K e^K: the bound is e^K K (e^K - 1) h / 2
        K = 0.1
        error = math.exp(K) - (1 + K / L) ** L
        assert error <= euler_error_bound(Constants(K, 0.0, K * math.exp(K)), L)
        assert error > euler_error_bound(Constants(K, 0.0, 0.0), L)  # K M dropped: wrong
        assert error > 0.5 * euler_error_bound(Constants(K, 0.0, K * math.exp(K)), L)


# --- the modules -------------------------------------------------------------------------------


def test_free_and_smooth_weights():
    y = torch.randn(5, 3, generator=gen())
    free = ResidualNet(3, 4, depth=6, generator=gen())
    assert free.W.shape == (6, 4, 3) and free(y).shape == (5, 3)
    assert torch.equal(free.states(y)[-1], free(y))
    manual = y
    for V, W, b in zip(free.V, free.W, free.b, strict=True):
        manual = manual + torch.tanh(manual @ W.T + b) @ V.T / 6
    assert torch.allclose(free(y), manual, atol=1e-6)
    smooth = ResidualNet(3, 4, depth=6, modes=2, generator=gen())
    by_field = residual_states(sample_layers(smooth.field, 6, y), y, 1 / 6)
    assert torch.allclose(smooth.states(y), by_field, atol=1e-6)
    assert smooth.states(y, depth=9).shape == (10, 5, 3)
    assert torch.equal(ResidualNet(3, 4, 6, modes=2, generator=gen()).W, smooth.W)


def test_weights_follow_the_cosine_curve():
    net = ResidualNet(2, 3, depth=4, T=2.0, modes=3, generator=gen()).double()
    t = torch.tensor(0.7, dtype=torch.float64)
    expected = sum(net.W[k] * math.cos(math.pi * k * 0.7 / 2) for k in range(3))
    assert torch.allclose(net.weights(t)[1], expected, atol=1e-12)


def test_field_takes_one_time_per_sample():
    net = smooth_net()
    y = torch.randn(7, 2, generator=gen(), dtype=torch.float64)
    t = torch.rand(7, 1, generator=gen(1), dtype=torch.float64)
    one_by_one = torch.stack([net.field(s[0], x) for s, x in zip(t, y, strict=True)])
    assert torch.allclose(net.field(t, y), one_by_one, atol=1e-12)


def test_free_weights_are_no_field():
    net = ResidualNet(2, 3, depth=4, generator=gen())
    with pytest.raises(ValueError, match="modes"):
        net.field(torch.tensor(0.0), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="depth"):
        net.states(torch.zeros(1, 2), depth=8)


@pytest.mark.parametrize("bad", [{"dim": 0}, {"width": 0}, {"depth": 0}, {"modes": 0}])
def test_sizes_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ResidualNet(**({"dim": 2, "width": 3, "depth": 4} | bad))


def test_other_bad_input():
    with pytest.raises(ValueError, match="depth"):
        sample_layers(lambda t, y: y, 0, torch.zeros(1))
    with pytest.raises(ValueError, match="activation"):
        interpolating_net(torch.zeros(3), "sine")
    with pytest.raises(ValueError, match="values"):
        interpolating_net(torch.zeros(1))
