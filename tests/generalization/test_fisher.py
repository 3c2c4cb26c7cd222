"""Claims of the chapter on the empirical Fisher matrix, and the package against dense oracles."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, vmap

from nodes_tutorial.generalization import (
    bernoulli,
    categorical,
    empirical_fisher,
    fisher_matrix,
    gauss_newton,
    gaussian,
    gaussian_scale,
)
from nodes_tutorial.generalization import curvature as curvature_module
from nodes_tutorial.generalization.rows import Rows
from nodes_tutorial.linalg import IndefiniteError, ggn, hvp

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


def dense(out=2):
    return filled(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, out)))


def partly(out=2):
    """One bias missing, one weight frozen, an activation that overwrites its input."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, out))
    filled(net)[2].weight.requires_grad_(False)
    return net


def folded(out=2):
    """A convolution, so that rows are formed."""
    first = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten())
    return filled(first.append(nn.Linear(4, out)))


N = 9
INPUT = randn(N, 3, seed=2)
CASES = {
    "gaussian": (gaussian(0.5), randn(N, 2, seed=3)),
    "bernoulli": (bernoulli(), torch.rand(N, 2, generator=rng(4), dtype=F64).round()),
    "categorical": (categorical(), torch.randint(2, (N,), generator=rng(5))),
    "gaussian_scale": (gaussian_scale(), randn(N, 1, seed=6)),
}
NETS = {"dense": dense, "partly": partly, "folded": folded}


def weights_of(net):
    return {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}


def jacobian(net, x):
    def one(w, x):
        return functional_call(net, w, (x[None],))[0]

    parts = vmap(jacrev(one), (None, 0))(weights_of(net), x)
    return torch.cat([part.flatten(2) for part in parts.values()], 2)


def targets_and_weights(name, f):
    """Targets for one row of outputs and their probabilities: all of them, or a quadrature."""
    if name == "categorical":
        return torch.arange(len(f)), f.softmax(0)
    if name == "bernoulli":
        pairs = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * len(f))
        return pairs, torch.where(pairs > 0, f.sigmoid(), (-f).sigmoid()).prod(1)
    points, mass = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=F64), [1 / 6, 2 / 3, 1 / 6]
    if name == "gaussian_scale":  # exact for polynomials of degree 5 in the noise
        return (f[0] + f[1].exp() * points)[:, None], torch.tensor(mass, dtype=F64)
    pairs = torch.cartesian_prod(points, points)
    table = torch.cartesian_prod(*[torch.tensor(mass, dtype=F64)] * 2)
    return f + 0.5**0.5 * pairs, table.prod(1)


def by_expectation(name, net, x):
    """F from the definition: squares of gradients over all targets, with their probabilities."""
    likelihood = CASES[name][0]
    J, total = jacobian(net, x), 0
    for f, rows in zip(net(x).detach(), J, strict=True):
        y, p = targets_and_weights(name, f)
        slopes = grad(lambda f, y=y: likelihood.loss(f, y).sum())(f.expand(len(p), -1))
        g = slopes @ rows
        total = total + (g * p[:, None]).T @ g
    return total / len(x)


def gradients(name, net, x, y):
    likelihood = CASES[name][0]

    def one(w, x, y):
        return likelihood.loss(functional_call(net, w, (x[None],)), y[None])[0]

    found = vmap(grad(one), (None, 0, 0))(weights_of(net), x, y)
    return torch.cat([part.flatten(1) for part in found.values()], 1)


# --- when Gauss–Newton is Fisher -----------------------------------------------------------------


@pytest.mark.claim("thm-fisher-ggn")
@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("name", CASES)
def test_fisher_is_the_mean_over_targets_of_the_model(name, build, measured):
    net = NETS[build]()
    oracle = by_expectation(name, net, INPUT)
    found = fisher_matrix(net, INPUT, likelihood=CASES[name][0])
    assert measured((found.matrix() - oracle).abs().max(), "error") < 1e-12
    assert found.route == ("examples" if build == "folded" else "layers")


@pytest.mark.claim("thm-fisher-ggn")
@pytest.mark.parametrize("name", CASES)
def test_mean_slope_vanishes_and_curvature_is_its_square(name):
    likelihood = CASES[name][0]
    f = randn(2, seed=7)
    y, p = targets_and_weights(name, f)
    many = f.expand(len(p), -1)
    slope = grad(lambda f: likelihood.loss(f, y).sum())(many)
    bent = vmap(hessian(lambda f, y: likelihood.loss(f[None], y[None])[0]))(many, y)
    phi = (likelihood.root(f[None]) @ likelihood.root(f[None]).mT)[0]
    assert (p @ slope).abs().max() < 1e-12
    assert ((slope * p[:, None]).T @ slope - phi).abs().max() < 1e-12
    assert (torch.einsum("t,tij->ij", p, bent) - phi).abs().max() < 1e-12


@pytest.mark.claim("thm-fisher-ggn")
@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_is_fisher_for_exponential_families_only(name):
    likelihood, y = CASES[name]
    net = dense()
    F = fisher_matrix(net, INPUT, likelihood=likelihood).matrix()
    if name != "gaussian_scale":
        G = gauss_newton(net, INPUT, y, likelihood=likelihood).matrix()
        assert (G - F).abs().max() < 1e-12
        return
    with pytest.raises(IndefiniteError, match=r"curvature of -.* at example"):
        gauss_newton(net, INPUT, y, likelihood=likelihood)
    near = net(INPUT).detach()[:, :1]  # there the loss is convex, and G is another matrix
    G = gauss_newton(net, INPUT, near, likelihood=likelihood).matrix()
    assert (G - F).norm() > 0.1 * F.norm()


@pytest.mark.claim("thm-fisher-ggn")
def test_gauss_newton_is_the_hessian_for_affine_outputs_and_at_a_fit():
    likelihood, y = CASES["categorical"]

    def curved(net, y, likelihood):
        def loss(w):
            return likelihood.loss(functional_call(net, w, (INPUT,)), y).mean()

        w = weights_of(net)
        G = gauss_newton(net, INPUT, y, likelihood=likelihood)
        v = randn(G.size, seed=8)
        named = G._rows.named(v)
        H = torch.cat([part.flatten() for part in hvp(loss, w, named).values()])
        product = ggn(
            lambda w: functional_call(net, w, (INPUT,)),
            lambda f: likelihood.loss(f, y).mean(), w, named,
        )  # fmt: skip
        P = torch.cat([part.flatten() for part in product.values()])
        assert (G.product(v) - P).abs().max() < 1e-12
        return float((G.product(v) - H).norm() / H.norm())

    assert curved(filled(nn.Linear(3, 2)), y, likelihood) < 1e-12
    net = dense()
    assert curved(net, net(INPUT).detach(), gaussian()) < 1e-12
    assert curved(net, y, likelihood) > 0.01  # neither affine nor fitted


# --- the empirical matrix ------------------------------------------------------------------------


@pytest.mark.claim("prop-fisher-empirical")
@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("name", CASES)
def test_empirical_matrix_is_the_mean_of_squares(name, build):
    likelihood, y = CASES[name]
    net = NETS[build]()
    g = gradients(name, net, INPUT, y)
    found = empirical_fisher(net, INPUT, y, likelihood=likelihood)
    assert (found.matrix() - g.T @ g / N).abs().max() < 1e-12
    mean = g.mean(0)
    centered = (g - mean).T @ (g - mean) / N
    assert (found.matrix() - torch.outer(mean, mean) - centered).abs().max() < 1e-12


@pytest.mark.claim("prop-fisher-empirical")
@pytest.mark.parametrize("name", CASES)
def test_its_mean_over_targets_of_the_model_is_fisher(name, measured):
    """Monte Carlo: the error falls like one over the draws, which it does not for other targets."""
    likelihood, net, source = CASES[name][0], dense(), rng(9)
    F = fisher_matrix(net, INPUT, likelihood=likelihood).matrix()
    f, total, draws = net(INPUT).detach(), 0, 400
    squares = []
    for _ in range(draws):
        y = likelihood.sample(f, source)
        one = empirical_fisher(net, INPUT, y, likelihood=likelihood).matrix()
        total = total + one / draws
        squares.append((one - F).square().sum())
    spread = (torch.stack(squares).mean() / draws).sqrt()
    # the norm of a mean of independent matrices: within four of its root mean square
    assert measured((total - F).norm() / spread, "distance in spreads") < 4
    other = likelihood.sample(f.flip(0) + 1, source)
    wrong = empirical_fisher(net, INPUT, other, likelihood=likelihood).matrix()
    assert (wrong - F).norm() > 4 * spread


@pytest.mark.claim("prop-fisher-empirical")
def test_residuals_decide_for_squared_errors():
    net, variance = dense(1), 0.5
    f, J = net(INPUT).detach(), jacobian(net, INPUT)[:, 0]
    signs = torch.where(torch.arange(N) % 2 == 0, 1.0, -1.0).to(F64)[:, None]
    c = 3.0
    F = fisher_matrix(net, INPUT, likelihood=gaussian(variance)).matrix()
    assert (F - J.T @ J / (N * variance)).abs().max() < 1e-12
    equal = f + signs * (c * variance) ** 0.5
    found = empirical_fisher(net, INPUT, equal, likelihood=gaussian(variance)).matrix()
    assert (found - c * F).abs().max() < 1e-12
    r = randn(N, 1, seed=10)
    found = empirical_fisher(net, INPUT, f - r, likelihood=gaussian(variance)).matrix()
    assert (found - (J * r).T @ (J * r) / (N * variance**2)).abs().max() < 1e-12
    assert empirical_fisher(net, INPUT, f, likelihood=gaussian(variance)).matrix().norm() < 1e-24


@pytest.mark.claim("prop-fisher-empirical")
def test_logistic_classes_of_the_right_and_of_another_shape():
    """Two normal classes, turned to the target 1: one covariance makes the model right."""
    z, unit = randn(2, 100_000, 2, seed=8), torch.eye(2, dtype=F64)
    turn = unit.flip(0)
    shapes = {True: (2 * unit, 2 * unit), False: (1.5 * unit - 0.9 * turn, 1.5 * unit + 0.9 * turn)}
    for right, (a, b) in shapes.items():
        x = 1 + torch.cat([z[0] @ a, z[1] @ b])
        y = torch.ones(len(x), 1, dtype=F64)
        net = nn.Linear(2, 1, bias=False, dtype=F64)
        nn.init.zeros_(net.weight)
        for _ in range(10):  # Newton's method
            F = fisher_matrix(net, x, likelihood=bernoulli()).matrix()
            slope = (net(x).sigmoid() - y).detach().mul(x).mean(0)
            net.weight.data -= torch.linalg.solve(F, slope)
        tilde = empirical_fisher(net, x, y, likelihood=bernoulli()).matrix()
        off = float((torch.linalg.solve(F, tilde) - unit).norm())
        assert (off < 0.03) == right  # four standard errors of 2e5 points
        if right:
            assert (net.weight - 0.5).abs().max() < 0.02
        else:
            assert F[0, 1] < -0.05 and tilde[0, 1] > 0.05


# --- the trace identity --------------------------------------------------------------------------


@pytest.mark.claim("thm-fisher-trace")
@pytest.mark.parametrize(("n", "size", "rank"), [(30, 4, 4), (3, 7, 3), (12, 6, 2)])
def test_trace_identity(n, size, rank):
    g = randn(n, rank, seed=11) @ randn(rank, size, seed=12) + 0
    mean, total = g.T @ g / n, g.T @ g

    def lengths(M):
        return torch.einsum("nd,de,ne->n", g, torch.linalg.pinv(M, hermitian=True), g)

    assert abs(lengths(mean).mean() - rank) < 1e-9
    assert abs(lengths(total).sum() - rank) < 1e-9
    assert abs(lengths(total).mean() - rank / n) < 1e-9
    slope = g.mean(0)
    assert slope @ torch.linalg.pinv(mean, hermitian=True) @ slope <= 1 + 1e-12
    damped = mean + 0.3 * torch.eye(size, dtype=F64)
    values = torch.linalg.eigvalsh(mean).clamp(min=0)
    wanted = (values / (values + 0.3)).sum()
    assert abs(torch.einsum("nd,dn->n", g, torch.linalg.solve(damped, g.T)).mean() - wanted) < 1e-9
    assert wanted < rank


@pytest.mark.claim("thm-fisher-trace")
def test_bound_of_the_mean_gradient_is_attained_by_a_common_component():
    g = randn(20, 3, seed=13)
    a = randn(3, seed=14)
    aligned = g + (1 - g @ a)[:, None] * a / (a @ a)
    for rows, reached in ((aligned, True), (g, False)):
        M, slope = rows.T @ rows / 20, rows.mean(0)
        value = slope @ torch.linalg.solve(M, slope)
        assert (abs(value - 1) < 1e-12) == reached and value <= 1 + 1e-12


@pytest.mark.claim("thm-fisher-trace")
def test_rank_of_the_gradients_of_a_network_is_the_trace():
    likelihood, y = CASES["categorical"]
    found = empirical_fisher(dense(), INPUT, y, likelihood=likelihood)
    rows = found.rows()
    inverse = torch.linalg.pinv(found.matrix(), hermitian=True, rtol=1e-10)
    rank = int(torch.linalg.matrix_rank(rows))
    assert rank < found.size
    assert abs(torch.einsum("nd,de,ne->n", rows, inverse, rows).mean() - rank) < 1e-6


# --- coordinates and distance --------------------------------------------------------------------


@pytest.mark.claim("prop-fisher-coordinates")
@pytest.mark.parametrize("kind", ["fisher", "empirical"])
@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_steps_in_other_coordinates(kind, damping):
    """The same logistic regression on inputs that are mixed, so that weights are mixed too."""
    y = torch.rand(N, 1, generator=rng(15), dtype=F64).round()

    def step(x, w):
        net = nn.Linear(3, 1, bias=False).to(F64)
        with torch.no_grad():
            net.weight.copy_(w[None])
        if kind == "fisher":
            matrix = fisher_matrix(net, x, likelihood=bernoulli())
        else:
            matrix = empirical_fisher(net, x, y, likelihood=bernoulli())
        loss = bernoulli().loss(net(x), y).mean()
        (slope,) = torch.autograd.grad(loss, net.weight)
        return matrix.solve(slope[0], damping=damping), matrix.matrix(), slope[0]

    w = randn(3, seed=16)
    K = randn(3, 3, seed=17)
    rotation = torch.linalg.qr(K)[0]
    plain, M, g = step(INPUT, w)
    for change in (K, rotation):  # w = change eta, so the inputs of eta are x change
        moved, inner, slope = step(INPUT @ change, torch.linalg.solve(change, w))
        assert (inner - change.T @ M @ change).abs().max() < 1e-12
        assert (slope - change.T @ g).abs().max() < 1e-12
        wanted = torch.linalg.solve(M + damping * torch.linalg.inv(change @ change.T), g)
        assert (change @ moved - wanted).abs().max() < 1e-9
        same = (change @ moved - plain).norm() < 1e-9 * plain.norm()
        assert same == (damping == 0 or change is rotation)


@pytest.mark.claim("prop-fisher-far")
def test_the_empirical_step_shrinks_and_the_natural_one_grows(measured):
    x, u = randn(50, 3, seed=18), torch.tensor([1.0, -0.5, 2.0], dtype=F64)
    y = x @ randn(3, seed=19) + randn(50, seed=20)
    best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    F = x.T @ x / 50
    Q = (x * (x @ u).square()[:, None]).T @ x / 50
    limit, errors = torch.linalg.solve(Q, F @ u), []
    for k in (10.0, 100.0, 1000.0):
        net = nn.Linear(3, 1, bias=False).to(F64)
        with torch.no_grad():
            net.weight.copy_((best + k * u)[None])
        (slope,) = torch.autograd.grad((net(x)[:, 0] - y).square().mean() / 2, net.weight)
        natural = fisher_matrix(net, x, likelihood=gaussian()).solve(slope[0])
        empirical = empirical_fisher(net, x, y[:, None], likelihood=gaussian()).solve(slope[0])
        assert (natural - k * u).abs().max() < 1e-9 * k
        errors.append(float((k * empirical - limit).norm() / limit.norm()))
    assert measured(errors[2], "error at k = 1000") < 0.01
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert torch.nn.functional.cosine_similarity(limit, u, dim=0) < 0.999


@pytest.mark.claim("prop-fisher-far")
def test_equal_distances_of_all_points_keep_the_direction():
    """Inputs with |u . x| = 2: there the limit is u / 4, and without an inverse of Q it fails."""
    u = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    x = torch.cat([2 * torch.sign(randn(40, 1, seed=21)), randn(40, 2, seed=22)], 1)
    Q = (x * (x @ u).square()[:, None]).T @ x / 40
    assert (torch.linalg.solve(Q, x.T @ x / 40 @ u) - u / 4).abs().max() < 1e-12
    flat = torch.cat([torch.ones(40, 1, dtype=F64), randn(40, 1, seed=23)], 1)
    across = torch.tensor([0.0, 0.0], dtype=F64)
    assert torch.linalg.matrix_rank((flat * (flat @ across).square()[:, None]).T @ flat) == 0


# --- the package ---------------------------------------------------------------------------------


@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("name", ["categorical", "gaussian_scale"])
@pytest.mark.parametrize("kind", ["fisher", "empirical"])
def test_products_diagonal_gram_and_steps_are_those_of_the_matrix(kind, name, build, measured):
    likelihood, y = CASES[name]
    net = NETS[build]()
    if kind == "fisher":
        found = fisher_matrix(net, INPUT, likelihood=likelihood)
    else:
        found = empirical_fisher(net, INPUT, y, likelihood=likelihood)
    M, rows = found.matrix(), found.rows()
    v = randn(found.size, seed=24)
    scale = M.norm()
    errors = {
        "product": found.product(v) - M @ v,
        "diagonal": found.diagonal() - M.diagonal(),
        "gram": found.gram() - rows @ rows.T / N,
        "project": found.project(v).flatten() - rows @ v,
    }
    for what, error in errors.items():
        assert measured(error.norm() / scale, what) < 1e-12
    step = found.solve(v, damping=0.3)
    assert (M @ step + 0.3 * step - v).norm() < 1e-10 * v.norm()


def test_steps_through_the_gram_matrix_and_through_the_matrix_agree():
    likelihood, y = CASES["categorical"]
    many = torch.cat([INPUT] * 5) + randn(5 * N, 3, seed=25)
    for x, t in ((INPUT, y), (many, y.repeat(5))):
        found = empirical_fisher(dense(), x, t, likelihood=likelihood)
        v = randn(found.size, seed=26)
        assert (len(x) < found.size) == (len(x) == N)
        wanted = torch.linalg.solve(found.matrix() + 0.1 * torch.eye(found.size, dtype=F64), v)
        assert (found.solve(v, damping=0.1) - wanted).norm() < 1e-10 * wanted.norm()


def test_single_precision_is_kept():
    net = dense().to(torch.float32)
    likelihood, y = CASES["categorical"]
    found = empirical_fisher(net, INPUT.float(), y, likelihood=likelihood)
    v = randn(found.size, seed=27).float()
    for part in (found.product(v), found.diagonal(), found.gram(), found.solve(v, damping=0.5)):
        assert part.dtype == torch.float32
    exact = empirical_fisher(dense(), INPUT, y, likelihood=likelihood).diagonal()
    assert torch.allclose(found.diagonal().double(), exact, rtol=1e-4)


@pytest.mark.parametrize("change", ["a slope too much", "no bias", "the sum"])
def test_wrong_products_are_noticed(change, monkeypatch):
    likelihood, y = CASES["categorical"]
    found = empirical_fisher(dense(), INPUT, y, likelihood=likelihood)
    M = found.matrix()
    layers = Rows.layers

    def other(self, s):
        return [
            layer._replace(
                covectors=layer.covectors * (2 if change == "a slope too much" else 1),
                inputs=layer.inputs * (N**0.5 if change == "the sum" else 1),
            )
            for layer in layers(self, s)
        ]

    if change == "no bias":
        monkeypatch.setattr(
            curvature_module.Curvature, "diagonal", lambda self: self.rows()[:, :-2].square().sum(0)
        )
        assert found.diagonal().shape != M.diagonal().shape
        return
    monkeypatch.setattr(Rows, "layers", other)
    assert (found.diagonal() - M.diagonal()).norm() > 0.1 * M.norm()
    assert (found.gram().trace() - M.trace()).abs() > 0.1 * M.trace()


def test_an_expected_square_of_another_likelihood_is_noticed():
    """With the root of softmax without its mean the definition is missed."""
    right = categorical()
    wrong = dataclasses.replace(right, root=lambda f: torch.diag_embed(f.softmax(1).sqrt()))
    net = dense()
    oracle = by_expectation("categorical", net, INPUT)
    off = fisher_matrix(net, INPUT, likelihood=wrong).matrix() - oracle
    assert off.norm() > 0.1 * oracle.norm()


def test_bad_input_is_named(as_at_the_users):
    net, y = dense(), torch.zeros(N, dtype=torch.long)
    soft = categorical()
    found = empirical_fisher(net, INPUT, y, likelihood=soft)
    norm = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(F64)
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)).to(F64)
    wrong = {
        "y must be classes from 0 to 1, got 0 to 2": lambda: empirical_fisher(
            net, INPUT, y.index_fill(0, torch.tensor([1]), 2), likelihood=soft
        ),
        "y must be one class": lambda: empirical_fisher(net, INPUT, y[:3], likelihood=soft),
        "y must be floating-point numbers of shape": lambda: empirical_fisher(
            net, INPUT, y, likelihood=gaussian()
        ),
        r"y must lie in \[0, 1\]": lambda: empirical_fisher(
            net, INPUT, torch.full((N, 2), 2.0, dtype=F64), likelihood=bernoulli()
        ),
        "module must have two outputs": lambda: fisher_matrix(
            dense(3), INPUT, likelihood=gaussian_scale()
        ),
        "module must take examples one by one": lambda: fisher_matrix(
            norm, INPUT, likelihood=gaussian()
        ),
        "module must treat each example alone": lambda: fisher_matrix(
            mixed, INPUT, likelihood=gaussian()
        ),
        "module must have trainable parameters": lambda: fisher_matrix(
            nn.Tanh(), INPUT, likelihood=gaussian()
        ),
        "module must return one row": lambda: fisher_matrix(
            nn.Linear(3, 1).to(F64), INPUT[:, None], likelihood=gaussian()
        ),
        "variance must be a positive number": lambda: gaussian(0.0),
        "v must have shape": lambda: found.product(randn(3)),
        "g must have shape": lambda: found.solve(randn(3), damping=1.0),
        "damping must be a number >= 0": lambda: found.solve(randn(found.size), damping=-1.0),
        "damping must be positive for this matrix": lambda: found.solve(randn(found.size)),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert fisher_matrix(norm.eval(), INPUT, likelihood=gaussian()).route == "examples"


class Shared(nn.Module):
    """Two layers that share a weight, or a sum that overwrites what a layer has taken in."""

    def __init__(self, tied):
        super().__init__()
        self.tied, self.first, self.last = tied, nn.Linear(3, 3), nn.Linear(3, 3)
        if tied:
            self.last.weight = self.first.weight

    def forward(self, x):
        h = torch.tanh(self.first(x))
        after = self.last(h)
        return after if self.tied else h.add_(after)


def made(tied):
    torch.manual_seed(0)
    module, x = Shared(tied).double(), torch.randn(5, 3, dtype=torch.float64)
    y = torch.zeros(5, 3, dtype=torch.float64)
    return module, x, lambda: gauss_newton(module, x, y, likelihood=gaussian())


def test_layers_that_share_a_weight_are_left_to_the_examples():
    module, x, matrix_of = made(tied=True)
    found, J = matrix_of(), jacobian_rows(module, x)
    assert found.route == "examples"
    torch.testing.assert_close(found.matrix(), torch.einsum("nop,noq->pq", J, J) / 5)
    torch.testing.assert_close(found.diagonal(), found.matrix().diagonal())


def test_a_layer_whose_input_is_overwritten_is_refused_as_autograd_does():
    _, _, matrix_of = made(tied=False)
    assert matrix_of().route == "examples"
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        matrix_of().diagonal()


def jacobian_rows(module, x):
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def out(weights):
        return torch.func.functional_call(module, weights, (x,))

    parts = torch.func.jacrev(out)(weights)
    return torch.cat([parts[name].flatten(2) for name, _ in module.named_parameters()], 2)
