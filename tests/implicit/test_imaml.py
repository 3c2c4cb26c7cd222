"""Claims of the chapter on iMAML: anchored optima, their derivative, the envelope, basins."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm
from torch import nn
from torch.func import functional_call, hessian, vmap
from torch.nn.functional import batch_norm, cross_entropy, mse_loss
from torch.profiler import ProfilerActivity, profile

from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.implicit import (
    StationarityError,
    adapt,
    anchored,
    hypergradient,
    imaml,
    moreau_envelope,
    proximal_point,
    tasks,
    through_anchor,
)
from nodes_tutorial.linalg import IndefiniteError, ResidualError
from nodes_tutorial.nets import MLP, Conv4

F64 = torch.float64
LAM = 1.3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


# --- functions -----------------------------------------------------------------------------------


def wavy(t):
    """The function of the page, on vectors of one entry."""
    return (t.square() / 20 + torch.sin(2 * t) + torch.sin(5 * t) / 2).sum()


def wavy_at(t):
    return t * t / 20 + math.sin(2 * t) + math.sin(5 * t) / 2


def wavy_slope(t):
    return t / 10 + 2 * math.cos(2 * t) + 2.5 * math.cos(5 * t)


def wavy_curvature(t):
    return 0.1 - 4 * math.sin(2 * t) - 12.5 * math.sin(5 * t)


def stationary(theta, lam=1.0, low=-12.0, high=12.0):
    """All stationary points of the anchored function, by a sweep of signs; minima and maxima."""
    slope = lambda t: wavy_slope(t) + lam * (t - theta)  # noqa: E731
    grid = np.linspace(low, high, 4001)
    signs = [slope(t) for t in grid]
    roots = [
        brentq(slope, a, b, xtol=1e-14)
        for a, b, p, q in zip(grid, grid[1:], signs, signs[1:], strict=False)
        if p * q < 0
    ]
    minima = [t for t in roots if wavy_curvature(t) > -lam]
    return minima, [t for t in roots if wavy_curvature(t) < -lam]


W = randn(6, 3, seed=1)


def bumps(x, shift):
    """A loss in three dimensions, not convex and not separable; each task has its own shift."""
    return 0.3 * torch.tanh(W @ (x - shift)).sum().square() + (W @ x - 1).cos().mean() + x.prod()


def probe(x, shift):
    """Another loss of the same variables."""
    return (x - 2 * shift).square().sum() * 0.3 + torch.sin(x).sum()


SHIFTS = 0.7 * randn(5, 3, seed=2)
STIFF = 20.0  # stiff enough for bumps to have one branch near the anchors used here


def solved(anchor, lam=STIFF, loss=bumps, data=(SHIFTS,)):
    return proximal_point(loss, anchor, *data, lam=lam, tol=1e-13, steps=100)


# --- the derivative ------------------------------------------------------------------------------


@pytest.fixture
def wrong(monkeypatch):
    """The package's own function with another Hessian put in."""

    def put(change):
        def changed(right):
            return lambda *given: lambda v: change(right(*given), v)

        for name in ("hessian_of", "literal_hessian_of"):
            monkeypatch.setattr(anchored, name, changed(getattr(tasks, name)))

    return put


def by_differences(anchor, covector, lam=STIFF, h=1e-5):
    """Transposed derivative of the anchored optimum times a covector."""
    columns = []
    for k in range(anchor.shape[-1]):
        step = h * torch.eye(anchor.shape[-1], dtype=F64)[k]
        change = solved(anchor + step, lam).point - solved(anchor - step, lam).point
        columns.append((change / (2 * h) * covector).sum(-1))
    return torch.stack(columns, -1)


@pytest.mark.claim("thm-imaml-derivative")
def test_derivative_is_that_of_the_solution(measured):
    anchor, covector = 0.3 * randn(5, 3, seed=3), randn(5, 3, seed=4)
    point = solved(anchor).point
    found = through_anchor(bumps, point, covector, SHIFTS, lam=STIFF, rtol=1e-12)
    expected = by_differences(anchor, covector)
    assert measured((found.x - expected).abs().max(), "against differences") < 1e-8
    H = vmap(hessian(bumps))(point, SHIFTS)
    dense = torch.linalg.solve(torch.eye(3, dtype=F64) + H / STIFF, covector)
    assert measured((found.x - dense).abs().max(), "against a dense solve") < 1e-10
    assert found.iterations.max() <= 4
    eigenvalues = torch.linalg.eigvalsh(torch.linalg.inv(torch.eye(3, dtype=F64) + H / STIFF))
    assert eigenvalues.min() > 0
    assert torch.allclose(
        eigenvalues.flip(-1), STIFF / (STIFF + torch.linalg.eigvalsh(H)), atol=1e-12
    )


@pytest.mark.claim("thm-imaml-derivative")
@pytest.mark.parametrize(
    "change",
    [
        lambda product, v: product(v) / 2,  # a penalty without the half
        lambda product, v: product(v) * STIFF,  # lam forgotten
        lambda product, v: -product(v),
        lambda product, v: 0 * v,  # first order
    ],
)
def test_wrong_derivatives_are_seen(change, wrong):
    anchor, covector = 0.3 * randn(5, 3, seed=3), randn(5, 3, seed=4)
    point = solved(anchor).point
    wrong(change)
    options = {"lam": STIFF, "check": False, "max_products": 50}
    found = through_anchor(bumps, point, covector, SHIFTS, **options).x
    assert (found - by_differences(anchor, covector)).abs().max() > 1e-2


@pytest.mark.claim("thm-imaml-derivative")
def test_gradient_is_that_of_a_long_unrolled_descent(measured):
    """An independent route: automatic differentiation through 400 steps of gradient descent."""
    anchor = (0.3 * randn(5, 3, seed=3)).requires_grad_()
    x = anchor
    for _ in range(400):
        slope = vmap(torch.func.grad(bumps))(x, SHIFTS) + STIFF * (x - anchor)
        x = x - 0.08 * slope
    assert slope.abs().max() < 1e-12
    value = vmap(probe)(x, SHIFTS).sum()
    (expected,) = torch.autograd.grad(value, anchor)
    point = solved(anchor.detach()).point
    covector = vmap(torch.func.grad(probe))(point, SHIFTS)
    found = through_anchor(bumps, point, covector, SHIFTS, lam=STIFF, rtol=1e-12).x
    assert measured((found - expected).abs().max(), "against unrolling") < 1e-9


@pytest.mark.claim("thm-imaml-derivative")
def test_gradient_is_the_hypergradient_of_the_anchor(measured):
    """Another function of the package, which knows of no anchors: hyper is theta itself."""
    anchor = 0.3 * randn(5, 3, seed=3)
    point = solved(anchor).point
    found, _ = hypergradient(
        lambda x, theta: vmap(bumps)(x, SHIFTS) + STIFF / 2 * (x - theta).square().sum(-1),
        lambda x, theta: vmap(probe)(x, SHIFTS),
        point,
        anchor,
        solver="exact",
        start=anchor,
    )
    covector = vmap(torch.func.grad(probe))(point, SHIFTS)
    carried = through_anchor(bumps, point, covector, SHIFTS, lam=STIFF, rtol=1e-12).x
    assert measured((carried - found).abs().max(), "against hypergradient") < 1e-10


@pytest.mark.claim("thm-imaml-derivative")
def test_anchor_is_an_explicit_function_of_the_solution():
    anchor = 0.3 * randn(5, 3, seed=3)
    point = solved(anchor).point
    back = point + vmap(torch.func.grad(bumps))(point, SHIFTS) / STIFF
    assert (back - anchor).abs().max() < 1e-11


@pytest.mark.claim("thm-imaml-derivative")
def test_at_a_fold_the_solution_has_no_derivative():
    """Without an invertible matrix: the branch ends, and its slope grows without bound."""
    fold = brentq(lambda t: wavy_curvature(t) + 1.0, 0.0, 0.3)
    end = fold + wavy_slope(fold)
    slope = lambda t, theta: wavy_slope(t) + t - theta  # noqa: E731
    slopes = []
    for gap in (1e-3, 1e-5, 1e-7):
        still = brentq(slope, fold - 0.1, fold, args=(end - gap,), xtol=1e-15)
        slopes.append(1 / (1 + wavy_curvature(still)))
        beyond = [slope(t, end + gap) for t in np.linspace(fold - 0.1, fold + 0.1, 101)]
        assert max(beyond) < 0  # no stationary point is near, and the next one is far
        assert min(abs(t - fold) for t in stationary(end + gap)[0]) > 2
    # at a distance g from the fold the slope is about 1 / sqrt(2 |f'''| g)
    assert slopes[1] / slopes[0] == pytest.approx(10, rel=0.05)
    assert slopes[2] / slopes[1] == pytest.approx(10, rel=0.05)
    point = torch.tensor([fold], dtype=F64)
    with pytest.raises(IndefiniteError, match="negative curvature"):
        through_anchor(wavy, point + 0.01, torch.ones(1, dtype=F64), lam=1.0)


@pytest.mark.claim("thm-imaml-derivative")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gradient_of_a_network_is_that_of_its_adapted_loss(dtype, measured):
    net = MLP([1, 4, 1], generator=rng(5), dtype=dtype)
    batch = Sinusoids(8, 6, dtype=dtype).sample(3, rng(6))
    tight = dtype is F64
    options = {"loss": mse_loss, "lam": 2.0, "tol": 1e-12 if tight else 1e-5}
    gradient, report = imaml(
        net, batch.support, batch.query, **options, stationary=1e-3, rtol=1e-12 if tight else 1e-6
    )
    assert all(gradient[name].shape == p.shape for name, p in net.named_parameters())
    if not tight:
        wide = MLP([1, 4, 1], generator=rng(5), dtype=F64)
        wide.load_state_dict(net.state_dict())
        x, y = ([part.double() for part in pair] for pair in (batch.support, batch.query))
        expected, _ = imaml(wide, tuple(x), tuple(y), loss=mse_loss, lam=2.0, tol=1e-10)
        error = max((gradient[n] - expected[n]).abs().max() for n in gradient)
        # an inner gradient of 1e-5 in single precision
        assert error < 5e-3 * max(g.abs().max() for g in expected.values())
        return

    def value():
        weights, _ = adapt(net, batch.support, **options)
        predicted = vmap(lambda w, x: functional_call(net, w, (x,)))(weights, batch.query_x)
        return float((predicted - batch.query_y).square().mean())

    assert value() == pytest.approx(float(report.val_loss.mean()), abs=1e-10)
    h, worst = 2e-4, 0.0
    weights = {-2: 1, -1: -8, 1: 8, 2: -1}  # five points: an error of h^4
    for name, parameter in net.named_parameters():
        for place in range(parameter.numel()):
            slope = 0.0
            for k, weight in weights.items():
                with torch.no_grad():
                    parameter.view(-1)[place] += k * h
                    slope += weight * value() / (12 * h)
                    parameter.view(-1)[place] -= k * h
            worst = max(worst, abs(slope - float(gradient[name].view(-1)[place])))
    assert measured(worst, "gradient of a network") < 1e-7
    first, _ = imaml(net, batch.support, batch.query, **options, damping=1e9)
    assert max((first[n] - gradient[n]).abs().max() for n in first) > 1e-2


# --- envelope and objective ----------------------------------------------------------------------


@pytest.mark.claim("prop-imaml-envelope")
def test_envelope_has_the_gradient_and_the_curvature_that_are_claimed(measured):
    anchor = 0.3 * randn(5, 3, seed=3)
    options = {"lam": STIFF, "tol": 1e-13}
    _, slope = moreau_envelope(bumps, anchor, SHIFTS, **options)
    point = solved(anchor).point
    own = vmap(torch.func.grad(bumps))(point, SHIFTS)
    assert (slope - own).abs().max() < 1e-11
    H = vmap(hessian(bumps))(point, SHIFTS)
    eye, h = torch.eye(3, dtype=F64), 1e-5
    bent = H @ torch.linalg.inv(eye + H / STIFF)
    for k in range(3):
        ends = [moreau_envelope(bumps, anchor + s * h * eye[k], SHIFTS, **options) for s in (1, -1)]
        error = ((ends[0][0] - ends[1][0]) / (2 * h) - slope[:, k]).abs().max()
        assert measured(error, "gradient") < 1e-8
        error = ((ends[0][1] - ends[1][1]) / (2 * h) - bent[:, k]).abs().max()
        assert measured(error, "curvature") < 1e-6
    # the objective of the adapted loss has another gradient
    assert (through_anchor(bumps, point, own, SHIFTS, lam=STIFF).x - slope).abs().max() > 1e-2


@pytest.mark.claim("prop-imaml-envelope")
def test_recorded_values_of_the_wavy_function():
    """The slopes of envelope and objective against differences of the values themselves."""
    theta, lam, h = 0.4, 1.0, 1e-5
    t = [min(stationary(theta + s * h)[0], key=lambda t: abs(t - 1)) for s in (-1, 0, 1)]
    inner = [
        wavy_at(t[i]) + lam / 2 * (t[i] - theta - s * h) ** 2 for i, s in enumerate((-1, 0, 1))
    ]
    assert (inner[2] - inner[0]) / (2 * h) == pytest.approx(lam * (theta - t[1]), abs=1e-9)
    slope = wavy_slope(t[1]) / (1 + wavy_curvature(t[1]) / lam)
    assert (wavy_at(t[2]) - wavy_at(t[0])) / (2 * h) == pytest.approx(slope, abs=1e-9)


@pytest.mark.claim("prop-imaml-envelope")
def test_minima_stay_and_their_sharpness_changes_order(measured):
    """Quadratic bowls of curvatures h: the objective's is h / (1 + h / lam)^2, most at lam."""
    curvatures = torch.tensor([[-0.4], [0.2], [0.65], [1.3], [2.6], [20.0]], dtype=F64)
    bowl = lambda x, h: (h * x.square()).sum() / 2  # noqa: E731
    step = 1e-3
    objective, envelope = [], []
    for place in (-step, 0.0, step):
        anchor = torch.full((6, 1), place, dtype=F64)
        found = proximal_point(bowl, anchor, curvatures, lam=LAM, tol=1e-14)
        objective.append(vmap(bowl)(found.point, curvatures))
        envelope.append(found.value)
    h = curvatures[:, 0]
    second = lambda v: (v[0] - 2 * v[1] + v[2]) / step**2  # noqa: E731
    exact = h / (1 + h / LAM) ** 2
    assert measured((second(objective) - exact).abs().max(), "objective") < 1e-8
    assert measured((second(envelope) - h * LAM / (LAM + h)).abs().max(), "envelope") < 1e-8
    assert second(objective).argmax() == 3 and second(objective)[3] == pytest.approx(LAM / 4)
    assert second(envelope).diff().min() > 0  # the envelope keeps the order
    assert second(objective)[5] < second(objective)[4] < second(objective)[3]
    # critical points of the objective in three dimensions are those of the loss
    anchor = 0.3 * randn(5, 3, seed=3)
    tame = lambda x, shift: bumps(x, shift) + x.pow(4).sum() / 10  # noqa: E731
    rest = proximal_point(tame, anchor, SHIFTS, lam=1e-9, tol=1e-12, steps=300).point
    assert vmap(torch.func.grad(tame))(rest, SHIFTS).norm(dim=-1).max() < 1e-7
    assert (solved(rest, loss=tame).point - rest).abs().max() < 1e-7


# --- jumps ---------------------------------------------------------------------------------------


def best(theta, lam=1.0):
    """The global minimum of the anchored function and its value."""
    minima, _ = stationary(theta, lam)
    values = [wavy_at(t) + lam / 2 * (t - theta) ** 2 for t in minima]
    place = int(np.argmin(values))
    return minima[place], values[place]


@pytest.mark.claim("prop-imaml-jumps")
def test_global_solutions_are_monotone_and_the_envelope_is_semiconcave():
    grid = np.linspace(-4, 4, 81)
    points, values = map(np.array, zip(*(best(theta) for theta in grid), strict=True))
    assert np.diff(points).min() > 0
    jumps = np.diff(points) > 0.5
    assert jumps.sum() == 3
    # the nearest minimum to an anchor of 0.95 is at 0.99, and is never the lowest
    assert not any(0 < t < 2 for t in points)
    assert (np.diff(0.5 * grid**2 - values, n=2) > -1e-12).all()  # convex
    assert (np.diff(-values, n=2) < -1e-3).any()  # the envelope alone is not
    assert (values <= [wavy_at(t) + 1e-15 for t in grid]).all()
    lowest = minimize_scalar(wavy_at, bounds=(1.8, 2.6), method="bounded", options={"xatol": 1e-12})
    point, value = best(lowest.x)
    assert point == pytest.approx(lowest.x, abs=1e-6)
    assert value == pytest.approx(lowest.fun, abs=1e-10) and values.min() >= lowest.fun - 1e-12
    # a chain of local minima that starts at the anchor is not monotone
    start = torch.tensor(grid)[:, None]
    local = proximal_point(wavy, start, lam=1.0, tol=1e-10).point[:, 0]
    assert local.diff().min() < -0.5


@pytest.mark.claim("prop-imaml-jumps")
def test_monotone_in_three_dimensions():
    """Global minima by many starts: their changes never point against those of the anchors."""
    anchors = 1.5 * randn(12, 3, seed=7)
    starts = torch.cat([anchors, 2 * randn(40, 3, seed=8)])
    shift = SHIFTS[0]
    loss = lambda x: bumps(x, shift) + 0.05 * x.pow(4).sum()  # noqa: E731
    points = []
    for theta in anchors:
        anchored_loss = lambda x, theta=theta: loss(x) + 0.2 * (x - theta).square().sum()  # noqa: E731
        ends = proximal_point(anchored_loss, starts, lam=1e-9, tol=1e-9, steps=200)
        points.append(ends.point[vmap(anchored_loss)(ends.point).argmin()])
    points = torch.stack(points)
    products = ((points[:, None] - points) * (anchors[:, None] - anchors)).sum(-1)
    assert products.min() > -1e-6
    assert (points[:, None] - points).norm(dim=-1).max() > 0.5


@pytest.mark.claim("prop-imaml-jumps")
def test_at_a_tie_the_envelope_has_a_kink_and_the_loss_a_jump(measured):
    values = lambda theta: [  # noqa: E731
        (t, wavy_at(t) + (t - theta) ** 2 / 2) for t in stationary(theta)[0]
    ]

    def gap(theta):
        first, second = sorted(values(theta), key=lambda pair: pair[1])[:2]
        return min(first, second)[1] - max(first, second)[1]

    grid = np.linspace(0, 2, 41)
    signs = [gap(t) for t in grid]
    place = next(i for i in range(40) if signs[i] < 0 < signs[i + 1])
    theta = brentq(gap, grid[place], grid[place + 1], xtol=1e-13)
    (low, _), (high, _) = sorted(sorted(values(theta), key=lambda pair: pair[1])[:2])
    h = 1e-6
    left = (best(theta)[1] - best(theta - h)[1]) / h
    right = (best(theta + h)[1] - best(theta)[1]) / h
    assert left - right == pytest.approx(high - low, abs=1e-4)  # of the kink
    assert left == pytest.approx(theta - low, abs=1e-4)
    jump = wavy_at(best(theta + h)[0]) - wavy_at(best(theta - h)[0])
    exact = ((low - theta) ** 2 - (high - theta) ** 2) / 2
    assert measured(abs(jump - exact), "jump") < 1e-5
    assert abs(jump) > 0.03


# --- a solve that stops early --------------------------------------------------------------------


@pytest.mark.claim("prop-imaml-error")
@pytest.mark.parametrize("mu", [-0.8, 0.0, 3.0])
def test_error_bound_is_attained_by_each_of_its_terms(mu):
    """One dimension, f = mu x²/2 + M x³/6; then g is a bowl, or a line."""
    M, L, slope, delta = 0.9, 1.7, 0.6, 1e-4
    zero = torch.zeros(1, dtype=F64)
    cubic = lambda x: (mu * x.square() / 2 + M * x.pow(3) / 6).sum()  # noqa: E731
    flat = lambda x: (mu * x.square() / 2).sum()  # noqa: E731

    def gradient(loss, x, covector):
        return through_anchor(loss, x, covector, lam=LAM, rtol=1e-14).x

    factor = LAM / (LAM + mu)
    near = zero + delta
    # the first term: no third derivative, g = L x²/2
    error = (gradient(flat, near, L * near) - gradient(flat, zero, 0 * near)).abs()
    assert float(error) == pytest.approx(factor * L * delta, rel=1e-9)
    # the second: a linear g, so that only the Hessian changes; x < 0 is the side of less curvature
    covector = torch.full((1,), slope, dtype=F64)
    error = (gradient(cubic, -near, covector) - gradient(cubic, zero, covector)).abs()
    least = mu - M * delta
    bound = LAM / (LAM + least) * M * slope / (LAM + least) * delta
    assert 0.5 * bound < float(error) <= bound
    # and the distance to the optimum, by the gradient: attained by a bowl
    gap = mu * near + LAM * near
    assert float(gap) / (LAM + mu) == pytest.approx(delta)


@pytest.mark.claim("prop-imaml-error")
def test_error_bound_holds_along_a_descent_in_three_dimensions():
    anchor = 0.3 * randn(5, 3, seed=3)
    exact = solved(anchor).point
    covector = lambda x: vmap(torch.func.grad(probe))(x, SHIFTS)  # noqa: E731
    carry = lambda x, v: through_anchor(bumps, x, v, SHIFTS, lam=STIFF, rtol=1e-12).x  # noqa: E731
    truth = carry(exact, covector(exact))
    for steps in (1, 2, 5):
        found = proximal_point(
            bumps, anchor, SHIFTS, lam=STIFF, method="gradient", steps=steps, lr=0.05, tol=None
        )
        delta = (found.point - exact).norm(dim=-1)
        path = [exact + s * (found.point - exact) for s in np.linspace(0, 1, 11)]
        H = torch.stack([vmap(hessian(bumps))(x, SHIFTS) for x in path])
        least = torch.linalg.eigvalsh(H).amin((0, 2))
        assert (least > -STIFF).all()
        assert (delta <= found.gradient_norm / (STIFF + least) + 1e-12).all()
        M = (H - H[0]).flatten(2).norm(dim=-1).max(0).values / delta
        L = max(torch.linalg.matrix_norm(vmap(hessian(probe))(x, SHIFTS), 2).max() for x in path)
        size = covector(exact).norm(dim=-1)
        bound = STIFF / (STIFF + least) * (L + M * size / (STIFF + least)) * delta
        error = (carry(found.point, covector(found.point)) - truth).norm(dim=-1)
        assert (error <= bound + 1e-12).all() and (error > 0).all()


@pytest.mark.claim("prop-imaml-error")
def test_error_of_a_system_that_was_stopped():
    """The bound by the residual, with a direction that attains it."""
    bowl = lambda x: (torch.tensor([-0.5, 1.0, 4.0], dtype=F64) * x.square()).sum() / 2  # noqa: E731
    covector = torch.tensor([1.0, 2.0, -1.0], dtype=F64)
    zero = torch.zeros(3, dtype=F64)
    exact = covector / (1 + torch.tensor([-0.5, 1.0, 4.0], dtype=F64) / LAM)
    for products in (1, 2):
        found = through_anchor(bowl, zero, covector, lam=LAM, max_products=products)
        bound = LAM / (LAM - 0.5) * found.residual
        error = (found.x - exact).norm()
        assert error <= bound + 1e-12
    start = torch.zeros(3, dtype=F64)  # no product at all: the residual is c itself
    along = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    exact = along / (1 - 0.5 / LAM)
    assert (start - exact).norm() == pytest.approx(float(LAM / (LAM - 0.5) * along.norm()))


# --- the variational view ------------------------------------------------------------------------


@pytest.mark.claim("prop-imaml-variational")
@pytest.mark.parametrize("s", [1.0, 0.3, 0.01])
def test_divergence_and_its_dropped_constant(s, measured):
    """KL[N(m, s² I) || N(theta, I / lam)] by PyTorch's own formula, in three dimensions."""
    m, theta = randn(3, seed=1), randn(3, seed=2)
    q = torch.distributions.Normal(m, s)
    p = torch.distributions.Normal(theta, LAM**-0.5)
    exact = torch.distributions.kl_divergence(q, p).sum()
    ratio = s * s * LAM
    constant = 1.5 * (ratio - 1 - math.log(ratio))
    found = constant + LAM / 2 * (m - theta).square().sum()
    assert measured((found - exact).abs(), "nats") < 1e-12
    assert abs(found - LAM * (m - theta).square().sum() - exact) > 1e-2  # without the half


@pytest.mark.claim("prop-imaml-variational")
def test_bound_of_the_evidence_with_its_constant_and_none_without():
    f = lambda x: 0.7 * x * x + math.cos(3 * x)  # noqa: E731
    theta = 0.4
    evidence = -math.log(
        quad(lambda x: math.exp(-f(x)) * norm.pdf(x, theta, LAM**-0.5), -9, 9, epsabs=1e-13)[0]
    )
    for m in (-0.6, 0.2, 0.9):
        for s in (0.8, 0.2, 1e-3):
            mean = quad(lambda x, m=m, s=s: f(x) * norm.pdf(x, m, s), m - 9 * s, m + 9 * s)[0]
            ratio = s * s * LAM
            bound = mean + 0.5 * (ratio - 1 - math.log(ratio)) + LAM / 2 * (m - theta) ** 2
            assert bound > evidence
            # what is left when the constant is dropped and s goes to 0
            if s == 1e-3:
                assert mean == pytest.approx(f(m), abs=1e-5)
                assert bound > evidence + 4
    lowest = minimize_scalar(
        lambda x: f(x) + LAM / 2 * (x - theta) ** 2, bounds=(0.2, 1.5), method="bounded"
    )
    assert lowest.fun < evidence - 0.1


@pytest.mark.claim("prop-imaml-variational")
def test_joint_minimum_is_that_of_the_envelopes(measured):
    """Alternating exact steps are gradient descent on the sum of the envelopes."""
    A = randn(4, 3, 3, seed=3)
    A, b = A.mT @ A, randn(4, 3, seed=4)
    bowl = lambda x, A, b: x @ A @ x / 2 - b @ x  # noqa: E731
    theta = randn(3, seed=5)
    for _ in range(3):
        _, slope = moreau_envelope(bowl, theta, A, b, lam=LAM, tol=1e-13)
        points = proximal_point(bowl, theta, A, b, lam=LAM, tol=1e-13).point
        step = theta - slope.sum(0) / (4 * LAM)
        assert measured((step - points.mean(0)).abs().max(), "a step") < 1e-12
        theta = step
    # the joint minimum over all vectors, by one dense system
    eye = torch.eye(3, dtype=F64)
    system = torch.zeros(15, 15, dtype=F64)
    for i in range(4):
        rows = slice(3 * i, 3 * i + 3)
        system[rows, rows] = A[i] + LAM * eye
        system[rows, 12:] = system[12:, rows] = -LAM * eye
    system[12:, 12:] = 4 * LAM * eye
    joint = torch.linalg.solve(system, torch.cat([b.flatten(), torch.zeros(3, dtype=F64)]))
    _, slope = moreau_envelope(bowl, joint[12:], A, b, lam=LAM, tol=1e-13)
    assert slope.sum(0).abs().max() < 1e-11 < slope.abs().max()


@pytest.mark.claim("prop-imaml-variational")
def test_a_free_lam_has_no_joint_minimum_but_the_evidence_has_one():
    """Means of groups: one observation each, y ~ N(phi, 1), phi ~ N(theta, 1 / lam)."""
    y = torch.tensor([-3.0, -1.0, 0.5, 2.5], dtype=F64)
    theta, n = y.mean(), 4

    def joint(lam, points):
        kept = (y - points).square().sum() / 2 + lam / 2 * (points - theta).square().sum()
        return float(kept - n / 2 * math.log(lam))

    levels = [joint(lam, theta.expand(4)) for lam in (1e2, 1e4, 1e8)]
    assert levels[0] - levels[1] == pytest.approx(2 * math.log(100))
    assert levels[2] < levels[1] < levels[0]

    def evidence(lam):
        law = torch.distributions.Normal(theta, math.sqrt(1 + 1 / lam))
        return -float(law.log_prob(y).sum())

    found = minimize_scalar(lambda u: evidence(math.exp(u)), bounds=(-5, 5), method="bounded")
    assert math.exp(-found.x) == pytest.approx(float(y.var(correction=0)) - 1, rel=1e-4)


# --- basins --------------------------------------------------------------------------------------


def outcome(theta, s=0.5):
    """Minima, their probabilities from a Gaussian start, and the boundaries between them."""
    minima, maxima = stationary(theta)
    ends = [-math.inf, *maxima, math.inf]
    p = np.diff(norm.cdf([(b - theta) / s for b in ends]))
    return minima, p, maxima


@pytest.mark.claim("prop-imaml-routes")
@pytest.mark.parametrize("theta", [0.5, -1.0, 1.7])
def test_derivative_is_the_sum_of_both_routes(theta, measured):
    s, h = 0.5, 1e-5
    minima, p, maxima = outcome(theta, s)
    within = sum(
        q * wavy_slope(t) / (1 + wavy_curvature(t)) for q, t in zip(p, minima, strict=True)
    )
    slopes = [norm.pdf((b - theta) / s) * (1 / (1 + wavy_curvature(b)) - 1) / s for b in maxima]
    between = sum(
        c * (wavy_at(left) - wavy_at(right))
        for c, left, right in zip(slopes, minima, minima[1:], strict=False)
    )
    mean = lambda at: sum(q * wavy_at(t) for t, q in zip(*outcome(at, s)[:2], strict=True))  # noqa: E731
    exact = (mean(theta + h) - mean(theta - h)) / (2 * h)
    assert measured(abs(within + between - exact), "both routes") < 1e-7
    assert abs(within - exact) > 0.1  # the first alone


@pytest.mark.claim("prop-imaml-routes")
def test_probabilities_are_those_of_a_descent(measured):
    theta, s, n = 0.5, 0.5, 4000
    minima, p, _ = outcome(theta, s)
    x = theta + s * randn(n, 1, seed=9)
    moved = torch.ones_like(x)
    for _ in range(600):
        moved = moved - 0.05 * ((1.1 - 4 * (2 * x).sin() - 12.5 * (5 * x).sin()) * moved - 1)
        slope = x / 10 + 2 * (2 * x).cos() + 2.5 * (5 * x).cos() + (x - theta)
        x = x - 0.05 * slope
    # a path's own derivative, by unrolling, is that of its end inside a basin
    bent = 1.1 - 4 * (2 * x).sin() - 12.5 * (5 * x).sin()
    assert (moved - 1 / bent).abs().max() < 1e-6
    ends = torch.tensor(minima, dtype=F64)
    nearest = (x - ends).abs().min(1)
    assert nearest.values.max() < 1e-6
    share = torch.bincount(nearest.indices, minlength=len(minima)).double() / n
    # five standard deviations of a share
    assert (share - torch.tensor(p)).abs().max() < 5 * 0.5 / math.sqrt(n)
    error = abs(float(share[ends.sub(0.95).abs().argmin()]) - 0.53)
    assert measured(error, "share of the middle basin") < 0.04


# --- the record ----------------------------------------------------------------------------------


@pytest.mark.claim("obs-imaml-omniglot")
def test_record_says_what_the_chapter_says():
    path = Path(__file__).parents[2] / "results" / "imaml.json"
    rows = [row for row in json.loads(path.read_text())["rows"] if row["seed"] < 3]
    by_method = {m: [row for row in rows if row["method"] == m] for m in ("maml", "imaml")}
    assert all(sorted(r["seed"] for r in found) == [0, 1, 2] for found in by_method.values())
    assert len({row["parameters"] for row in rows} | {r["settings"]["tasks"] for r in rows}) == 2
    maml = [
        max(p["accuracy"] for p in row["curve"] if p["seconds"] < 55) for row in by_method["maml"]
    ]
    other = [row["curve"][-1] for row in by_method["imaml"]]
    assert max(point["seconds"] for point in other) < 56
    assert min(maml) - max(point["accuracy"] for point in other) > 0.1
    assert all(row["pixels"] < point["accuracy"] for row, point in zip(rows, other, strict=False))


@pytest.mark.claim("obs-imaml-sinusoids")
def test_record_of_sinusoids_says_what_the_chapter_says():
    path = Path(__file__).parents[2] / "results" / "sinusoids.json"
    every = [row for row in json.loads(path.read_text())["rows"] if row["seed"] < 5]
    ends = {}
    for method, rate in (("maml", 0.01), ("imaml", 0.003), ("imaml", 0.01)):
        rows = [row for row in every if (row["method"], row["rate"]) == (method, rate)]
        assert [row["seed"] for row in rows] == [0, 1, 2, 3, 4]
        assert len({(r["parameters"], r["settings"]["tasks"]) for r in rows}) == 1
        ends[method, rate] = [row["curve"][-1] for row in rows]
    errors = {key: [point["adapted"] for point in points] for key, points in ends.items()}
    means = {key: sum(found) / 5 for key, found in errors.items()}
    assert means["imaml", 0.003] - means["maml", 0.01] > 0.1
    assert min(errors["imaml", 0.003]) > max(errors["maml", 0.01])
    assert means["imaml", 0.003] < means["imaml", 0.01]  # the rate that is shown favours iMAML
    assert ends["maml", 0.01][0]["seconds"] < ends["imaml", 0.003][0]["seconds"]
    assert max(map(max, errors.values())) < Sinusoids(10, 10).floors()["function"] / 2


# --- the package ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton", "gradient"])
def test_a_task_is_solved_as_if_it_were_alone(method):
    anchor = 0.3 * randn(5, 3, seed=3)
    options = {"lam": STIFF, "method": method, "lr": 0.05, "steps": 300, "tol": 1e-8}
    together = proximal_point(bumps, anchor, SHIFTS, **options)
    assert (together.stationarity <= 1e-8).all()
    for i in range(5):
        alone = proximal_point(bumps, anchor[i : i + 1], SHIFTS[i : i + 1], **options)
        assert torch.allclose(alone.point[0], together.point[i], atol=1e-12)
        assert int(alone.steps[0]) == int(together.steps[i])
    shared = proximal_point(bumps, anchor[0], SHIFTS, **options).point
    assert torch.allclose(
        shared, proximal_point(bumps, anchor[:1].expand(5, 3), SHIFTS, **options).point
    )


def test_one_number_is_a_point_and_single_precision_is_kept():
    bowl = lambda x: 3 * (x - 1).square().sum() / 2  # noqa: E731
    for dtype in (torch.float32, F64):
        found = proximal_point(bowl, torch.zeros(1, dtype=dtype), lam=1)
        assert found.point.dtype == dtype and found.point.shape == (1,)
        assert float(found.point) == pytest.approx(0.75)
        solution = through_anchor(bowl, found.point, torch.ones(1, dtype=dtype), lam=1)
        assert solution.x.dtype == dtype and float(solution.x) == pytest.approx(0.25)
        assert solution.residual.shape == ()
    line = lambda x: (2 * x).sum()  # noqa: E731  no curvature at all
    assert float(proximal_point(line, torch.zeros(1), lam=2.0).point) == pytest.approx(-1)
    assert float(through_anchor(line, torch.zeros(1), torch.ones(1), lam=2.0).x) == 1


def test_an_anchor_that_is_stationary_stays():
    bowl = lambda x: x.square().sum()  # noqa: E731
    found = proximal_point(bowl, torch.zeros(2, 3, dtype=F64), lam=1.0)
    assert (found.point == 0).all() and (found.stationarity == 0).all()
    assert (found.steps == 0).all()


def test_newton_leaves_a_maximum_and_a_saddle():
    saddle = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4  # noqa: E731
    start = torch.tensor([[0.5, 1e-3], [0.1, -1e-3]], dtype=F64)
    found = proximal_point(saddle, start, lam=0.1, tol=1e-10, steps=100)
    assert (found.stationarity < 1e-10).all()
    assert found.point[:, 1].abs().min() > 1.3


def peak_bytes(work):
    """The most that was allocated at once, by PyTorch's own profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    changes = [
        e.nbytes() for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"
    ]
    return int(np.cumsum(changes).max())


def test_memory_does_not_grow_with_the_inner_steps():
    """Nothing is kept from the inner solve; what is allocated at most is the same to the byte."""
    net = MLP([1, 16, 1], generator=rng(0), dtype=F64)
    batch = Sinusoids(8, 6, dtype=F64).sample(2, rng(1))
    options = {"loss": mse_loss, "lam": 2.0, "method": "gradient", "tol": None, "stationary": None}
    gradient, report = imaml(net, batch.support, batch.query, steps=3, **options)
    for kept in (*gradient.values(), *report):
        assert not kept.requires_grad and kept.grad_fn is None
    assert all(p.grad is None for p in net.parameters())
    few, many = (
        peak_bytes(lambda k=k: imaml(net, batch.support, batch.query, steps=k, **options))
        for k in (3, 48)
    )
    assert few == many > 10_000


def test_frozen_parameters_and_buffers_stay():
    net = MLP([1, 4, 1], generator=rng(0), dtype=F64)
    frozen = net.layers[0].weight.requires_grad_(False)
    batch = Sinusoids(8, 6, dtype=F64).sample(2, rng(1))
    gradient, report = imaml(net, batch.support, batch.query, loss=mse_loss, lam=2.0)
    assert len(gradient) == 3 and not any(gradient[n].shape == frozen.shape for n in gradient)
    assert report.points.shape == (2, 4 + 4 + 1)


def test_convolutions_and_classes():
    images, labels = torch.rand(30, 1, 12, 12, generator=rng(0)), torch.arange(6).repeat(5)
    sampler = TaskSampler(images, labels, ways=3, shots=1, queries=2)
    batch = sampler.sample(2, rng(1))
    net = Conv4(width=4, side=12, classes=3, generator=rng(2))
    options = {"method": "gradient", "steps": 4, "tol": None, "stationary": None}
    gradient, report = imaml(
        net, batch.support, batch.query, loss=cross_entropy, lam=2.0, max_products=3, **options
    )
    assert set(gradient) == {n for n, _ in net.named_parameters()}
    assert report.products.max() <= 3 and report.residual.shape == (2,)
    with pytest.raises(StationarityError, match=r"stationary = 0.0001 .* after 4 steps"):
        imaml(
            net,
            batch.support,
            batch.query,
            loss=cross_entropy,
            lam=2.0,
            **{**options, "stationary": 1e-4},
        )


def test_products_are_right_for_functions_that_pytorch_gets_wrong():
    """Batch normalization with weights of its own for each task, against one Hessian at a time."""
    images, weights, v = randn(2, 6, 3, 2, 2, seed=6), randn(2, 6, seed=7), randn(2, 6, seed=8)

    def loss(w, x):
        x = torch.tanh(x * w[:3, None, None])
        return torch.tanh(batch_norm(x, None, None, w[3:], w[:3], training=True)).pow(3).sum()

    def written_out(w, x):
        x = torch.tanh(x * w[:3, None, None])
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) * (variance + 1e-5).rsqrt()
        return torch.tanh(x * w[3:, None, None] + w[:3, None, None]).pow(3).sum()

    assert loss(weights[0], images[0]) == pytest.approx(float(written_out(weights[0], images[0])))
    eye = torch.eye(6, dtype=F64)
    systems = [eye + hessian(written_out)(w, x) / 60 for w, x in zip(weights, images, strict=True)]
    found = through_anchor(loss, weights, v, images, lam=60.0, rtol=1e-12).x
    wanted = torch.linalg.solve(torch.stack(systems), v)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    rows = torch.stack(
        [hessian(bumps)(x, s) @ u for x, s, u in zip(SHIFTS, SHIFTS, SHIFTS, strict=True)]
    )
    for product in (tasks.hessian_of, tasks.literal_hessian_of):
        torch.testing.assert_close(product(bumps, SHIFTS, (SHIFTS,))(SHIFTS), rows)


def test_released_matrix_is_half_the_derivative_of_a_stiffer_anchor():
    """2I + H / 12, of the program of the paper for lam = 2, and what a page says of it."""
    A = randn(20, 20, seed=9)
    H, c = A @ A.T / 5, randn(20, seed=10)
    quadratic = lambda x: x @ H @ x / 2  # noqa: E731
    released = torch.linalg.solve(2 * torch.eye(20, dtype=F64) + H / 12, c)
    zero = torch.zeros(20, dtype=F64)
    for options in ({"lam": 24.0}, {"lam": 2.0, "damping": 11}):
        found = through_anchor(quadratic, zero, c, rtol=1e-12, **options).x
        torch.testing.assert_close(released, found / 2, rtol=1e-9, atol=1e-12)
    exact = through_anchor(quadratic, zero, c, lam=2.0, rtol=1e-12).x
    assert released @ exact / released.norm() / exact.norm() < 0.99


def test_negative_curvature_and_unsolved_systems_are_errors():
    hill = lambda x: -3 * x.square().sum() / 2  # noqa: E731
    covector = torch.tensor([1.0, 2.0], dtype=F64)
    with pytest.raises(IndefiniteError, match="positive definite"):
        through_anchor(hill, torch.zeros(2, dtype=F64), covector, lam=1.0)
    kept = through_anchor(hill, torch.zeros(2, dtype=F64), covector, lam=1.0, check=False)
    assert bool(kept.negative_curvature) and torch.equal(kept.x, covector)
    assert through_anchor(hill, torch.zeros(2, dtype=F64), covector, lam=1.0, damping=9).converged
    d = 40
    harsh = lambda x: (torch.logspace(-3, 9, d, dtype=F64) * x.square()).sum() / 2  # noqa: E731
    with pytest.raises(ResidualError, match="residual"):
        through_anchor(
            harsh, torch.zeros(d, dtype=F64), torch.ones(d, dtype=F64), lam=1e-6, rtol=1e-15
        )


def bowl(x, c):
    return (x - c).square().sum()


ANCHOR, CENTERS = torch.zeros(2), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"lam": 0.0}, ValueError, "lam must be a positive number"),
        ({"lam": -1.0}, ValueError, "lam must be a positive number"),
        ({"lam": math.inf}, ValueError, "lam must be a positive number"),
        ({"lam": "1"}, TypeError, "lam must be a positive number"),
        ({"method": "adam"}, ValueError, "method must be one of"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"lr": 0.0}, ValueError, "lr must be a positive number"),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"anchor": torch.zeros(2, dtype=torch.long)}, TypeError, "floating-point"),
        ({"anchor": torch.zeros(2, 2)}, ValueError, r"same number of tasks .* \[3, 2\]"),
        ({"anchor": torch.zeros(1, 1, 2)}, ValueError, "anchor must have the shape"),
        ({"loss": lambda x, c: x - c}, ValueError, "one number for each task"),
    ],
)
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_arguments_of_a_solve_are_named(change, error, reason):
    arguments = {"loss": bowl, "anchor": ANCHOR, "lam": 1.0, **change}
    with pytest.raises(error, match=reason):
        proximal_point(arguments.pop("loss"), arguments.pop("anchor"), CENTERS, **arguments)


@pytest.mark.usefixtures("as_at_the_users")
def test_other_bad_arguments_are_named():
    with pytest.raises(TypeError, match="data must be tensors, got list"):
        proximal_point(bowl, ANCHOR, [[0.0, 0.0]], lam=1.0)
    with pytest.raises(ValueError, match="covector must have the shape of point"):
        through_anchor(bowl, CENTERS, torch.zeros(3), CENTERS, lam=1.0)
    with pytest.raises(ValueError, match="damping must be a number >= 0"):
        through_anchor(bowl, CENTERS, CENTERS, CENTERS, lam=1.0, damping=-1)
    with pytest.raises(ValueError, match="max_products must be at least 1"):
        through_anchor(bowl, CENTERS, CENTERS, CENTERS, lam=1.0, max_products=0)
    with pytest.raises(FloatingPointError, match="finite gradients"):
        proximal_point(lambda x: x.sqrt().sum(), torch.zeros(2), lam=1.0, method="gradient")
    net = MLP([1, 4, 1])
    x, y = torch.rand(3, 5, 1), torch.rand(3, 5, 1)
    with pytest.raises(ValueError, match="query must have as many tasks as support, 3, got 2"):
        imaml(net, (x, y), (x[:2], y[:2]), loss=mse_loss, lam=1.0)
    with pytest.raises(ValueError, match="stationary must be"):
        imaml(net, (x, y), (x, y), loss=mse_loss, lam=1.0, stationary=-1.0)
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got function"):
        imaml(bowl, (x, y), (x, y), loss=mse_loss, lam=1.0)
    with pytest.raises(ValueError, match="trainable parameters"):
        imaml(nn.ReLU(), (x, y), (x, y), loss=mse_loss, lam=1.0)
