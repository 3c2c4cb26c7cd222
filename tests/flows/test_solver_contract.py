"""A continuous flow is a way into the solver: the solver's rules hold there as well."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from nodes_tutorial.flows import CNF, ContextField, Flow, StandardNormal, penalized_nll
from nodes_tutorial.nets import MLP, TimeMLP

F64 = torch.float64
GRADIENTS = ("direct", "checkpoint", "adjoint")
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def points(dtype=F64):
    return torch.randn(4, 2, generator=rng(1), dtype=dtype)


class Plain(nn.Module):
    """A field without a rule for its tangents: reverse mode gives its Jacobian."""

    def __init__(self):
        super().__init__()
        self.net = MLP([2, 5, 2], "tanh", rng(), dtype=F64)

    def forward(self, t, x):
        return self.net(x) * t.cos()


def flow(gradient, trace="exact", dtype=F64, context=False, field=None):
    if field is None:
        kind = dict(generator=rng(), dtype=dtype)
        field = ContextField(2, 2, [5], **kind) if context else TimeMLP(2, [5], **kind)
    steps = dict(method="rk4", options={"step_size": 0.2}, gradient=gradient)
    cnf = CNF(field, trace, generator=rng(2), regularize=("kinetic", "jacobian"), **steps)
    return Flow(StandardNormal(2, dtype=dtype), [cnf])


# ways in: the flow and points to a tensor
WAYS = {
    "log_prob": lambda f, x: f.log_prob(x),
    "forward": lambda f, x: torch.cat([y.reshape(-1) for y in f.transforms[0](x)]),
    "inverse": lambda f, x: torch.cat([y.reshape(-1) for y in f.transforms[0].inverse(x)]),
    "push": lambda f, x: f.transforms[0].push(x).sin(),
    "pull": lambda f, x: f.transforms[0].pull(x).sin(),
    "path": lambda f, x: f.transforms[0].path(x, TIMES).sin(),
    "penalties": lambda f, x: penalized_nll(f, x, {"kinetic": 0.3, "jacobian": 0.2})[0],
    "rsample": lambda f, x: f.rsample(4, rng(3)) + 0 * x,
    "context": lambda f, x: f.log_prob(x, context=x.detach()),
}


class Call(nn.Module):
    """A way in as a module, whose weights ``functional_call`` can exchange."""

    def __init__(self, way, gradient, trace="exact"):
        super().__init__()
        self.way, self.flow = way, flow(gradient, trace, context=way == "context")

    def forward(self, x):
        return WAYS[self.way](self.flow, x).sum()


CASES = [*((way, "exact") for way in WAYS), ("log_prob", "hutchinson")]


@pytest.mark.parametrize("gradient", GRADIENTS[1:])
@pytest.mark.parametrize(("way", "trace"), CASES)
def test_weights_of_a_functional_call(way, trace, gradient):
    found = {}
    for mode in ("direct", gradient):
        net = Call(way, mode, trace).requires_grad_(False)
        swapped = {
            name: (1.5 * p).requires_grad_() for name, p in net.flow.named_parameters("flow")
        }
        value = functional_call(net, swapped, (points(),))
        found[mode] = torch.autograd.grad(value, list(swapped.values()), allow_unused=True)
    for exact, other in zip(found["direct"], found[gradient], strict=True):
        if exact is None:  # the last bias is in no Jacobian
            exact = torch.zeros_like(other)
        torch.testing.assert_close(other, exact, rtol=1e-2, atol=1e-3)
    assert max(g.abs().max() for g in found[gradient] if g is not None) > 0.1


@pytest.mark.parametrize("gradient", GRADIENTS[1:])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "rsample"])
def test_gradient_penalties_are_refused_by_modes_that_cannot(way, gradient):
    x = points().requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(Call(way, gradient)(x), x, create_graph=True)


@pytest.mark.parametrize("make", [Plain, lambda: TimeMLP(2, [5], generator=rng(), dtype=F64)])
@pytest.mark.parametrize("way", ["log_prob", "push", "penalties"])
def test_gradient_penalties_are_right(way, make):
    """The derivative of |dL/dx|² in a direction of the weights, against a difference."""
    field = make()
    net, weights = flow("direct", field=field), list(field.parameters())

    def penalty():
        x = points().requires_grad_()
        (slope,) = torch.autograd.grad(WAYS[way](net, x).sum(), x, create_graph=True)
        return slope.square().sum()

    along = [torch.randn(p.shape, generator=rng(4), dtype=F64) for p in weights]
    grads = torch.autograd.grad(penalty(), weights, allow_unused=True)
    found = sum((g * v).sum() for g, v in zip(grads, along, strict=True) if g is not None)
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, v in zip(weights, along, strict=True):
                p.add_(v, alpha=sign * 1e-3)
        ends.append(float(penalty().detach()))
    assert abs(found) > 1e-2
    assert float(found.detach()) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("way", WAYS)
def test_autocast_is_for_the_field_alone(way, gradient):
    """bfloat16 has eight bits: the result is near the plain one, in single precision."""
    net = flow(gradient, dtype=torch.float32, context=way == "context")
    exact = WAYS[way](net, points(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = WAYS[way](net, points(torch.float32))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=5e-2, atol=5e-2)
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
