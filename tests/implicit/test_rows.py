"""Shapes that broadcast, and batch normalization: what the entry points refuse or get right."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from nodes_tutorial.implicit import (
    StationarityError,
    argmin,
    fixed_point,
    hypergradient,
    imaml,
    moreau_envelope,
    newton_cg,
    proximal_point,
    root,
    through_anchor,
)
from nodes_tutorial.implicit.trees import check_own_rows

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def decayed(w, lam):
    """One number as long as lam is one, and otherwise one for each entry of lam."""
    return (w - 1).square().sum() + lam.exp() * w.square().sum()


def bowl(x, center=0.0):
    return (x - center).square().sum()


W = torch.full((5,), 0.3, dtype=F64)
FIVE = torch.zeros(5, dtype=F64)
TALL = torch.zeros(5, 1, dtype=F64)
NET = nn.Linear(1, 1, bias=False)
POINTS = (torch.ones(3, 4, 1), torch.ones(3, 4, 1))

BROADCAST = {
    "hypergradient": lambda: hypergradient(decayed, lambda w, lam: bowl(w), W, FIVE),
    "hypergradient, validation": lambda: hypergradient(
        lambda w, lam: (w - lam).square(), lambda w, lam: decayed(w, lam), FIVE, FIVE
    ),
    "hypergradient, two axes": lambda: hypergradient(decayed, lambda w, lam: bowl(w), W, TALL),
    "argmin": lambda: argmin(decayed, W, FIVE),
    "argmin, batch": lambda: argmin(decayed, W, FIVE, batch=1),
    "root": lambda: root(lambda x, a: x - a, W, TALL),
    "root, batch": lambda: root(lambda x, a: x.sum() - a, W, FIVE, batch=1),
    "fixed_point": lambda: fixed_point(lambda x, a: x / 2 + a, W, TALL),
    "newton_cg": lambda: newton_cg(lambda w: decayed(w, FIVE), W),
    "newton_cg, two axes": lambda: newton_cg(lambda w: decayed(w, TALL), W),
    "proximal_point": lambda: proximal_point(lambda x: bowl(x, TALL) * x, W, lam=1.0),
    "moreau_envelope": lambda: moreau_envelope(lambda x: bowl(x) * x, W, lam=1.0),
    "through_anchor": lambda: through_anchor(bowl, W, TALL, lam=1.0),
    "imaml": lambda: imaml(NET, POINTS, POINTS, loss=lambda p, y: (p - y).square(), lam=1.0),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_shapes_that_broadcast_are_refused(name, as_at_the_users):
    """Where the outcome is no longer one number, or one for each task with its own row."""
    with pytest.raises((ValueError, RuntimeError), match=r"must|same number"):
        BROADCAST[name]()


@pytest.mark.parametrize("kind", [torch.float32, F64])
def test_independent_rows_pass_at_their_optimum(kind):
    """There all gradients are rounding errors, and a shared hyper and scalar rows are no leak."""
    centers = randn(6, 3, seed=1).to(kind)
    lam = torch.tensor(0.3, dtype=kind)
    w = centers / (1 + lam)

    def train(w, lam):
        return ((w - centers).square() + lam * w.square()).sum(-1) / 2

    grad, _ = hypergradient(train, lambda w, lam: w.square().sum(-1) / 2, w, lam)
    exact = -(centers.square().sum() / (1 + lam) ** 3)
    assert torch.allclose(grad, exact, rtol=1e-4)
    scalars = centers[:, 0].contiguous()
    grad, _ = hypergradient(
        lambda w, lam: (w - lam).square(), lambda w, lam: w.square(), scalars, scalars
    )
    assert torch.allclose(grad, 2 * scalars)


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_a_leak_to_any_neighbour_is_seen_and_none_is_not(reach):
    x = randn(6, seed=2).requires_grad_()

    def pull_of(value):
        return lambda c: torch.autograd.grad(value, x, c, retain_graph=True)

    for strength in (0.0, 1e-3):
        value = x.square() + strength * x.roll(reach) ** 3 + strength * x.sum()
        if strength:
            with pytest.raises(ValueError, match="6 tasks the row of this task alone"):
                check_own_rows("loss", pull_of(value), value, 1)
        else:
            check_own_rows("loss", pull_of(value), value, 1)


def normalized():
    """A small convex enough training with nn.BatchNorm2d, for one vector of weights."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, track_running_stats=False), nn.Tanh(), nn.Flatten(),
        nn.Linear(8, 2),
    ).to(F64)  # fmt: skip
    shapes = {name: p.shape for name, p in net.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    x, y = randn(2, 10, 1, 3, 3, seed=3), torch.arange(10) % 2

    def loss(w, x):
        parts = w.split(sizes)
        named = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(net, named, (x,)), y)

    anchor = 0.5 * randn(sum(sizes), seed=4)

    def train(w, lam):
        return loss(w, x[0]) + lam.exp() * (w - anchor).square().sum() / 2

    return anchor, train, lambda w, lam: loss(w, x[1])


@pytest.mark.parametrize("solver", ["cg", "exact", "neumann"])
def test_batch_normalization_has_the_right_hypergradient(solver, measured):
    """PyTorch's second derivative of it is wrong under some functions of torch.func."""
    anchor, train, val = normalized()
    lam = torch.tensor(1.0, dtype=F64)

    def fitted(lam):
        return newton_cg(lambda w: train(w, lam), anchor, tol=1e-11)

    h = 1e-4
    exact = (val(fitted(lam + h), lam) - val(fitted(lam - h), lam)) / (2 * h)
    options = {"terms": 200} if solver == "neumann" else {}
    grad, _ = hypergradient(train, val, fitted(lam), lam, solver=solver, **options)
    assert measured(abs(grad - exact) / abs(exact), "alone") < 1e-6
    # the same training as three tasks, the losses mapped over them
    lams = torch.stack([lam, lam + 0.2, lam])
    tasks = torch.stack([fitted(each) for each in lams])
    grads, _ = hypergradient(
        lambda w, lam: vmap(train)(w, lam), lambda w, lam: vmap(val)(w, lam), tasks, lams,
        solver=solver, **options,
    )  # fmt: skip
    assert measured(abs(grads[[0, 2]] - exact).max() / abs(exact), "mapped") < 1e-6


def test_batch_normalization_in_a_differentiable_optimum():
    anchor, train, val = normalized()
    lam = torch.tensor(1.0, dtype=F64, requires_grad=True)
    w = argmin(train, anchor, lam)
    (grad,) = torch.autograd.grad(val(w, lam), lam)
    wanted, _ = hypergradient(train, val, w.detach(), lam.detach())
    assert abs(grad - wanted) < 1e-7 * abs(wanted)


def test_running_statistics_are_no_part_of_the_derivative():
    """In evaluation they are constants; a training loss that moves them has no fixed minimum."""
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 1)).to(F64).eval()
    x, y = randn(10, 1, 2, 2, seed=5), randn(10, 1, seed=6)
    w0 = {name: p.detach() for name, p in net.named_parameters()}

    def train(w, lam):
        fit = (functional_call(net, w, (x,)) - y).square().mean()
        return fit + lam * sum((p - w0[n]).square().sum() for n, p in w.items())

    with pytest.raises(StationarityError):
        hypergradient(train, lambda w, _: train(w, 0.0), w0, torch.tensor(1.0, dtype=F64))
