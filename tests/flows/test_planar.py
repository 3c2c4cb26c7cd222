"""The planar transform: its correction, its root and the gradients through the root."""

import math

import pytest
import torch
from scipy.optimize import brentq

from nodes_tutorial.flows import Flow, PlanarTransform, StandardNormal
from nodes_tutorial.flows.planar import solve_argument

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def planar(dim=3, seed=0, scale=1.0):
    transform = PlanarTransform(dim, rng(seed), dtype=F64)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.mul_(scale)
    return transform


@torch.no_grad()
def test_correction_is_the_papers(measured):
    for seed in range(20):
        transform = planar(seed=seed, scale=4.0)
        u, w = transform.u.detach(), transform.w.detach()
        direction, gap = transform.direction()
        score = float(w @ u)
        wanted = -1 + math.log(1 + math.exp(score))
        expected = u + (wanted - score) * w / (w @ w)
        assert measured((direction - expected).abs().max(), "direction") < 1e-12
        assert measured(abs(w @ direction - wanted), "w u") < 1e-12
        assert abs(gap - 1 - wanted) < 1e-12 and gap > 0
        other = u + (wanted - score) * w / w.norm()  # divided by the norm, not its square
        assert abs(w @ other - wanted) > 1e-3


def test_root_against_a_bracketing_solver(measured):
    for gap in (1e-9, 0.01, 0.5, 1.0, 3.0, 80.0, 1e5):
        for y in (-60.0, -1.0, -1e-3, 0.0, 0.3, 1.0, 7.0, 500.0):

            def left(a, gap=gap, y=y):
                return a + (gap - 1) * math.tanh(a) - y

            reach = abs(y) + abs(gap - 1) + 1
            exact = brentq(left, -reach, reach, xtol=1e-15, rtol=1e-14)
            ours = float(solve_argument(torch.tensor(y, dtype=F64), torch.tensor(gap, dtype=F64)))
            slope = 1 + (gap - 1) * (1 - math.tanh(exact) ** 2)
            # a rounding of y moves the root by that over the slope
            room = 1e-14 * max(1.0, abs(exact), abs(y)) / max(slope, 1e-16)
            assert abs(ours - exact) < max(room, 1e-12), (gap, y)
            assert measured(abs(left(ours)) / reach, "residual") < 1e-12


def test_root_over_many_magnitudes(measured):
    gap = torch.logspace(-16, 6, 111, dtype=F64)[:, None]
    y = torch.cat([torch.logspace(-30, 3, 200, dtype=F64), torch.linspace(0, 50, 200, dtype=F64)])
    for dtype, bound in ((F64, 1e-13), (torch.float32, 1e-5)):
        g, v = torch.broadcast_tensors(gap.to(dtype), y.to(dtype))
        a = solve_argument(v, g)
        size = a + (g - 1).abs() * a.tanh() + torch.finfo(dtype).tiny
        assert a.isfinite().all()
        residual = ((a + (g - 1) * a.tanh() - v).abs() / size).max()
        assert measured(residual, f"residual, {dtype}") < bound
        assert torch.equal(solve_argument(-v, g), -a)  # odd


def test_derivatives_of_the_root():
    y = torch.tensor([-3.0, -0.2, 0.4, 2.0], dtype=F64, requires_grad=True)
    gap = torch.tensor([0.3, 4.0, 1.0, 0.05], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(solve_argument, (y, gap), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve_argument, (y, gap))
    batch = torch.func.vmap(torch.func.grad(solve_argument, argnums=(0, 1)))(y, gap)
    alone = torch.autograd.grad(solve_argument(y, gap).sum(), (y, gap))
    for one, other in zip(batch, alone, strict=True):
        assert (one - other).abs().max() < 1e-15


@pytest.mark.parametrize("scale", [1.0, 4.0])
@torch.no_grad()
def test_inverse_returns_to_rounding(scale, measured):
    for seed in range(10):
        transform = planar(seed=seed, scale=scale)
        z = torch.randn(200, 3, generator=rng(1), dtype=F64)
        x, ladj = transform(z)
        back, back_ladj = transform.inverse(x)
        room = 1 / ladj.exp().min().clamp(max=1)  # the smallest slope amplifies rounding
        assert measured((back - z).abs().max() / room, "z, over the condition") < 1e-12
        assert measured((ladj + back_ladj).abs().max() / room**2, "log-determinant") < 1e-12


def test_implicit_gradients_of_the_log_density(measured):
    """Of data, through the root: against central differences in every weight."""
    flow = Flow(StandardNormal(2, dtype=F64), [planar(2, 0, 2.0), planar(2, 1, 2.0)])
    x = torch.randn(5, 2, generator=rng(2), dtype=F64)
    flow.log_prob(x).sum().backward()
    for parameter in flow.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            values, start = [], flat[i].item()
            for step in (1e-5, -1e-5):
                flat[i] = start + step
                values.append(flow.log_prob(x).sum().item())
            flat[i] = start
            slope = (values[0] - values[1]) / 2e-5
            # the differences carry 1e-10 of their own
            assert measured(abs(slope - gradient[i]), "gradient") < 1e-7 * max(1, abs(slope))


def test_density_of_a_planar_flow_integrates_to_one(measured):
    flow = Flow(StandardNormal(2, dtype=F64), [planar(2, seed, 2.0) for seed in range(4)])
    edge, count = 12.0, 600
    x = (torch.arange(count, dtype=F64) + 0.5) * (2 * edge / count) - edge
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(x, x)).exp().sum() * (2 * edge / count) ** 2
    assert measured(abs(mass - 1), "mass on a grid") < 1e-6


def test_initial_weights_come_from_the_generator():
    one, other = PlanarTransform(4, rng(3)), PlanarTransform(4, rng(3))
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert PlanarTransform(4, rng(3), dtype=F64).u.dtype == F64
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        PlanarTransform(0)
