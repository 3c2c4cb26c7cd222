"""The planar field against its formula."""

import pytest
import torch

from nodes_tutorial.flows import PlanarField, trace
from nodes_tutorial.flows.field import HasTangents
from nodes_tutorial.nets import TimeMLP

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_planar_field_is_its_formula():
    field = PlanarField(3, 4, (8,), rng(), dtype=F64)
    x = torch.randn(5, 3, generator=rng(1), dtype=F64)
    t = torch.tensor(0.7, dtype=F64)
    w, b, u = field.weights_at(t)
    assert w.shape == u.shape == (4, 3) and b.shape == (4,)
    total, divergence = torch.zeros_like(x), torch.zeros(5, dtype=F64)
    for m in range(4):
        h = torch.tanh(x @ w[m] + b[m])
        total = total + h[:, None] * u[m]
        divergence = divergence + (1 - h**2) * (w[m] @ u[m])
    torch.testing.assert_close(field(t, x), total)
    torch.testing.assert_close(trace.exact(field)(t, x)[1], divergence)
    other = field.weights_at(torch.tensor(0.1, dtype=F64))[0]
    assert (other - w).abs().max() > 1e-3  # the weights do move


def test_sizes_and_protocol():
    with pytest.raises(ValueError, match="width"):
        PlanarField(2, 0)
    assert isinstance(PlanarField(2, 1), HasTangents)
    assert isinstance(TimeMLP(2, [4]), HasTangents)
    assert not isinstance(lambda t, x: x, HasTangents)
    one, two = (PlanarField(2, 3, generator=rng()) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
