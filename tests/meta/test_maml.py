"""Claims of the chapter on MAML: the gradient through the steps, what its relatives leave out."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap
from torch.nn.functional import cross_entropy, mse_loss

from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.implicit import imaml, proximal_point
from nodes_tutorial.implicit.tasks import FlatModule
from nodes_tutorial.meta import (
    adapt,
    bayesian_maml,
    chaser_loss,
    maml,
    predict,
    reptile,
    svgd,
    svgd_direction,
    unrolled_loss,
)
from nodes_tutorial.meta.batched import BATCHINGS
from nodes_tutorial.meta.descent import Descent
from nodes_tutorial.nets import MLP, Conv4

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=dtype)


# --- tasks of functions: a module that is its own parameter --------------------------------------


class Point(nn.Module):
    """A vector; its outputs are the vector, once for each of the points of a task."""

    def __init__(self, start):
        super().__init__()
        self.theta = nn.Parameter(start.clone())

    def forward(self, x):
        return self.theta.expand(len(x), -1)


A, B = (m @ m.mT / 3 for m in (randn(5, 4, 4, seed=s) for s in (1, 2)))
B = B - 0.3 * torch.eye(4, dtype=F64)  # a query may be indefinite
CENTERS, GOALS = randn(5, 1, 4, seed=3), randn(5, 1, 4, seed=4)
THETA = randn(4, seed=5)


def quadratics(lr, order, steps, **options):
    """The package on quadratics: the inputs carry the matrix, the targets the center."""

    class Bowl(Point):
        def forward(self, x):  # one point: a matrix, flat
            return torch.cat([x, self.theta[None]], -1)

    def loss(outputs, y):
        matrix, theta = outputs[0].split([16, 4])
        shift = theta - y[0]
        return shift @ matrix.view(4, 4) @ shift / 2

    support, query = ((m.flatten(1)[:, None], c) for m, c in ((A, CENTERS), (B, GOALS)))
    return maml(Bowl(THETA), support, query, steps=steps, lr=lr, order=order, loss=loss, **options)


def by_formula(a, order, steps):
    power = torch.linalg.matrix_power(torch.eye(4, dtype=F64) - a * A, steps)
    ends = CENTERS[:, 0] + torch.einsum("tij,tj->ti", power, THETA - CENTERS[:, 0])
    slopes = torch.einsum("tij,tj->ti", B, ends - GOALS[:, 0])
    return torch.einsum("tij,tj->ti", power, slopes) if order == 2 else slopes


@pytest.mark.claim("prop-maml-quadratic", "thm-maml-gradient")
@pytest.mark.parametrize("batching", ["vmap", "loop"])
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("order", [1, 2])
def test_quadratics_have_their_closed_form(order, steps, batching, measured):
    gradient, report = quadratics(0.3, order, steps, batching=batching)
    expected = by_formula(0.3, order, steps)
    error = measured((report.gradients - expected).abs().max(), "against powers of I - aA")
    assert error < 1e-12
    assert (gradient["theta"] - expected.mean(0)).abs().max() < 1e-12
    if steps:
        assert (report.gradients - by_formula(0.3, 3 - order, steps)).abs().max() > 1e-2


WRONG = {
    "uphill": lambda w, s, a: w + a * s,
    "half a step": lambda w, s, a: w - a / 2 * s,
    "gradients detached": lambda w, s, a: w - a * s.detach(),
    "start detached": lambda w, s, a: w.detach() - a * s,
}


@pytest.mark.claim("thm-maml-gradient", "prop-maml-quadratic")
@pytest.mark.parametrize("step", WRONG.values(), ids=WRONG)
def test_wrong_steps_are_seen(step, monkeypatch):
    def changed(self, weights, slopes, lr):
        pairs = zip(self.names, slopes, strict=True)
        return weights | {name: step(weights[name], slope, lr) for name, slope in pairs}

    monkeypatch.setattr(Descent, "_step", changed)
    _, report = quadratics(0.3, 2, 2, batching="loop")
    assert (report.gradients - by_formula(0.3, 2, 2)).abs().max() > 1e-2


@pytest.mark.claim("prop-maml-quadratic")
def test_first_order_can_climb_where_the_gradient_descends():
    """Part 2: a step between 1 / h and 2 / h adapts well, and turns the first-order sign."""
    h, a = 1.0, 1.5
    bowl = lambda order: maml(  # noqa: E731
        Point(torch.ones(1, dtype=F64)),
        (torch.zeros(1, 1, 1, dtype=F64),) * 2,
        (torch.zeros(1, 1, 1, dtype=F64),) * 2,
        steps=1,
        lr=a,
        order=order,
        loss=lambda t, y: h * (t - y).square().sum() / 2,
    )[0]["theta"].item()
    assert bowl(2) == pytest.approx(h * (1 - a * h) ** 2)
    assert bowl(1) == pytest.approx(h * (1 - a * h)) and bowl(1) < 0 < bowl(2)


# --- the general case ----------------------------------------------------------------------------

W, V = randn(6, 4, seed=6), randn(6, 4, seed=7)
SHIFTS = 0.4 * randn(3, 1, 4, seed=8)


def f(theta, shift):
    return torch.tanh(W @ (theta - shift)).square().sum() + theta.prod()


def g(theta, shift):
    return torch.tanh(V @ theta + 0.5).square().sum() + ((theta - shift) ** 3).sum() / 5


def bumps(lr, order, steps, which=maml, **options):
    """The package on f and g: the sign of the inputs says which of the two."""

    class Signed(Point):
        def forward(self, x):
            return torch.cat([x, self.theta[None]], -1)

    def loss(outputs, y):
        first = outputs[0, 0] > 0
        theta = outputs[0, 1:]
        return torch.where(first, f(theta, y[0]), g(theta, y[0]))

    ones = torch.ones(3, 1, 1, dtype=F64)
    support, query = (ones, SHIFTS), (-ones, SHIFTS)
    net = Signed(0.5 * THETA)
    if which is reptile:
        return reptile(net, support, steps=steps, lr=lr, loss=loss, **options)
    return maml(net, support, query, steps=steps, lr=lr, order=order, loss=loss, **options)


def product_of_jacobians(a, steps, task):
    """The formula of the theorem, literally."""
    theta, product, shift = 0.5 * THETA, torch.eye(4, dtype=F64), SHIFTS[task, 0]
    for _ in range(steps):
        product = product @ (torch.eye(4, dtype=F64) - a * hessian(f)(theta, shift))
        theta = theta - a * grad(f)(theta, shift)
    return product @ grad(g)(theta, shift), grad(g)(theta, shift)


@pytest.mark.claim("thm-maml-gradient")
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradient_is_the_product_of_jacobians(steps, measured):
    for order, part in ((2, 0), (1, 1)):
        _, report = bumps(0.05, order, steps, batching="loop")
        expected = torch.stack([product_of_jacobians(0.05, steps, i)[part] for i in range(3)])
        assert measured((report.gradients - expected).abs().max(), "product") < 1e-12


@pytest.mark.claim("thm-maml-gradient")
@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_of_a_network_are_differences(batching, measured):
    """Weights and step sizes, with a step size for each weight."""
    net = MLP([1, 4, 3, 1], generator=rng(9), dtype=F64)
    tasks = Sinusoids(6, 5, dtype=F64).sample(3, rng(10))
    lr = {n: 0.05 * torch.rand(p.shape, generator=rng(11), dtype=F64) for n, p in
          net.named_parameters()}  # fmt: skip
    options = {"steps": 3, "order": 2, "batching": batching}
    gradient, report = maml(net, tasks.support, tasks.query, lr=lr, **options)

    def value(weights, lr):
        return unrolled_loss(net, steps=3, order=2)(weights, lr, tasks.support, tasks.query)

    start = {n: p.detach() for n, p in net.named_parameters()}
    for found, change in (
        (gradient, lambda d: value({n: start[n] + d[n] for n in d}, lr)),
        (report.lr, lambda d: value(start, {n: lr[n] + d[n] for n in d})),
    ):
        way = {n: randn(*p.shape, seed=12 + i) for i, (n, p) in enumerate(start.items())}
        step = 1e-5
        up, down = (change({n: s * step * way[n] for n in way}) for s in (1, -1))
        along = sum((found[n] * way[n]).sum() for n in way)
        error = measured(abs((up - down) / (2 * step) - along), "against differences")
        assert error < 1e-7 * (1 + abs(along))


@pytest.mark.claim("thm-maml-gradient")
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("anil", [False, True, ["layers.0.bias", "layers.2.weight"]])
def test_all_batchings_agree(order, anil, measured):
    net = MLP([1, 5, 4, 1], generator=rng(13), dtype=F64)
    tasks = Sinusoids(6, 5, dtype=F64).sample(4, rng(14))
    for lr in (0.05, torch.tensor(0.05, dtype=F64)):
        found = [
            maml(
                net, tasks.support, tasks.query, steps=3, lr=lr, order=order, anil=anil, batching=b
            )
            for b in BATCHINGS
        ]
        gradient, report = found[0]
        for other, others in found[1:]:
            for name, part in gradient.items():
                error = measured((part - other[name]).abs().max(), "stack, vmap and loop")
                assert error < 1e-12
            for one, two in zip(report[:4], others[:4], strict=True):
                assert (one - two).abs().max() < 1e-12
            assert report.lr is others.lr is None or (report.lr - others.lr).abs() < 1e-12
    moved = {n: (report.points.mean(0) - FlatModule(net).vector()) for n in [0]}[0]
    still = FlatModule(net).named(moved == 0)
    wanted = {"layers.4.weight", "layers.4.bias"} if anil is True else set(anil or still)
    assert {n for n, part in still.items() if not part.all()} == wanted


@pytest.mark.claim("thm-maml-gradient")
@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_the_step_size(steps, measured):
    """Part 2, by the recursion of the theorem; a wrong sign or a lost product is far away."""
    a, task_slopes = 0.05, []
    for task in range(3):
        theta, along, shift = 0.5 * THETA, torch.zeros(4, dtype=F64), SHIFTS[task, 0]
        for _ in range(steps):
            slope, H = grad(f)(theta, shift), hessian(f)(theta, shift)
            along = along - a * H @ along - slope
            theta = theta - a * slope
        task_slopes.append(grad(g)(theta, shift) @ along)
    expected = torch.stack(task_slopes).mean()
    lr = torch.tensor(a, dtype=F64)
    _, report = bumps(lr, 2, steps, batching="loop")
    assert measured(abs(report.lr - expected), "step size") < 1e-12
    assert abs(report.lr + expected) > 1e-2
    _, first = bumps(lr, 1, steps, batching="loop")
    assert (abs(first.lr - expected) > 1e-3) == (steps > 1)  # one step has no product


# --- what is left out ----------------------------------------------------------------------------


def slope_of(errors, steps):
    x, y = torch.tensor(steps).log2(), torch.tensor(errors).log2()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def terms():
    at = 0.5 * THETA
    shift = SHIFTS[:, 0]
    mapped = lambda h: torch.stack([h(at, s) for s in shift])  # noqa: E731
    F, G, df, dg = (mapped(h) for h in (hessian(f), hessian(g), grad(f), grad(g)))
    times = lambda M, v: torch.einsum("tij,tj->ti", M, v)  # noqa: E731
    return dg, df, times(F, dg), times(G, df), times(F, df)


RATES = [0.0004, 0.0002, 0.0001]


@pytest.mark.claim("thm-maml-order")
@pytest.mark.parametrize("steps", [1, 4])
def test_expansions_have_an_error_of_second_order(steps):
    dg, df, F_dg, G_df, F_df = terms()
    errors = {"maml": [], "first": [], "reptile": [], "implicit": []}
    for a in RATES:
        full = bumps(a, 2, steps, batching="loop")[1].gradients
        first = bumps(a, 1, steps, batching="loop")[1].gradients
        moved = bumps(a, 1, steps, which=reptile, batching="loop")[1].gradients / (a * steps)
        lam = 1 / (a * steps)
        point = proximal_point(f, 0.5 * THETA, SHIFTS[:, 0], lam=lam, tol=1e-14).point
        H = vmap(hessian(f))(point, SHIFTS[:, 0])
        system = torch.eye(4, dtype=F64) + H / lam
        implicit = torch.linalg.solve(system, vmap(grad(g))(point, SHIFTS[:, 0]))
        expected = dg - a * steps * (F_dg + G_df)
        errors["maml"].append((full - expected).norm())
        errors["first"].append((first - (dg - a * steps * G_df)).norm())
        errors["implicit"].append((implicit - expected).norm())
        errors["reptile"].append((moved - (df - a * (steps - 1) / 2 * F_df)).norm())
        assert (full - first + a * steps * F_dg).norm() < 0.05 * (a * steps * F_dg).norm()
        # a lost term, or one too many, is an error of first order
        assert errors["maml"][-1] < 0.05 * (first - expected).norm()
        assert errors["first"][-1] < 0.05 * (full - (dg - a * steps * G_df)).norm()
    for name, found in errors.items():
        if name == "reptile" and steps == 1:
            assert max(found) < 1e-10  # exact
        else:
            assert 1.9 < slope_of([float(e) for e in found], RATES) < 2.1, name


@pytest.mark.claim("thm-maml-order")
def test_means_over_exchangeable_losses_are_multiples_of_one_vector(measured):
    """Part 2: all ordered choices of different losses are averaged, so that means are exact."""
    centers, a = 0.5 * randn(4, 4, seed=20), 1e-4
    losses = [lambda t, c=c: f(t, c) + ((t - c) ** 4).sum() for c in centers]
    at = 0.3 * THETA
    slopes = torch.stack([grad(h)(at) for h in losses])
    hessians = torch.stack([hessian(h)(at) for h in losses])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    tilt = sum(hessians[i] @ slopes[j] for i, j in pairs) / len(pairs)
    half = sum(
        grad(lambda t, i=i, j=j: grad(losses[i])(t) @ grad(losses[j])(t))(at) for i, j in pairs
    ) / (2 * len(pairs))
    assert measured((tilt - half).abs().max(), "half a gradient of inner products") < 1e-12
    mean = slopes.mean(0)

    def of_pair(i, j, order):
        end = at - a * slopes[i]
        slope = grad(losses[j])(end)
        return slope - a * hessians[i] @ slope if order == 2 else slope

    for order, factor in ((2, 2), (1, 1)):
        found = sum(of_pair(i, j, order) for i, j in pairs) / len(pairs)
        assert ((found - mean) / a + factor * tilt).norm() < 0.01 * tilt.norm()
    triples = [(i, j, k) for i, j in pairs for k in range(4) if k not in (i, j)]
    total = 0
    for order in triples:
        theta = at
        for i in order:
            theta = theta - a * grad(losses[i])(theta)
        total = total + (at - theta) / (3 * a)
    found = total / len(triples)  # (k - 1) / 2 = 1 for three steps
    assert ((found - mean) / a + tilt).norm() < 0.01 * tilt.norm()


@pytest.mark.claim("thm-maml-order")
def test_reptile_takes_its_batches_in_turn():
    net = nn.Linear(2, 1, bias=False, dtype=F64)
    x, y = randn(3, 6, 2, seed=21), randn(3, 6, 1, seed=22)
    direction, report = reptile(net, (x, y), steps=5, lr=0.1, batches=3)
    for task in range(3):
        w = net.weight.detach()[0]
        for step in range(5):
            part = slice(2 * (step % 3), 2 * (step % 3) + 2)
            residual = x[task, part] @ w - y[task, part, 0]
            w = w - 0.1 * 2 * x[task, part].T @ residual / 2
        assert (report.points[task] - w).abs().max() < 1e-12
    moved = net.weight.detach()[0] - report.points.mean(0)
    assert (direction["weight"][0] - moved).abs().max() < 1e-12


@pytest.mark.claim("prop-maml-dropped")
@pytest.mark.parametrize("steps", [1, 3])
def test_what_first_order_drops_is_bounded(steps):
    """Reached where the Hessian is -L I: every step stretches by 1 + aL."""
    L, a = 2.0, 0.3
    options = {
        "steps": steps,
        "lr": a,
        "loss": lambda t, y: -L / 2 * (t - y).square().sum(),
        "batching": "loop",
    }
    batch = torch.zeros(2, 1, 4, dtype=F64), randn(2, 1, 4, seed=23)
    full, first = (
        maml(Point(THETA), batch, batch, order=order, **options)[1].gradients for order in (2, 1)
    )
    bound = ((1 + a * L) ** steps - 1) * first.norm(dim=1)
    assert ((full - first).norm(dim=1) / bound - 1).abs().max() < 1e-12
    # in general below it
    for task in range(3):
        full, first = product_of_jacobians(0.05, steps, task)
        theta, size = 0.5 * THETA, 0.0
        for _ in range(steps):
            H = hessian(f)(theta, SHIFTS[task, 0])
            size = max(size, float(torch.linalg.matrix_norm(H, 2)))
            theta = theta - 0.05 * grad(f)(theta, SHIFTS[task, 0])
        assert (full - first).norm() <= ((1 + 0.05 * size) ** steps - 1) * first.norm()


@pytest.mark.claim("prop-maml-quadratic")
def test_one_table_for_a_curvature(measured):
    """Factors of theta - c for a bowl of curvature h, from the package's own functions."""
    h, a, k, lam = 0.7, 0.9, 3, 1.3
    net = lambda: Point(torch.ones(1, dtype=F64))  # noqa: E731
    batch = (torch.zeros(1, 1, 1, dtype=F64),) * 2
    loss = lambda t, y: h * (t - y).square().sum() / 2  # noqa: E731
    options = {"steps": k, "lr": a, "loss": loss, "batching": "loop"}
    found = {
        "joint": maml(net(), batch, batch, order=2, **options | {"steps": 0})[0],
        "second": maml(net(), batch, batch, order=2, **options)[0],
        "first": maml(net(), batch, batch, order=1, **options)[0],
        "reptile": reptile(net(), batch, **options)[0],
        "implicit": imaml(net(), batch, batch, loss=loss, lam=lam, tol=1e-12, rtol=1e-12)[0],
    }
    r = 1 - a * h
    expected = {
        "joint": h,
        "second": h * r ** (2 * k),
        "first": h * r**k,
        "reptile": 1 - r**k,
        "implicit": h * (lam / (lam + h)) ** 2,
    }
    for name, value in expected.items():
        assert measured(abs(found[name]["theta"].item() - value), name) < 1e-10, name


@pytest.mark.claim("prop-maml-floor")
def test_no_fixed_function_is_below_the_floor(measured):
    """Quadrature over tasks and inputs, independent of the formula; any other function is worse."""
    n = 400
    middle = lambda low, high: low + (high - low) * (torch.arange(n, dtype=F64) + 0.5) / n  # noqa: E731
    x, phase = middle(-5, 5)[:, None], middle(0, math.pi)
    amplitude, square = 2.55, (0.1**2 + 0.1 * 5 + 25) / 3
    waves = torch.sin(x - phase)
    mean = amplitude * waves.mean(1)
    best = (square * waves.square().mean(1) - mean**2).mean()
    floor = Sinusoids(10, 10).floors()["function"]
    assert measured(abs(best - floor), "quadrature") < 1e-4  # the midpoint rule with 400 points
    assert (mean + 2 / math.pi * 2.55 * torch.cos(x[:, 0])).abs().max() < 1e-4
    for k, other in enumerate((0 * mean, 1.1 * mean, mean + 0.2 * torch.sin(x[:, 0]))):
        error = (square * waves.square().mean(1) - 2 * mean * other + other**2).mean()
        assert error - best == pytest.approx(float((other - mean).square().mean()), abs=1e-12), k
        assert error > floor + 1e-3


# --- particles -----------------------------------------------------------------------------------


SIX = randn(6, 3, seed=30), randn(6, seed=31)


def log_prob(row, *data):
    x, y = data or SIX
    return -(x @ row - y).square().sum() / 2 - row.pow(4).sum() / 8


@pytest.mark.claim("prop-maml-svgd")
def test_one_particle_climbs_to_the_map(measured):
    start = randn(1, 3, seed=32)
    w = start[0].clone()
    for _ in range(40):
        w = w + 0.02 * grad(log_prob)(w)
    found = svgd(log_prob, start, steps=40, lr=0.02)
    assert measured((found[0] - w).abs().max(), "gradient ascent") < 1e-12
    end = svgd(log_prob, start, steps=200, lr=0.1)
    assert grad(log_prob)(end[0]).abs().max() < 1e-6


@pytest.mark.claim("prop-maml-svgd")
@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_direction_by_loops_and_what_the_pushes_sum_to(bandwidth, measured):
    particles, scores = randn(5, 3, seed=33), randn(5, 3, seed=34)
    h = bandwidth
    if h is None:
        squares = [(particles[i] - particles[j]).square().sum() for i in range(5) for j in range(i)]
        h = torch.stack(squares).median() / math.log(6)
    kernel = lambda u, v: torch.exp(-(u - v).square().sum() / h)  # noqa: E731
    pulls, pushes = torch.zeros(5, 3, dtype=F64), torch.zeros(5, 3, dtype=F64)
    for m in range(5):
        for j in range(5):
            pulls[m] += kernel(particles[j], particles[m]) * scores[j] / 5
            pushes[m] += grad(kernel)(particles[j], particles[m]) / 5
    found = svgd_direction(particles, scores, bandwidth=bandwidth)
    assert measured((found - pulls - pushes).abs().max(), "double loop") < 1e-12
    assert pushes.sum(0).abs().max() < 1e-12 and pushes.abs().max() > 1e-2
    assert (found - pulls + pushes).abs().max() > 1e-2  # the sign of the push


def test_particles_of_a_gaussian_have_its_moments():
    start = randn(60, 2, seed=35)
    cov = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=F64)
    inverse = torch.linalg.inv(cov)
    ends = svgd(lambda t: -(t - 1) @ inverse @ (t - 1) / 2, start, steps=400, lr=1.0)
    assert (ends.mean(0) - 1).abs().max() < 0.02
    assert (ends.T.cov() - cov).abs().max() < 0.25  # 60 particles, not a sample


@pytest.mark.parametrize("count", [1, 4])
def test_gradient_of_the_chaser_loss(count, measured):
    start = randn(count, 3, seed=36)
    support, query = ((randn(5, 6, 3, seed=s), randn(5, 6, seed=s + 1)) for s in (37, 39))
    options = {"steps": 2, "leader_steps": 3, "lr": 0.01, "bandwidth": 1.5}
    gradient, report = bayesian_maml(log_prob, start, support, query, **options)

    def value(rows):
        total = 0
        for i in range(5):
            chasers = svgd(log_prob, rows, support[0][i], support[1][i], steps=2, lr=0.01,
                           bandwidth=1.5)  # fmt: skip
            total = total + chaser_loss(chasers, report.leaders[i]) / 5
        return total

    way, h = randn(count, 3, seed=41), 1e-5
    along = (value(start + h * way) - value(start - h * way)) / (2 * h)
    assert measured(abs(along - (gradient * way).sum()), "differences") < 1e-7
    assert report.loss.shape == (5,) and report.chasers.shape == (5, count, 3)
    both = torch.cat([support[0], query[0]], 1), torch.cat([support[1], query[1]], 1)
    again = svgd(log_prob, report.chasers[2], both[0][2], both[1][2], steps=3, lr=0.01,
                 bandwidth=1.5)  # fmt: skip
    assert (again - report.leaders[2]).abs().max() < 1e-12


@pytest.mark.usefixtures("as_at_the_users")
def test_particles_that_are_refused():
    with pytest.raises(ValueError, match=r"particles must be vectors of one shape.*\(3,\), \(4,\)"):
        svgd(log_prob, [torch.zeros(3), torch.zeros(4)], steps=1, lr=0.1)
    with pytest.raises(ValueError, match="particles must have the shape"):
        svgd(log_prob, torch.zeros(3), steps=1, lr=0.1)
    with pytest.raises(TypeError, match="particles must be a tensor"):
        svgd(log_prob, [], steps=1, lr=0.1)
    with pytest.raises(ValueError, match="scores must have the shape"):
        svgd_direction(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="leaders must have the shape"):
        chaser_loss(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="bandwidth must be a positive number"):
        svgd_direction(torch.zeros(3, 2), torch.zeros(3, 2), bandwidth=0)
    with pytest.raises(ValueError, match="lr must be a finite number"):
        svgd(log_prob, torch.zeros(2, 3), steps=1, lr=math.nan)


# --- modules -------------------------------------------------------------------------------------


def images(tasks=3, seed=50, dtype=F64):
    x = randn(tasks, 10, 1, 8, 8, seed=seed, dtype=dtype)
    return x, torch.arange(5).repeat(2).expand(tasks, -1)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_convolutions_by_loop_and_by_vmap(dtype):
    net = Conv4(width=4, side=8, classes=5, generator=rng(51), dtype=dtype)
    batch, other = images(dtype=dtype), images(seed=52, dtype=dtype)
    found = [
        maml(net, batch, other, steps=2, lr=0.4, order=2, batching=b) for b in ("loop", "vmap")
    ]
    bound = 1e-12 if dtype is F64 else 1e-4
    (one, report), (two, _) = found
    assert max((one[n] - two[n]).abs().max() for n in one) < bound
    assert report.gradients.dtype == dtype and one["head.weight"].dtype == dtype
    chosen, _ = maml(net, batch, other, steps=2, lr=0.4, order=2)
    assert torch.equal(chosen["head.weight"], one["head.weight"])  # convolutions on the CPU: loop


def test_built_in_batch_norm_is_looped_and_refused_under_vmap():
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(108, 5)).double()
    ours = Conv4(width=3, side=8, classes=5).double()
    batch = images()
    net_of = lambda **o: maml(net, batch, batch, steps=1, lr=0.1, **o)[0]  # noqa: E731
    with pytest.raises(ValueError, match="batch_norm, whose second derivatives are wrong"):
        net_of(order=2, batching="vmap")
    weights = {name: p.detach() for name, p in net.named_parameters()}
    mean_loss = unrolled_loss(net, steps=1, order=2, loss=cross_entropy)
    with pytest.raises(ValueError, match="batch_norm, whose second derivatives are wrong"):
        grad(mean_loss)(weights, 0.1, batch, batch)
    first, looped = net_of(order=1, batching="vmap"), net_of(order=1, batching="loop")
    assert max((first[n] - looped[n]).abs().max() for n in first) < 1e-12
    second = net_of(order=2)

    def value(weights):
        total = 0
        for x, y in zip(*batch, strict=True):
            inner = lambda w, x=x, y=y: cross_entropy(functional_call(net, w, (x,)), y)  # noqa: E731
            slopes = torch.autograd.grad(inner(weights), list(weights.values()), create_graph=True)
            moved = {n: w - 0.1 * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
            total = total + inner(moved) / 3
        return total

    way = {n: randn(*p.shape, seed=53) for n, p in net.named_parameters()}
    ends = [
        value({n: (p.detach() + s * 1e-5 * way[n]).requires_grad_() for n, p in
               net.named_parameters()})
        for s in (1, -1)
    ]  # fmt: skip
    along = (ends[0] - ends[1]).item() / 2e-5
    assert along == pytest.approx(sum((second[n] * way[n]).sum().item() for n in way), rel=1e-5)
    assert isinstance(ours, nn.Module)


def test_running_statistics_are_refused_in_training_mode():
    net = Conv4(width=3, side=8, classes=5, norm="running", dtype=F64)
    batch = images()
    with pytest.raises(ValueError, match=r"blocks\.1 with running statistics \(BatchNorm2d\)"):
        maml(net, batch, batch, steps=1, lr=0.1, order=2)
    gradient, _ = maml(net.eval(), batch, batch, steps=1, lr=0.1, order=2)
    assert all(part.isfinite().all() for part in gradient.values())


def test_frozen_and_tied_parameters():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    net = net.double()
    net[2].weight = net[0].weight
    net[4].bias.requires_grad_(False)
    batch = randn(3, 5, 2, seed=60), randn(3, 5, 1, seed=61)
    found = [maml(net, batch, batch, steps=2, lr=0.1, order=2, batching=b)[0] for b in BATCHINGS]
    assert set(found[0]) == {"0.weight", "0.bias", "2.bias", "4.weight"}
    for other in found[1:]:
        assert max((other[n] - part).abs().max() for n, part in found[0].items()) < 1e-12


def test_nothing_of_the_module_changes_and_no_graph_is_left():
    net = MLP([1, 4, 1], generator=rng(62))
    tasks = Sinusoids(6, 5).sample(3, rng(63))
    before = FlatModule(net).vector()
    with torch.no_grad():
        gradient, report = maml(net, tasks.support, tasks.query, steps=2, lr=0.1, order=2)
    assert torch.equal(FlatModule(net).vector(), before)
    assert all(p.grad is None for p in net.parameters())
    flat = torch.cat([part.flatten() for part in gradient.values()])
    assert torch.equal(report.gradients.mean(0), flat) and not flat.requires_grad
    assert report.train_losses.shape == (2, 3) and report.val_loss.shape == (3,)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_adapt_is_the_inner_loop(batching):
    net = MLP([1, 4, 1], generator=rng(64), dtype=F64)
    tasks = Sinusoids(6, 5, dtype=F64).sample(3, rng(65))
    weights, losses = adapt(net, tasks.support, steps=4, lr=0.1, batching=batching)
    _, report = maml(net, tasks.support, tasks.query, steps=4, lr=0.1, order=2)
    points = torch.cat([part.flatten(1) for part in weights.values()], 1)
    assert (points - report.points).abs().max() < 1e-12
    assert (losses[:4] - report.train_losses).abs().max() < 1e-12 and losses.shape == (5, 3)
    guess = predict(net, weights, tasks.query_x, batching=batching)
    assert ((guess - tasks.query_y).square().mean((1, 2)) - report.val_loss).abs().max() < 1e-12
    assert not guess.requires_grad and not points.requires_grad


def test_single_precision_agrees_with_double():
    net = MLP([1, 40, 40, 1], "relu", generator=rng(66))
    tasks = Sinusoids(10, 10).sample(5, rng(67))
    one, _ = maml(net, tasks.support, tasks.query, steps=5, lr=0.01, order=2)
    wide = MLP([1, 40, 40, 1], "relu", generator=rng(66), dtype=F64)
    wide.load_state_dict(net.state_dict())
    x = [part.double() for part in tasks]
    two, _ = maml(wide, tuple(x[:2]), tuple(x[2:]), steps=5, lr=0.01, order=2)
    scale = max(part.abs().max() for part in two.values())
    assert max((one[n] - two[n]).abs().max() for n in one) < 1e-5 * scale


NET, WAVES = MLP([1, 4, 1], generator=rng(68)), Sinusoids(6, 5).sample(3, rng(69))
GOOD = {"steps": 1, "lr": 0.1, "order": 2}
REFUSED = [
    ({"steps": -1}, ValueError, "steps must be at least 0"),
    ({"steps": 1.5}, TypeError, "steps must be an integer"),
    ({"lr": math.nan}, ValueError, "lr must be a finite number"),
    ({"lr": math.inf}, ValueError, "lr must be a finite number"),
    ({"lr": -0.1}, ValueError, "lr must be a finite number"),
    ({"lr": "0.1"}, TypeError, "lr must be a number or a tensor"),
    ({"lr": torch.ones(3)}, ValueError, "lr must be a floating-point tensor without axes"),
    ({"lr": {"layers.0.bias": torch.ones(4)}}, ValueError, "lr must have a tensor of the param"),
    ({"order": 3}, ValueError, r"order must be one of \(1, 2\), got 3"),
    ({"order": True}, ValueError, "order must be one of"),
    ({"anil": ["head"]}, ValueError, r"anil must be True, False or names.*head"),
    ({"anil": []}, ValueError, "anil must be True, False or names"),
    ({"batching": "rows"}, ValueError, "batching must be None or one of"),
    ({"loss": lambda p, y: p - y}, ValueError, "loss must return one number for a task"),
    ({"query": tuple(part[:2] for part in WAVES.query)}, ValueError, "as many tasks as support, 3"),
    ({"support": (WAVES.support_x[:0], WAVES.support_y[:0])}, ValueError, "at least one of each"),
    ({"support": (WAVES.support_x, WAVES.support_y[:, :3])}, ValueError, "the same tasks and poi"),
    ({"support": WAVES.support_x}, TypeError, "support must be inputs and targets"),
    ({"support": (WAVES.support_x, [1.0])}, TypeError, "support targets must be a tensor"),
    ({"module": nn.Identity()}, ValueError, "module must have trainable parameters"),
    ({"module": lambda x: x}, TypeError, "module must be a torch.nn.Module"),
    ({"module": Point(torch.zeros(1)), "batching": "stack"}, ValueError, "'stack' needs a module"),
]  # fmt: skip


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("change, kind, message", REFUSED)
def test_refused(change, kind, message):
    given = {"module": NET, "support": WAVES.support, "query": WAVES.query} | GOOD | change
    with pytest.raises(kind, match=message):
        maml(given.pop("module"), given.pop("support"), given.pop("query"), **given)


def test_refused_by_adapt_and_predict():
    with pytest.raises(ValueError, match="batches must divide the 6 points"):
        adapt(NET, WAVES.support, steps=1, lr=0.1, batches=4)
    weights, _ = adapt(NET, WAVES.support, steps=1, lr=0.1)
    with pytest.raises(ValueError, match="weights must be the trainable parameters"):
        predict(NET, weights, WAVES.query_x[:2])


def test_default_losses():
    linear = nn.Linear(2, 3, dtype=F64)
    x, y = randn(2, 6, 2, seed=70), torch.arange(6).expand(2, -1) % 3
    named = maml(linear, (x, y), (x, y), loss=cross_entropy, **GOOD)[0]
    assert torch.equal(named["weight"], maml(linear, (x, y), (x, y), **GOOD)[0]["weight"])
    y = randn(2, 6, 3, seed=71)
    named = maml(linear, (x, y), (x, y), loss=lambda p, y: mse_loss(p, y), **GOOD)[0]
    found = maml(linear, (x, y), (x, y), **GOOD)[0]
    assert (named["weight"] - found["weight"]).abs().max() < 1e-12


# --- the record ----------------------------------------------------------------------------------


def recorded(ways, steps):
    path = Path(__file__).parents[2] / "results" / "maml.json"
    rows = json.loads(path.read_text())["rows"]
    rows = [row for row in rows if (row["ways"], row["steps"]) == (ways, steps)]
    return sorted(rows, key=lambda row: row["seed"])


@pytest.mark.claim("obs-maml-omniglot")
def test_record_of_omniglot_says_what_the_chapter_says():
    rows = recorded(5, 300)
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert (
        len({(r["parameters"], r["steps"], r["rate"], r["settings"]["tasks"]) for r in rows}) == 1
    )
    assert min(row["together"] for row in rows) > 0.78
    assert min(row["together"] - row["pixels"] for row in rows) > 0.3
    assert max(row["before"] for row in rows) < 0.25  # chance is 0.2


@pytest.mark.claim("obs-maml-longer")
def test_longer_record_says_what_the_chapter_says():
    for ways, low, high, pixels in ((5, 0.922, 0.926, 0.5), (20, 0.817, 0.82, 0.304)):
        rows = recorded(ways, 2000)
        assert [row["seed"] for row in rows] == [0, 1, 2]
        found = torch.tensor([row["together"] for row in rows], dtype=torch.float64)
        assert low - 5e-4 < found.min() and found.max() < high + 5e-4
        gap = found - torch.tensor([row["pixels"] for row in rows])
        assert gap.mean() - 3 * gap.std() > 0.4  # null: 0
        assert rows[0]["pixels"] == pytest.approx(pixels, abs=1e-3)
        assert {row["settings"]["tasks"] for row in rows} == {16}


@pytest.mark.claim("obs-maml-leak")
def test_record_shows_that_queries_tell_of_each_other():
    rows = recorded(5, 300)
    assert min(row["together"] - row["by_class"] for row in rows) > 0.3
    assert min(row["together"] - row["alone"] for row in rows) > 0.01
    assert max(row["together"] - row["alone"] for row in rows) < 0.06
