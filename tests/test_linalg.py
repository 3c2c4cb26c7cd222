"""Matrix-free products against dense Jacobians and Hessians."""

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from nodes_tutorial import linalg

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=DEVICES)
def case(request):
    matrix = torch.randn(6, 6, generator=seeded(), dtype=torch.float64).to(request.param)
    x = torch.randn(4, 6, generator=seeded(1), dtype=torch.float64).to(request.param)
    v = torch.randn(4, 6, generator=seeded(2), dtype=torch.float64).to(request.param)

    def fun(x):
        return torch.tanh(x @ matrix.T) * x.roll(1, -1)

    return fun, x, v, torch.stack([jacobian(fun, row) for row in x])


def test_jvp_and_vjp_row_by_row(case):
    fun, x, v, dense = case
    value, product = linalg.jvp(fun, x, v)
    torch.testing.assert_close(value, fun(x))
    torch.testing.assert_close(product, torch.einsum("bij,bj->bi", dense, v))
    value, product = linalg.vjp(fun, x, v)
    torch.testing.assert_close(value, fun(x))
    torch.testing.assert_close(product, torch.einsum("bij,bi->bj", dense, v))
    wrong = torch.einsum("bij,bj->bi", dense, v)  # the dropped transpose
    assert (product - wrong).abs().max() > 0.1


def test_hvp_of_a_batch_and_of_a_dict(case):
    fun, x, v, _ = case

    def energy(x):
        return fun(x).pow(2).sum(-1)

    dense = torch.stack([hessian(energy, row) for row in x])
    torch.testing.assert_close(linalg.hvp(energy, x, v), torch.einsum("bij,bj->bi", dense, v))
    tree = linalg.hvp(
        lambda p: energy(p["a"] * p["b"]).sum(),
        {"a": x[0], "b": v[0]},
        {"a": v[1], "b": x[1]},
    )
    joint = hessian(lambda z: energy(z[:6] * z[6:]), torch.cat([x[0], v[0]]))
    product = joint @ torch.cat([v[1], x[1]])
    torch.testing.assert_close(torch.cat([tree["a"], tree["b"]]), product)


def test_exact_trace(case):
    fun, x, _, dense = case
    expected = dense.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(linalg.exact_trace(fun, x), expected)
    torch.testing.assert_close(linalg.exact_trace(fun, x[0]), expected[0])
    value, trace = linalg.exact_trace(fun, x[None], return_value=True)
    torch.testing.assert_close(value, fun(x)[None])
    torch.testing.assert_close(trace, expected[None])


def test_traces_can_be_trained(case):
    fun, x, _, _ = case
    probes = linalg.draw_probes(2, x, generator=seeded())
    for estimate in (
        lambda x: linalg.exact_trace(fun, x),
        lambda x: linalg.hutchinson_trace(fun, x, probes),
    ):
        assert torch.autograd.gradcheck(estimate, x.clone().requires_grad_())


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_mean_and_variance(case, noise):
    fun, x, _, dense = case
    count = 200_000
    row = x[:1]
    probes = linalg.draw_probes(count, row, noise, seeded(3))
    draws = torch.func.vmap(lambda e: linalg.hutchinson_trace(fun, row, e[None]))(probes)[:, 0]
    symmetric = (dense[0] + dense[0].T) / 2
    variance = 2 * symmetric.pow(2).sum()
    if noise == "rademacher":
        variance = variance - 2 * symmetric.diagonal().pow(2).sum()
    error = (draws.mean() - dense[0].trace()).abs()
    assert error < 4 * (variance / count).sqrt()
    torch.testing.assert_close(draws.var(), variance, rtol=0.03, atol=0)
    same = linalg.hutchinson_trace(fun, row, probes)
    torch.testing.assert_close(same[0], draws.mean())


def test_probes_follow_generator_and_shape():
    x = torch.zeros(4, 3, dtype=torch.float32)
    for noise in ("rademacher", "gaussian"):
        one, two = (linalg.draw_probes(5, x, noise, seeded()) for _ in range(2))
        assert torch.equal(one, two)
        assert one.shape == (5, 4, 3)
        assert one.dtype == x.dtype
    drawn = linalg.hutchinson_trace(torch.sin, x, 3, generator=seeded())
    torch.testing.assert_close(drawn, torch.full((4,), 3.0))


def test_value_of_covector_products_is_that_of_the_function(case):
    fun, x, v, dense = case
    for directions in (None, v[None]):
        value, products = linalg.covector_products(fun, x, directions)
        torch.testing.assert_close(value, fun(x))
    torch.testing.assert_close(products[0], torch.einsum("bij,bi->bj", dense, v))


def systems(dtype, device="cpu", *, shift=0.5):
    """Four symmetric matrices, positive for shift > 0, right-hand sides and starts."""
    draws = torch.randn(4, 8, 9, generator=seeded(5), dtype=torch.float64)
    A = draws[..., :8] @ draws[..., :8].mT / 8
    A = A + (shift - (0 if shift > 0 else A.diagonal(dim1=-2, dim2=-1).mean())) * torch.eye(8)
    b = draws[..., 8] * torch.tensor([1.0, 1e-3, 1e3, 1.0])[:, None]
    return A.to(device, dtype), b.to(device, dtype)


def times(A):
    return lambda v: (A @ v.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_cg_against_dense_solves(dtype, rtol, preconditioned, device):
    A, b = systems(dtype, device)
    exact = torch.linalg.solve(A.double(), b.double())
    scales = A.diagonal(dim1=-2, dim2=-1)
    options = {"rtol": rtol}
    if preconditioned:
        options["preconditioner"] = lambda v: v / scales
    found = linalg.cg(times(A), b, **options)
    assert found.converged.all() and not found.negative_curvature.any()
    assert found.x.dtype == dtype and found.x.device == b.device
    error = (found.x - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert (error < 100 * rtol).all()
    true = (b - times(A)(found.x)).norm(dim=-1)
    room = 50 * torch.finfo(dtype).eps * b.norm(dim=-1)
    assert ((found.residual - true).abs() < room).all()
    # each system as if it were alone, and with a look at the end every third iteration
    for i in range(4):
        if preconditioned:
            options["preconditioner"] = lambda v, i=i: v / scales[i]
        alone = linalg.cg(times(A[i]), b[i], **options)
        assert alone.iterations.shape == () and abs(int(alone.iterations - found.iterations[i])) < 2
        assert (alone.x - exact[i]).norm() < 100 * rtol * exact[i].norm()
    if not preconditioned:
        late = linalg.cg(times(A), b, check_every=3, **options)
        assert torch.equal(late.x, found.x) and torch.equal(late.iterations, found.iterations)


def test_cg_counts_and_tolerances():
    A, b = systems(torch.float64)
    loose, tight = (linalg.cg(times(A), b, rtol=tol) for tol in (1e-2, 1e-10))
    assert (loose.iterations < tight.iterations).all() and (tight.iterations <= 9).all()
    assert (loose.residual <= 1e-2 * b.norm(dim=-1)).all()
    assert (loose.residual > 1e-10 * b.norm(dim=-1)).all()
    absolute = linalg.cg(times(A), b, rtol=0.0, atol=1e-2)
    assert (absolute.residual <= 1e-2).all() and absolute.iterations[1] == 0
    early = linalg.cg(times(A), b, max_iterations=2)
    assert (early.iterations == 2).all() and not early.converged.any()
    assert ((b * early.x).sum(-1) > 0).all()  # a descent direction of every system
    again = linalg.cg(times(A), b, tight.x)
    assert (again.iterations == 0).all() and torch.equal(again.x, tight.x)
    near = linalg.cg(times(A), b, tight.x + 1e-3 * b, rtol=1e-12)
    assert (near.x - torch.linalg.solve(A, b)).abs().max() < 1e-8
    zero = linalg.cg(times(A), 0 * b)
    assert zero.converged.all() and (zero.x == 0).all() and (zero.iterations == 0).all()
    deep = linalg.cg(times(A[:2, None]), b.view(2, 2, 8))
    assert deep.x.shape == (2, 2, 8) and deep.residual.shape == (2, 2)


def test_cg_says_that_a_matrix_is_not_positive():
    A, b = systems(torch.float64)
    bad, _ = systems(torch.float64, shift=-0.1)
    mixed = torch.stack([A[0], bad[1], A[2], -A[3]])
    assert (torch.linalg.eigvalsh(bad[1]).sign().unique() == torch.tensor([-1, 1])).all()
    found = linalg.cg(times(mixed), b, rtol=1e-10)
    assert found.negative_curvature.tolist() == [False, True, False, True]
    assert found.converged.tolist() == [True, False, True, False]
    assert (found.x[3] == 0).all() and found.x.isfinite().all()
    exact = torch.linalg.solve(A, b)  # the others are not disturbed
    assert (found.x - exact)[[0, 2]].abs().max() < 1e-6 * exact.abs().max()
    singular = linalg.cg(lambda v: 0 * v, b)
    assert singular.negative_curvature.all() and not singular.converged.any()


def test_cg_bad_input_is_named(as_at_the_users):
    A, b = systems(torch.float64)
    product = times(A)
    wrong = {
        "b must hold": lambda: linalg.cg(product, b.long()),
        "b must be a vector": lambda: linalg.cg(product, b[0, 0]),
        "x0 must": lambda: linalg.cg(product, b, b[0]),
        "product must": lambda: linalg.cg(lambda v: v[0], b),
        "preconditioner must": lambda: linalg.cg(product, b, preconditioner=lambda v: v[0]),
        "rtol": lambda: linalg.cg(product, b, rtol=-1.0),
        "atol": lambda: linalg.cg(product, b, atol=float("nan")),
        "max_iterations": lambda: linalg.cg(product, b, max_iterations=1.5),
        "check_every": lambda: linalg.cg(product, b, check_every=0),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises(FloatingPointError, match="product must be finite"):
        linalg.cg(lambda v: v * float("nan"), b)
    b[1, 2] = float("inf")
    with pytest.raises(FloatingPointError, match="b and product must be finite"):
        linalg.cg(product, b)


def test_bad_input_names_the_argument():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="noise"):
        linalg.hutchinson_trace(torch.sin, x, 1, "uniform")
    with pytest.raises(ValueError, match="count"):
        linalg.draw_probes(0, x)
    for trace in (linalg.exact_trace, linalg.hutchinson_trace):
        with pytest.raises(ValueError, match="fun must return the shape of x"):
            trace(lambda x: x[:, :2], x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lanczos_values_weights_and_errors(dtype):
    A, b = systems(dtype)
    exact, vectors = torch.linalg.eigh(A.double())
    room = 1e3 * torch.finfo(dtype).eps
    whole = linalg.lanczos(times(A), b, 8)
    assert (whole.values - exact).abs().max() < room * exact.max()
    share = (vectors.mT @ b.double().unsqueeze(-1)).squeeze(-1).square()
    share = share / share.sum(-1, keepdim=True)
    assert (whole.weights - share).abs().max() < 30 * room
    few = linalg.lanczos(times(A), b, 3)
    assert few.values.shape == (4, 3) and few.values.dtype == dtype
    assert (few.values[:, -1] <= exact[:, -1] * (1 + room)).all()
    assert (few.values[:, 0] >= exact[:, 0] * (1 - room)).all()
    near = (few.values.unsqueeze(-1) - exact.unsqueeze(-2)).abs().amin(-1)
    assert (near <= few.errors + room * exact.max()).all() and few.errors.max() > 1e-3
    # moments: the quadrature of k values is exact up to the power 2k - 1
    power = b.double()
    for k in range(6):
        moment = (b.double() * power).sum(-1) / b.double().square().sum(-1)
        found = (few.weights * few.values**k).sum(-1)
        assert ((found - moment).abs() < 100 * room * exact.max() ** k).all()
        power = times(A.double())(power)
    alone = linalg.lanczos(times(A[0]), b[0], 3)
    assert (alone.values - few.values[0]).abs().max() < room * exact.max()


def test_lanczos_where_its_space_ends():
    scales = torch.tensor([1.0, 1.0, 4.0, 4.0], dtype=torch.float64)
    found = linalg.lanczos(lambda v: scales * v, torch.ones(4, dtype=torch.float64), 4)
    seen = found.values[found.weights > 1e-12]
    assert (seen - torch.tensor([1.0, 4.0])).abs().max() < 1e-12
    assert found.values.min() > 1 - 1e-12 and found.values.max() < 4 + 1e-12
    zero = linalg.lanczos(lambda v: scales * v, torch.zeros(2, 4, dtype=torch.float64), 3)
    assert (zero.values == 0).all()


def test_spectral_sum_is_the_trace_of_a_function():
    A, b = systems(torch.float64)
    found = linalg.spectral_sum(times(A), torch.log, b, probes=4000, steps=8, generator=seeded())
    assert (found - torch.logdet(A)).abs().max() < 0.15
    assert (found - A.diagonal(dim1=-2, dim2=-1).log().sum(-1)).abs().max() > 0.5
    diagonal = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    exact = linalg.spectral_sum(lambda v: diagonal * v, torch.exp, diagonal, probes=1)
    assert (exact - diagonal.exp().sum()).abs() < 1e-10  # signs are exact for a diagonal


def test_curvature_solvers_name_bad_input(as_at_the_users):
    A, b = systems(torch.float64)
    product = times(A)
    wrong = {
        "start must hold": lambda: linalg.lanczos(product, b.long()),
        "start must be a vector": lambda: linalg.lanczos(product, b[0, 0]),
        "steps must": lambda: linalg.lanczos(product, b, 0),
        "product must have the shape of start": lambda: linalg.lanczos(lambda v: v[0], b),
        "b must hold": lambda: linalg.neumann(product, b.long()),
        "b must be a vector": lambda: linalg.neumann(product, b[0, 0]),
        "terms must": lambda: linalg.neumann(product, b, terms=-1),
        "alpha must": lambda: linalg.neumann(product, b, alpha=0),
        "product must have the shape of b": lambda: linalg.neumann(lambda v: v[0], b, alpha=1),
        "probes|count": lambda: linalg.spectral_sum(product, torch.log, b, probes=0),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises(linalg.SymmetryError, match=r"a defect of 0\.\d+ of its size"):
        linalg.lanczos(times(A.triu()), b)
    with pytest.raises(linalg.SymmetryError):
        linalg.neumann(times(A.triu()), b)
    for call in (lambda f: linalg.lanczos(f, b), lambda f: linalg.neumann(f, b, alpha=0.1)):
        with pytest.raises(FloatingPointError, match="must be finite"):
            call(lambda v: v * float("nan"))
    with pytest.raises(linalg.IndefiniteError, match="curvature of -"):
        linalg.neumann(lambda v: -product(v), b)
