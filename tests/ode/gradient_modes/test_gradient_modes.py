"""Claims of the chapter *What a solver differentiates*; the oracle is the complex step."""

import math

import numpy as np
import pytest
import torch

from nodes_tutorial.ode import METHODS, odeint, solve
from nodes_tutorial.ode.gradient_modes import PeakMemory
from tests.ode.gradient_cases import (
    MODES,
    T0,
    T1,
    THETA,
    Z0,
    adjoint_path,
    complex_step,
    field,
    jacobians,
    loss,
    loss_gradient,
    quad,
    tensor,
)

# --- the discrete adjoint -----------------------------------------------------------------------


def random_tableau(seed=0):
    """Four stages, no order at all, and one weight zero: the theorem asks for nothing else."""
    rng = np.random.default_rng(seed)
    a = np.tril(rng.normal(size=(4, 4)), -1)
    b = rng.normal(size=4)
    b[2] = 0.0
    return a, b, rng.uniform(size=4)


def tableau(name):
    if name == "random":
        return random_tableau()
    m = METHODS[name]
    s = len(m.b)
    a = np.zeros((s, s))
    for i, row in enumerate(m.a, start=1):  # the first stage has no row
        a[i, : len(row)] = row
    return a, np.array(m.b), np.array(m.c)


def rk_forward(z, theta, tab, h, steps, t=T0):
    """States and stages of an explicit method; complex numbers welcome."""
    a, b, c = tab
    stages, states = [], [z]
    for _ in range(steps):
        k, points = [], []
        for i in range(len(b)):
            zi = z + h * sum((a[i, j] * k[j] for j in range(i)), np.zeros(2))
            points.append((t + c[i] * h, zi))
            k.append(field(t + c[i] * h, zi, theta))
        z = z + h * sum(bi * ki for bi, ki in zip(b, k, strict=True))
        t = t + h
        stages.append(points)
        states.append(z)
    return states, stages


def rk_backward(lam, stages, tab, h, coupling=True):
    """The recursion of the theorem: lambda at every step and the gradient for theta."""
    a, b, _ = tab
    g_theta, path = np.zeros(3), [lam]
    for points in reversed(stages):
        bars, pulled = [None] * len(b), [None] * len(b)
        for i in reversed(range(len(b))):
            later = sum((a[j, i] * pulled[j] for j in range(i + 1, len(b))), np.zeros(2))
            bars[i] = h * (b[i] * lam + (later if coupling else 0.0))
            fz, fth = jacobians(*points[i])
            pulled[i] = fz.T @ bars[i]
            g_theta = g_theta + fth.T @ bars[i]
        lam = lam + sum(pulled)
        path.append(lam)
    return path[::-1], g_theta


@pytest.mark.claim("thm-modes-discrete")
@pytest.mark.parametrize(
    "name", ["random", "euler", "midpoint", "heun", "rk4", "bosh3", "dopri5", "tsit5", "dopri8"]
)
def test_recursion_is_the_exact_gradient_of_the_discrete_map(name, measured):
    tab, steps = tableau(name), 5
    h = (T1 - T0) / steps
    states, stages = rk_forward(Z0, THETA, tab, h, steps)
    lam, g_theta = rk_backward(loss_gradient(states[-1]), stages, tab, h)
    end = lambda z, th: loss(rk_forward(z, th, tab, h, steps)[0][-1])  # noqa: E731
    truth_z = complex_step(lambda z: end(z, THETA), Z0)
    truth_theta = complex_step(lambda th: end(Z0, th), THETA)
    error = max(np.abs(lam[0] - truth_z).max(), np.abs(g_theta - truth_theta).max())
    scale = max(1.0, np.abs(truth_theta).max())
    assert measured(error / scale, f"discrete adjoint of {name}") < 1e-12
    if name not in ("euler", "midpoint"):
        wrong = rk_backward(loss_gradient(states[-1]), stages, tab, h, coupling=False)[1]
        assert np.abs(wrong - truth_theta).max() > 1e-3 * scale  # stage coupling dropped


@pytest.mark.claim("thm-modes-discrete")
@pytest.mark.parametrize("mode", ["direct", "checkpoint"])
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4"])
def test_reverse_mode_computes_the_same_recursion(name, mode, measured):
    tab, steps = tableau(name), 5
    h = (T1 - T0) / steps
    states, stages = rk_forward(Z0, THETA, tab, h, steps)
    lam, g_theta = rk_backward(loss_gradient(states[-1]), stages, tab, h)
    theta, z0 = tensor(THETA).requires_grad_(), tensor(Z0).requires_grad_()
    z = odeint(
        lambda t, z: field(t, z, theta, torch),
        z0,
        tensor([T0, T1]),
        method=name,
        options={"step_size": h * (1 + 1e-9)},
        gradient=mode,
        adjoint_params=(theta,),
    )
    g = torch.autograd.grad(loss(z[-1], torch), (z0, theta))
    error = max(np.abs(g[0].numpy() - lam[0]).max(), np.abs(g[1].numpy() - g_theta).max())
    assert measured(error, f"{name}, gradient={mode!r}, against the recursion") < 1e-12


@pytest.mark.claim("thm-modes-order")
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4", "bosh3"])
def test_discrete_adjoint_converges_with_the_order_of_the_method(name, measured):
    """Halving the step divides the largest error over all n by 2^p, and that for theta."""
    path, adjoint = adjoint_path()
    truth_theta = quad(lambda t: jacobians(t, path(t))[1].T @ adjoint(t), T0, T1)
    tab, errors = tableau(name), []
    # the dense path and adjoint are right to about 1e-10: rk4 may not come near that
    for steps in (24, 48, 96) if name == "rk4" else (128, 256, 512):
        h = (T1 - T0) / steps
        states, stages = rk_forward(Z0, THETA, tab, h, steps)
        lam, g_theta = rk_backward(loss_gradient(states[-1]), stages, tab, h)
        errors.append(
            [
                max(np.abs(x - adjoint(T0 + n * h)).max() for n, x in enumerate(lam)),
                np.abs(g_theta - truth_theta).max(),
            ]
        )
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    worst = np.abs(order[-1] - METHODS[name].order).max()
    assert measured(worst, f"observed order of {name} minus its order") < 0.1
    # With the adjoint of another tableau (Euler's) the order is lost.
    if name == "rk4":
        wrong = loss_gradient(states[-1])
        for n in reversed(range(steps)):
            fz, _ = jacobians(T0 + n * h, states[n])
            wrong = wrong + h * fz.T @ wrong
        assert np.abs(wrong - adjoint(T0)).max() > 1e-4 > 1e4 * errors[-1][0]


# --- backsolve ----------------------------------------------------------------------------------


@pytest.mark.claim("prop-modes-reconstruction")
@pytest.mark.parametrize("steps, printed", [(30, 3.1e7), (500, 0.00657), (5000, 0.6065)])
def test_reverse_euler_does_not_come_back(steps, printed, measured):
    k = 50.0
    h = 1 / steps
    there = solve(
        lambda t, z: -k * z,
        tensor([1.0]),
        tensor([0.0, 1.0]),
        method="euler",
        options={"step_size": h * (1 + 1e-9)},
    )
    back = odeint(
        lambda t, z: -k * z,
        there.y[-1],
        tensor([1.0, 0.0]),
        method="euler",
        options={"step_size": h * (1 + 1e-9)},
    )[-1].item()
    assert there.nfe == steps
    truth = (1 - (h * k) ** 2) ** steps
    assert measured(abs(back / truth - 1), f"factor at {steps} steps") < 1e-11
    assert abs(back) == pytest.approx(printed, rel=0.02)
    assert abs(back / (1 - h * k) ** (2 * steps) - 1) > 0.9  # -k in both directions


@pytest.mark.claim("prop-modes-reconstruction")
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4"])
def test_reconstruction_factor_of_any_explicit_method(name, measured):
    """R(x) R(-x) for each step, R from the tableau: 1 + x b (I - x A)^-1 1."""
    a, b, _ = tableau(name)
    r = lambda x: 1 + x * b @ np.linalg.solve(np.eye(len(b)) - x * a, np.ones(len(b)))  # noqa: E731
    x, steps = 0.5, 20
    options = {"step_size": (1 / steps) * (1 + 1e-9)}
    func = lambda t, z: -x * steps * z  # noqa: E731
    there = odeint(func, tensor([1.0]), tensor([0.0, 1.0]), method=name, options=options)
    back = odeint(func, there[-1], tensor([1.0, 0.0]), method=name, options=options)
    truth = (r(x) * r(-x)) ** steps
    assert measured(abs(back[-1].item() / truth - 1), f"factor of {name}") < 1e-11
    assert abs(back[-1].item() - 1) > 1e-4  # it does not come back


@pytest.mark.claim("prop-modes-backsolve")
def test_distances_grow_backwards_in_contracting_dynamics(measured):
    """z' = -kz - tanh z + sin t contracts at rate k: backwards, distances grow as e^{kT}."""
    k, span, e = 4.0, 1.5, 1e-5
    func = lambda t, z: -k * z - torch.tanh(z) + torch.sin(t)  # noqa: E731
    end = tensor([[0.05], [0.05 + e]])
    t = tensor([span, 0.0])
    start = odeint(func, end, t, rtol=1e-12, atol=1e-14)[-1]
    ratio = (start[1] - start[0]).abs().item() / e
    assert math.exp(k * span) <= ratio <= math.exp((k + 1) * span)
    linear = odeint(lambda t, z: -k * z, end, t, rtol=1e-12, atol=1e-14)[-1]
    gap = (linear[1] - linear[0]).abs().item() / (e * math.exp(k * span))
    assert measured(abs(gap - 1), "equality for z' = -kz") < 1e-8
    assert gap * math.exp(k * span) > 1e4 * math.exp(-k * span)  # it grows, it does not shrink


@pytest.mark.claim("prop-modes-backsolve")
def test_backsolve_loses_the_gradient_that_checkpointing_keeps(measured):
    """x' = -kx feeds y' = theta x, L = y(1): the gradient for theta needs the whole of x."""
    k, grads = 25.0, {}
    for mode in MODES:
        theta = tensor(1.0).requires_grad_()
        z = odeint(
            lambda t, z, th=theta: torch.stack([-k * z[0], th * z[0]]),
            tensor([1.0, 0.0]),
            tensor([0.0, 1.0]),
            rtol=1e-6,
            atol=1e-8,
            gradient=mode,
            adjoint_params=(theta,),
        )
        (grads[mode],) = torch.autograd.grad(z[-1, 1], theta)
    truth = (1 - math.exp(-k)) / k
    error = abs(grads["checkpoint"].item() / truth - 1)
    assert measured(error, "checkpointed gradient, rtol 1e-6") < 1e-5  # the tolerance of the solve
    assert grads["checkpoint"].item() == pytest.approx(grads["direct"].item(), rel=1e-12)
    assert abs(grads["adjoint"].item() / truth - 1) > 1


@pytest.mark.claim("prop-modes-euler")
@pytest.mark.parametrize("steps", [30, 77, 500])
def test_gradient_by_reverse_euler_in_closed_form(steps, measured):
    k = tensor(50.0).requires_grad_()
    x = 50.0 / steps
    found = {}
    for mode in ("checkpoint", "adjoint"):
        z = odeint(
            lambda t, z: -k * z,
            tensor([1.0]),
            tensor([0.0, 1.0]),
            method="euler",
            options={"step_size": (1 + 1e-9) / steps},
            gradient=mode,
            adjoint_params=(k,),
        )
        found[mode] = torch.autograd.grad(z[-1, 0], k)[0].item()
    ratio = found["adjoint"] / found["checkpoint"]
    factor = math.fsum((1 - x**2) ** m for m in range(steps)) / steps  # not the geometric formula
    truth = (1 - x) * factor
    assert measured(abs(ratio / truth - 1), f"ratio at {steps} steps") < 1e-8
    closed = (1 - x) * (1 - (1 - x**2) ** steps) / (steps * x**2)
    assert abs(closed / truth - 1) < 1e-8
    if steps == 500:
        assert abs(ratio - 0.18) < 0.005
    assert abs((1 + x) * factor / truth - 1) > 0.01  # the other sign


# --- memory -------------------------------------------------------------------------------------

KIB = 1024  # bytes of 128 numbers in double precision


def some(count=1):
    return torch.ones(128 * count, dtype=torch.float64)


def test_peak_is_of_what_lives_at_once():
    with PeakMemory() as memory:
        first = some(3)
        del first
        second = some(2)
        assert memory.live == 2 * KIB
    assert memory.peak == 3 * KIB  # not the sum of all, not what is left
    assert second.numel() == 256


def test_peak_counts_storages_once():
    before = some(5)
    with PeakMemory() as memory:
        x = some(2)
        view = x[::2].view(8, 16).T
        x.add_(1.0)
        before.mul_(2.0)  # made outside
        seen = before[:3]
    assert memory.peak == 2 * KIB
    assert view.shape == (16, 8)
    assert seen.numel() == 3


def test_peak_sees_what_autograd_keeps():
    """exp keeps its result for the way back; without a graph the chain needs two at a time."""
    peaks = {}
    for graph in (True, False):
        x = some().requires_grad_(graph)
        with PeakMemory() as memory:
            for _ in range(10):
                x = torch.exp(-x)
        peaks[graph] = memory.peak
    assert peaks[True] >= 10 * KIB
    assert peaks[False] <= 3 * KIB
