"""Claims on symplectic steps, and the integrators of `ode.symplectic`."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.func import jacrev

from nodes_tutorial.ode.stability.symplectic import (
    leapfrog,
    oscillator_energies,
    verlet,
    verlet_step,
)

f64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def pendulums(q):
    """Gradient of a coupled potential: the sum of 1 - cos(q) and (q_0 - q_1)^2 / 2."""
    pull = torch.stack([q[..., 0] - q[..., 1], q[..., 1] - q[..., 0]], -1)
    return torch.sin(q) + pull


def relativistic(p):
    return p / torch.sqrt(1 + p.square().sum(-1, keepdim=True))


def form(n):
    zero, one = torch.zeros(n, n, dtype=f64), torch.eye(n, dtype=f64)
    return torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])


def defect(step, x):
    """How far the Jacobian M of a map of (q, p) is from M^T Omega M = Omega."""
    M, omega = jacrev(step)(x), form(len(x) // 2)
    return (M.mT @ omega @ M - omega).abs().max()


@pytest.mark.claim("thm-stability-symplectic")
@pytest.mark.parametrize("method", [verlet, leapfrog])
@pytest.mark.parametrize("kinetic", [None, relativistic])
def test_steps_are_symplectic(method, kinetic, measured):
    def step(x):
        return torch.cat(method(x[:2], x[2:], pendulums, 0.3, 5, grad_kinetic=kinetic))

    x = torch.randn(4, generator=gen(), dtype=f64)
    assert measured(defect(step, x), "M^T Omega M - Omega") < 1e-12


@pytest.mark.claim("thm-stability-symplectic")
def test_euler_and_a_force_that_is_no_gradient_are_not_symplectic():
    def euler(x):
        return torch.cat([x[:2] + 0.3 * x[2:], x[2:] - 0.3 * pendulums(x[:2])])

    def twisted(x):
        return torch.cat(verlet(x[:2], x[2:], lambda q: torch.tanh(q @ matrix), 0.3, 1))

    matrix = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=f64)
    x = torch.randn(4, generator=gen(1), dtype=f64) / 4
    assert defect(euler, x) > 1e-2 and defect(twisted, x) > 1e-2
    # the shears of a force that is no gradient still keep volume
    assert abs(torch.linalg.det(jacrev(twisted)(x)) - 1) < 1e-12


@pytest.mark.claim("thm-stability-symplectic")
def test_leapfrog_is_reversible_and_verlet_undone_by_its_inverse(measured):
    q, p = torch.randn(2, 6, 2, generator=gen(), dtype=f64)
    there = leapfrog(q, p, pendulums, 0.2, 40)
    back = leapfrog(there[0], -there[1], pendulums, 0.2, 40)
    error = max((back[0] - q).abs().max(), (back[1] + p).abs().max())
    assert measured(error, "there and back") < 1e-10
    # a kinetic energy that is not even: the same flip does not lead back
    lopsided = {"grad_kinetic": lambda p: p + 0.5}
    there = leapfrog(q, p, pendulums, 0.2, 40, **lopsided)
    back = leapfrog(there[0], -there[1], pendulums, 0.2, 40, **lopsided)
    assert (back[0] - q).abs().max() > 0.1
    # Verlet has an inverse, drift and kick backwards, but is not undone by the flip
    moved_q, moved_p = verlet_step(q, p, pendulums, lambda p: p, 0.2)
    before_q = moved_q - 0.2 * moved_p
    assert (before_q - q).abs().max() < 1e-13
    assert (moved_p + 0.2 * pendulums(before_q) - p).abs().max() < 1e-13
    flipped, _ = verlet_step(moved_q, -moved_p, pendulums, lambda p: p, 0.2)
    assert (flipped - q).abs().max() > 1e-2


@pytest.mark.claim("prop-stability-energy")
@pytest.mark.parametrize("omega, h", [(1.0, 0.5), (2.0, 0.9), (3.0, 0.66)])
def test_modified_energies_are_conserved_exactly(omega, h, measured):
    q, p = torch.randn(2, 5, generator=gen(), dtype=f64)

    def force(q):
        return omega**2 * q

    for method, which in ((leapfrog, 1), (verlet, 2)):
        energies = oscillator_energies(*method(q, p, force, h, 1000, path=True), omega, h)
        kept = energies[which]
        drift = measured((kept / kept[0] - 1).abs().max(), "modified energy")
        assert drift < 1e-10
        wrong = energies[0] + (energies[0] - kept)  # the correction with the other sign
        assert (wrong / wrong[0] - 1).abs().max() > 1e-2
        share = h**2 * omega**2 / 4 if which == 1 else h * omega / 2
        low, high = (1 - share, 1 / (1 - share)) if which == 1 else _bounds(share)
        ratio = energies[0] / energies[0][0]
        assert low - 1e-9 <= ratio.min() and ratio.max() <= high + 1e-9


def _bounds(share):
    return (1 - share) / (1 + share), (1 + share) / (1 - share)


@pytest.mark.claim("prop-stability-energy")
@pytest.mark.parametrize("method", [leapfrog, verlet])
def test_two_over_omega_is_the_limit(method):
    one = torch.tensor(1.0, dtype=f64)
    for h, bounded in ((1.98, True), (2.02, False)):
        q, _ = method(one, 0 * one, lambda q: q, h, 400, path=True)
        assert bool(q.abs().max() < 1e3) is bounded


@pytest.mark.parametrize("method", [leapfrog, verlet])
def test_order_two_against_scipy(method):
    q, p = torch.tensor([0.8, -0.3], dtype=f64), torch.tensor([0.1, 0.5], dtype=f64)

    def rhs(_, x):
        return np.concatenate([x[2:], -pendulums(torch.from_numpy(x[:2])).numpy()])

    start = np.concatenate([q.numpy(), p.numpy()])
    exact = solve_ivp(rhs, (0, 2), start, "DOP853", rtol=1e-12, atol=1e-13).y[:2, -1]
    errors = []
    for n in (20, 40, 80):
        h = 2 / n
        momentum = p if method is leapfrog else p + h / 2 * pendulums(q)
        found, _ = method(q, momentum, pendulums, h, n)
        errors.append(np.abs(found.numpy() - exact).max())
    slopes = -np.diff(np.log2(errors))
    assert np.all(np.abs(slopes - 2) < 0.1)


def test_leapfrog_is_the_two_step_recursion():
    q0 = torch.randn(3, 2, generator=gen(), dtype=f64)
    q, _ = leapfrog(q0, torch.zeros_like(q0), pendulums, 0.1, 10, path=True)
    force = torch.stack([pendulums(x) for x in q[1:-1]])
    assert (q[2:] - 2 * q[1:-1] + q[:-2] + 0.01 * force).abs().max() < 1e-14
    assert (q[1] - q[0] + 0.005 * pendulums(q0)).abs().max() < 1e-14


def test_every_chain_may_have_its_own_step_and_path_is_all_states():
    q, p = torch.randn(2, 4, 2, generator=gen(), dtype=f64)
    h = torch.tensor([0.1, 0.2, 0.3, -0.1], dtype=f64)[:, None]
    for method in (leapfrog, verlet):
        together = method(q, p, pendulums, h, 7)
        for i in range(4):
            alone = method(q[i], p[i], pendulums, h[i].item(), 7)
            assert torch.allclose(together[0][i], alone[0], atol=1e-12)
        path = method(q, p, pendulums, h, 7, path=True)
        assert path[0].shape == (8, 4, 2) and torch.equal(path[1][-1], together[1])
        assert torch.equal(method(q, p, pendulums, h, 0)[0], q)


def test_gradients_pass_and_bad_steps_are_named():
    q = torch.tensor([0.3, 0.2], dtype=f64, requires_grad=True)
    end, _ = leapfrog(q, torch.zeros(2, dtype=f64), pendulums, 0.1, 3)
    assert torch.autograd.grad(end.sum(), q)[0].isfinite().all()
    for method in (leapfrog, verlet):
        with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
            method(q, q, pendulums, 0.1, -1)


def test_kick_and_drift_may_have_different_shapes():
    q, p = verlet_step(
        torch.ones(2), torch.zeros(3), lambda q: torch.ones(3) * q.sum(), lambda p: p[:2], 0.5
    )
    assert torch.allclose(p, torch.full((3,), -1.0)) and math.isclose(q[0].item(), 0.5)
