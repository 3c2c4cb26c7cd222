"""One battery for every transform in `cases.py`: what makes a map usable in a flow."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nodes_tutorial.flows import Density, Flow, Inverse, StandardNormal, Transform

_spec = importlib.util.spec_from_file_location("flow_cases", Path(__file__).with_name("cases.py"))
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
CASES = cases.CASES

every = pytest.mark.parametrize("name", CASES)
both = pytest.mark.parametrize("way", ["forward", "inverse"])
F64 = torch.float64


def build(name: str, way: str = "forward", dtype: torch.dtype = F64) -> Transform:
    transform = CASES[name](dtype)
    return transform if way == "forward" else Inverse(transform)


def points(name: str, way: str, *batch: int, dtype: torch.dtype = F64, seed: int = 1) -> Tensor:
    """Points of the domain: noise, or its image for the inverse."""
    case = CASES[name]
    z = case.draw((*batch, *case.shape), generator=cases.rng(seed), dtype=dtype)
    return z if way == "forward" else case(dtype).push(z).detach()


def jacobian(transform: Transform, x: Tensor) -> Tensor:
    flat = torch.autograd.functional.jacobian(
        lambda y: transform(y.view(x.shape))[0].flatten(), x.flatten()
    )
    return flat.detach()


@every
@both
def test_any_batch_axes_and_rows_by_themselves(name, way):
    transform, case = build(name, way), CASES[name]
    x = points(name, way, 2, 3)
    y, ladj = transform(x)
    assert transform.event_dims == len(case.shape)
    assert y.shape == x.shape and ladj.shape == (2, 3)
    assert y.isfinite().all() and ladj.isfinite().all()
    for index in ((0,), (1, 2)):
        part, part_ladj = transform(x[index])
        assert part.shape == x[index].shape and part_ladj.shape == y.shape[len(index) : 2]
        assert (part - y[index]).abs().max() < case.atol
        assert (part_ladj - ladj[index]).abs().max() < case.atol
    push = transform.push(x)
    assert (push - y).abs().max() < case.atol


@every
@both
def test_inverse_undoes(name, way):
    transform, case = build(name, way), CASES[name]
    x = points(name, way, 16)
    y, ladj = transform(x)
    back, back_ladj = transform.inverse(y)
    assert (back - x).abs().max() < case.atol
    assert (ladj + back_ladj).abs().max() < case.atol
    assert (transform.pull(y) - x).abs().max() < case.atol
    assert (y - x).abs().max() > 1e-3  # the case is not the identity


@every
@both
def test_log_determinant_is_that_of_the_autograd_jacobian(name, way):
    transform = build(name, way)
    for x in points(name, way, 3):
        ladj = transform(x)[1]
        exact = torch.linalg.slogdet(jacobian(transform, x)).logabsdet
        assert abs(ladj - exact) < CASES[name].atol


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].zeros])
@both
def test_entries_outside_the_structure_are_exactly_zero(name, way):
    transform, zeros = build(name, way), CASES[name].zeros()
    for x in points(name, way, 3):
        J = jacobian(transform, x)
        assert (J[zeros] == 0).all()
        assert (J.diagonal() != 0).all()


@every
@both
def test_gradients_reach_everything_and_are_right(name, way):
    """Autograd along a random direction, against a central difference."""
    transform, case = build(name, way), CASES[name]
    x = points(name, way, 4).requires_grad_()
    leaves = [x, *transform.parameters()]
    generator = cases.rng(2)

    def loss() -> Tensor:
        y, ladj = transform(x)
        return (y + 0.3 * y.sin()).sum() + (ladj * torch.arange(1, 5, dtype=F64)).sum()

    gradients = torch.autograd.grad(loss(), leaves)
    names = ["x", *dict(transform.named_parameters())]
    for leaf_name, leaf, gradient in zip(names, leaves, gradients, strict=True):
        assert gradient.abs().max() > 0, f"no gradient reaches {leaf_name}"
        direction = torch.randn(leaf.shape, generator=generator, dtype=F64)
        step, values, start = 1e-5, [], leaf.detach().clone()
        for sign in (1, -1):
            with torch.no_grad():
                leaf.copy_(start + sign * step * direction)
                values.append(float(loss()))
        with torch.no_grad():
            leaf.copy_(start)
        slope, ours = (values[0] - values[1]) / (2 * step), float((gradient * direction).sum())
        # a difference of numbers with the case's error, over 2e-5; and its own second-order term
        room = 1e-6 + 10 * case.atol / step * 1e-3
        assert math.isclose(ours, slope, rel_tol=room, abs_tol=room), leaf_name


@every
def test_state_dict_round_trip(name):
    ours, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.25)
    other.load_state_dict(ours.state_dict())
    x = points(name, "forward", 4)
    for a, b in zip(ours(x), other(x), strict=True):
        assert torch.equal(a, b)


@every
@both
def test_single_precision_stays_and_agrees(name, way):
    x = points(name, way, 8)
    assert {p.dtype for p in build(name, way, torch.float32).parameters()} <= {torch.float32}
    y, ladj = build(name, way).float()(x.float())
    assert y.dtype == ladj.dtype == torch.float32
    exact, exact_ladj = build(name, way)(x)
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max().clamp(min=1)
    assert (ladj - exact_ladj).abs().max() < 1e-3 * exact_ladj.abs().max().clamp(min=1)


@every
@both
def test_vmap_over_single_points(name, way):
    transform, x = build(name, way), points(name, way, 4)
    for ours, batch in zip(torch.func.vmap(transform)(x), transform(x), strict=True):
        assert (ours - batch).abs().max() < CASES[name].atol


@every
def test_flow_of_it_is_a_density(name):
    case, transform = CASES[name], build(name)
    if case.draw is not torch.randn:
        pytest.skip("its domain is not the whole space")
    flow = Flow(StandardNormal(case.shape, dtype=F64), [transform])
    assert isinstance(flow, Density)
    x, log_prob = flow.rsample_and_log_prob(5, cases.rng(3))
    assert (flow.log_prob(x) - log_prob).abs().max() < case.atol * 10
    drawn = flow.sample(5, cases.rng(3))
    assert not drawn.requires_grad
    assert (drawn - x).abs().max() < case.atol


@every
@both
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_agrees(name, way):
    x = points(name, way, 8)
    y, ladj = build(name, way).cuda()(x.cuda())
    assert y.is_cuda and ladj.is_cuda
    exact, exact_ladj = build(name, way)(x)
    assert (y.cpu() - exact).abs().max() < CASES[name].atol
    assert (ladj.cpu() - exact_ladj).abs().max() < CASES[name].atol
