"""Claims of the chapter on implicit regularization, and the functions that it uses."""

import itertools
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


def epoch_means(losses, m, h):
    return {
        "shuffled": minibatch_descent(losses, W0, h, all_orders(m))[:, -1].mean(0),
        "replacement": minibatch_descent(losses, W0, h, all_draws(m, m))[:, -1].mean(0),
        "in_order": minibatch_descent(losses, W0, h, torch.arange(m))[-1],
    }


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
