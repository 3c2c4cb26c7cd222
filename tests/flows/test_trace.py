"""Products with Jacobians, and the traces made of them, against dense Jacobians."""

import pytest
import torch
from torch.autograd.functional import jacobian

from nodes_tutorial import linalg, nets
from nodes_tutorial.flows import PlanarField, trace
from nodes_tutorial.flows.field import HasTangents, value_and_products
from nodes_tutorial.nets import tangents

F64 = torch.float64
TIME = torch.tensor(0.3, dtype=F64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Plain(torch.nn.Module):
    """A field without a rule of its own."""

    def __init__(self):
        super().__init__()
        self.net = nets.MLP([3, 6, 3], "silu", rng(), dtype=F64)

    def forward(self, t, x):
        return self.net(x) * t.cos()


FIELDS = {
    **{
        name: lambda name=name: nets.TimeMLP(3, [7, 5], name, rng(), dtype=F64)
        for name in sorted(nets.ACTIVATIONS)
    },
    "one hidden layer": lambda: nets.TimeMLP(3, [4], generator=rng(), dtype=F64),
    "affine": lambda: nets.TimeMLP(3, [], generator=rng(), dtype=F64),
    "planar": lambda: PlanarField(3, 4, generator=rng(), dtype=F64),
    "no rule": Plain,
}
every = pytest.mark.parametrize("name", FIELDS)


def case(name, *batch):
    field = FIELDS[name]()
    x = torch.randn(*batch, 3, generator=rng(1), dtype=F64)
    rows = x.reshape(-1, 3)
    dense = torch.stack([jacobian(lambda y: field(TIME, y), row) for row in rows])
    return field, x, dense.view(*batch, 3, 3)


@every
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_values_products_and_traces(name, batch, measured):
    field, x, dense = case(name, *batch)
    value, columns = value_and_products(field, TIME, x)
    assert value.shape == x.shape and columns.shape == (3, *x.shape)
    torch.testing.assert_close(value, field(TIME, x))
    diagonal = dense.diagonal(dim1=-2, dim2=-1).sum(-1)
    found, divergence = trace.exact(field)(TIME, x)
    torch.testing.assert_close(found, value)
    assert measured((divergence - diagonal).detach().abs().max(), "exact trace") < 1e-13
    probes = torch.randn(2, *x.shape, generator=rng(2), dtype=F64)
    _, products = value_and_products(field, TIME, x, probes)
    if isinstance(field, HasTangents):
        expected = torch.einsum("...ij,k...j->k...i", dense, probes)
        transposed = torch.einsum("...ij,k...i->k...j", dense, probes)
        torch.testing.assert_close(columns, dense.movedim(-1, 0))
        assert (products - transposed).abs().max() > 1e-3
    else:
        expected = torch.einsum("...ij,k...i->k...j", dense, probes)
        torch.testing.assert_close(columns, dense.movedim(-2, 0))
    torch.testing.assert_close(products, expected)
    _, estimate = trace.hutchinson(field, probes)(TIME, x)
    quadratic = torch.einsum("k...i,...ij,k...j->k...", probes, dense, probes).mean(0)
    assert (
        measured((estimate - quadratic).detach().abs().max(), "one quadratic form a probe") < 1e-13
    )
    assert (quadratic - diagonal).abs().max() > 1e-3


@every
def test_one_way_of_each_trace(name):
    field, x, _ = case(name, 5)
    probes = linalg.draw_probes(2, x, generator=rng(3))

    def fun(y):
        return field(TIME, y)

    exact, estimate = linalg.exact_trace(fun, x), linalg.hutchinson_trace(fun, x, probes)
    torch.testing.assert_close(trace.exact(field)(TIME, x)[1], exact)
    torch.testing.assert_close(trace.hutchinson(field, probes)(TIME, x)[1], estimate)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "no rule"])
@pytest.mark.parametrize("probed", [False, True])
def test_gradients_of_value_and_products(name, probed):
    """The lean backward pass against differences, and again for second derivatives."""
    field, x, _ = case(name, 4)
    v = torch.randn(2, 4, 3, generator=rng(4), dtype=F64) if probed else None
    leaves = [x.requires_grad_(), *field.parameters()]

    def call(*_):
        return field.value_and_tangents(TIME, x, v)

    assert torch.autograd.gradcheck(call, leaves)
    first, *others = leaves

    def slope(*_):
        y, p = call()
        return torch.autograd.grad((y.sin() + p.square().sum(0)).sum(), first, create_graph=True)

    if name != "relu":
        assert torch.autograd.gradcheck(slope, [first, *others[:2]])


@pytest.mark.parametrize("probed", [False, True])
def test_a_graph_of_the_gradient_does_not_change_it(probed):
    """Through steps that share their weights, as in a solve: no part is counted twice."""
    field, x, _ = case("tanh", 4)
    v = torch.randn(2, 4, 3, generator=rng(4), dtype=F64) if probed else None

    def loss():
        y, total = x, 0.0
        for _ in range(12):
            value, products = field.value_and_tangents(TIME, y, v)
            y, total = y + 0.1 * value, total + products.square().sum()
        return total + y.sin().sum()

    weights = list(field.parameters())
    plain = torch.autograd.grad(loss(), weights)
    again = torch.autograd.grad(loss(), weights, create_graph=True)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)
        assert b.requires_grad


@pytest.mark.parametrize("activation", sorted(nets.ACTIVATIONS))
def test_lean_backward_pass_is_the_plain_one(activation, monkeypatch):
    field, x, _ = case(activation, 6)
    v = torch.randn(1, 6, 3, generator=rng(5), dtype=F64)
    weights = torch.randn(6, 3, generator=rng(6), dtype=F64)
    results = []
    for plain in (False, True):
        monkeypatch.setattr(tangents, "_traced", lambda *_, plain=plain: plain)
        y, p = field.value_and_tangents(TIME, x.requires_grad_(), v)
        loss = (weights * y).sum() + (weights * p[0]).square().sum()
        results.append(torch.autograd.grad(loss, [x, *field.parameters()]))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_each_row_may_have_its_time_and_transforms_pass():
    field, x, _ = case("tanh", 5)
    t = torch.rand(5, 1, generator=rng(7), dtype=F64)
    value, columns = field.value_and_tangents(t, x)
    for i in range(5):
        one, its = field.value_and_tangents(t[i, 0], x[i])
        torch.testing.assert_close(value[i], one)
        torch.testing.assert_close(columns[:, i], its)
    mapped = torch.func.vmap(lambda y: field.value_and_tangents(TIME, y), out_dims=(0, 1))(x)
    torch.testing.assert_close(mapped, field.value_and_tangents(TIME, x))
    second = torch.func.jacfwd(lambda y: trace.exact(field)(TIME, y)[1])(x[0])
    difference = jacobian(lambda y: trace.exact(field)(TIME, y)[1], x[0])
    torch.testing.assert_close(second, difference)


def test_gradient_reaches_directions():
    field, x, dense = case("softplus", 4)
    v = torch.randn(1, 4, 3, generator=rng(8), dtype=F64, requires_grad=True)
    _, p = field.value_and_tangents(TIME, x, v)
    (gradient,) = torch.autograd.grad(p.sum(), v)
    torch.testing.assert_close(gradient[0], dense.sum(-2))


def test_single_precision():
    field = nets.TimeMLP(2, [16, 16], "softplus", rng())
    x = torch.randn(64, 2, generator=rng(1))
    value, columns = field.value_and_tangents(torch.tensor(0.3), x)
    double = field.double().value_and_tangents(torch.tensor(0.3), x.double())
    assert value.dtype == columns.dtype == torch.float32
    torch.testing.assert_close(value.double(), double[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(columns.double(), double[1], rtol=1e-5, atol=1e-6)


def test_mlp_of_other_sizes():
    net = nets.MLP([2, 5, 4], generator=rng(), dtype=F64)
    x = torch.randn(3, 2, generator=rng(1), dtype=F64)
    value, columns = net.value_and_tangents(x)
    dense = torch.stack([jacobian(net, row) for row in x])
    torch.testing.assert_close(value, net(x))
    torch.testing.assert_close(columns, dense.movedim(-1, 0))


def test_bad_field_names_what_is_wrong():
    with pytest.raises(ValueError, match="shape of x"):
        trace.exact(lambda t, x: x[..., :1])(TIME, torch.zeros(2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@every
def test_cuda_agrees(name):
    field, x, dense = case(name, 4)
    found = trace.exact(field.cuda())(TIME.cuda(), x.cuda())[1].cpu()
    torch.testing.assert_close(found, dense.diagonal(dim1=-2, dim2=-1).sum(-1))
