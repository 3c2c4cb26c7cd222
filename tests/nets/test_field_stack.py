"""Fields side by side: each as if it were alone."""

import pytest
import torch

from nodes_tutorial.flows import CNF, Flow, StandardNormal, flow_matching_loss
from nodes_tutorial.nets import FieldStack, TimeMLP

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def trio(dim=3):
    return [TimeMLP(dim, [7, 5], generator=rng(s), dtype=F64) for s in range(3)]


def rows(n=12, dim=3, seed=5):
    return torch.randn(n, dim, generator=rng(seed), dtype=F64)


@pytest.mark.parametrize("many_times", [False, True])
def test_value_is_that_of_each_field_on_its_rows(many_times):
    fields, x = trio(), rows()
    t = torch.rand(12, 1, generator=rng(6), dtype=F64) if many_times else torch.tensor(0.3)
    each = [
        field(t[4 * i : 4 * i + 4] if many_times else t, x[4 * i : 4 * i + 4])
        for i, field in enumerate(fields)
    ]
    torch.testing.assert_close(FieldStack(fields)(t, x), torch.cat(each))


@pytest.mark.parametrize("probed", [False, True])
def test_tangents_are_those_of_each_field(probed):
    fields, x, t = trio(), rows(), torch.tensor(0.3)
    v = torch.randn(2, 12, 3, generator=rng(7), dtype=F64) if probed else None
    value, products = FieldStack(fields).value_and_tangents(t, x, v)
    for i, field in enumerate(fields):
        own = slice(4 * i, 4 * i + 4)
        right = field.value_and_tangents(t, x[own], None if v is None else v[:, own])
        torch.testing.assert_close(value[own], right[0])
        torch.testing.assert_close(products[:, own], right[1])


def test_training_is_that_of_each_field_alone():
    """A few clipped updates in one loop, against three loops; likelihood, then matching."""
    fields, x = trio(2), rows(12, 2)
    stack, how = FieldStack(fields), {"method": "midpoint", "options": {"step_size": 0.5}}
    sgd = torch.optim.SGD(stack.parameters(), 0.5)
    for _ in range(3):
        sgd.zero_grad()
        flow = Flow(StandardNormal(2, dtype=F64), [CNF(stack, **how)])
        (-3 * flow.log_prob(x).mean()).backward()
        stack.clip_gradients(0.1)
        sgd.step()
    for i, field in enumerate(fields):
        alone = torch.optim.SGD(field.parameters(), 0.5)
        for _ in range(3):
            alone.zero_grad()
            flow = Flow(StandardNormal(2, dtype=F64), [CNF(field, **how)])
            (-flow.log_prob(x[4 * i : 4 * i + 4]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(field.parameters(), 0.1)
            alone.step()
    for ours, right in zip(stack.unstack(), fields, strict=True):
        for a, b in zip(ours.parameters(), right.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-7)
    loss = flow_matching_loss(stack, x, rows(12, 2, 8), generator=rng(9))
    (gradient,) = torch.autograd.grad(loss, [stack.weights[0]])
    assert all(part.abs().max() > 0 for part in gradient)


def test_unstacked_fields_are_copies():
    stack = FieldStack(trio())
    before = stack.unstack()
    with torch.no_grad():
        for weight in stack.weights:
            weight.zero_()
    assert before[0].mlp.layers[0].weight.abs().max() > 0
    assert all(f.mlp.layers[0].weight.abs().max() == 0 for f in stack.unstack())
    assert not any(p.requires_grad for f in before for p in f.parameters())


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="fields"):
        FieldStack([])
    with pytest.raises(ValueError, match="fields"):
        FieldStack([TimeMLP(2, [4]), TimeMLP(2, [5])])
    with pytest.raises(ValueError, match="tanh"):
        FieldStack([TimeMLP(2, [4], "silu")])
