"""Claims of the chapter *Gradients through a solver*; the oracle is the complex step."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from nodes_tutorial.ode import odeint
from tests.ode.gradient_cases import (
    MODES,
    T0,
    T1,
    THETA,
    Z0,
    adjoint_path,
    complex_step,
    field,
    flow,
    ivp,
    jacobians,
    loss,
    loss_gradient,
    quad,
    tensor,
)

# --- the variational equation -------------------------------------------------------------------


@pytest.mark.claim("lem-adjoint-variational")
def test_sensitivities_solve_the_variational_equation(measured):
    def augmented(t, y, transpose=False):
        z, phi, s = y[:2], y[2:6].reshape(2, 2), y[6:].reshape(2, 3)
        fz, fth = jacobians(t, z)
        fz = fz.T if transpose else fz
        return np.concatenate([field(t, z, THETA), (fz @ phi).ravel(), (fz @ s + fth).ravel()])

    y0 = np.concatenate([Z0, np.eye(2).ravel(), np.zeros(6)])
    y = ivp(augmented, y0, T0, T1)
    phi, s = y[2:6].reshape(2, 2), y[6:].reshape(2, 3)
    d_z0 = complex_step(lambda z0: flow(T0, T1, z0, THETA), Z0).T
    d_theta = complex_step(lambda th: flow(T0, T1, Z0, th), THETA).T
    d_t0 = complex_step(lambda t: flow(t[0], T1, Z0, THETA), [T0])[0]
    d_t1 = complex_step(lambda t: flow(T0, t[0], Z0, THETA), [T1])[0]
    error = max(
        np.abs(phi - d_z0).max(),
        np.abs(s - d_theta).max(),
        np.abs(-phi @ field(T0, Z0, THETA) - d_t0).max(),
        np.abs(field(T1, y[:2], THETA) - d_t1).max(),
    )
    assert measured(error, "sensitivities against complex steps") < 1e-9
    wrong = ivp(lambda t, y: augmented(t, y, transpose=True), y0, T0, T1)[2:6].reshape(2, 2)
    assert np.abs(wrong - d_z0).max() > 0.1  # the transposed Jacobian
    assert np.abs(phi @ field(T0, Z0, THETA) - d_t0).max() > 0.1  # the sign of dz/dt0


# --- the adjoint equation and the gradients -----------------------------------------------------


@pytest.mark.claim("thm-adjoint-equation")
def test_adjoint_is_the_gradient_at_every_time(measured):
    path, adjoint = adjoint_path()
    error = 0.0
    for t in (T0, 0.7, 1.3, T1):
        truth = complex_step(lambda z, t=t: loss(flow(t, T1, z, THETA)), path(t))
        error = max(error, np.abs(adjoint(t) - truth).max())
    assert measured(error, "a(t) against complex steps, four times") < 1e-8
    truth = complex_step(lambda z: loss(flow(T0, T1, z, THETA)), Z0)
    _, wrong = adjoint_path(transpose=False)
    assert np.abs(wrong(T0) - truth).max() > 0.1


@pytest.mark.claim("thm-adjoint-gradients")
def test_gradients_for_state_parameters_and_both_end_times(measured):
    path, adjoint = adjoint_path()
    d_theta = quad(lambda t: jacobians(t, path(t))[1].T @ adjoint(t), T0, T1)
    d_t0 = -adjoint(T0) @ field(T0, Z0, THETA)
    d_t1 = adjoint(T1) @ field(T1, path(T1), THETA)
    truth_theta = complex_step(lambda th: loss(flow(T0, T1, Z0, th)), THETA)
    truth_t = complex_step(lambda t: loss(flow(t[0], t[1], Z0, THETA)), [T0, T1])
    error = max(np.abs(d_theta - truth_theta).max(), np.abs(np.array([d_t0, d_t1]) - truth_t).max())
    assert measured(error, "theta, t0, t1 against complex steps") < 1e-8
    no_adjoint = quad(lambda t: jacobians(t, path(t))[1].sum(0), T0, T1)
    assert np.abs(no_adjoint - truth_theta).max() > 0.1  # a(t) left out
    assert np.abs(-d_theta - truth_theta).max() > 0.1  # limits or sign the wrong way round
    assert abs(-d_t0 - truth_t[0]) > 0.1  # the sign of dL/dt0


@pytest.mark.claim("thm-adjoint-gradients")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_these_gradients(mode, measured):
    theta, z0 = tensor(THETA).requires_grad_(), tensor(Z0).requires_grad_()
    t = tensor([T0, T1]).requires_grad_()

    def func(t, z):
        return field(t, z, theta, torch)

    z = odeint(func, z0, t, rtol=1e-11, atol=1e-12, gradient=mode, adjoint_params=(theta,))
    grads = torch.autograd.grad(loss(z[-1], torch), (z0, theta, t))
    truth = (
        complex_step(lambda x: loss(flow(T0, T1, x, THETA)), Z0),
        complex_step(lambda x: loss(flow(T0, T1, Z0, x)), THETA),
        complex_step(lambda x: loss(flow(x[0], x[1], Z0, THETA)), [T0, T1]),
    )
    error = max(np.abs(g.numpy() - x).max() for g, x in zip(grads, truth, strict=True))
    assert measured(error, f"gradient={mode!r} against complex steps") < 1e-8


@pytest.mark.claim("thm-adjoint-gradients")
@pytest.mark.parametrize("mode", MODES)
def test_linear_field_in_closed_form(mode, measured):
    """z' = theta z, L = z(2): the numbers of the chapter, and the wrong formulas of the errata."""
    theta, z0 = tensor(0.7).requires_grad_(), tensor([1.3]).requires_grad_()
    t = tensor([0.0, 2.0]).requires_grad_()
    tight = dict(rtol=1e-11, atol=1e-12, gradient=mode, adjoint_params=(theta,))
    z = odeint(lambda t, z: theta * z, z0, t, **tight)
    g_z0, g_theta, g_t = torch.autograd.grad(z[-1, 0], (z0, theta, t))
    growth = math.exp(1.4)
    truth = [growth, 2 * 1.3 * growth, -0.7 * 1.3 * growth, 0.7 * 1.3 * growth]
    got = [g_z0.item(), g_theta.item(), *g_t.tolist()]
    error = max(abs(a - b) for a, b in zip(got, truth, strict=True))
    assert measured(error, f"gradient={mode!r} against the closed form") < 1e-8
    assert [round(x, 5) for x in truth[:3]] == [4.05520, 10.54352, -3.69023]

    a = lambda t: math.exp(0.7 * (2 - t))  # noqa: E731
    z_exact = lambda t: 1.3 * math.exp(0.7 * t)  # noqa: E731
    without_a = quad(z_exact, 0, 2)
    reversed_limits = -quad(lambda t: a(t) * z_exact(t), 0, 2)
    spurious_a = a(2) + quad(lambda t: a(t) * -0.7 * a(t), 2, 0)
    wrong_sign = a(0) * 0.7 * z_exact(0)
    printed = [without_a, reversed_limits, spurious_a, wrong_sign]
    assert [round(x, 5) for x in printed] == [5.67394, -10.54352, 8.72232, 3.69023]
    for value, right in zip(printed, [truth[1], truth[1], truth[0], truth[2]], strict=True):
        assert abs(value - right) > 4


def test_limits_and_starting_points_that_sources_print_wrongly(measured):
    """z' = theta z on [0, 2]: each line of a printed algorithm, as it stands and put right."""
    theta, start, span = 0.7, 1.3, 2.0
    z = lambda t: start * math.exp(theta * t)  # noqa: E731
    a = lambda t: math.exp(theta * (span - t))  # noqa: E731
    forward = start + quad(lambda t: theta * z(t), 0, span)
    inside = 1 - quad(lambda t: a(t) * theta, span, 0.5)  # a at t = 0.5, from its end value 1
    later = start + quad(lambda t: theta * z(t), 0, 1.5)
    error = max(abs(forward - z(span)), abs(inside - a(0.5)), abs(later - z(1.5)))
    assert measured(error, "forward pass, adjoint and evaluation") < 1e-12
    assert abs(start + quad(lambda t: theta * z(t), span, 0) - z(span)) > 1  # limits reversed
    assert abs(1 - quad(lambda t: a(t) * z(t), span, 0) - a(0.5)) > 1  # df/dtheta, fixed limit
    assert abs(z(span) + quad(lambda t: theta * z(t), span, 0) - later) > 1  # to t0, not to t


@pytest.mark.parametrize("mode", MODES)
def test_a_second_backward_pass_gives_the_same_gradient(mode):
    theta, z0 = tensor(0.7).requires_grad_(), tensor([1.3]).requires_grad_()
    z = odeint(
        lambda t, z: theta * z, z0, tensor([0.0, 2.0]), gradient=mode, adjoint_params=(theta,)
    )
    first = torch.autograd.grad(z[-1, 0], (z0, theta), retain_graph=True)
    second = torch.autograd.grad(z[-1, 0], (z0, theta))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the Lagrangian -----------------------------------------------------------------------------


def running(z):
    return z[0] * z[1] + 0.3 * z[1] ** 2


@pytest.mark.claim("prop-adjoint-lagrangian")
def test_lagrangian_identity_holds_for_any_multiplier(measured):
    """J = loss(z(t1)) + int r dt; the multiplier is arbitrary, only the adjoint removes S(t)."""

    def total(theta):
        def augmented(s, y):
            z = y[:2]
            dz = (T1 - T0) * field(T0 + s * (T1 - T0), z, theta)
            return np.concatenate([dz, [(T1 - T0) * running(z)]])

        y0 = np.concatenate([theta[:2] ** 2, [0]]).astype(complex)  # z(t0) depends on theta
        y = ivp(augmented, y0, 0.0, 1.0)
        return loss(y[:2]) + y[2]

    truth = complex_step(total, THETA)
    z_start = THETA[:2] ** 2
    s_start = np.concatenate([np.diag(2 * THETA[:2]), np.zeros((2, 1))], axis=1)

    def forward(t, y):
        fz, fth = jacobians(t, y[:2])
        return np.concatenate([field(t, y[:2], THETA), (fz @ y[2:].reshape(2, 3) + fth).ravel()])

    path = ivp(forward, np.concatenate([z_start, s_start.ravel()]), T0, T1, dense=True)
    z, s = (lambda t: path(t)[:2]), (lambda t: path(t)[2:].reshape(2, 3))
    r_z = lambda z: np.array([z[1], z[0] + 0.6 * z[1]])  # noqa: E731

    def identity(a, da, boundary=True):
        def integrand(t):
            fz, fth = jacobians(t, z(t))
            return (da(t) + fz.T @ a(t) + r_z(z(t))) @ s(t) + a(t) @ fth

        end = (loss_gradient(z(T1)) - a(T1)) @ s(T1) if boundary else 0.0
        return end + a(T0) @ s_start + quad(integrand, T0, T1)

    a, da = (lambda t: np.array([np.sin(t), 2 * t])), (lambda t: np.array([np.cos(t), 2.0]))
    error = np.abs(identity(a, da) - truth).max()
    assert measured(error, "Lagrangian identity, arbitrary multiplier") < 1e-8
    assert np.abs(identity(a, da, boundary=False) - truth).max() > 0.1  # boundary term dropped

    adjoint = ivp(
        lambda t, a: -jacobians(t, z(t))[0].T @ a - r_z(z(t)), loss_gradient(z(T1)), T1, T0, True
    )
    short = adjoint(T0) @ s_start + quad(lambda t: adjoint(t) @ jacobians(t, z(t))[1], T0, T1)
    error = np.abs(short - truth).max()
    assert measured(error, "adjoint with a running cost") < 1e-8
    no_running = ivp(lambda t, a: -jacobians(t, z(t))[0].T @ a, loss_gradient(z(T1)), T1, T0, True)
    wrong = no_running(T0) @ s_start + quad(lambda t: no_running(t) @ jacobians(t, z(t))[1], T0, T1)
    assert np.abs(wrong - truth).max() > 0.1  # the source term of the adjoint left out


# --- Pontryagin's principle ---------------------------------------------------------------------


@pytest.mark.claim("thm-adjoint-pontryagin")
def test_needle_variation_is_the_change_of_the_hamiltonian(measured):
    """(J(needle of width e) - J) / e -> H(v) - H(u), extrapolated in e; then the wrong costate."""
    u = lambda t: np.array([np.cos(t), 0.5, t])  # noqa: E731
    tau, v = 1.1, np.array([-1.0, 2.0, 0.4])
    path = ivp(lambda t, z: field(t, z, u(t)), Z0, T0, T1, dense=True)
    end = loss_gradient(path(T1))
    costate = ivp(lambda t, a: -jacobians(t, path(t), u(t))[0].T @ a, end, T1, T0, True)
    fixed = costate(tau) @ (field(tau, path(tau), v) - field(tau, path(tau), u(tau)))

    def quotient(e):
        z = ivp(lambda t, z: field(t, z, v), path(tau - e), tau - e, tau)
        return (loss(ivp(lambda t, z: field(t, z, u(t)), z, tau, T1)) - loss(path(T1))) / e

    table = [quotient(0.04 / 2**i) for i in range(6)]
    for k in range(1, len(table)):  # Richardson: the quotient is a power series in e
        table = [(2**k * b - a) / (2**k - 1) for a, b in pairwise(table)]
    assert measured(abs(table[0] - fixed), "needle quotient against H(v) - H(u)") < 1e-6
    free = end @ (field(tau, path(tau), v) - field(tau, path(tau), u(tau)))
    assert abs(table[0] - free) > 0.05  # the costate frozen at its end value


@pytest.mark.claim("thm-adjoint-pontryagin")
def test_optimal_control_minimizes_the_hamiltonian(measured):
    """z' = u, J = int (z^2 + u^2) / 2 on [0, T]: u = -tanh(T - t) z, a = tanh(T - t) z."""
    span, x = 1.5, 0.8
    times = torch.linspace(0, span, 7, dtype=torch.float64)
    z = lambda t: x * math.cosh(span - t) / math.cosh(span)  # noqa: E731

    def backward(t, a):  # the adjoint equation with running cost, along the optimal path
        return -x * torch.cosh(span - t) / math.cosh(span) * torch.ones_like(a)

    end = tensor([0.0])
    a = odeint(backward, end, times.flip(0), rtol=1e-11, atol=1e-12).flip(0)[:, 0]
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    error = 0.0
    for t, costate in zip(times.tolist(), a.tolist(), strict=True):
        hamiltonian = costate * grid + (z(t) ** 2 + grid**2) / 2
        best = -math.tanh(span - t) * z(t)
        error = max(error, abs(costate - math.tanh(span - t) * z(t)))
        value = costate * best + (z(t) ** 2 + best**2) / 2
        assert value <= hamiltonian.min() + 1e-12
        if t < 1:
            flipped = -costate * grid + (z(t) ** 2 + grid**2) / 2
            assert -costate * best + (z(t) ** 2 + best**2) / 2 > flipped.min() + 0.1
    assert measured(error, "costate of the linear-quadratic problem") < 1e-9


# --- observations -------------------------------------------------------------------------------


@pytest.mark.claim("thm-adjoint-pontryagin")
def test_a_switch_minimizes_the_hamiltonian_where_it_has_no_derivative(measured):
    """U = {-1, 1}, z' = u, J = int (z - t)^2: of all switches on a grid, the best obeys part 2.

    z starts at 1/2, so the best u is -1 until z meets t at 1/4, and then alternates. With one
    switch allowed, from -1 to 1 at s, J has a closed form and a minimum in s.
    """
    span = 1.0
    z = lambda t, s: 0.5 - t if t < s else 0.5 - 2 * s + t  # noqa: E731

    def cost(s):
        left = quad(lambda t: (z(t, s) - t) ** 2, 0.0, s)
        return left + quad(lambda t: (z(t, s) - t) ** 2, s, span)

    grid = np.linspace(0.01, 0.99, 4901)
    best = grid[np.argmin([(2 * s - 0.5) ** 2 * (1 - s) + _early(s) for s in grid])]
    assert abs(cost(best) - ((2 * best - 0.5) ** 2 * (1 - best) + _early(best))) < 1e-12

    def costate(t):  # a' = -2 (z - t), a(1) = 0
        late = quad(lambda r: 2 * (z(r, best) - r), max(t, best), span)
        early = quad(lambda r: 2 * (z(r, best) - r), t, best) if t < best else 0.0
        return late + early

    # H(v) = a v + (z - t)^2 is least at v = -sign(a): where u = -1, a must be positive
    assert min(costate(t) for t in np.linspace(0.0, best - 0.02, 9)) > 0
    assert measured(abs(costate(best)), "costate at the switch") < 1e-3  # the grid's width
    assert costate(0.0) > 0.05


def _early(s):
    """The integral of (1/2 - 2 t)^2 up to s."""
    return (0.5**3 - (0.5 - 2 * s) ** 3) / 6


@pytest.mark.claim("thm-adjoint-pontryagin")
def test_of_all_switching_controls_the_best_one_alone_minimizes_the_hamiltonian(measured):
    """x' = v, v' = u with u in {-1, 1}, L = v(1)^2 / 2 - x(1): twelve intervals, 4,096 controls.

    H is a_v u + a_x v. The loss is convex in u, so the best control is the only one that obeys
    part 2: u = 1 until T - t = v(T), at 2/3, and then -1. U has no interior and no derivative.
    """
    count = 12
    u = 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1) - 1
    h, middles = 1 / count, (np.arange(count) + 0.5) / count
    speed, place = h * u.sum(1), h * u @ (1 - middles)
    cost = speed**2 / 2 - place
    best, switch = cost.argmin(), np.where(middles < 2 / 3, 1.0, -1.0)
    assert (u[best] == switch).all()
    # the costate of the best control by the package, in the middle of each interval
    end = tensor([-1.0, speed[best]])  # the gradient of the loss
    times = torch.cat([tensor([1.0]), torch.from_numpy(middles).flip(0)])
    costate = odeint(lambda t, a: torch.stack([0 * a[0], -a[0]]), end, times)[1:, 1].flip(0)
    by_hand = speed[best] - (1 - middles)
    assert measured(np.abs(costate.numpy() - by_hand).max(), "costate at the best") < 1e-9
    assert (switch == -np.sign(costate.numpy())).all()  # where H is least
    # every other control fails somewhere: its own costate is v(1) - (1 - t)
    own = speed[:, None] - (1 - middles)
    obeys = (u * own < 0).all(1)
    assert obeys.sum() == 1 and obeys[best]
    # part 1: turning round one interval changes the cost by its width times H(v) - H(u)
    turned = u[best] * np.where(np.eye(count) > 0, -1, 1)
    changed = (h * turned.sum(1)) ** 2 / 2 - h * turned @ (1 - middles) - cost[best]
    needle = h * -2 * switch * by_hand
    assert np.abs(changed - needle).max() <= 2 * h**2 + 1e-12 and changed.min() > 0


@pytest.mark.claim("cor-adjoint-observations")
@pytest.mark.parametrize("mode", MODES)
def test_jumps_at_observation_times(mode, measured):
    times = np.array([T0, 0.5, 1.1, T1])
    weights = np.array([0.3, -1.0, 2.0, 0.7])

    def total(t, z0, theta):
        out, z = weights[0] * loss(z0), z0
        for i in range(1, len(times)):
            z = flow(t[i - 1], t[i], z, theta)
            out = out + weights[i] * loss(z)
        return out

    truth = (
        complex_step(lambda x: total(times, x, THETA), Z0),
        complex_step(lambda x: total(times, Z0, x), THETA),
        complex_step(lambda x: total(x, Z0, THETA), times),
    )
    theta, z0 = tensor(THETA).requires_grad_(), tensor(Z0).requires_grad_()
    t = tensor(times).requires_grad_()
    z = odeint(
        lambda t, z: field(t, z, theta, torch),
        z0,
        t,
        rtol=1e-11,
        atol=1e-12,
        gradient=mode,
        adjoint_params=(theta,),
    )
    value = sum(w * loss(zi, torch) for w, zi in zip(weights.tolist(), z, strict=True))
    grads = torch.autograd.grad(value, (z0, theta, t))
    error = max(np.abs(g.numpy() - x).max() for g, x in zip(grads, truth, strict=True))
    assert measured(error, f"gradient={mode!r}, four observations") < 1e-8
    last = complex_step(lambda x: weights[-1] * loss(flow(T0, T1, x, THETA)), Z0)
    assert np.abs(last - truth[0]).max() > 0.1  # jumps forgotten


# --- determinants -------------------------------------------------------------------------------


def adjugate(m):
    """By cofactors: slow, obvious, and good for singular matrices."""
    n = len(m)
    minor = lambda i, j: np.delete(np.delete(m, i, 0), j, 1)  # noqa: E731
    return np.array(
        [[(-1) ** (i + j) * np.linalg.det(minor(j, i)) for j in range(n)] for i in range(n)]
    )


@pytest.mark.claim("thm-adjoint-jacobi")
def test_jacobi_formula_also_for_singular_matrices(measured):
    rng = np.random.default_rng(0)
    base, slope = rng.normal(size=(2, 4, 4))
    singular = base.copy()
    singular[3] = singular[0] - 2 * singular[1]
    error = 0.0
    for m in (base, singular):
        truth = np.imag(np.linalg.det(m + 1j * 1e-20 * slope)) / 1e-20
        error = max(error, abs(np.trace(adjugate(m) @ slope) - truth))
    assert measured(error, "tr(adj(A) A') against complex steps") < 1e-10
    short = np.linalg.det(base) * np.trace(np.linalg.solve(base, slope))
    truth = np.imag(np.linalg.det(base + 1j * 1e-20 * slope)) / 1e-20
    assert abs(short - truth) < 1e-10  # the form with the inverse, where there is one
    assert abs(np.trace(adjugate(base).T @ slope) - truth) > 0.1  # cofactors not transposed


@pytest.mark.claim("thm-adjoint-jacobi")
def test_third_form_also_for_singular_matrices(measured):
    """A' = M A: the derivative is det A tr M, which is 0 for a singular A, whatever M is."""
    rng = np.random.default_rng(2)
    base, m = rng.normal(size=(2, 4, 4))
    singular = base.copy()
    singular[:, 3] = singular[:, 0] - 2 * singular[:, 1]
    error = 0.0
    for a in (base, singular):
        truth = np.imag(np.linalg.det(a + 1j * 1e-20 * m @ a)) / 1e-20
        error = max(error, abs(np.linalg.det(a) * np.trace(m) - truth))
    assert measured(error, "det A tr M against complex steps") < 1e-10
    other = np.imag(np.linalg.det(singular + 1j * 1e-20 * m)) / 1e-20
    assert abs(other) > 0.1  # a slope that is no M A: the derivative need not vanish


@pytest.mark.claim("cor-adjoint-liouville")
def test_liouville_determinant_of_the_flow(measured):
    path = ivp(lambda t, z: field(t, z, THETA), Z0, T0, T1, dense=True)
    phi = complex_step(lambda z0: flow(T0, T1, z0, THETA), Z0).T
    trace = quad(lambda t: np.trace(jacobians(t, path(t))[0]), T0, T1)
    error = abs(np.linalg.det(phi) - math.exp(trace))
    assert measured(error, "det of the flow's Jacobian") < 1e-9
    m = np.random.default_rng(1).normal(size=(4, 4))
    assert abs(np.linalg.det(expm(m)) - math.exp(np.trace(m))) < 1e-10
    at_start = math.exp((T1 - T0) * np.trace(jacobians(T0, Z0)[0]))
    assert abs(np.linalg.det(phi) - at_start) > 0.05  # the trace is integrated along the path
