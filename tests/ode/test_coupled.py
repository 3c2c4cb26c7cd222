"""Claims of the chapter on weights that move: the optimality system and the modes of a kernel."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.coupled import CoupledODE, ReactionDiffusionAdvection

TIGHT = {"rtol": 1e-11, "atol": 1e-13}
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
N = 6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def circulant(w):
    n = len(w)
    return w[(np.arange(n)[:, None] - np.arange(n)) % n]


class Evolution(torch.nn.Module):
    """A nonlinear q, so that its Jacobian is neither constant nor symmetric."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(0.7 * normal(N, N, seed=3))

    def forward(self, w):
        return torch.tanh(w @ self.matrix.mT)


def field(z, w):
    return torch.tanh(z @ circulant(w).mT + w[0])


def by_hand(x, w0, matrix, drop=False):
    """Loss, and its gradients by the optimality system, with numpy and scipy alone.

    Forwards z and w; backwards the adjoint a of z, the adjoint alpha of w, and the integral of
    q_p^T alpha. ``drop`` leaves q_w^T alpha out, as if the weights had no dynamics.
    """
    batch = len(x)
    split = batch * N

    def forward(t, s):
        z, w = s[:split].reshape(batch, N), s[split:]
        dz = np.tanh(z @ circulant(w).T + w[0])
        return np.concatenate([dz.ravel(), np.tanh(matrix @ w)])

    start = np.concatenate([x.ravel(), w0])
    how = dict(method="DOP853", rtol=1e-12, atol=1e-13)
    path = solve_ivp(forward, (0, 1), start, dense_output=True, **how)
    end = path.y[:split, -1]
    index = (np.arange(N)[:, None] - np.arange(N)) % N

    def backward(t, s):
        state = path.sol(t)
        z, w = state[:split].reshape(batch, N), state[split:]
        a, alpha = s[:split].reshape(batch, N), s[split : split + N]
        slope = a * (1 - np.tanh(z @ circulant(w).T + w[0]) ** 2)
        da = -slope @ circulant(w)
        # f_w^T a: entry m of w stands in the circulant wherever index == m, and w[0] is the bias
        outer = slope.T @ z
        from_f = np.array([outer[index == m].sum() for m in range(N)])
        from_f[0] += slope.sum()
        inner = 1 - np.tanh(matrix @ w) ** 2
        from_q = matrix.T @ (inner * alpha)
        d_alpha = -from_f - (0 if drop else from_q)
        d_g = -np.outer(inner * alpha, w)
        return np.concatenate([da.ravel(), d_alpha, d_g.ravel()])

    last = np.concatenate([np.cos(end), np.zeros(N + N * N)])
    run = solve_ivp(backward, (1, 0), last, **how).y[:, -1]
    return np.sin(end).sum(), run[:split], run[split : split + N], run[split + N :]


@pytest.mark.claim("thm-coupled-optimality")
@pytest.mark.parametrize("mode", ["direct", "checkpoint", "adjoint"])
def test_optimality_system_is_the_gradient(mode, measured):
    x, w0 = normal(3, N, seed=1), normal(N, seed=2)
    net = CoupledODE(field, w0, Evolution(), gradient=mode, **TIGHT)
    z0 = x.clone().requires_grad_()
    loss = torch.sin(net(z0)).sum()
    loss.backward()
    matrix = net.evolution.matrix
    value, a, alpha, g = by_hand(x.numpy(), w0.numpy(), matrix.detach().numpy())
    found = [loss.detach(), z0.grad, net.w0.grad, matrix.grad]
    for name, ours, theirs in zip(
        ("loss", "a(0)", "alpha(0)", "dJ/dp"), found, (value, a, alpha, g), strict=True
    ):
        error = np.abs(ours.numpy().ravel() - np.ravel(theirs)).max()
        assert measured(error, f"{name}, gradient={mode!r}, against scipy") < 1e-7
    wrong = by_hand(x.numpy(), w0.numpy(), matrix.detach().numpy(), drop=True)
    assert np.abs(wrong[2] - alpha).max() > 1e-2
    assert np.abs(wrong[3] - g).max() > 1e-2


@pytest.mark.claim("thm-coupled-optimality")
def test_weights_that_stand_still_are_the_neural_ode(measured):
    """With q = 0 the adjoint of the weights is the usual integral of f_w^T a."""
    x, w0 = normal(3, N, seed=1), normal(N, seed=2)
    net = CoupledODE(field, w0, None, gradient="adjoint", **TIGHT)
    torch.sin(net(x)).sum().backward()
    w = w0.clone().requires_grad_()
    torch.sin(odeint(lambda t, z: field(z, w), x, ENDS, **TIGHT)[-1]).sum().backward()
    assert measured((net.w0.grad - w.grad).abs().max(), "against a plain neural ODE") < 1e-8


@pytest.mark.claim("prop-coupled-modes")
@pytest.mark.parametrize("n", [5, 8])
def test_modes_of_the_evolution(n, measured):
    tau, upsilon, rho = 0.7, -1.3, 0.4
    q = ReactionDiffusionAdvection(tau, upsilon, rho, dtype=torch.float64)
    w0 = normal(2, n, seed=4)
    shift = np.roll(np.eye(n), 1, axis=1)  # (shift w)_i = w_{i+1}
    matrix = tau * (shift + shift.T - 2 * np.eye(n)) + upsilon / 2 * (shift - shift.T)
    matrix += rho * np.eye(n)
    assert measured(np.abs(q(w0).detach().numpy() - w0.numpy() @ matrix.T).max(), "field") < 1e-12
    t = torch.tensor(1.7, dtype=torch.float64)
    truth = w0.numpy() @ expm(1.7 * matrix).T
    exact = q.exact(w0, t).detach().numpy()
    assert measured(np.abs(exact - truth).max(), "modes against expm") < 1e-12
    times = torch.tensor([0.0, 1.7], dtype=torch.float64)
    net = CoupledODE(lambda z, w: -z, w0, q, **TIGHT)
    error = np.abs(net.weights(times)[-1].detach().numpy() - truth).max()
    assert measured(error, "solver against expm") < 1e-9
    sums = exact.sum(1) - np.exp(rho * 1.7) * w0.numpy().sum(1)
    assert np.abs(sums).max() < 1e-12
    other = ReactionDiffusionAdvection(tau, -upsilon, rho, dtype=torch.float64)
    assert np.abs(other.exact(w0, t).detach().numpy() - truth).max() > 0.1


@pytest.mark.claim("thm-coupled-optimality")
def test_a_minimum_with_a_penalty_satisfies_the_last_line(measured):
    """J + R is minimized by Newton's method on numbers; then alpha(0) + R_w and its twin vanish."""
    x, weight = 1.5, 0.3

    def total(v):
        w0, p = v
        s = torch.expm1(p) / p
        return (x * torch.exp(s * w0) - 1) ** 2 / 2 + weight * (w0**2 + (p - 1) ** 2) / 2

    v = torch.tensor([-0.2, 0.9], dtype=torch.float64)
    for _ in range(30):
        slope = torch.func.grad(total)(v)
        v = v - torch.linalg.solve(torch.func.hessian(total)(v), slope)
    assert slope.abs().max() < 1e-12
    w0, p = v.requires_grad_().unbind()
    rate = p.detach().clone().requires_grad_()
    net = CoupledODE(lambda z, w: w * z, w0.detach(), lambda w: rate * w, **TIGHT)
    end = net(torch.tensor(x, dtype=torch.float64))
    alpha, on_p = torch.autograd.grad((end - 1) ** 2 / 2, [net.w0, rate])
    rest = [alpha + weight * w0, on_p + weight * (p - 1)]
    assert measured(max(r.abs().item() for r in rest), "stationarity with a penalty") < 1e-8
    assert abs(alpha) > 5e-3 and abs(on_p) > 5e-3  # without R they do not vanish


@pytest.mark.claim("prop-coupled-modes")
@pytest.mark.parametrize("mode", [1, 3])
def test_a_mode_moves_by_its_own_shift(mode, measured):
    """Without diffusion and reaction, mode m of n nodes is shifted by upsilon t sin(th)/th."""
    n, upsilon, t = 16, 1.7, 0.8
    theta = 2 * math.pi * mode / n
    j = torch.arange(n, dtype=torch.float64)
    q = ReactionDiffusionAdvection(1e-12, upsilon, 0.0, dtype=torch.float64)
    found = q.exact(torch.cos(theta * j), torch.tensor(t, dtype=torch.float64)).detach()
    shift = upsilon * t * math.sin(theta) / theta
    error = (found - torch.cos(theta * (j + shift))).abs().max()
    assert measured(error, f"mode {mode} against a shifted cosine") < 1e-10
    assert (found - torch.cos(theta * (j + upsilon * t))).abs().max() > 1e-3  # one speed for all


def test_exact_evolution_has_the_gradient_of_the_solver():
    q = ReactionDiffusionAdvection(0.5, 0.8, -0.2, dtype=torch.float64)
    w0 = normal(8, seed=5)
    weight = normal(8, seed=6)
    net = CoupledODE(lambda z, w: -z, w0, q, **TIGHT)
    solved = torch.autograd.grad(net.weights(ENDS)[-1] @ weight, list(q.parameters()))
    exact = torch.autograd.grad(q.exact(w0, ENDS[1]) @ weight, list(q.parameters()))
    for a, b in zip(solved, exact, strict=True):
        assert (a - b).abs() < 1e-8


def test_what_the_modules_refuse():
    with pytest.raises(ValueError, match="tau must be positive"):
        ReactionDiffusionAdvection(tau=0.0)


def test_coupled_net_under_vmap():
    """Several sets of weights at once, with fixed steps: what the chapter trains."""
    options = {"method": "rk4", "options": {"step_size": 0.25}}
    q = ReactionDiffusionAdvection(0.3, 0.5, 0.1, dtype=torch.float64)
    net = CoupledODE(field, normal(N), q, **options)
    w0, x = normal(3, N, seed=7), normal(4, N, seed=8)
    call = torch.func.functional_call
    together = torch.func.vmap(lambda w: call(net, {"w0": w}, (x,)))(w0)
    for w, out in zip(w0, together, strict=True):
        torch.testing.assert_close(call(net, {"w0": w}, (x,)), out)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_parameters_of_the_field_are_trained_too(mode):
    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, z, w):
            return field(z, w) + self.bias

    grads = []
    for gradient in ("direct", mode):
        net = CoupledODE(Biased(), normal(N), Evolution(), gradient=gradient, **TIGHT)
        net(normal(2, N, seed=1)).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        assert (a - b).abs().max() < 1e-7
