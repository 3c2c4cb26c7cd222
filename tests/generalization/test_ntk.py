"""Claims of the chapter on the neural tangent kernel, and the package against dense oracles."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.func import functional_call, jacrev, vmap

from nodes_tutorial.generalization import (
    TangentKernel,
    WideEnsemble,
    WideKernels,
    empirical_ntk,
    erf_ntk,
    layer_rows,
    linearize,
    ntk_gp,
    relu_ntk,
    wide,
    wide_net,
)
from nodes_tutorial.generalization import ntk as ntk_module

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def filled(net, seed=1, scale=0.7):
    """The network in double precision, with weights of a seed."""
    net = net.to(F64)
    size = sum(p.numel() for p in net.parameters())
    nn.utils.vector_to_parameters(scale * randn(size, seed=seed), net.parameters())
    return net


def dense():
    return filled(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), (3,)


def partly():
    """One bias missing, one weight frozen, one bias frozen, an activation in place."""
    first, last = nn.Linear(3, 4, bias=False), nn.Linear(4, 4)
    net = filled(nn.Sequential(first, nn.ReLU(inplace=True), last, nn.Tanh(), nn.Linear(4, 2)))
    net[2].weight.requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net, (3,)


def images():
    layers = [
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(),
        nn.Conv2d(3, 4, (2, 1), dilation=(2, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
    ]  # fmt: skip
    return filled(nn.Sequential(*layers), scale=0.3), (2, 8, 8)


def series():
    layers = [nn.Conv1d(2, 3, 3, padding=1, bias=False), nn.Tanh(), nn.Conv1d(3, 5, 8, stride=2)]
    return filled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(5, 2)), scale=0.4), (2, 8)


def sequence():
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Flatten(), nn.Linear(10, 2)]
    return filled(nn.Sequential(*layers)), (5, 3)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh())


def rows_only():
    norm = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    grouped = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(8, 2))
    same = nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten(), nn.Linear(32, 2))
    round_ = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(32, 2)
    )
    return {
        "belongs to no linear": (norm, (3,)),
        "is used 2 times": (Twice(), (3,)),
        "weight is used 2 times": (Tied(), (3,)),
        "groups or a padding": (grouped, (2, 4, 4)),
        "padding as a word": (same, (2, 4, 4)),
        "padding other than zeros": (round_, (2, 4, 4)),
    }


STRUCTURED = {"dense": dense, "partly": partly, "images": images, "series": series,
              "sequence": sequence}  # fmt: skip


def jacobian(net, x):
    weights = {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}

    def one(w, x):
        return functional_call(net, w, (x[None],))[0]

    parts = vmap(jacrev(one), (None, 0))(weights, x)
    return torch.cat([part.flatten(2) for part in parts.values()], 2)


def by_definition(net, x, y):
    return torch.einsum("nod,mpd->nmop", jacobian(net, x), jacobian(net, y))


def circle(*angles):
    a = torch.tensor(angles, dtype=F64)
    return torch.stack([a.cos(), a.sin()], 1)


X, Y = circle(-2.2, -1.2, -0.2, 0.9, 1.9), torch.tensor([1.0, -1.0, 0.5, 1.0, -0.5], dtype=F64)
NEW = circle(-3.0, -0.5, 0.4, 2.5)


# --- the package ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURED)
def test_layers_give_the_kernel_of_the_definition(name, measured):
    net, shape = STRUCTURED[name]()
    x, y = randn(5, *shape, seed=2), randn(3, *shape, seed=3)
    kernel = TangentKernel(net, x, y)
    oracle = by_definition(net, x, y)
    assert (kernel.route, kernel.reason) == ("layers", "")
    scale = oracle.abs().max()
    assert measured((kernel.matrix() - oracle).abs().max() / scale, "kernel") < 1e-12
    assert (empirical_ntk(net, x) - by_definition(net, x, x)).abs().max() < 1e-12 * scale
    v = randn(3, oracle.shape[3], seed=4)
    product = torch.einsum("nmop,mp->no", oracle, v)
    assert measured((kernel.product(v) - product).abs().max() / scale, "product") < 1e-12


@pytest.mark.parametrize("reason", rows_only())
def test_other_modules_take_the_general_route_and_say_why(reason):
    net, shape = rows_only()[reason]
    net = filled(net, scale=0.4)
    x, y = randn(5, *shape, seed=2), randn(3, *shape, seed=3)
    kernel = TangentKernel(net, x, y)
    assert kernel.route == "rows" and reason in kernel.reason
    oracle = by_definition(net, x, y)
    assert (kernel.matrix() - oracle).abs().max() < 1e-12 * oracle.abs().max()
    assert (empirical_ntk(net, x) - by_definition(net, x, x)).abs().max() < 1e-11


def test_indices_of_an_embedding_take_the_general_route():
    net = filled(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Tanh(), nn.Linear(6, 2)))
    x, y = torch.tensor([[0, 1], [4, 4], [2, 0]]), torch.tensor([[1, 3], [0, 0]])
    kernel = TangentKernel(net, x, y)
    assert kernel.route == "rows" and kernel.reason == "0.weight belongs to no linear or " + (
        "convolution layer"
    )
    oracle, v = by_definition(net, x, y), randn(2, 2)
    assert (kernel.matrix() - oracle).abs().max() < 1e-12
    assert (kernel.product(v) - torch.einsum("nmop,mp->no", oracle, v)).abs().max() < 1e-12


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        x = x * 1
        out = self.a(x)
        x.add_(1)
        return out + x


def test_an_input_that_is_overwritten_is_refused_as_in_training():
    kernel = TangentKernel(filled(Overwriting()), randn(4, 3))
    assert kernel.route == "rows" and "overwritten" in kernel.reason
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kernel.matrix()


@pytest.mark.parametrize(("positions", "features", "outputs"), [(1, 3, 2), (2, 9, 9), (30, 2, 2)])
def test_both_ways_through_a_layer_agree(positions, features, outputs):
    sets = [
        (randn(n, positions, features, seed=n), randn(n, 2, positions, outputs, seed=9 + n))
        for n in (4, 3)
    ]
    for weight, bias in ((True, True), (True, False), (False, True)):
        found = layer_rows.layer_gram(*sets, weight=weight, bias=bias)
        u, v = (torch.cat([u * weight, torch.full_like(u[..., :1], bias)], 2) for u, _ in sets)
        parts = [
            torch.einsum("nkto,ntf->nkof", d, a) for (_, d), a in zip(sets, (u, v), strict=True)
        ]
        assert (found - torch.einsum("nkof,mlof->nkml", *parts)).abs().max() < 1e-10


@pytest.mark.parametrize("change", ["no bias", "a transposed output", "patches in another order"])
def test_wrong_parts_of_the_structured_kernel_are_noticed(change, monkeypatch):
    net, shape = images()
    x = randn(4, *shape, seed=2)
    oracle = by_definition(net, x, x)
    gram, features = ntk_module.layer_gram, layer_rows.LayerRows.features
    if change == "no bias":
        monkeypatch.setattr(ntk_module, "layer_gram", lambda a, b, weight, bias: gram(
            a, b, weight=weight, bias=False))  # fmt: skip
    elif change == "a transposed output":
        monkeypatch.setattr(ntk_module, "layer_gram", lambda a, b, weight, bias: gram(
            a, (b[0], b[1].flip(1)), weight=weight, bias=bias))  # fmt: skip
    else:
        monkeypatch.setattr(
            layer_rows.LayerRows, "features", lambda self, layer: features(self, layer).flip(1)
        )
    assert (empirical_ntk(net, x) - oracle).norm() > 1e-3 * oracle.norm()


def test_params_replace_the_own_ones_and_leave_the_module():
    net, _ = dense()
    x, kept = randn(4, 3, seed=5), net[0].weight.detach().clone()
    other = {name: p.detach() + 1 for name, p in net.named_parameters()}
    moved, _ = dense()
    nn.utils.vector_to_parameters(
        torch.cat([p.flatten() for p in other.values()]), moved.parameters()
    )
    assert torch.equal(empirical_ntk(net, x, params=other), empirical_ntk(moved, x))
    assert torch.equal(net[0].weight, kept)
    assert not torch.allclose(empirical_ntk(net, x), empirical_ntk(moved, x))


def test_single_precision_and_one_example():
    net, _ = dense()
    x = randn(4, 3, seed=5)
    exact = empirical_ntk(net, x)
    single = empirical_ntk(dense()[0].float(), x.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), exact, rtol=1e-4)
    one = empirical_ntk(net, x[:1])
    assert (one - exact[:1, :1]).abs().max() < 1e-12
    for function, depth in itertools.product((relu_ntk, erf_ntk), (1, 3)):
        wide_exact = function(x, depth=depth)
        for found, wanted in zip(function(x.float(), depth=depth), wide_exact, strict=True):
            assert found.dtype == torch.float32
            assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-4)


# --- what the kernel does ------------------------------------------------------------------------


@pytest.mark.claim("prop-ntk-step")
def test_kernel_is_the_limit_of_the_quotient(measured):
    net = filled(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    x, other = randn(5, 3, seed=6), randn(1, 3, seed=7)
    k = empirical_ntk(net, x, other)[:, 0, 0, 0]
    params = dict(net.named_parameters())
    slopes = torch.autograd.grad(net(other).sum(), list(params.values()))
    errors = []
    for h in (1e-2, 1e-3, 1e-4):
        moved = {n: p + h * g for (n, p), g in zip(params.items(), slopes, strict=True)}
        quotient = (functional_call(net, moved, (x,)) - net(x)).detach()[:, 0] / h
        errors.append(float((quotient - k).abs().max()))
    assert 9 < errors[0] / errors[1] < 11 and 9 < errors[1] / errors[2] < 11
    assert measured(errors[2], "at h = 1e-4") < 1e-3
    line = filled(nn.Linear(3, 1))
    slope = torch.autograd.grad(line(other).sum(), list(line.parameters()))
    far = functional_call(
        line, {"weight": line.weight + 5 * slope[0], "bias": line.bias + 5 * slope[1]}, (x,)
    )
    affine = (far - line(x))[:, 0] / 5
    assert (affine - empirical_ntk(line, x, other)[:, 0, 0, 0]).abs().max() < 1e-12


@pytest.mark.claim("prop-ntk-step")
def test_functions_move_by_the_kernel_along_the_flow():
    net = filled(nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)))
    params = dict(net.named_parameters())
    r = (net(X)[:, 0] - Y).detach()
    slopes = torch.autograd.grad((net(X)[:, 0] - Y).square().sum() / 2, list(params.values()))
    h = 1e-5
    ends = [
        functional_call(
            net,
            {n: p - s * h * g for (n, p), g in zip(params.items(), slopes, strict=True)},
            (NEW,),
        )[:, 0]
        for s in (1, -1)
    ]
    moved = (ends[0] - ends[1]).detach() / (2 * h)
    wanted = -empirical_ntk(net, NEW, X)[..., 0, 0] @ r
    assert (moved - wanted).abs().max() < 1e-6
    assert (moved + wanted).abs().max() > 0.1


@pytest.mark.claim("prop-ntk-step")
def test_other_coordinates_change_the_kernel():
    """The same function of weights that are mixed: x (A eta)."""
    A = randn(3, 3, seed=8)
    theta, plain = filled(nn.Linear(3, 1, bias=False)), randn(4, 3, seed=9)
    eta = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False)).to(F64)
    with torch.no_grad():
        eta[0].weight.copy_(A.T)
        eta[1].weight.copy_(torch.linalg.solve(A, theta.weight[0])[None])
    eta[0].requires_grad_(False)
    assert (eta(plain) - theta(plain)).abs().max() < 1e-12
    found = empirical_ntk(eta, plain)[..., 0, 0]
    assert (found - plain @ A @ A.T @ plain.T).abs().max() < 1e-12
    assert (found - empirical_ntk(theta, plain)[..., 0, 0]).abs().max() > 0.1


# --- the seed of the example ---------------------------------------------------------------------


def bumps(theta, x, roles):
    p, q, r, s = (theta[k] for k in roles)
    return p * (-((x - q) ** 2) / 30).exp() + r * (-((x - s) ** 2) / 30).exp() + theta[4]


@pytest.mark.parametrize(
    ("roles", "value", "peak", "least", "top", "top_of_step"),
    [((0, 1, 2, 3), 2.0, 1.0, 0.5, 10, 10), ((1, 0, 3, 2), 2.542236, 1.2042, -0.2785, 8, 7)],
)
def test_printed_bumps_and_their_exchanged_roles(roles, value, peak, least, top, top_of_step):
    theta = torch.tensor([4.0, -10.0, 25.0, 10.0, 50.0], dtype=F64)
    x = torch.arange(-10, 21, dtype=F64)
    slopes = jacrev(bumps)(theta, x, roles)
    k = slopes @ slopes[20]
    assert abs(k[20] - value) < 1e-6
    assert abs(k.max() / k[20] - peak) < 1e-4 and abs(k.min() / k[20] - least) < 1e-4
    step = bumps(theta + 0.6 * slopes[20], x, roles) - bumps(theta, x, roles)
    assert (int(x[k.argmax()]), int(x[step.argmax()])) == (top, top_of_step)


def test_the_offset_changes_fastest_in_the_end():
    theta, at = (
        torch.tensor([4.0, -10.0, 25.0, 10.0, 50.0], dtype=F64),
        torch.tensor(10.0, dtype=F64),
    )
    for _ in range(15):
        theta = theta + 0.1 * jacrev(bumps)(theta, at, (1, 0, 3, 2))
    assert jacrev(bumps)(theta, at, (1, 0, 3, 2)).abs().argmax() == 4


# --- the tangent ---------------------------------------------------------------------------------


def trained_tangent(tangent, steps, rate):
    descent = torch.optim.SGD(tangent.parameters(), lr=rate)
    for _ in range(steps):
        descent.zero_grad()
        ((tangent(X)[:, 0] - Y).square().sum() / 2).backward()
        descent.step()
    return tangent(NEW)[:, 0].detach()


@pytest.mark.claim("prop-ntk-linear")
@pytest.mark.parametrize("units", [3, 40])
def test_trained_tangent_is_the_closed_form(units, measured):
    """Three units have 9 weights and a kernel that is nearly singular; both agree."""
    net = wide_net(2, units, activation="tanh", generator=rng(3), dtype=F64)
    K, row = empirical_ntk(net, X)[..., 0, 0], empirical_ntk(net, NEW, X)[..., 0, 0]
    r = (net(X)[:, 0] - Y).detach()
    v, Q = torch.linalg.eigh(K)
    rate, steps = 0.2 / float(v[-1]), 30
    factor = (1 - (1 - rate * v) ** steps) / v
    wanted = net(NEW)[:, 0].detach() - row @ (Q * factor) @ Q.T @ r
    found = trained_tangent(linearize(net), steps, rate)
    assert measured((found - wanted).abs().max(), "error") < 1e-10
    flow = net(NEW)[:, 0].detach() - row @ (Q * (-torch.expm1(-rate * steps * v) / v)) @ Q.T @ r
    many = trained_tangent(linearize(net), 10 * steps, rate / 10)
    assert (many - flow).abs().max() < 0.2 * (found - flow).abs().max()
    assert (found - flow).abs().max() > 1e-4  # the flow is not the steps


@pytest.mark.claim("prop-ntk-linear")
def test_edge_of_the_rate():
    net = wide_net(2, 60, generator=rng(3), dtype=F64)
    top = float(torch.linalg.eigvalsh(empirical_ntk(net, X)[..., 0, 0])[-1])
    for factor, shrinks in ((1.9, True), (2.1, False)):
        tangent = linearize(net)
        trained_tangent(tangent, 100, factor / top)
        residual = (tangent(X)[:, 0] - Y).norm()
        assert (residual < (net(X)[:, 0] - Y).norm()) == shrinks


@pytest.mark.claim("prop-ntk-linear")
def test_limit_is_the_nearest_fit():
    net = wide_net(2, 30, generator=rng(4), dtype=F64)
    J = jacobian(net, X)[:, 0]
    tangent = linearize(net)
    start = nn.utils.parameters_to_vector(tangent.parameters()).detach()
    trained_tangent(tangent, 500, 0.4)
    moved = nn.utils.parameters_to_vector(tangent.parameters()).detach() - start
    r = (net(X)[:, 0] - Y).detach()
    assert (moved - torch.linalg.pinv(J) @ -r).abs().max() < 1e-8
    other = moved + (torch.eye(J.shape[1], dtype=F64) - torch.linalg.pinv(J) @ J)[0]
    assert (J @ other + r).abs().max() < 1e-8 and other.norm() > moved.norm()


def test_tangent_is_affine_and_leaves_the_network():
    net, _ = dense()
    tangent, x = linearize(net), randn(4, 3, seed=5)
    assert torch.equal(tangent(x), net(x))
    assert sum(p.requires_grad for p in tangent.parameters()) == 4
    step = randn(sum(p.numel() for p in net.parameters()), seed=6)
    start = nn.utils.parameters_to_vector(tangent.parameters()).detach()
    values = []
    for t in (1.0, 3.0):
        nn.utils.vector_to_parameters(start + t * step, tangent.parameters())
        values.append((tangent(x) - net(x)).detach())
    assert (3 * values[0] - values[1]).abs().max() < 1e-12
    assert (values[0] - torch.einsum("nod,d->no", jacobian(net, x), step)).abs().max() < 1e-12


def test_tangent_of_a_network_with_tied_weights():
    net, x = filled(Tied()), randn(4, 3, seed=5)
    tangent = linearize(net)
    step = randn(sum(p.numel() for p in net.parameters()), seed=6)
    start = nn.utils.parameters_to_vector(tangent.parameters()).detach()
    nn.utils.vector_to_parameters(start + step, tangent.parameters())
    moved = torch.einsum("nod,d->no", jacobian(net, x), step)
    assert (tangent(x) - net(x) - moved).abs().max() < 1e-12


# --- infinite width ------------------------------------------------------------------------------


def variance(x, z):
    u = float(x @ z / (x.norm() * z.norm()))
    angle, root = math.pi - math.acos(min(u, 1.0)), math.sqrt(max(0.0, 1 - u * u))
    k0, k1 = angle / math.pi, (u * angle + root) / math.pi
    k2 = (3 * u * root + (1 + 2 * u * u) * angle) / math.pi
    return float((x.norm() * z.norm()) ** 2) * (
        2 * k2 + 4 * u * k1 + 6 * u * u * k0 - (k1 + u * k0) ** 2
    )


@pytest.mark.claim("thm-ntk-limit")
def test_kernel_is_the_mean_of_independent_terms():
    for name, (phi, c) in wide.ACTIVATIONS.items():
        net = wide_net(3, 7, activation=name, generator=rng(5), dtype=F64)
        w, a = net[0].weight, net[2].weight[0]
        x, z = 2 * randn(4, 3, seed=10), randn(2, 3, seed=11)
        slope = vmap(vmap(torch.func.grad(phi)))
        terms = c * (
            phi(x @ w.T)[:, None] * phi(z @ w.T)
            + a.square() * slope(x @ w.T)[:, None] * slope(z @ w.T) * (x @ z.T)[..., None]
        )
        found = empirical_ntk(net, x, z)[..., 0, 0]
        assert (found - terms.mean(2).detach()).abs().max() < 1e-12


@pytest.mark.claim("thm-ntk-limit")
def test_mean_and_variance_of_the_kernel(measured):
    """Deviations of 400 networks: mean square V / m within four standard errors."""
    x = torch.tensor([[1.0, 0.0], [1.0, 3**0.5]], dtype=F64)
    limit = relu_ntk(x[:1], x[1:]).ntk[0, 0]
    V, source = variance(x[0], x[1]), rng(30)
    for width in (16, 256):  # the terms of the test above
        w = torch.randn(400, width, 2, generator=source, dtype=F64)
        a = torch.randn(400, width, generator=source, dtype=F64)
        h = w @ x.T
        both = (h > 0).all(2) * (h.prod(2) + a.square() * (x[0] @ x[1]))
        off = 2 * both.mean(1) - limit
        squares = off.square() * width
        assert measured(abs(off.mean()) / (V / width / 400) ** 0.5, "mean, in errors") < 4
        error = squares.std() / 20
        assert measured(abs(squares.mean() - V) / error, "variance, in errors") < 4
        assert abs(squares.mean() - V / 2) > 4 * error  # half of it is noticed


@pytest.mark.claim("thm-ntk-limit")
def test_outputs_have_the_covariance_at_any_width_and_become_normal():
    x = circle(0.0, 1.0)
    source = rng(12)
    fourth = []
    for width in (1, 64):
        w = torch.randn(40_000, width, 2, generator=source, dtype=F64)
        a = torch.randn(40_000, width, generator=source, dtype=F64)
        f = (2 / width) ** 0.5 * torch.einsum("bm,bmn->bn", a, (w @ x.T).relu())
        assert (f.T @ f / 40_000 - relu_ntk(x).nngp).abs().max() < 0.06
        fourth.append(float((f[:, 0] ** 4).mean()))
    assert abs(fourth[1] - 3) < 0.5 < fourth[0] - 3  # one unit has the moment 18


@pytest.mark.claim("thm-ntk-limit")
def test_a_law_without_moments_has_no_limit():
    """Cauchy in place of normal last weights: the spread over networks does not fall."""
    x, spreads = circle(0.0, 1.0), []
    for width in (100, 10_000):
        found = []
        for seed in range(40):
            net = wide_net(2, width, generator=rng(seed), dtype=F64)
            with torch.no_grad():
                net[2].weight.copy_((math.pi * (torch.rand(
                    1, width, generator=rng(99 + seed), dtype=F64) - 0.5)).tan())  # fmt: skip
            found.append(float(empirical_ntk(net, x[:1], x[1:])))
        quantiles = torch.tensor(found).quantile(torch.tensor([0.25, 0.75]))
        spreads.append(float(quantiles[1] - quantiles[0]))
    assert spreads[1] > spreads[0]


@pytest.mark.claim("prop-ntk-relu")
def test_exact_table():
    x = circle(*(math.radians(a) for a in (0, 30, 60, 90, 120, 180)))
    found = relu_ntk(x[:1], x)
    nngp = torch.tensor([1, 0.88084, 0.60900, 0.31831, 0.10900, 0], dtype=F64)
    ntk = torch.tensor([2, 1.60253, 0.94233, 0.31831, -0.05767, 0], dtype=F64)
    assert (found.nngp[0] - nngp).abs().max() < 6e-6 and (found.ntk[0] - ntk).abs().max() < 6e-6
    table = {1: 0.94233, 2: 1.35148, 3: 1.73784, 5: 2.46289}
    for depth, value in table.items():
        deep = relu_ntk(x[[0, 2]], depth=depth).ntk
        assert abs(deep[0, 1] - value) < 6e-6 and abs(deep[0, 0] - depth - 1) < 1e-12
    assert abs(variance(x[0], x[2]) ** 0.5 - 2.0389) < 1e-4


def homogeneous(phi, root, degree):
    """E phi of a Gaussian pair with the covariance root root^T; phi is homogeneous."""

    def around(alpha):
        z = root @ torch.tensor([math.cos(alpha), math.sin(alpha)], dtype=F64)
        return float(phi(z[0], z[1]))

    kinks = sorted(
        (math.atan2(-row[0], row[1]) + turn * math.pi) % (2 * math.pi)
        for row in root.tolist() for turn in (0, 1)
    )  # fmt: skip
    edges = [0.0, *kinks, 2 * math.pi]
    total = sum(quad(around, a, b)[0] for a, b in itertools.pairwise(edges))
    return total / (2 * math.pi) * {0: 1.0, 2: 2.0, 4: 8.0}[degree]


@pytest.mark.claim("prop-ntk-relu")
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_closed_forms_are_the_expectations(name, measured):
    x, z = torch.tensor([[1.2, 0.3]], dtype=F64), torch.tensor([[-0.4, 0.9]], dtype=F64)
    both = torch.cat([x, z])
    s = float(x[0] @ z[0])
    if name == "relu":

        def on(u, v):
            return (u > 0) & (v > 0)

        value = 2 * homogeneous(lambda u, v: on(u, v) * u * v, both, 2)
        slope = 2 * homogeneous(on, both, 0)
        second = 4 * homogeneous(lambda u, v: on(u, v) * (u * v) ** 2, both, 4)
        found = relu_ntk(x, z)
        V = second + 4 * s * value + 6 * s * s * slope - float(found.ntk) ** 2
        assert measured(abs(V - variance(x[0], z[0])), "variance") < 1e-8
    else:
        points, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(80))
        z2 = torch.cartesian_prod(points, points) @ both.T
        mass = torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi)
        value = float((mass * z2.erf().prod(1)).sum())
        slope = float((mass * 4 / math.pi * (-z2.square().sum(1)).exp()).sum())
        found = erf_ntk(x, z)
    assert measured(abs(found.nngp - value), "covariance") < 1e-8
    assert measured(abs(found.ntk - value - s * slope), "kernel") < 1e-8


@pytest.mark.parametrize(("name", "function"), [("relu", relu_ntk), ("erf", erf_ntk)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_wide_networks_come_near_their_limit(name, function, depth):
    """Three seeds of 1,500 units; the covariance is farther away."""
    x = 1.3 * circle(0.0, 0.7, 2.0)
    nngp, limit = function(x, depth=depth)
    nets = (
        wide_net(2, 1500, depth=depth, activation=name, generator=rng(seed), dtype=F64)
        for seed in range(3)
    )
    mean = sum(empirical_ntk(net, x)[..., 0, 0] for net in nets) / 3
    assert (mean - limit).norm() < 0.1 * limit.norm()
    assert (mean - nngp).norm() > 0.3 * limit.norm()


def test_wrong_recursions_are_noticed():
    """A dropped product with the slope, and slopes of the layer after, miss the table."""
    x = circle(0.0, math.pi / 3)
    S1 = relu_ntk(x).nngp

    def kappa0(u):
        return (math.pi - u.clamp(-1, 1).acos()) / math.pi

    right = relu_ntk(x, depth=2)
    S2 = right.nngp
    T1 = relu_ntk(x).ntk
    assert (right.ntk - S2 - T1 * kappa0(S1)).abs().max() < 1e-12
    assert (right.ntk - S2 - T1).abs().max() > 0.1
    assert (right.ntk - S2 - T1 * kappa0(S2)).abs().max() > 0.01


def test_zero_input_is_no_nan():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F64)
    found = relu_ntk(x, depth=2)
    assert found.ntk.isfinite().all() and (found.ntk[0] == 0).all()


def nets_of(ensemble):
    """The same networks, one by one."""
    for w, a in zip(ensemble.first, ensemble.last, strict=True):
        net = wide_net(w.shape[1], len(w), dtype=F64)
        nn.utils.vector_to_parameters(torch.cat([w.flatten(), a]), net.parameters())
        yield net


def test_an_ensemble_is_its_networks_before_and_after_training():
    start = WideEnsemble(3, 2, 40, generator=rng(40), dtype=F64)
    kept = start.first.clone()
    trained = start.descend(X, Y, rate=0.3, steps=7)
    assert torch.equal(start.first, kept)
    for k, (net, end) in enumerate(zip(nets_of(start), nets_of(trained), strict=True)):
        assert (start(NEW)[k] - net(NEW)[:, 0]).abs().max() < 1e-12
        assert (start.kernel(NEW, X)[k] - empirical_ntk(net, NEW, X)[..., 0, 0]).abs().max() < 1e-12
        descent = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(7):
            descent.zero_grad()
            ((net(X)[:, 0] - Y).square().sum() / 2).backward()
            descent.step()
        assert (net[0].weight - end[0].weight).abs().max() < 1e-12
        assert (trained(NEW)[k] - net(NEW)[:, 0]).abs().max() < 1e-12
    assert (trained(X) - Y).norm() < 0.5 * (start(X) - Y).norm()
    single = WideEnsemble(2, 2, 3, dtype=torch.float32).descend(
        X.float(), Y.float(), rate=1, steps=0
    )
    assert single.kernel(X.float()).dtype == torch.float32


# --- constancy -----------------------------------------------------------------------------------


class Bent(nn.Module):
    """z + h(z) with h'' = 1 near 0: slopes up to 1 + edge, second derivative at most 1."""

    def __init__(self, edge=0.5, bend=1.0):
        super().__init__()
        self.edge, self.bend = edge, bend

    def forward(self, z):
        near = z.clamp(-self.edge, self.edge)
        return z + self.bend * (near * z - near.square() / 2)


class Divided(nn.Module):
    """m^-1/2 a . phi(W x), with a itself the parameter."""

    def __init__(self, w, a, phi):
        super().__init__()
        self.first, self.phi = nn.Linear(w.shape[1], len(w), bias=False), phi
        self.last = nn.Linear(len(w), 1, bias=False)
        self.to(F64)
        with torch.no_grad():
            self.first.weight.copy_(w)
            self.last.weight.copy_(a[None])

    def forward(self, x):
        return self.last(self.phi(self.first(x)) / len(self.first.weight) ** 0.5)


def flow(net, x, y, time, steps):
    """Runge-Kutta of order 4 for the gradient flow, and the integral of the residual's norm."""
    params = list(net.parameters())
    h, E = time / steps, 0.0

    def slope(theta):
        nn.utils.vector_to_parameters(theta, params)
        r = net(x)[:, 0] - y
        g = torch.autograd.grad((r.square() / 2).sum(), params)
        return -torch.cat([p.flatten() for p in g]), float(r.detach().norm())

    theta = nn.utils.parameters_to_vector(params).detach()
    for _ in range(steps):
        k1, e1 = slope(theta)
        k2, e2 = slope(theta + h / 2 * k1)
        k3, e3 = slope(theta + h / 2 * k2)
        k4, e4 = slope(theta + h * k3)
        theta = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        E += h / 6 * (e1 + 2 * e2 + 2 * e3 + e4)
    nn.utils.vector_to_parameters(theta, params)
    return E


def bounds(sizes, E, *, m, n, B, B2, R):
    q = math.exp(B * R * math.sqrt(n / m) * E) - 1
    M2, M3 = float(sizes.square().mean()), float((sizes**3).mean())
    return q, B**2 * R**2 * q * (2 + q) * M2, 2 * B * B2 * R**3 * q * M3


@pytest.mark.claim("thm-ntk-constant")
@pytest.mark.parametrize("case", ["linear", "bent", "tanh"])
def test_bounds_of_the_motion(case, measured):
    """For the identity and a = w the first bound is attained, the second by half; the bent
    activation with large a attains the part with the second derivative."""
    one = torch.ones(1, 1, dtype=F64)
    if case == "linear":
        net = Divided(one * 0.5, one[0] * 0.5, nn.Identity())
        x, y, B, B2, zero = one, 3 * one[0], 1.0, 0.0, 0.0
    elif case == "bent":
        net = Divided(one * 1e-3, one[0] * 20, Bent(0.02))
        x, y, B, B2, zero = one, one[0] * 0.2, 1.02, 1.0, 0.0
    else:
        net = Divided(randn(50, 2, seed=13), randn(50, seed=14), nn.Tanh())
        x, y, B, B2, zero = X, Y, 1.0, 4 / 27**0.5, 0.0
    m, n = len(net.first.weight), len(x)
    start = [p.detach().clone() for p in net.parameters()]
    sizes = start[1][0].abs() + start[0].norm(dim=1) + zero
    k0 = empirical_ntk(net, x)[..., 0, 0]
    E = flow(net, x, y, 0.002 if case == "bent" else 0.5, 200)
    q, first, second = bounds(sizes, E, m=m, n=n, B=B, B2=B2, R=1.0)
    moved = (net.last.weight[0] - start[1][0]).abs() + (net.first.weight - start[0]).norm(dim=1)
    change = (empirical_ntk(net, x)[..., 0, 0] - k0).abs().max()
    assert (moved <= sizes * q * (1 + 1e-9)).all() and change <= first + second
    if case == "linear":
        assert abs(moved / (sizes * q) - 1) < 1e-6
        assert measured(change / first, "part attained") > 0.5 - 1e-6
    if case == "bent":
        assert first < 0.2 * second
        assert measured(change / (first + second), "part attained") > 0.5


@pytest.mark.claim("thm-ntk-constant")
def test_decay_and_nearness_to_the_tangent():
    """A wide network for which the condition of part 3 holds, and parts 3 and 4 for it."""
    x, y = circle(0.0, math.pi / 2), torch.tensor([0.02, -0.01], dtype=F64)
    half = 60_000
    w, a = randn(half, 2, seed=15), randn(half, seed=16)
    net = Divided(torch.cat([w, w]), torch.cat([a, -a]), nn.Tanh())  # output 0 at the start
    sizes = net.last.weight[0].detach().abs() + net.first.weight.detach().norm(dim=1)
    K = empirical_ntk(net, x)[..., 0, 0]
    lam = float(torch.linalg.eigvalsh(K)[0])
    r0 = float(y.norm())
    constants = {"m": 2 * half, "n": 2, "B": 1.0, "B2": 4 / 27**0.5, "R": 1.0}
    _, *parts = bounds(sizes, 2 * r0 / lam, **constants)
    assert sum(parts) <= lam / 4
    time = 3.0
    E = flow(net, x, y, time, 12)
    assert time * r0 >= E and 2 * r0 / lam >= E
    assert (net(x)[:, 0] - y).norm() <= math.exp(-lam * time / 2) * r0
    _, *parts = bounds(sizes, E, **constants)
    v, Q = torch.linalg.eigh(K)
    tangent = y - Q @ ((-time * v).exp() * (Q.T @ y))
    assert (net(x)[:, 0] - tangent).norm() <= 2 * sum(parts) * E
    assert (net(x)[:, 0] - tangent).norm() < 1e-3 * r0


@pytest.mark.claim("thm-ntk-constant")
def test_without_a_second_derivative_the_kernel_jumps():
    """ReLU: a weight moves by 2e-9 across 0, and the kernel changes by 1."""
    one = torch.ones(1, 1, dtype=F64)
    values = [float(empirical_ntk(Divided(w * one, one[0], nn.ReLU()), one)) for w in (1e-9, -1e-9)]
    _, first, second = bounds(torch.tensor([1.0]), 2e-9, m=1, n=1, B=1.0, B2=1.0, R=1.0)
    assert abs(values[0] - values[1]) > 0.99 > 1e6 * (first + second)


@pytest.mark.claim("thm-ntk-constant")
def test_the_change_falls_with_the_width():
    changes = []
    for m in (64, 1024):
        total = 0.0
        for seed in range(6):
            net = wide_net(2, m, activation="tanh", generator=rng(seed), dtype=F64)
            k0 = empirical_ntk(net, X)[..., 0, 0]
            flow(net, X, Y, 2.0, 20)
            total += float((empirical_ntk(net, X)[..., 0, 0] - k0).norm()) / 6
        changes.append(total)
    assert changes[1] < changes[0] / 4  # the bound promises a quarter for 16 times the width


# --- the ensemble --------------------------------------------------------------------------------


@pytest.mark.claim("prop-ntk-ensemble")
@pytest.mark.parametrize("time", [0.0, 0.7, 20.0])
def test_law_of_the_trained_values(time, measured):
    """Against the exponential of the joint linear equation of all values, at X and at NEW."""
    found = ntk_gp(X, Y, NEW, kernels=relu_ntk, time=time)
    both = torch.cat([X, NEW])
    S, Theta = relu_ntk(both)
    field = torch.zeros(10, 10, dtype=F64)  # of (values, 1)
    field[:9, :5] = -Theta[:, :5]
    field[:9, 9] = Theta[:, :5] @ Y
    move = torch.linalg.matrix_exp(time * field)
    A, shift = move[:9, :9], move[:9, 9]
    assert measured((found.mean - shift[5:]).abs().max(), "mean") < 1e-10
    wanted = (A @ S @ A.T)[5:, 5:]
    assert measured((found.covariance - wanted).abs().max(), "covariance") < 1e-10
    swapped = ntk_gp(
        X, Y, NEW, kernels=lambda a, b: WideKernels(*reversed(relu_ntk(a, b))), time=time
    )
    assert (swapped.covariance - wanted).abs().max() > 1e-3


@pytest.mark.claim("prop-ntk-ensemble")
def test_data_are_met_and_the_posterior_only_for_a_multiple():
    at = ntk_gp(X, Y, X, kernels=relu_ntk)
    assert (at.mean - Y).abs().max() < 1e-10 and at.covariance.abs().max() < 1e-10
    S, cross, there = (relu_ntk(*p).nngp for p in ((X, X), (NEW, X), (NEW, NEW)))
    mean = cross @ torch.linalg.solve(S, Y)
    posterior = there - cross @ torch.linalg.solve(S, cross.T)

    def multiple(a, b):
        return WideKernels(relu_ntk(a, b).nngp, 3 * relu_ntk(a, b).nngp)

    found = ntk_gp(X, Y, NEW, kernels=multiple)
    assert (found.mean - mean).abs().max() < 1e-10
    assert (found.covariance - posterior).abs().max() < 1e-10
    other = ntk_gp(X, Y, NEW, kernels=relu_ntk)
    assert (other.mean - mean).abs().max() > 0.01
    assert (other.covariance - posterior).abs().max() > 1e-3


def test_last_layer_has_the_covariance_as_its_kernel():
    net = wide_net(2, 30_000, generator=rng(6), dtype=F64)
    net[0].requires_grad_(False)
    off = empirical_ntk(net, X)[..., 0, 0] - relu_ntk(X).nngp
    assert off.abs().max() < 0.1


def test_prediction_of_several_outputs_and_a_singular_kernel():
    rows = torch.stack([Y, -Y, Y.flip(0)], 1)
    found = ntk_gp(X, rows, NEW, kernels=erf_ntk, time=2.0)
    for k in range(3):
        single = ntk_gp(X, rows[:, k], NEW, kernels=erf_ntk, time=2.0)
        assert (found.mean[:, k] - single.mean).abs().max() < 1e-12
    twice = torch.cat([X, X[:1]])
    y = torch.cat([Y, Y[:1]])
    assert ntk_gp(twice, y, NEW, kernels=relu_ntk, time=3.0).mean.isfinite().all()
    with pytest.raises(ValueError, match="kernels must be positive definite"):
        ntk_gp(twice, y, NEW, kernels=relu_ntk)


# --- parities ------------------------------------------------------------------------------------


def parities(x, k):
    sets = itertools.combinations(range(x.shape[1]), k)
    return torch.stack([x[:, list(A)].prod(1) for A in sets], 1)


@pytest.mark.claim("prop-ntk-parity")
@pytest.mark.parametrize(("d", "k", "n"), [(6, 2, 5), (7, 3, 14)])
def test_error_of_all_parities(d, k, n, measured):
    """The span of a kernel's columns over the whole cube: the mean error has its bound, and
    the span of n parities attains it."""
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * d)
    targets, count = parities(cube, k), math.comb(d, k)
    points = cube[torch.randperm(len(cube), generator=rng(20))[:n]]
    for basis, attained in ((relu_ntk(cube, points).ntk, False), (targets[:, :n], True)):
        Q = torch.linalg.qr(basis)[0]
        errors = ((targets - Q @ (Q.T @ targets)) ** 2).mean(0)
        bound = 1 - n / count
        assert errors.mean() >= bound - 1e-12
        assert (abs(errors.mean() - bound) < 1e-12) == attained
        if attained:  # one parity alone may be met: the mean is needed
            assert errors.min() < 1e-12


@pytest.mark.claim("prop-ntk-parity")
def test_error_of_one_parity_for_an_invariant_kernel():
    """Mean over draws of points, within four errors, and a kernel that knows the coordinates."""
    d, n = 6, 8
    cube = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * d)
    target, bound, found = cube[:, 0] * cube[:, 1], 1 - n / 15, []
    knowing = []
    for seed in range(60):
        points = cube[torch.randint(len(cube), (n,), generator=rng(seed))]
        scale = torch.tensor([3.0, 3, 0.1, 0.1, 0.1, 0.1], dtype=F64)
        for errors, factor in ((found, torch.ones(d, dtype=F64)), (knowing, scale)):
            basis = relu_ntk(factor * cube, factor * points).ntk
            U, s, _ = torch.linalg.svd(basis, full_matrices=False)
            Q = U[:, s > 1e-10 * s[0]]
            errors.append(float(((target - Q @ (Q.T @ target)) ** 2).mean()))
    mean = torch.tensor(found)
    assert mean.mean() > bound + 4 * mean.std() / 60**0.5
    assert torch.tensor(knowing).mean() < bound


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_named(as_at_the_users):
    net, _ = dense()
    x = randn(4, 3)
    norm = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(F64)
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)).to(F64)
    several = WideEnsemble(2, 2, 3, dtype=F64)
    value = {
        "x must hold at least one point": lambda: empirical_ntk(net, x[:0]),
        "y must hold examples like those of x": lambda: empirical_ntk(net, x, randn(4, 2)),
        r"got torch.float32 of shape \(3,\)": lambda: empirical_ntk(net, x, x.float()),
        "y must hold at least one point": lambda: empirical_ntk(net, x, x[:0]),
        "module must take examples one by one": lambda: empirical_ntk(norm, x),
        "module must treat each example alone": lambda: empirical_ntk(mixed, x),
        "module must have trainable parameters": lambda: empirical_ntk(nn.Tanh(), x),
        "module must return one row": lambda: empirical_ntk(nn.Linear(3, 1).to(F64), x[:, None]),
        "params must have names": lambda: empirical_ntk(net, x, params={"no": x}),
        "params must have shape": lambda: empirical_ntk(net, x, params={"0.bias": x}),
        "v must have shape": lambda: TangentKernel(net, x).product(randn(4, 3)),
        "depth must be at least 1": lambda: relu_ntk(x, depth=0),
        "x must have one input in a row": lambda: relu_ntk(x[0]),
        "y must have one input in a row": lambda: erf_ntk(x, x[None]),
        "width must be at least 1": lambda: wide_net(2, 0),
        "activation must be one of": lambda: wide_net(2, 3, activation="sine"),
        "nets must be at least 1": lambda: WideEnsemble(0, 2, 3),
        "y must hold 5 targets": lambda: several.descend(X, Y[:2], rate=1, steps=1),
        "rate must be a positive number": lambda: several.descend(X, Y, rate=0, steps=1),
        "steps must be at least 0": lambda: several.descend(X, Y, rate=1, steps=-1),
        "y must hold a target for each": lambda: ntk_gp(X, Y[:3], NEW, kernels=relu_ntk),
        "new must end in the axes": lambda: ntk_gp(X, Y, x, kernels=relu_ntk),
        "time must be a number of at least 0": lambda: ntk_gp(X, Y, NEW, kernels=relu_ntk, time=-1),
    }
    for message, call in value.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="module must have trainable parameters"):
        linearize(nn.Tanh())
    kind = {
        "x must hold floating-point numbers": lambda: relu_ntk(torch.zeros(2, 3).long()),
        "depth must be an integer": lambda: relu_ntk(x, depth=1.5),
        "generator must be a torch.Generator": lambda: wide_net(2, 3, generator=0),
        "time must be a number": lambda: ntk_gp(X, Y, NEW, kernels=relu_ntk, time="long"),
    }
    for message, call in kind.items():
        with pytest.raises(TypeError, match=message):
            call()
    assert empirical_ntk(norm.eval(), x).shape == (4, 4, 2, 2)
