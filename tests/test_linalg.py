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


def test_bad_input_names_the_argument():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="noise"):
        linalg.hutchinson_trace(torch.sin, x, 1, "uniform")
    with pytest.raises(ValueError, match="count"):
        linalg.draw_probes(0, x)
    for trace in (linalg.exact_trace, linalg.hutchinson_trace):
        with pytest.raises(ValueError, match="fun must return the shape of x"):
            trace(lambda x: x[:, :2], x)
