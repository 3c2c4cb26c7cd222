"""Claims of the chapter on hyperparameters, and the package `implicit` against dense oracles."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nodes_tutorial.implicit import (
    GraphMemory,
    RootError,
    SingularError,
    StationarityError,
    argmin,
    fixed_point,
    hypergradient,
    newton_cg,
    root,
)
from nodes_tutorial.implicit import function as function_module
from nodes_tutorial.implicit import inverse as inverse_module
from nodes_tutorial.implicit import newton as newton_module
from nodes_tutorial.linalg import (
    IndefiniteError,
    ResidualError,
    SeriesError,
    cg,
    ggn,
    hessian_operator,
    hvp,
    neumann,
)

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0):
    return torch.randn(size, generator=rng(seed), dtype=F64)


def ridge():
    source = np.random.default_rng(0)
    source.standard_normal(420)
    X, w = source.standard_normal((40, 5)), source.standard_normal(5)
    y = X @ w + 0.5 * source.standard_normal(40)
    V = source.standard_normal((30, 5))
    return [torch.tensor(a) for a in (X, y, V, V @ w + 0.5 * source.standard_normal(30))]


X, Y, V, U = ridge()
LAM = torch.tensor(-1.0, dtype=F64)


def train(w, lam):
    """Ridge, for one w or a row for each task."""
    fit = (w @ X.T.to(w) - Y.to(w)).square().sum(-1) / 80
    return fit + 0.5 * lam.exp() * w.square().sum(-1)


def val(w, lam):
    return (w @ V.T.to(w) - U.to(w)).square().sum(-1) / 60


def optimum(lam=LAM):
    return torch.linalg.solve(X.T @ X / 40 + lam.exp() * torch.eye(5, dtype=F64), X.T @ Y / 40)


def central(fun, x, h=1e-5):
    """Central differences of a number along each entry."""
    flat = x.flatten()
    out = torch.empty_like(flat)
    for i in range(len(flat)):
        moved = [flat.clone() for _ in range(2)]
        moved[0][i] += h
        moved[1][i] -= h
        out[i] = (fun(moved[0].view_as(x)) - fun(moved[1].view_as(x))) / (2 * h)
    return out.view_as(x)


def coupled(x, a):
    """Three equations with an asymmetric derivative."""
    mix = torch.tensor([[2.0, 0.5, 0.0], [-0.6, 1.5, 0.4], [0.3, -0.2, 1.0]], dtype=x.dtype)
    return mix @ x + 0.2 * x.roll(1) ** 3 - torch.stack([a[0], a[0] * a[1], a[1].sin()])


A0 = torch.tensor([0.7, -0.4], dtype=F64)


def start(n=3):
    return torch.zeros(n, dtype=F64)


@pytest.mark.claim("thm-hyperparameters-implicit")
def test_root_moves_as_the_theorem_says(measured):
    x = root(coupled, start(), A0)
    by_formula = torch.func.jacrev(lambda a: root(coupled, start(), a))(A0)
    steps = torch.stack([
        central(lambda a, i=i: root(coupled, start(), a)[i], A0) for i in range(3)
    ])  # fmt: skip
    assert measured((by_formula - steps).abs().max(), "central differences") < 1e-9
    # one solution in the ball, from wherever in it
    for seed in range(5):
        other = root(coupled, x + 0.3 * randn(3, seed=seed), A0)
        assert (other - x).norm() < 1e-12
    forward = torch.func.jacfwd(lambda a: root(coupled, start(), a))(A0)
    assert (forward - by_formula).abs().max() < 1e-12
    second = torch.func.hessian(lambda a: root(coupled, start(), a)[0])(A0)
    slopes = torch.stack([
        central(lambda a, j=j: torch.func.grad(lambda a: root(coupled, start(), a)[0])(a)[j], A0)
        for j in range(2)
    ])  # fmt: skip
    assert measured((second - slopes).abs().max(), "second derivative") < 1e-8


def broken_inverse(monkeypatch, change):
    right = newton_module.Newton.invert

    def wrong(self, x, tensors, b, adjoint):
        return change(right, self, x, tensors, b, adjoint)

    monkeypatch.setattr(newton_module.Newton, "invert", wrong)


@pytest.mark.claim("thm-hyperparameters-implicit")
@pytest.mark.parametrize(
    "change",
    [
        lambda f, s, x, t, b, adjoint: f(s, x, t, b, not adjoint),
        lambda f, s, x, t, b, adjoint: -f(s, x, t, b, adjoint),
        lambda f, s, x, t, b, adjoint: b,
    ],
    ids=["transpose", "sign", "no inverse"],
)
def test_wrong_inverse_is_noticed(monkeypatch, change):
    right = central(lambda a: root(coupled, start(), a).square().sum(), A0)
    broken_inverse(monkeypatch, change)
    a = A0.clone().requires_grad_()
    root(coupled, start(), a).square().sum().backward()
    assert (a.grad - right).abs().max() > 1e-2


@pytest.mark.claim("thm-hyperparameters-implicit")
def test_without_an_invertible_derivative_there_is_no_root_or_two():
    """At the fold of x² = a: two roots for a > 0, none for a < 0, no derivative at 0."""

    def fold(x, a):
        return x**2 - a

    one = torch.tensor(1.0, dtype=F64)
    ends = [root(fold, sign * one, 0.01 * one) for sign in (1, -1)]
    assert (torch.stack(ends) - torch.tensor([0.1, -0.1], dtype=F64)).abs().max() < 1e-12
    with pytest.raises(RootError, match="norm is"):
        root(fold, 0.7 * one, -one)
    with pytest.raises(SingularError, match="least singular value"):
        root(fold, one, 0 * one)


@pytest.mark.claim("cor-hyperparameters-gradient")
@pytest.mark.parametrize("solver", ["cg", "neumann", "exact"])
def test_ridge_hypergradient(solver, measured):
    grad, report = hypergradient(train, val, optimum(), LAM, solver=solver, terms=60)
    difference = central(lambda lam: val(optimum(lam), lam), LAM)
    assert measured((grad - difference).abs(), f"central difference, {solver}") < 1e-9
    assert abs(float(grad) - 0.21307366) < 5e-9
    assert report.solver == solver and report.relative_gradient < 1e-12 and report.residual < 1e-12
    least = torch.linalg.eigvalsh(X.T @ X / 40)[0] + LAM.exp()
    assert least - 1e-9 <= report.curvature < 1.5 * least
    if solver == "cg":
        assert report.products == 5


def network():
    """A small network of smooth activation, its data, and a decay for each of its tensors."""
    net = nn.Sequential(nn.Linear(2, 4, dtype=F64), nn.Tanh(), nn.Linear(4, 1, dtype=F64))
    params = {
        name: 0.5 * randn(*p.shape, seed=i) for i, (name, p) in enumerate(net.named_parameters())
    }
    inputs = [randn(20, 2, seed=10 + s) for s in range(2)]
    data = [(x, (2 * x[:, :1]).tanh() + 0.2 * x[:, 1:].cos()) for x in inputs]
    hyper = {name: torch.tensor(-4.0, dtype=F64) for name in params}

    def loss(params, which):
        x, y = data[which]
        return (torch.func.functional_call(net, params, (x,)) - y).square().mean() / 2

    def penalized(params, hyper):
        decay = sum(hyper[name].exp() * params[name].square().sum() for name in params)
        return loss(params, 0) + decay / 2

    def validation(params, hyper):
        return loss(params, 1) + 0.1 * sum(h**2 for h in hyper.values())

    def flat(params):
        return torch.cat([p.flatten() for p in params.values()])

    def tree(vector):
        parts = vector.split([p.numel() for p in params.values()])
        return {
            name: part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)
        }

    def fit(hyper):
        return tree(newton_cg(lambda v: penalized(tree(v), hyper), flat(params), tol=1e-13))

    return penalized, validation, fit, hyper


@pytest.mark.claim("cor-hyperparameters-gradient")
def test_hypergradient_of_a_network_with_a_direct_term(measured):
    penalized, validation, fit, hyper = network()
    params = fit(hyper)
    grad, report = hypergradient(penalized, validation, params, hyper, rtol=1e-12)
    assert grad.keys() == hyper.keys() and report.curvature > 0
    for name in hyper:
        difference = central(
            lambda h, name=name: validation(fit(hyper | {name: h}), hyper | {name: h}), hyper[name]
        )
        assert measured((grad[name] - difference).abs(), "network") < 1e-7
    # without the direct term, and with the sign of the implicit one flipped
    direct = {name: 0.2 * h for name, h in hyper.items()}
    assert max((grad[name] - direct[name]).abs() for name in hyper) > 1e-3
    assert min(h.abs() for h in direct.values()) > 0.1


@pytest.mark.claim("cor-hyperparameters-gradient")
def test_hypergradient_wants_a_positive_definite_hessian():
    def saddle(w, lam):
        return w[0] ** 2 - w[1] ** 2 + lam * w.sum()

    at = (torch.tensor(0.0, dtype=F64) * torch.ones(2, dtype=F64), torch.tensor(0.0, dtype=F64))
    for solver in ("cg", "exact", "neumann"):
        with pytest.raises(IndefiniteError, match=r"curvature of -(2|1\.2|0\.7|1)"):
            hypergradient(saddle, lambda w, lam: w[0] + 2 * w[1], *at, solver=solver)
    with pytest.raises(SeriesError, match="grow by a factor"):
        hypergradient(
            saddle, lambda w, lam: w[0] + 2 * w[1], *at, solver="neumann", alpha=0.1, terms=30
        )
    flat = (torch.zeros(2, dtype=F64), torch.ones((), dtype=F64))
    with pytest.raises(IndefiniteError, match="curvature of 0"):
        hypergradient(lambda w, lam: lam * w[0] ** 2 + 0 * w[1], lambda w, lam: w.sum(), *flat,
                      solver="exact")  # fmt: skip


@pytest.mark.claim("cor-hyperparameters-equilibrium")
def test_fixed_point_against_many_layers(measured):
    W = 0.9 * torch.linalg.qr(randn(4, 4))[0]
    a = randn(4, seed=1)

    def g(x, W, a):
        return torch.sin(W @ x) + a

    def layers(W, a):
        x = torch.zeros(4, dtype=F64)
        for _ in range(500):
            x = g(x, W, a)
        return x.square().sum()

    inputs = [W.clone().requires_grad_(), a.clone().requires_grad_()]
    x = fixed_point(g, torch.zeros(4, dtype=F64), *inputs)
    found = torch.autograd.grad(x.square().sum(), inputs)
    right = torch.autograd.grad(layers(*inputs), inputs)
    error = max((f - r).abs().max() for f, r in zip(found, right, strict=True))
    assert measured(error, "500 layers") < 1e-10
    # the sum of the powers, and the sum that begins one later
    G = torch.func.jacrev(lambda x: g(x, W, a))(x.detach())
    powers = sum(torch.linalg.matrix_power(G, i) for i in range(400))
    J = torch.func.jacrev(lambda a: fixed_point(g, torch.zeros(4, dtype=F64), W, a))(a)
    assert (J - powers).abs().max() < 1e-10
    assert (J - (powers - torch.eye(4))).abs().max() > 0.9
    with pytest.raises(RootError, match="of the change before"):
        fixed_point(lambda x, a: 2 * x + a, torch.ones(4, dtype=F64), a)


@pytest.mark.claim("prop-hyperparameters-distance")
def test_gradient_bounds_the_distance_and_the_error():
    """Attained by the round quadratic, false without a positive least curvature."""
    mu = 0.3
    center, theta = randn(6), randn(6, seed=1)

    def loss(theta):
        return mu / 2 * (theta - center).square().sum()

    distance = (theta - center).norm()
    assert (torch.func.grad(loss)(theta).norm() / mu - distance).abs() < 1e-12

    def curved(theta):
        return loss(theta) + theta.cosh().sum() + theta.prod().cos() * 0

    best = newton_cg(curved, torch.zeros(6, dtype=F64), tol=1e-13)
    gradient = torch.func.grad(curved)(theta).norm()
    assert (theta - best).norm() <= gradient / (mu + 1)
    assert (theta - best).norm() > gradient / (mu + 1) / 4
    # a quartic has no positive curvature at its minimum: the distance is not bounded so
    quartic = torch.tensor(1e-2, dtype=F64)
    assert quartic > 100 * 4 * quartic**3
    # part 2: the error of the formula falls in proportion to the gradient
    errors = []
    lam = torch.tensor(0.5, dtype=F64)

    def train(w, lam):
        return w.cosh().sum() + lam.exp() * (w - center).square().sum() / 2

    w = newton_cg(lambda w: train(w, lam), center, tol=1e-13)
    options = {"solver": "exact", "stationary": None}
    exact, _ = hypergradient(train, lambda w, lam: w.sin().sum(), w, lam, **options)
    direction = randn(6, seed=2)
    for size in (1e-2, 1e-3, 1e-4):
        off, report = hypergradient(
            train, lambda w, lam: w.sin().sum(), w + size * direction, lam, **options
        )
        errors.append(float((off - exact).abs() / report.gradient_norm))
    assert max(errors) < 1.2 * min(errors) and min(errors) > 1e-3


def spd(eigenvalues, seed=0):
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    Q = torch.linalg.qr(randn(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    return Q, Q @ torch.diag(eigenvalues) @ Q.T


@pytest.mark.claim("prop-hyperparameters-neumann")
def test_series_and_its_condition(measured):
    mus = torch.tensor([0.5, 0.8, 1.7, 3.0], dtype=F64)
    Q, A = spd(mus)
    b = randn(4, seed=3)
    x = torch.linalg.solve(A, b)
    for alpha in (0.2, 1 / 3, 2 / 3.5, 0.66):
        rho = max(abs(1 - alpha * 0.5), abs(1 - alpha * 3.0))
        for K in (0, 1, 5, 20):
            found = neumann(lambda v: A @ v, b, terms=K, alpha=alpha)
            power = torch.linalg.matrix_power(torch.eye(4, dtype=F64) - alpha * A, K + 1)
            assert measured((x - found.x - power @ x).abs().max(), "remainder") < 1e-12
            assert (found.residual - (power @ b).norm()).abs() < 1e-12
            assert (x - found.x).norm() <= rho ** (K + 1) * x.norm() * (1 + 1e-9)
            end = Q[:, 0 if abs(1 - alpha * 0.5) >= abs(1 - alpha * 3.0) else 3]
            sharp = neumann(lambda v: A @ v, A @ end, terms=K, alpha=alpha)
            assert abs((end - sharp.x).norm() - rho ** (K + 1)) < 1e-12  # attained
            late = neumann(lambda v: A @ v, A @ b, terms=K, alpha=alpha).x  # the sum from i = 1
            assert (late - found.x).norm() > 1e-3
    kappa = 6.0
    rates = {alpha: max(abs(1 - alpha * 0.5), abs(1 - alpha * 3)) for alpha in (0.5, 2 / 3.5, 0.6)}
    assert min(rates, key=rates.get) == 2 / 3.5
    assert abs(rates[2 / 3.5] - (kappa - 1) / (kappa + 1)) < 1e-15
    for alpha in (0.67, 1.0):
        with pytest.raises(SeriesError, match="factor of"):
            neumann(lambda v: A @ v, Q[:, 3], terms=3, alpha=alpha)
    for least in (-0.1, 0.0):
        Q, bad = spd([least, 1.0])
        sizes = []
        for K in (10, 20, 40):
            try:
                sizes.append(neumann(lambda v, A=bad: A @ v, Q[:, 0], terms=K, alpha=0.5).x.norm())
            except SeriesError as error:
                assert "1.05" in str(error)
                sizes.append(torch.tensor(0.5 * sum(1.05**i for i in range(K + 1))))
        assert sizes[0] < sizes[1] / 1.5 < sizes[2] / 2.5


@pytest.mark.claim("prop-hyperparameters-neumann")
def test_lanczos_factor_converges_and_counts():
    _, A = spd(torch.linspace(0.1, 4.0, 30))
    b = randn(30, seed=4)
    found = neumann(lambda v: A @ v, b, terms=200)
    assert 0.24 < found.alpha < 0.3 and found.products == 211
    assert found.residual < 5e-3 * b.norm() and abs(found.curvature - 0.1) < 0.1
    batch = neumann(lambda v: v @ A, torch.stack([b, 0 * b]), terms=3)
    assert (batch.x[1] == 0).all() and batch.residual[1] == 0
    with pytest.raises(IndefiniteError, match="system 1 of 2"):
        neumann(lambda v: v @ A * torch.tensor([[1.0], [-1.0]]), torch.stack([b, b]))


@pytest.mark.claim("thm-hyperparameters-unrolled")
def test_truncated_unrolling_is_the_truncated_series(measured):
    penalized, validation, fit, hyper = network()
    params = fit(hyper)
    alpha = 0.3
    for K in (0, 1, 4):
        series, _ = hypergradient(
            penalized, validation, params, hyper, solver="neumann", terms=K, alpha=alpha
        )
        leaves = {name: h.clone().requires_grad_() for name, h in hyper.items()}
        theta = params
        for _ in range(K + 1):
            slope = torch.func.grad(penalized)(theta, leaves)
            theta = {name: theta[name] - alpha * slope[name] for name in theta}
        path = torch.autograd.grad(validation(theta, leaves), list(leaves.values()))
        error = max((series[n] - p).abs() for n, p in zip(leaves, path, strict=True))
        assert measured(error, "unrolled") < 1e-12
        other, _ = hypergradient(
            penalized, validation, params, hyper, solver="neumann", terms=K + 1, alpha=alpha
        )
        assert max((series[n] - other[n]).abs() for n in hyper) > 1e-6  # one term more differs
    # away from the minimum the two differ
    far = {name: p + 0.5 for name, p in params.items()}
    options = {"solver": "neumann", "terms": 2, "alpha": alpha, "stationary": None}
    series, _ = hypergradient(penalized, validation, far, hyper, **options)
    leaves = {name: h.clone().requires_grad_() for name, h in hyper.items()}
    theta = far
    for _ in range(3):
        slope = torch.func.grad(penalized)(theta, leaves)
        theta = {name: theta[name] - alpha * slope[name] for name in theta}
    path = torch.autograd.grad(validation(theta, leaves), list(leaves.values()))
    assert max((series[n] - p).abs() for n, p in zip(leaves, path, strict=True)) > 1e-3


def a_norm(A, x):
    return (x @ A @ x).sqrt()


@pytest.mark.claim("thm-hyperparameters-cg")
def test_cg_is_the_best_point_of_the_krylov_space(measured):
    _, A = spd([0.2, 0.5, 1.0, 1.5, 3.0, 4.0])
    b = randn(6, seed=5)
    x = torch.linalg.solve(A, b)
    powers = [b]
    for k in range(1, 7):
        found = cg(lambda v: A @ v, b, rtol=0.0, max_iterations=k).x
        K = torch.linalg.qr(torch.stack(powers, 1))[0]
        best = K @ torch.linalg.solve(K.T @ A @ K, K.T @ b)
        assert measured((found - best).abs().max(), "Galerkin") < 1e-9
        powers.append(A @ powers[-1])
    assert a_norm(A, found - x) < 1e-10
    steepest = b * (b @ b) / (b @ A @ b)
    steepest = steepest + (r := b - A @ steepest) * (r @ r) / (r @ A @ r)
    second = cg(lambda v: A @ v, b, rtol=0.0, max_iterations=2).x
    assert a_norm(A, second - x) < 0.9 * a_norm(A, steepest - x)


@pytest.mark.claim("thm-hyperparameters-cg")
def test_cg_ends_after_as_many_steps_as_eigenvalues():
    _, A = spd([1.0, 1.0, 1.0, 4.0, 4.0, 9.0])
    b = randn(6, seed=6)
    three = cg(lambda v: A @ v, b, rtol=0.0, max_iterations=3)
    assert (three.x - torch.linalg.solve(A, b)).norm() < 1e-12
    two = cg(lambda v: A @ v, b, rtol=0.0, max_iterations=2)
    assert two.residual > 1e-2
    indefinite = cg(lambda v: A @ v - 2 * v, b)
    assert indefinite.negative_curvature


@pytest.mark.claim("thm-hyperparameters-cg")
@pytest.mark.parametrize("k", [2, 4, 7])
def test_chebyshev_bound_is_attained_up_to_its_half(k):
    """Eigenvalues at the extrema of Chebyshev's polynomial, with the weights of the worst case."""
    low, high = 1.0, 30.0
    nodes = torch.cos(torch.arange(k + 1, dtype=F64) * math.pi / k)
    mus = (high + low - (high - low) * nodes) / 2
    gaps = mus[:, None] - mus + torch.eye(k + 1, dtype=F64)
    weights = 1 / (mus * gaps.prod(1)).abs()
    x = (weights / mus).sqrt()  # in the eigenbasis, so that the share in the A-norm is the weight
    A = torch.diag(mus)
    found = cg(lambda v: A @ v, A @ x, rtol=0.0, max_iterations=k).x
    q = (math.sqrt(30) + 1) / (math.sqrt(30) - 1)
    share = a_norm(A, x - found) / a_norm(A, x)
    assert 0.5 * 2 * q**-k <= share <= 2 * q**-k
    assert abs(share - 2 / (q**k + q**-k)) < 1e-9


@pytest.mark.claim("prop-hyperparameters-gauss")
def test_gauss_newton_is_the_convex_part(measured):
    net = nn.Sequential(nn.Linear(3, 4, dtype=F64), nn.Tanh(), nn.Linear(4, 3, dtype=F64))
    inputs, labels = randn(6, 3, seed=7), torch.arange(6) % 3
    size = sum(p.numel() for p in net.parameters())
    at = randn(size, seed=8)

    def outputs(vector):
        parts = vector.split([p.numel() for p in net.parameters()])
        tree = {
            n: part.view(p.shape)
            for (n, p), part in zip(net.named_parameters(), parts, strict=True)
        }
        return torch.func.functional_call(net, tree, (inputs,))

    def ce(z):
        return nn.functional.cross_entropy(z, labels, reduction="sum")

    eye = torch.eye(size, dtype=F64)
    matrix = torch.stack([ggn(outputs, ce, at, e) for e in eye])
    J = torch.func.jacrev(lambda v: outputs(v).flatten())(at)
    inner = torch.func.hessian(lambda z: ce(z.view(6, 3)))(outputs(at).flatten())
    assert measured((matrix - J.T @ inner @ J).abs().max(), "dense") < 1e-12
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12
    whole = torch.func.hessian(lambda v: ce(outputs(v)))(at)
    assert torch.linalg.eigvalsh(whole)[0] < -1e-3
    rest = torch.einsum(
        "i,ijk->jk", torch.func.grad(lambda z: ce(z.view(6, 3)))(outputs(at).flatten()),
        torch.func.hessian(lambda v: outputs(v).flatten())(at),
    )  # fmt: skip
    assert (whole - matrix - rest).abs().max() < 1e-12
    linear = torch.stack([
        ggn(lambda v: v.view(6, 3), ce, at[:18], e) for e in torch.eye(18, dtype=F64)
    ])  # fmt: skip
    assert (linear - torch.func.hessian(lambda v: ce(v.view(6, 3)))(at[:18])).abs().max() < 1e-12
    concave = torch.stack([ggn(outputs, lambda z: -ce(z), at, e) for e in eye])
    assert torch.linalg.eigvalsh(concave)[0] < -1e-3


@pytest.mark.claim("cor-hyperparameters-gradient")
def test_mixed_derivative_of_the_proximal_term_is_minus_the_identity():
    """For f + ½‖θ − λ‖² the optimum moves by (I + ∇²f)⁻¹, with a plus."""
    lam = randn(3, seed=13)

    def loss(theta, lam):
        return theta.cosh().sum() + (theta - lam).square().sum() / 2

    theta = argmin(loss, start(), lam)
    mixed = torch.func.jacrev(lambda lam: torch.func.grad(loss)(theta, lam))(lam)
    assert (mixed + torch.eye(3)).abs().max() < 1e-15
    moved = torch.func.jacrev(lambda lam: argmin(loss, start(), lam))(lam)
    assert (moved - torch.diag(1 / (1 + theta.cosh()))).abs().max() < 1e-12


# the package beyond the statements


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", ["cg", "neumann", "exact", "identity"])
def test_tasks_are_solved_as_if_alone(solver, dtype):
    lams = torch.tensor([-2.0, -1.0, 0.5], dtype=F64)
    w = torch.stack([optimum(lam) for lam in lams]).to(dtype)
    lams = lams.to(dtype)
    options = {"solver": solver, "rtol": 1e-6}
    together, report = hypergradient(train, val, w, lams, **options)
    assert together.dtype == dtype and report.residual.shape == (3,)
    for i in range(3):
        alone, _ = hypergradient(train, val, w[i], lams[i], **options)
        assert abs(alone - together[i]) < (1e-9 if dtype == F64 else 1e-4)
    same = torch.stack([optimum()] * 3).to(dtype)
    shared, _ = hypergradient(train, val, same, LAM.to(dtype), **options)
    alone, _ = hypergradient(train, val, same[0], LAM.to(dtype), **options)
    assert abs(shared - 3 * alone) < (1e-9 if dtype == F64 else 1e-4)


def test_worst_task_is_named():
    w = torch.stack([optimum()] * 3)
    w[1] += 0.1
    with pytest.raises(StationarityError, match=r"params of task 1 of 3 .* stationary=0.0001"):
        hypergradient(train, val, w, LAM)
    _, report = hypergradient(train, val, w, LAM, stationary=None)
    assert report.relative_gradient.isnan().all() and report.gradient_norm.argmax() == 1
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=F64)
    with pytest.raises(IndefiniteError, match="task 2 of 3"):
        hypergradient(lambda w, lam: signs * train(w, lam), val, torch.stack([optimum()] * 3), LAM)


@pytest.mark.parametrize("solver", ["cg", "neumann", "exact"])
def test_scalars(solver):
    """TorchOpt returns zero here, because its CG takes no step for a scalar."""

    def loss(w, lam):
        return 0.5 * (w - 1) ** 2 + 0.5 * lam.exp() * w**2

    at = 1 / (1 + LAM.exp())
    grad, report = hypergradient(loss, lambda w, lam: w, at, LAM, solver=solver)
    assert abs(grad + LAM.exp() / (1 + LAM.exp()) ** 2) < 1e-12
    assert grad.shape == () and report.residual < 1e-12
    lam = LAM.clone().requires_grad_()
    argmin(loss, torch.zeros((), dtype=F64), lam).backward()
    assert abs(lam.grad - grad) < 1e-12


def test_products_to_an_accuracy():
    """CG at 30 products has error 1e-5; the series needs five times as many as CG to 1e-3."""
    rows, columns = 100, 400
    inputs, target = randn(rows, columns, seed=30) / 10, randn(rows, seed=31)
    held, answers = randn(50, columns, seed=32) / 10, randn(50, seed=33)
    lams = 0.3 * randn(columns, seed=34)

    def loss(w, lam):
        return (inputs @ w - target).square().sum() / 2 + (lam.exp() * w.square()).sum() / 2

    def validation(w, lam):
        return (held @ w - answers).square().sum() / 2

    H = inputs.T @ inputs + torch.diag(lams.exp())
    w = torch.linalg.solve(H, inputs.T @ target)
    exact = -lams.exp() * w * torch.linalg.solve(H, held.T @ (held @ w - answers))

    def error(**options):
        grad, report = hypergradient(loss, validation, w, lams, stationary=None, **options)
        return float((grad - exact).norm() / exact.norm()), report.products

    assert error(solver="cg", terms=30)[0] < 1e-5
    needed = next(k for k in range(1, 60) if error(solver="cg", terms=k)[0] < 1e-3)
    assert error(solver="neumann", terms=5 * needed)[0] > 1e-3
    assert error(solver="cg")[1] < 45


def test_bad_input_is_named(as_at_the_users):
    w = optimum()
    wrong = {
        "solver must be one of": lambda: hypergradient(train, val, w, LAM, solver="lu"),
        "terms must": lambda: hypergradient(train, val, w, LAM, terms=1.5),
        "stationary must": lambda: hypergradient(train, val, w, LAM, stationary=0),
        "alpha must": lambda: hypergradient(train, val, w, LAM, solver="neumann", alpha=-1.0),
        "rtol must": lambda: hypergradient(train, val, w, LAM, rtol=-1.0),
        "params must hold": lambda: hypergradient(train, val, w.long(), LAM),
        r"params\['a'\] must be a tensor": lambda: hypergradient(train, val, {"a": 1}, LAM),
        "hyper must hold at least one": lambda: hypergradient(train, val, w, {}),
        "train_loss must return a tensor": lambda: hypergradient(lambda *_: 1.0, val, w, LAM),
        "train_loss must return a number, or one": lambda: hypergradient(
            lambda w, lam: w[:, None] * lam.exp() * w, val, w, LAM
        ),
        "val_loss must return the shape": lambda: hypergradient(
            train, lambda w, lam: w.square(), w, LAM
        ),
        "params must have one row for each of the 3": lambda: hypergradient(
            lambda w, lam: w[:3] ** 2 * lam, lambda w, lam: w[:3], w, LAM
        ),
        "val_loss must depend on params": lambda: hypergradient(train, lambda w, lam: lam, w, LAM),
        r"params\[1\] does not enter train_loss": lambda: hypergradient(
            lambda p, lam: train(p[0], lam), lambda p, lam: val(p[0], lam), (w, w), LAM
        ),
        "start must be built like": lambda: hypergradient(train, val, w, LAM, start=w[:3]),
        "hyper enters neither": lambda: hypergradient(lambda w, _: train(w, LAM), val, w, LAM),
        r"hyper\['rate'\] enters neither": lambda: hypergradient(
            lambda w, h: train(w, h["lam"]), val, w, {"lam": LAM, "rate": LAM}
        ),
        "hyper enters neither the": lambda: hypergradient(
            lambda w, lam: train(w, LAM) + lam.detach(), val, w, LAM
        ),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises(ResidualError, match=r"stopped after 2 products at .* 0\.0354, above"):
        hypergradient(train, val, w, LAM, terms=2)
    with pytest.raises(StationarityError, match="pass start="):
        hypergradient(lambda w, lam: (w**2).sum() + lam * w.log().sum(), val, w.abs() + 1, LAM)
    with pytest.raises(FloatingPointError):
        hypergradient(train, lambda w, lam: val(w, lam) * torch.nan, w, LAM)


def test_start_sets_the_scale_of_the_gradient():
    near = optimum() + 1e-3
    with pytest.raises(StationarityError):
        hypergradient(train, val, near, LAM)
    hypergradient(train, val, near, LAM, start=optimum() + 100)
    with pytest.raises(StationarityError):
        hypergradient(train, val, near, LAM, start=optimum() + 1e-3)


def test_wrong_products_are_noticed(monkeypatch):
    right, _ = hypergradient(train, val, optimum(), LAM)
    product = inverse_module.Hessian._product
    monkeypatch.setattr(
        inverse_module.Hessian, "_product", lambda self, v, many=False: 2 * product(self, v, many)
    )
    wrong, _ = hypergradient(train, val, optimum(), LAM)
    assert abs(wrong - right) > 0.05


SOLVES = {
    "root": lambda a: root(coupled, start(), a),
    "argmin": lambda a: argmin(
        lambda x, a: (x.cosh() - a[0] * x).sum() + a[1] * x.prod(), start(), a
    ),
    "fixed_point": lambda a: fixed_point(
        lambda x, a: 0.5 * torch.sin(x.roll(1) + a[0]) + a[1], start(), a
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_all_modes_of_differentiation(name):
    solve = SOLVES[name]
    a = A0.clone().requires_grad_()
    assert torch.autograd.gradcheck(solve, a, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve, a)
    rows = A0 + 0.1 * randn(4, 2, seed=9)

    def height(a):
        return solve(a).square().sum()

    alone = torch.stack([solve(row) for row in rows])
    slopes = torch.stack([torch.func.grad(height)(row) for row in rows])
    assert (torch.func.vmap(solve)(rows) - alone).abs().max() < 1e-10
    assert (torch.func.vmap(solve, 1)(rows.T) - alone).abs().max() < 1e-10
    assert (torch.func.vmap(torch.func.grad(height))(rows) - slopes).abs().max() < 1e-9
    through = torch.func.grad(lambda rows: torch.func.vmap(height)(rows).sum())(rows)
    assert (through - slopes).abs().max() < 1e-9
    tangent = torch.func.jvp(solve, (A0,), (torch.ones_like(A0),))[1]
    assert (tangent - torch.func.jacrev(solve)(A0).sum(1)).abs().max() < 1e-9


def test_roots_of_independent_rows_and_other_solvers():
    a = randn(5, 2, seed=11).exp().requires_grad_()
    x = root(lambda x, a: x**3 + x - a, torch.ones(5, 2, dtype=F64), a, batch=1)
    (slope,) = torch.autograd.grad(x.sum(), a)
    assert (slope - 1 / (3 * x**2 + 1)).abs().max() < 1e-12
    low = argmin(lambda x, a: (x - a).square().sum(-1), torch.zeros(5, 2, dtype=F64), a, batch=1)
    assert (low - a).abs().max() < 1e-12
    one = torch.tensor(2.0, dtype=F64, requires_grad=True)
    by_hand = root(
        lambda x, a: x**2 - a, torch.ones((), dtype=F64), one, solver=lambda F, x: one.sqrt()
    )
    by_hand.backward()
    assert abs(one.grad - 0.5 / math.sqrt(2)) < 1e-12
    single = root(lambda x, a: x**2 - a, torch.tensor(1.0), torch.tensor(2.0))
    assert single.dtype == torch.float32 and abs(single - math.sqrt(2)) < 1e-6
    tree = root(
        lambda x, p: p["a"] * x - p["b"][0] * p["n"], torch.zeros(2, dtype=F64),
        {"a": one, "b": (torch.ones(2, dtype=F64),), "n": 3},
    )  # fmt: skip
    assert (tree - 1.5).abs().max() < 1e-12


def test_what_cannot_be_carried_raises(as_at_the_users):
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    one = torch.ones((), dtype=F64)
    for solve, fun in ((root, lambda x: x**2 - a), (argmin, lambda x: (x - a) ** 2),
                       (fixed_point, lambda x: 0.5 * x + a)):  # fmt: skip
        with pytest.raises(ValueError, match="closes over a tensor that has a gradient"):
            solve(fun, one)
    with pytest.raises(ValueError, match="closes over"):
        torch.func.grad(lambda a: root(lambda x: x**2 - a, one))(one)
    begin = torch.ones((), dtype=F64, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(root(lambda x, a: x**2 - a, begin, a), begin)
    with pytest.raises(IndefiniteError, match="curvature of -2"):
        argmin(lambda x, a: x[0] ** 2 - a * x[1] ** 2 / 2, torch.zeros(2, dtype=F64), a)
    with pytest.raises(SingularError, match="least singular value is 0"):
        argmin(lambda x, a: a * x[0] ** 2, torch.ones(2, dtype=F64), a)
    with pytest.raises(RootError, match="distance to a root about"):
        root(lambda x, a: x**2 - a, one, a, solver=lambda F, x: x)
    with pytest.raises(RootError, match="changes x by"):
        fixed_point(lambda x, a: 0.5 * x + a, one, a, solver=lambda g, x: x)
    with pytest.raises(RootError, match="finite"):
        root(lambda x, a: (x - 5).log() - a, one, a)
    wrong = {
        "F must return the shape": lambda: root(lambda x, a: x[None], one, a),
        "f must return the shape": lambda: argmin(lambda x, a: x, torch.ones(2), a),
        "g must return a tensor": lambda: fixed_point(lambda x: 1.0, one),
        "x0 must hold": lambda: root(lambda x: x, torch.tensor(1)),
        "batch must be at most": lambda: root(lambda x: x, one, batch=1),
        "rtol must": lambda: root(lambda x: x, one, rtol=0.0),
        "max_steps must": lambda: fixed_point(lambda x: x / 2, one, max_steps=0),
        "solver must return": lambda: root(lambda x: x, one, solver=lambda F, x: x[None]),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_the_node_holds_no_steps():
    """Saved are the answer and the arguments, whatever the number of applications."""
    counts = []
    for rate in (0.1, 0.99):
        saved = []
        a = torch.ones(4, dtype=F64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            fixed_point(lambda x, a, rate=rate: rate * x + a, torch.zeros(4, dtype=F64), a,
                        max_steps=5000)  # fmt: skip
        counts.append(sum(saved))
    assert counts[0] == counts[1] <= 8


def test_newton_cg_against_scipy_and_its_errors(as_at_the_users):
    from scipy.optimize import minimize

    scales = randn(3, 4, seed=12).exp()

    def loss(x):
        return (scales * (x - 1).cosh()).sum(1) + x.square().sum(1) / 2 + (x[:, 0] * x[:, 1]).cos()

    found = newton_cg(loss, torch.zeros(3, 4, dtype=F64), tol=1e-10)
    for i in range(3):

        def alone(x, i=i):
            rows = torch.zeros(3, 4, dtype=F64)
            rows[i] = torch.tensor(x)
            return float(loss(rows)[i])

        best = minimize(alone, np.zeros(4), tol=1e-12)
        assert np.abs(found[i].numpy() - best.x).max() < 1e-5
    with pytest.raises(StationarityError, match=r"minimum of task \d of 3 is not reached"):
        newton_cg(loss, torch.zeros(3, 4, dtype=F64), max_steps=1)
    with pytest.raises(ValueError, match="loss must return one number a task"):
        newton_cg(lambda x: x.square(), torch.zeros(3, 4, dtype=F64))
    with pytest.raises(ValueError, match="tol"):
        newton_cg(loss, torch.zeros(3, 4, dtype=F64), tol=-1.0)


def test_kept_hessian_is_that_of_hvp():
    def loss(x):
        return (x**3).sum(1) + x[:, 0] * x[:, 1].exp()

    x, v = randn(4, 3), randn(4, 3, seed=1)
    product = hessian_operator(loss, x)
    assert (product(v) - hvp(loss, x, v)).abs().max() < 1e-12
    assert (product(2 * v) - 2 * product(v)).abs().max() < 1e-12
    assert not product(v).requires_grad
    assert (hessian_operator(lambda x: x.sum(), x)(v) == 0).all()
    with pytest.raises(ValueError, match="fun must depend on x"):
        hessian_operator(lambda x: v.sum(), x)


def test_problems_are_of_their_protocol():
    problem = newton_module.Newton(lambda x: x, 0, None, 1e-8, 5, False)
    assert isinstance(problem, function_module.Problem)


def test_memory_of_graphs_is_counted_once_and_given_back():
    x = torch.ones(100, dtype=F64, requires_grad=True)
    with GraphMemory() as memory:
        y = x.sin()  # keeps x
        z = (y * y).sum()  # keeps y, twice
        assert memory.now == 1600
        (slope,) = torch.autograd.grad(z, x)
    assert memory.now == 0 and memory.peak == 1600 and slope.shape == (100,)
    with GraphMemory() as memory:
        w = x.exp().sum()
    assert memory.now == 800
    del w
    assert memory.now == 0


def test_newton_cg_leaves_a_place_of_negative_curvature():
    """At 0.1 the Hessian of a double well is negative; the gradient leads out of there."""
    found = newton_cg(lambda x: ((x**2 - 1) ** 2).sum(), torch.full((3,), 0.1, dtype=F64))
    assert (found - 1).abs().max() < 1e-8
