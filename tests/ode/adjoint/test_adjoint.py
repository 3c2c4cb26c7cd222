"""Claims of the chapter *Gradients through a solver*.

The oracle is the complex step: every field and loss here is holomorphic, so `Im L(x + i e) / e` is
the derivative to rounding. It shares no code with the package and none with autograd.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from nodes_tutorial.ode import METHODS, odeint, solve

EPS = 1e-30  # a complex step has no cancellation: it can be this small
MODES = ("direct", "checkpoint", "adjoint")
T0, T1 = 0.2, 1.7
Z0 = np.array([0.6, -0.4])
THETA = np.array([1.1, 0.7, -0.5])


# --- one field, one loss, for numpy (complex) and torch alike ----------------------------------


def field(t, z, theta, xp=np):
    """A field that depends on time, and whose Jacobian is neither symmetric nor normal."""
    return xp.stack(
        [
            theta[0] * xp.sin(z[1]) - 0.3 * z[0] + theta[2] * t,
            -theta[1] * z[0] * z[1] + theta[2] * xp.cos(z[0]) * t,
        ]
    )


def loss(z, xp=np):
    return z[0] ** 2 + 0.5 * z[1] + xp.sin(z[0] * z[1])


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def jacobians(t, z, theta=THETA):
    """The Jacobians of the field in z and in theta: five complex steps in one call."""
    x = np.concatenate([z, theta])[:, None] + 1j * EPS * np.eye(5)
    columns = np.imag(field(t, x[:2], x[2:])) / EPS
    return columns[:, :2], columns[:, 2:]


def loss_gradient(z):
    return complex_step(loss, z)


def ivp(fun, y0, t0, t1, dense=False):
    tight = dict(method="DOP853", rtol=1e-12, atol=1e-13)
    out = solve_ivp(fun, (t0, t1), y0, dense_output=dense, **tight)
    return out.sol if dense else out.y[:, -1]


def flow(t0, t1, z0, theta):
    """z(t1) from z(t0) = z0; in rescaled time, so that t0 and t1 may be complex too."""
    span = t1 - t0
    y0 = np.asarray(z0, dtype=complex)
    return ivp(lambda s, z: span * field(t0 + s * span, z, theta), y0, 0.0, 1.0)


def complex_step(fun, x):
    """The gradient of fun at the real vector x, one complex step a component."""
    x = np.asarray(x, dtype=complex)
    return np.array([np.imag(fun(x + 1j * EPS * e)) / EPS for e in np.eye(len(x))])


def adjoint_path(transpose=True):
    """The trajectory and the adjoint on [T0, T1] by scipy, as functions of time."""
    path = ivp(lambda t, z: field(t, z, THETA), Z0, T0, T1, dense=True)

    def backward(t, a):
        fz, _ = jacobians(t, path(t))
        return -(fz.T if transpose else fz) @ a

    return path, ivp(backward, loss_gradient(path(T1)), T1, T0, dense=True)


def quad(fun, a, b, nodes=80):
    x, w = np.polynomial.legendre.leggauss(nodes)
    t = 0.5 * (b - a) * x + 0.5 * (a + b)
    return 0.5 * (b - a) * sum(wi * fun(ti) for wi, ti in zip(w, t, strict=True))


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


@pytest.mark.claim("thm-adjoint-discrete")
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


@pytest.mark.claim("thm-adjoint-discrete")
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


@pytest.mark.claim("thm-adjoint-order")
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


@pytest.mark.claim("prop-adjoint-reconstruction")
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


@pytest.mark.claim("prop-adjoint-reconstruction")
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


@pytest.mark.claim("prop-adjoint-backsolve")
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


@pytest.mark.claim("prop-adjoint-backsolve")
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


@pytest.mark.claim("prop-adjoint-euler")
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
