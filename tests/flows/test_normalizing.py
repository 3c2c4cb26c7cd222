"""Claims of the chapter on the change of variables."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.optimize import brentq
from scipy.stats import norm

from nodes_tutorial.flows import (
    Chain,
    Diagonal,
    Flow,
    PlanarTransform,
    RealNVP,
    StandardNormal,
)
from nodes_tutorial.flows.planar import solve_argument
from nodes_tutorial.flows.targets import ENERGIES

F64 = {"dtype": torch.float64}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def jacobian(fun, x):
    return torch.autograd.functional.jacobian(fun, x).detach()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), **F64)


# --- one map, many maps ------------------------------------------------------------------------


@pytest.mark.claim("thm-normalizing-change")
def test_density_of_a_map_integrates_to_its_probabilities(measured):
    """x = (sinh z1, z2 + z1²): the probability of a set, by scipy, from the density of x."""

    def density(x2, x1, power):
        z1 = math.asinh(x1)
        return norm.pdf(z1) * norm.pdf(x2 - z1**2) * math.cosh(z1) ** power

    a, b = 1.3, 0.4
    exact = quad(lambda z: norm.pdf(z) * norm.cdf(b - z * z), -9, math.asinh(a))[0]

    def low(x1):
        return math.asinh(x1) ** 2 - 9

    got, wrong = (
        dblquad(density, -40, a, low, lambda x1: b, args=(p,), epsabs=1e-9)[0] for p in (-1, 1)
    )
    tail = quad(lambda z: norm.pdf(z) * norm.cdf(b - z * z), -9, math.asinh(-40))[0]
    assert measured(abs(got + tail - exact), "probability of a quadrant") < 1e-7
    assert abs(wrong - exact) > 0.1  # multiplied by the determinant


@pytest.mark.claim("thm-normalizing-change")
def test_smooth_bijection_without_smooth_inverse_has_no_bounded_density():
    """z³: the formula's value at small x grows without bound, as the true density does."""
    x = np.array([1e-3, 1e-6, 1e-9])
    formula = norm.pdf(np.cbrt(x)) / (3 * np.cbrt(x) ** 2)
    true = (norm.cdf(np.cbrt(1.001 * x)) - norm.cdf(np.cbrt(x))) / (0.001 * x)
    assert np.allclose(formula, true, rtol=1e-3) and formula[-1] > 1e5


def planar_stack(depth=4, dim=3):
    return [PlanarTransform(dim, rng(i), **F64) for i in range(depth)]


@pytest.mark.claim("cor-normalizing-composition")
def test_flow_is_one_map_whose_jacobian_is_the_product(measured):
    layers = planar_stack()
    z0, flow = randn(3, seed=9), Flow(StandardNormal(3, **F64), layers)
    points = [z0]
    for layer in layers:
        points.append(layer.push(points[-1]).detach())
    for k in range(5):  # every partial composition has its own density
        part = Flow(flow.base, layers[:k])
        J = jacobian(Chain(layers[:k]).push, z0) if k else torch.eye(3, **F64)
        exact = flow.base.log_prob(z0) - torch.linalg.slogdet(J).logabsdet
        error = (part.log_prob(points[k]) - exact).abs().detach()
        assert measured(error, "log-density") < 1e-9
    shifted = flow.base.log_prob(z0)
    for layer, late in zip(layers, points[1:], strict=True):
        shifted = shifted - layer(late)[1]
    assert (shifted - exact).abs() > 1e-3  # each determinant one point too late
    short = flow.base.log_prob(z0) - sum(
        layer(z)[1] for layer, z in zip(layers[:-1], points, strict=False)
    )
    assert (short - exact).abs() > 1e-3  # one term too few


@pytest.mark.claim("cor-normalizing-composition")
def test_samples_and_density_agree():
    flow = RealNVP(2, 4, [16], "tanh", rng(), bound=0.3, **F64)
    x, log_prob = flow.rsample_and_log_prob(5, rng(1))
    assert (flow.log_prob(x) - log_prob).abs().max() < 1e-9
    grid = torch.linspace(-12, 12, 401, **F64)
    mass = flow.log_prob(torch.cartesian_prod(grid, grid)).exp().sum() * (24 / 400) ** 2
    assert abs(mass - 1) < 1e-6


# --- planar ------------------------------------------------------------------------------------


@pytest.mark.claim("lem-normalizing-determinant")
def test_matrix_determinant_lemma(measured):
    u, w = randn(2, 50, 7)
    exact = torch.linalg.det(torch.eye(7, **F64) + u[:, :, None] * w[:, None])
    formula = 1 + (u * w).sum(-1)
    assert measured(((exact - formula) / exact.abs().clamp(min=1)).abs().max(), "det") < 1e-12
    assert (exact - (1 - (u * w).sum(-1))).abs().max() > 1


def scalar(s, a):
    return a + s * np.tanh(a)


@pytest.mark.claim("prop-normalizing-planar")
@pytest.mark.parametrize("s", [5.0, 0.0, -0.9, -1.0, -1.01, -1.5, -10.0])
def test_planar_map_is_one_to_one_exactly_from_minus_one(s):
    a = np.linspace(-15, 15, 200_001)
    rises = bool((np.diff(scalar(s, a)) > 0).all())
    assert rises == (s >= -1)
    if s < -1:  # two points with one image, in d dimensions
        w = np.array([1.0, 2.0])
        u = s * w / 5
        root = brentq(lambda a: scalar(s, a), 1e-6, 20)
        z = root * w / 5
        assert np.abs(z + u * np.tanh(w @ z)).max() < 1e-9 and np.abs(z).max() > 1e-2


@pytest.mark.claim("prop-normalizing-planar")
def test_at_minus_one_the_inverse_is_a_cube_root_and_not_differentiable():
    y = np.array([1e-6, 1e-9])
    root = np.array([brentq(lambda a, v=v: scalar(-1, a) - v, 0, 1, xtol=1e-15) for v in y])
    assert np.allclose(root, (3 * y) ** (1 / 3), rtol=1e-3)
    assert root[1] / y[1] > 50 * root[0] / y[0]  # difference quotients blow up


@pytest.mark.claim("prop-normalizing-planar")
def test_planar_determinant_and_corrected_direction(measured):
    for seed, scale in ((0, 0.1), (1, 1.0), (2, 5.0)):
        planar = PlanarTransform(4, rng(seed), **F64)
        with torch.no_grad():
            planar.u.copy_(-scale * planar.w + 0.3 * randn(4, seed=seed))
        s = float((planar.w @ planar.u).detach())
        direction, _ = planar.direction()
        got = float((planar.w @ direction).detach())
        error = abs(got - (math.log1p(math.exp(s)) - 1))
        assert measured(error, "w u-hat") < 1e-12 and got > -1
        z = randn(4, seed=seed + 10)
        exact = torch.linalg.slogdet(jacobian(planar.push, z))
        h = torch.tanh(planar.w @ z + planar.b)
        assert exact.sign == 1
        assert measured((planar(z)[1] - exact.logabsdet).abs(), "log-determinant") < 1e-12
        uncorrected = (1 + planar.w @ planar.u * (1 - h * h)).abs().log()
        assert (uncorrected - exact.logabsdet).abs() > 1e-3


@pytest.mark.claim("prop-normalizing-planar")
def test_correction_loses_no_map():
    w, u = randn(2, 3)
    u = u + (0.7 - 1 - w @ u) * w / (w @ w)  # w u = -0.3
    t = math.log(math.expm1(1 - 0.3))  # m(t) = -0.3
    other = u + (t - w @ u) * w / (w @ w)
    planar = PlanarTransform(3, rng(), **F64)
    with torch.no_grad():
        planar.w.copy_(w)
        planar.u.copy_(other)
    assert (planar.direction()[0] - u).abs().max() < 1e-12


@pytest.mark.claim("lem-normalizing-planar-root")
@pytest.mark.parametrize("gamma", [1e-12, 1e-3, 0.3, 1.0, 2.0, 50.0, 1e6])
def test_newton_is_monotone_from_the_chosen_start(gamma, measured):
    c = gamma - 1
    for y in (1e-8, 1e-3, 0.19, 0.21, 1.0, 7.0, 1e3):
        a = max(y / gamma, y - c)
        if c < 0:
            a = min([y / gamma, y - c] + ([(5 * y) ** (1 / 3)] if y <= 0.2 else []))
        root = brentq(lambda a, y=y: a + c * np.tanh(a) - y, 0, y + abs(c) + 1, xtol=1e-14)
        path = [a]
        for _ in range(20):
            h = math.tanh(path[-1])
            path.append(path[-1] - (path[-1] + c * h - y) / (gamma * (1 - h * h) + h * h))
        steps = np.diff(path) * (1 if c >= 0 else -1)
        assert (steps >= -1e-12 * max(1, root)).all()
        ours = float(solve_argument(torch.tensor(y, **F64), torch.tensor(gamma, **F64)))
        room = 1e-9 * max(1.0, root)
        assert measured(abs(ours - root) / max(1.0, root), "root") < 1e-9
        assert abs(path[-1] - root) < room


@pytest.mark.claim("lem-normalizing-planar-root")
def test_newton_from_zero_overshoots():
    """The start matters: from 0 with a small slope the first step leaps far beyond the root."""
    gamma, y = 1e-6, 0.5
    root = brentq(lambda a: a + (gamma - 1) * np.tanh(a) - y, 0, 5)
    slope = lambda a: 1 + (gamma - 1) / math.cosh(a) ** 2  # noqa: E731
    first = -(0.0 - y) / slope(0.0)
    assert first > 1e5 * root
    start = min(y / gamma, y - gamma + 1)
    second = start - (start + (gamma - 1) * math.tanh(start) - y) / slope(start)
    assert root <= second <= start < 10 * root
    ours = float(solve_argument(torch.tensor(y, **F64), torch.tensor(gamma, **F64)))
    assert abs(ours - root) < 1e-9


@pytest.mark.claim("lem-normalizing-planar-root")
def test_third_start_rests_on_a_polynomial_bound():
    a = np.linspace(0, 1, 100_001)
    assert (np.tanh(a) <= a - a**3 / 3 + 2 * a**5 / 15 + 1e-16).all()
    assert (np.tanh(a) >= a - a**3 / 3 - 1e-16).all()
    assert (a - np.tanh(a) >= a**3 / 5 - 1e-16).all()
    assert (a - np.tanh(a) < a**3 / 4)[-1]  # one fifth cannot be made one quarter


@pytest.mark.claim("prop-normalizing-again")
def test_repeated_correction_forgets_the_product(measured):
    limit = -math.log(math.e - 1)
    for s in (-8.0, -1.0, 0.0, 6.0):
        planar, seen = PlanarTransform(3, rng(), **F64), []
        with torch.no_grad():
            planar.u.add_((s - planar.w @ planar.u) * planar.w / (planar.w @ planar.w))
            for _ in range(60):
                planar.u.copy_(planar.direction()[0])
                seen.append(float(planar.w @ planar.u))
        s = seen[-1]
        assert measured(abs(s - limit), "limit") < 1e-9
        gaps = np.abs(np.array(seen) - limit)
        near = gaps[(gaps < 1e-3) & (gaps > 1e-9)]
        assert np.allclose(near[1:] / near[:-1], 1 / math.e, rtol=1e-3)
        assert (np.diff(gaps[gaps > 1e-12]) < 0).all()
    assert abs(limit + 1) > 0.4  # it is not the border of invertibility


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.claim("prop-normalizing-slide")
@pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4"])
def test_free_energy_of_wide_gaussians_falls_without_bound(name):
    """N(0, diag(s^2, 1/4)) under the energies of the package, by sums; U1 holds the flow."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(41))
    free = []
    for spread in (30.0, 300.0):
        xi = torch.linspace(-8, 8, int(16 * spread / 0.1) + 1, **F64)
        mass = norm.pdf(xi) * float(xi[1] - xi[0])
        z = torch.stack(torch.meshgrid(spread * xi, 0.5 * nodes, indexing="ij"), -1)
        energy = torch.from_numpy(mass) @ ENERGIES[name](z) @ weights / weights.sum()
        free.append(float(energy) - math.log(math.tau * math.e * spread * 0.5))
    if name == "U1":
        assert free[1] > free[0] + 1000
    else:  # the rest is where the energies change along the axis, of order 1 / spread
        assert abs(free[0] - free[1] - math.log(10)) < 0.1


@pytest.mark.claim("prop-normalizing-slide")
@pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4"])
def test_the_mass_of_the_targets_on_the_plane(name):
    """Doubling the length doubles Z of U2 to U4, so -log Z falls by log 2 each time; not of U1."""
    across = torch.linspace(-12, 12, 1201, **F64)
    masses = []
    for length in (16.0, 32.0, 64.0):  # whole periods of 4
        along = torch.linspace(-length, length, 2001, **F64)
        z = torch.stack(torch.meshgrid(along, across, indexing="ij"), -1)
        masses.append(torch.trapezoid(torch.trapezoid((-ENERGIES[name](z)).exp(), across), along))
    falls = [float((b / a).log()) for a, b in itertools.pairwise(masses)]
    for fall in falls:
        assert abs(fall - (0 if name == "U1" else math.log(2))) < 0.02


@pytest.mark.claim("prop-normalizing-slide")
@torch.no_grad()
def test_a_proper_target_is_bounded_by_its_log_z(measured):
    """U = |x|^2 with Z = pi: the least free energy of the flow is -log Z, at the target."""
    layer = Diagonal(2, **F64)
    flow = Flow(StandardNormal(2, **F64), [layer])
    z = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], **F64)  # exact for quadratics
    free = []
    for scale in (0.3, 0.5, math.sqrt(0.5), 1.0, 3.0):
        layer.log_scale.fill_(math.log(scale))
        x = layer.push(z)
        free.append(float((flow.log_prob(x) + x.square().sum(-1)).mean()))
    assert measured(abs(free[2] + math.log(math.pi)), "least free energy") < 1e-12
    assert free[0] > free[1] > free[2] < free[3] < free[4]
