"""Claims of the chapter on implicit regularization, and the functions that it uses."""

import itertools
import json
import math

import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.generalization import (
    all_draws,
    all_orders,
    minibatch_descent,
    modified_flow,
    modified_loss,
)
from tools.project import ROOT

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def quartics(m, dim=3, seed=0):
    """Minibatch losses with terms up to the fourth order that do not commute."""
    linear, root = randn(m, dim, seed=seed), randn(m, dim, dim, seed=seed + 1)
    wave, quartic = randn(m, dim, seed=seed + 2), randn(m, dim, seed=seed + 3).square()

    def losses(w):
        second = (w @ (root @ root.mT) @ w) / 2
        return linear @ w + second + torch.sin(wave @ w) + quartic @ w**4 / 4

    return losses


def flow(field, w, time):
    """The flow by SciPy, to its precision."""

    def func(t, y):
        return field(t, torch.as_tensor(y)).numpy()

    found = solve_ivp(func, (0, time), w.numpy(), rtol=1e-12, atol=1e-14, method="DOP853")
    return torch.as_tensor(found.y[:, -1])


def gradient_flow(losses):
    return lambda t, w: -torch.func.grad(lambda u: losses(u).mean())(w)


def slopes(errors):
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


STEPS = (0.01, 0.005, 0.0025)
W0 = torch.tensor([0.3, -0.4, 0.5], dtype=F64)


@pytest.mark.claim("thm-implicit-gd")
def test_one_step_of_gradient_descent(measured):
    losses = quartics(3)
    whole = lambda w: losses(w).mean()  # noqa: E731
    errors = {"plain": [], "modified": [], "twice": []}
    for h in STEPS:
        step = W0 - h * torch.func.grad(whole)(W0)
        fields = {
            "plain": gradient_flow(losses),
            "modified": modified_flow(whole, h),
            "twice": modified_flow(whole, 2 * h),  # a wrong factor of the penalty
        }
        for name, field in fields.items():
            errors[name].append(float((flow(field, W0, h) - step).norm()))
    assert all(1.9 < s < 2.1 for s in slopes(errors["plain"]) + slopes(errors["twice"]))
    assert all(abs(s - 3) < measured(0.1, "slope") for s in slopes(errors["modified"]))


@pytest.mark.claim("thm-implicit-gd")
@pytest.mark.parametrize("kappa", [0.0, 0.25, 0.4])
def test_error_of_another_factor(kappa, measured):
    """The difference over h squared tends to |1/2 - 2 kappa| times the norm of H g."""
    losses = quartics(3)
    whole = lambda w: losses(w).mean()  # noqa: E731
    slope = torch.func.grad(whole)
    bend = torch.func.jacfwd(slope)(W0) @ slope(W0)
    found = []
    for h in (0.002, 0.001):
        field = modified_flow(whole, 4 * kappa * h) if kappa else gradient_flow(losses)
        found.append(float((flow(field, W0, h) - (W0 - h * slope(W0))).norm()) / h**2)
    limit = 2 * found[1] - found[0]  # without the term of the next order
    exact = abs(0.5 - 2 * kappa) * float(bend.norm())
    assert measured(abs(limit - exact), "coefficient of h squared") < 1e-3


@pytest.mark.claim("thm-implicit-gd")
def test_after_a_fixed_time(measured):
    losses = quartics(3)
    whole = lambda w: losses(w).mean()  # noqa: E731
    errors = {"plain": [], "modified": []}
    for steps in (40, 80, 160):
        h = 0.8 / steps
        end = minibatch_descent(whole, W0, h, torch.zeros(steps, dtype=torch.long))[-1]
        errors["plain"].append(float((flow(gradient_flow(losses), W0, 0.8) - end).norm()))
        errors["modified"].append(float((flow(modified_flow(whole, h), W0, 0.8) - end).norm()))
    assert all(0.9 < s < 1.1 for s in slopes(errors["plain"]))
    assert measured(abs(slopes(errors["modified"])[-1] - 2), "slope") < 0.1


@pytest.mark.claim("thm-implicit-gd")
def test_too_few_derivatives():
    """C = |w|^(5/2) from near its kink: the step jumps over it, and the third order is lost."""
    errors = {2.5: [], 4.5: []}
    for power, found in errors.items():
        loss = lambda w, p=power: w.abs().pow(p).sum()  # noqa: E731
        for h in (0.1, 0.05, 0.025):
            w = torch.tensor([h**2], dtype=F64)
            step = minibatch_descent(loss, w, h, torch.zeros(1, dtype=torch.long))[-1]
            found.append(float((flow(modified_flow(loss, h), w, h) - step).abs()) / h**3)
    assert errors[4.5][-1] < errors[4.5][0]
    assert errors[2.5][-1] > 10 * errors[4.5][-1]


def test_log_factor_of_a_parabola(measured):
    """(1 - ha) against the modified flow: the logarithms differ by the third power of ha / 3."""
    for ha in (1e-2, 1e-3):
        field = modified_flow(lambda w: 2.5 * w.square().sum(), ha / 5)
        rate = -float(field(0.0, torch.ones(1, dtype=F64))) * ha / 5
        gap = math.log1p(-ha) + rate
        assert measured(abs(gap / (-(ha**3) / 3) - 1), "relative to (ha)^3 / 3") < 2 * ha


def epoch_means(losses, m, h):
    return {
        "shuffled": minibatch_descent(losses, W0, h, all_orders(m))[:, -1].mean(0),
        "replacement": minibatch_descent(losses, W0, h, all_draws(m, m))[:, -1].mean(0),
        "in_order": minibatch_descent(losses, W0, h, torch.arange(m))[-1],
    }


@pytest.mark.claim("thm-implicit-orders")
def test_only_its_own_flow_is_right_for_a_sampling():
    """Nine pairs of a sampling and a field: slope 3 on the diagonal alone."""
    m, losses = 3, quartics(3)
    names = ("shuffled", "replacement", "in_order")
    errors = {}
    for h in (0.005, 0.0025, 0.00125):
        ends = epoch_means(losses, m, h)
        for field in names:
            reached = flow(modified_flow(losses, h, sampling=field), W0, m * h)
            for sampling in names:
                errors.setdefault((sampling, field), []).append(
                    float((reached - ends[sampling]).norm())
                )
    for (sampling, field), found in errors.items():
        expected = 3 if sampling == field else 2
        assert all(abs(s - expected) < 0.15 for s in slopes(found)), (sampling, field, found)


@pytest.mark.claim("thm-implicit-orders")
def test_an_order_and_its_reverse_are_enough():
    m, losses, gaps = 4, quartics(4, seed=5), {"reverse": [], "rotation": []}
    for h in (0.01, 0.005, 0.0025):
        mean = minibatch_descent(losses, W0, h, all_orders(m))[:, -1].mean(0)
        order = torch.arange(m)
        for name, other in (("reverse", order.flip(0)), ("rotation", order.roll(2))):
            both = minibatch_descent(losses, W0, h, torch.stack([order, other]))[:, -1].mean(0)
            gaps[name].append(float((both - mean).norm()))
    assert all(2.8 < s < 3.2 for s in slopes(gaps["reverse"]))
    assert all(s < 2.2 for s in slopes(gaps["rotation"]))  # another second order will not do


@pytest.mark.claim("thm-implicit-orders")
def test_indices_that_do_not_occur_once_on_average():
    """The hypothesis is needed: a sequence that leaves one minibatch out is wrong by order h."""
    losses, errors = quartics(3), []
    for h in (0.01, 0.005):
        end = minibatch_descent(losses, W0, h, torch.tensor([0, 1, 1]))[-1]
        errors.append(float((flow(modified_flow(losses, h), W0, 3 * h) - end).norm()))
    assert slopes(errors)[0] < 1.2


@pytest.mark.claim("thm-implicit-orders")
def test_two_forms_of_the_penalty_and_the_printed_ones(measured):
    """Norms of gradients, or the whole gradient's and the centered ones; the loss itself is no
    gradient, and the sum of squares that is not centered is no variance."""
    losses, w, h = quartics(4, seed=10), randn(3, seed=12), 0.07
    g = torch.func.jacrev(losses)(w)
    mean, whole = g.mean(0), losses(w).mean()
    ours = modified_loss(losses, h)(w)
    descent = modified_loss(lambda u: losses(u).mean(), h)(w)
    centered = h / 16 * (g - mean).square().sum()
    assert measured((ours - descent - centered).abs(), "identity") < 1e-12
    printed = h / 16 * (g - whole).square().sum()
    assert (ours - descent - printed).abs() > 1e-2
    assert (ours - descent - h / 16 * g.square().sum()).abs() > 1e-3


@pytest.mark.claim("thm-implicit-orders")
def test_quadratics_in_one_order_turn(measured):
    """The antisymmetric part of the field's derivative, against commutators by hand."""
    root = randn(3, 4, 4, seed=13)
    A, h, m = root @ root.mT, 0.1, 3
    losses = lambda w: (w @ A @ w) / 2  # noqa: E731
    slope = {}
    for sampling in ("shuffled", "replacement", "in_order"):
        field = modified_flow(losses, h, sampling=sampling)
        slope[sampling] = torch.func.jacrev(lambda w, f=field: f(0.0, w))(randn(4, seed=14))
    pairs = [(k, n) for k in range(m) for n in range(k)]
    S = sum(A[n] @ A[k] - A[k] @ A[n] for k, n in pairs)
    turn = (slope["in_order"] - slope["in_order"].T) / 2
    assert measured((turn + h / (2 * m) * S).abs().max(), "antisymmetric part") < 1e-10
    assert S.abs().max() > 0.1
    for sampling in ("shuffled", "replacement"):
        assert (slope[sampling] - slope[sampling].T).abs().max() < 1e-10
    assert (slope["in_order"] - slope["shuffled"] - turn).abs().max() < 1e-10


def two_losses(w):
    tilt = w[0] + torch.sin(w[0]) / 2
    return torch.stack([torch.cos(w[0]) + tilt, torch.cos(w[0]) - tilt])


def many_epochs(epochs, sampling, field):
    h = 0.8 / (2 * epochs)
    if sampling == "replacement":
        sequences = all_draws(2, 2 * epochs)
    else:
        turned = all_draws(2, epochs)
        sequences = torch.stack([turned, 1 - turned], -1).flatten(1)
    begin = torch.ones(1, dtype=F64)
    mean = minibatch_descent(two_losses, begin, h, sequences)[:, -1].mean(0)
    return float((mean - flow(modified_flow(two_losses, h, sampling=field), begin, 0.8)).abs())


@pytest.mark.claim("prop-implicit-epochs")
def test_a_fixed_time_of_shuffles_and_of_draws():
    """By listing all shuffles and all draws: second order, and first order alone."""
    shuffled = [many_epochs(n, "shuffled", "shuffled") for n in (2, 4, 8)]
    drawn = [many_epochs(n, "replacement", "replacement") for n in (2, 4, 8)]
    assert abs(slopes(shuffled)[-1] - 2) < 0.2
    assert abs(slopes(drawn)[-1] - 1) < 0.2
    wrong = [many_epochs(n, "shuffled", "replacement") for n in (2, 4, 8)]
    assert slopes(wrong)[-1] < 1.3


# --- the valley and two minima ------------------------------------------------------------------


def valley(w, x=1.0, y=0.6):
    return (y - w[0] * w[1] * x).square() / 2


@pytest.mark.claim("prop-implicit-valley")
@pytest.mark.parametrize("x, y", [(1.0, 0.6), (1.7, -0.8)])
def test_imbalance_of_the_valley(x, y, measured):
    loss = lambda w: valley(w, x, y)  # noqa: E731
    w, h = torch.tensor([1.1, 1.6], dtype=F64), 0.05
    path = minibatch_descent(loss, w, h, torch.zeros(60, dtype=torch.long))
    D = path[:, 0].square() - path[:, 1].square()
    r = y - x * path[:, 0] * path[:, 1]
    exact = D[:-1] * (1 - (h * x * r[:-1]).square())
    assert measured((D[1:] - exact).abs().max(), "rule for D") < 1e-12
    assert (D[1:] - D[:-1] * (1 - h * (x * r[:-1]).square())).abs().max() > 1e-3
    field = modified_flow(loss, h)(0.0, path)
    change = 2 * (path[:, 0] * field[:, 0] - path[:, 1] * field[:, 1])
    assert measured((change + h * (x * r).square() * D).abs().max(), "along the flow") < 1e-12
    end = flow(gradient_flow(lambda u: loss(u)[None]), w, 40.0)
    norm = torch.sqrt(D[0].square() + 4 * y**2 / x**2)
    assert measured((end.square().sum() - norm).abs(), "end of the flow") < 1e-7
    assert path[-1].square().sum() < norm - 1e-3


@pytest.mark.claim("prop-implicit-valley")
def test_ends_of_the_two_published_starts():
    def end(start, h):
        a, b = start
        for _ in range(60_000):
            r = 0.6 - a * b
            a, b = a + h * r * b, b + h * r * a
            if abs(r) < 1e-12:
                break
        return a * a + b * b

    near = {0.001: 4.5563, 0.025: 4.1824, 0.18: 5.4337}
    far = {1e-5: 10.9973, 5e-5: 9.6748, 1e-4: 7.3785, 1.5e-4: 3.4403, 1.7e-4: 1.5521}
    for start, table in (((2.8, 3.5), near), ((75.0, 74.925), far)):
        for h, expected in table.items():
            assert abs(end(start, h) - expected) < 1e-3
    assert math.hypot(2.8**2 - 3.5**2, 1.2) < near[0.18]  # beyond part 3 the end may be sharper


@pytest.mark.claim("prop-implicit-valley")
def test_edge_of_the_valley():
    """Near a minimum of curvature 4, the residual shrinks below h = 1/2 and grows above."""
    a = math.sqrt((4 + math.sqrt(16 - 4 * 0.36)) / 2)
    near = torch.tensor([a, 0.6 / a + 1e-6], dtype=F64)
    for h, settles in ((0.49, True), (0.51, False)):
        path = minibatch_descent(valley, near, h, torch.zeros(40, dtype=torch.long))
        r = 0.6 - path[:, 0] * path[:, 1]
        assert (r[-1].abs() < r[0].abs()) == settles
    hessian = torch.func.hessian(valley)(torch.tensor([a, 0.6 / a], dtype=F64))
    assert abs(torch.linalg.eigvalsh(hessian)[-1] - 4) < 1e-12


@pytest.mark.claim("prop-implicit-quadratics")
def test_quadratics_and_their_mean(measured):
    root, centers = randn(5, 3, 3, seed=30), randn(5, 3, seed=31)
    A = root @ root.mT

    def losses(w):
        apart = w - centers
        return (apart[:, None] @ A @ apart[..., None]).flatten() / 2

    hessian = torch.func.hessian(lambda w: losses(w).mean())(randn(3, seed=32))
    assert measured((hessian - A.mean(0)).abs().max(), "Hessian of the mean") < 1e-12
    traces = A.diagonal(dim1=1, dim2=2).sum(1)
    assert traces.min() <= hessian.trace() <= traces.max()
    a, d, h = 1.7, 0.4, 0.05
    pair = lambda w: a * (w[0] - torch.tensor([-d, d], dtype=F64)).square() / 2  # noqa: E731
    zero = torch.zeros(1, dtype=F64)
    penalty = modified_loss(pair, h)(zero) - pair(zero).mean()
    assert measured((penalty - h * a**2 * d**2 / 4).abs(), "penalty at the minimum") < 1e-15
    # rounded tips: all parts are sharper at their own minima than the mean at its own
    tips = torch.linspace(-1, 1, 41, dtype=F64)
    rounded = lambda w: torch.sqrt((w[0] - tips).square() + 0.02**2)  # noqa: E731
    wide = torch.func.hessian(lambda w: rounded(w).mean())(zero)
    assert float(wide) < 0.1 * (1 / 0.02)


@pytest.mark.claim("obs-implicit-regularization-penalty")
def test_record_of_the_explicit_penalty():
    rows = json.loads((ROOT / "results" / "penalty.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    for row in rows:
        ends = {one["name"]: one for one in row["contenders"]}
        distance = {name: one["squared_distance"] for name, one in ends.items()}
        assert distance["small, 1"] < 0.0032 < 0.0259 < distance["small, 2"]
        assert 0.0337 < distance["small, 0"] < 0.0469
        shares = [one["test_accuracy"] for one in ends.values()]
        assert max(shares) - min(shares) < 0.0019 and min(shares) > row["centroid_accuracy"] + 0.1
        assert [one["updates"] for one in ends.values()] == [702, 2808, 2808, 2808, 2808]


@pytest.mark.parametrize("sampling", ["shuffled", "replacement"])
def test_the_flow_is_the_gradient_of_the_loss(sampling, measured):
    losses = quartics(4, seed=10)
    w = randn(7, 3, seed=11)
    loss = modified_loss(losses, 0.07, sampling=sampling)
    field = modified_flow(losses, 0.07, sampling=sampling)(0.0, w)
    slope = torch.stack([torch.func.grad(loss)(row) for row in w])
    assert measured((field + slope).abs().max(), "field and gradient") < 1e-11


def test_dtypes_batches_and_scalars():
    losses = quartics(2, seed=20)
    field = modified_flow(losses, 0.1)
    w = randn(2, 5, 3, seed=21)
    whole = field(0.0, w)
    assert whole.shape == w.shape
    assert (whole[1, 3] - field(0.0, w[1, 3])).abs().max() < 1e-13
    single = modified_flow(lambda w: w.square().sum() / 2, 0.1)(0.0, torch.ones(4))
    assert single.dtype == torch.float32 and (single + 1.05).abs().max() < 1e-6
    path = minibatch_descent(losses, w[:, :1], 0.1, all_orders(2)[:, None, :])
    assert path.shape == (2, 1, 3, 3)
    again = minibatch_descent(losses, w[1, 0], 0.1, torch.tensor([1, 0]))
    assert (path[1, 0] - again).abs().max() < 1e-13


def test_lists_of_orders():
    assert all_orders(4).shape == (24, 4) and len({tuple(r) for r in all_orders(4).tolist()}) == 24
    assert all_draws(3, 2).tolist() == [[i, j] for i in range(3) for j in range(3)]
    assert all_draws(3, 1).shape == (3, 1) and all_draws(1, 4).shape == (1, 4)


ONE = torch.ones(1)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: modified_flow(torch.sum, 0.0), ValueError, "step_size must be a positive"),
        (lambda: modified_flow(torch.sum, ONE), TypeError, "step_size must be"),
        (lambda: modified_flow(torch.sum, 0.1, sampling="x"), ValueError, "sampling must be one"),
        (
            lambda: modified_loss(torch.sum, 0.1, sampling="in_order"),
            ValueError, "sampling must be shuffled or replacement",
        ),
        (lambda: modified_flow(torch.sum, 0.1)(0, [1.0]), TypeError, "w must be a tensor"),
        (lambda: modified_flow(torch.sum, 0.1)(0, torch.tensor(1.0)), ValueError, "w must have"),
        (
            lambda: modified_flow(lambda w: torch.outer(w, w), 0.1)(0, ONE),
            ValueError, "losses must return one loss",
        ),
        (lambda: modified_loss(torch.sum, 0.1)(3), TypeError, "w must be a tensor"),
        (
            lambda: minibatch_descent(torch.sum, ONE, 0.1, torch.tensor([1])),
            ValueError, "orders must hold indices from 0 to 0",
        ),
        (
            lambda: minibatch_descent(torch.sum, ONE, 0.1, torch.tensor([0.0])),
            TypeError, "orders must be a tensor of integers",
        ),
        (
            lambda: minibatch_descent(torch.sum, ONE, 0.1, torch.tensor(0)),
            ValueError, "w needs an axis",
        ),
        (
            lambda: minibatch_descent(torch.sum, ONE, -1.0, torch.tensor([0])),
            ValueError, "step_size must be",
        ),
        (lambda: all_orders(0), ValueError, "m must be at least 1"),
        (lambda: all_orders(12), ValueError, "m must be small enough"),
        (lambda: all_draws(2, 30), ValueError, "steps must be small enough"),
        (lambda: all_draws(2.0, 3), TypeError, "m must be an integer"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
