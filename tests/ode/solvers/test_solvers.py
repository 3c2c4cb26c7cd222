"""What the chapter on solvers claims, measured on problems with known solutions."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.ode import METHODS, SolverError, odeint, solve
from nodes_tutorial.ode.solvers.control import step_factor
from nodes_tutorial.ode.solvers.order import elementary_weight
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import explicit_step, rk_step, stage_times
from nodes_tutorial.ode.solvers.tableaus import Tableau

F64 = torch.float64
ADAPTIVE = [name for name, method in METHODS.items() if method.b_error is not None]
SPIRAL = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=F64)
GOLDEN = {
    1.0: (0.70926174, -1.50410846),
    5.0: (-0.26301284, 0.93024594),
    10.0: (0.47236622, 0.66072726),
    25.0: (-0.44362349, 0.27944064),
}


def spiral(t, y):
    return y**3 @ SPIRAL.to(y.dtype)


def pulse(t, y):
    """The plane field x' = -xv, v' = x^2, solved by sech and tanh."""
    x, v = y.unbind(-1)
    return torch.stack([-x * v, x**2], -1)


def pulse_solution(t):
    return torch.stack([1 / torch.cosh(t - 1), torch.tanh(t - 1)], -1)


def one_step(func, method, t, y, h):
    t = torch.as_tensor(t, dtype=y.dtype)
    stages = StageList(method, func(t, y))
    end = rk_step(func, stage_times(float(t), h, method.c, y), y, h, stages)
    return end, stages


def slope(sizes, errors):
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


# Order, locally and globally


@pytest.mark.claim("thm-solvers-convergence")
@pytest.mark.parametrize("name", list(METHODS))
def test_global_order(name, measured):
    """Regression of the largest error on the step: slope p, while one step has slope p + 1."""
    p = METHODS[name].order
    steps = [12, 16, 22, 30] if p == 8 else [40, 57, 80, 113, 160, 226]
    errors = []
    for n in steps:
        t = torch.linspace(0.0, 5.0, n + 1, dtype=F64)
        y = solve(pulse, pulse_solution(t[0]), t, method=name, options={"step_size": 5.0}).y
        errors.append(float((y - pulse_solution(t)).norm(dim=1).max()))
    y0 = y[0]
    found = slope([5.0 / n for n in steps], errors)
    measured(abs(found - p), f"{name}: distance of the slope from {p}")
    margin = 0.45 if p == 5 else 0.2  # at order 5 the next term still weighs at these steps
    assert abs(found - p) < margin, found

    field, sizes, solution = pulse, [0.1, 0.07, 0.05, 0.035], pulse_solution
    if p == 8:  # the pulse's coefficient of h^9 is too small to be seen above round-off
        y0, sizes = torch.ones((), dtype=F64), [0.5, 0.4, 0.3]
        field, solution = lambda t, y: y * torch.cos(t), lambda t: torch.exp(torch.sin(t))
    local = []
    for h in sizes:
        y, _ = one_step(field, METHODS[name], 0.0, y0, h)
        local.append(float((y - solution(torch.tensor(h, dtype=F64))).norm()))
    assert abs(slope(sizes, local) - (p + 1)) < margin, slope(sizes, local)


@pytest.mark.claim("thm-solvers-convergence")
def test_bound_of_the_global_error(measured):
    """Euler on y' = sin y: L = 1, local error at most h^2/4, steps of unequal length."""
    generator = torch.Generator().manual_seed(0)
    y0, T = 0.1, 5.0
    worst = 0.0
    for n in (20, 200, 2000):
        grid = torch.rand(n - 1, generator=generator, dtype=F64).sort().values * T
        grid = torch.cat([torch.zeros(1, dtype=F64), grid, torch.full((1,), T, dtype=F64)])
        y, errors = torch.tensor(y0, dtype=F64), []
        for t, t_next in pairwise(grid):
            y = y + (t_next - t) * torch.sin(y)
            errors.append(abs(float(y - 2 * torch.atan(math.tan(y0 / 2) * torch.exp(t_next)))))
        h = float(grid.diff().max())
        worst = max(worst, max(errors) / (h / 4 * math.expm1(T)))
    measured(worst, "largest error over its bound, which must be at most 1")
    assert worst <= 1.0
    y, h = torch.tensor(y0, dtype=F64), T / 2000
    for _ in range(2000):
        y = y + h * torch.sin(y)
    error = abs(float(y) - 2 * math.atan(math.tan(y0 / 2) * math.exp(T)))
    assert error > h**2 / 4 * math.expm1(T), "a bound of order h^2 would be wrong"


@pytest.mark.claim("thm-solvers-convergence")
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4"])
def test_bound_of_the_global_error_is_nearly_attained(name, measured):
    """On y' = y with nonnegative coefficients the errors of the steps add up without loss."""
    method, T, n = METHODS[name], 0.2, 10
    h, p = T / n, METHODS[name].order
    one = torch.ones((), dtype=F64)
    t = torch.linspace(0.0, T, n + 1, dtype=F64)
    y = odeint(lambda t, y: y, one, t, method=name)
    # a step from the solution errs by (R(h) - e^h) e^{t_n}, and t_n is at most T - h
    R, power, a = 1.0, np.ones(method.stages), np.zeros((method.stages, method.stages))
    for i, row in enumerate(method.a, start=1):
        a[i, : len(row)] = row
    for m in range(1, method.stages + 1):
        R, power = R + h**m * float(np.dot(method.b, power)), a @ power
    C = (math.exp(h) - R) * math.exp(T - h) / h ** (p + 1)
    growth = []
    for row in a:
        growth.append(1 + h * sum(x * g for x, g in zip(row, growth, strict=False)))
    K_bar = float(np.dot(method.b, growth))
    bound = C * h**p * math.expm1(K_bar * T) / K_bar
    share = float((t.exp() - y).abs().max()) / bound
    measured(share, "error over its bound, at most 1 and near it")
    assert 0.7 < share <= 1.0
    off = odeint(lambda t, y: y, 1.01 * one, t, method=name)  # y_0 = y(t_0) is needed
    assert float((t.exp() - off).abs().max()) > bound


@pytest.mark.claim("thm-solvers-convergence")
@pytest.mark.parametrize("name", list(METHODS))
def test_lipschitz_constant_of_a_step(name, measured):
    """The increment's constant Lambda = L sum |b_i| lambda_i, and that L alone is too small."""
    method, h, L = METHODS[name], 0.3, 2.0
    rows, growth = ((), *method.a), []
    for row in rows:
        growth.append(1 + h * L * sum(abs(x) * g for x, g in zip(row, growth, strict=False)))
    bound = L * sum(abs(x) * g for x, g in zip(method.b, growth, strict=True))
    generator = torch.Generator().manual_seed(0)
    y, z = torch.randn(2, 500, 3, generator=generator, dtype=F64).unbind()
    mix = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=F64)).Q

    def func(t, y):
        return L * torch.sin(y @ mix)

    gap = one_step(func, method, 0.0, y, h)[0] - one_step(func, method, 0.0, z, h)[0]
    ratio = float((gap.norm(dim=1) / (y - z).norm(dim=1)).max())
    assert ratio <= 1 + h * bound
    growing, _ = one_step(lambda t, y: L * y, method, 0.0, torch.ones((), dtype=F64), h)
    assert float(growing) <= 1 + h * bound + 1e-12
    if method.order > 1:
        assert float(growing) > 1 + h * L, "Lambda = L would be wrong"


@pytest.mark.claim("prop-solvers-stages")
@pytest.mark.parametrize("name", list(METHODS))
def test_stability_polynomial(name, measured):
    method, chain, coefficients = METHODS[name], (), [1.0]
    rows = ((), *method.a)
    for _ in range(method.stages):
        coefficients.append(float(elementary_weight(chain, rows, method.b)))
        chain = (chain,)
    worst = 0.0
    for z in (-30.0, -3.0, -0.5, 0.7):
        y, _ = one_step(lambda t, y, z=z: z * y, method, 0.0, torch.ones((), dtype=F64), 1.0)
        claimed = sum(c * z**k for k, c in enumerate(coefficients))
        worst = max(worst, abs(float(y) - claimed) / max(1.0, abs(claimed)))
    measured(worst, f"{name}: one step on y' = zy against the polynomial")
    assert worst < 1e-11
    for k, c in enumerate(coefficients[: method.order + 1]):
        assert abs(c - 1 / math.factorial(k)) < 1e-14
    assert abs(sum(c * (-30.0) ** k for k, c in enumerate(coefficients))) > 1.0


# Control of the step


def controlled(alpha, beta, k, ratio=7.0, steps=60):
    """log r_n under h -> 0.9 r^(-alpha/k) r_before^(beta/k) h, where r = psi h^k."""
    x, before, ratios = math.log(ratio) / k, 0.0, []
    for _ in range(steps):
        ratios.append(k * x)
        x, before = x + math.log(0.9) - (alpha * k * x - beta * before) / k, k * x
    return ratios


@pytest.mark.claim("prop-pi-controller")
@pytest.mark.parametrize("order", [2, 4, 7])
def test_the_controller_settles(order, measured):
    """The package's factor brings r = psi h^k to 0.9^(k/0.65), at the rate of the larger root."""
    k, psi = order + 1, 3.0
    limit = 0.9 ** (k / 0.65)
    h, before, ratios = (0.9 / psi) ** (1 / k), 0.3, []
    for _ in range(40):
        r = psi * h**k
        ratios.append(r)
        h *= step_factor(r, before, order)
        before = r
    measured(abs(ratios[-1] / limit - 1), f"relative distance from the limit, k = {k}")
    assert abs(ratios[-1] / limit - 1) < 1e-9
    rate = max(abs(np.roots([1, -(1 - 0.85), -0.2])))
    gaps = [abs(math.log(r / limit)) for r in ratios]
    assert abs((gaps[30] / gaps[20]) ** (1 / 10) - rate) < 2e-3
    elementary = controlled(1.0, 0.0, k)
    assert abs(elementary[1] - k * math.log(0.9)) < 1e-12, "alpha = 1, beta = 0 arrives in one step"


@pytest.mark.claim("prop-pi-controller")
def test_region_of_stability():
    """beta < alpha < 2 - beta, on a grid, by the roots and by the recursion itself."""
    for alpha in np.arange(0.05, 2.3, 0.1):
        for beta in np.arange(0.0, 1.3, 0.1):
            claimed = beta < alpha < 2 - beta
            roots = np.roots([1, -(1 - alpha), -beta])
            assert claimed == (max(abs(roots)) < 1), (alpha, beta)
    steady = controlled(0.85, 0.2, 5)
    assert abs(steady[-1] - steady[-2]) < 1e-10
    for alpha, beta in ((0.2, 0.85), (1.9, 0.2)):
        wild = controlled(alpha, beta, 5, ratio=1.1)
        assert abs(wild[-1] - wild[-2]) > 1.0, "outside the region the ratios do not settle"


@pytest.mark.claim("prop-pi-controller")
@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_steps_settle_on_a_circle(name, measured):
    """On a rotation the error is the same at every angle, so the ratio r_n has one limit."""
    method, atol = METHODS[name], 1e-6
    k = method.error_order + 1
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    sol = solve(
        lambda t, y: y @ turn,
        torch.tensor([1.0, 0.0], dtype=F64),
        torch.tensor([0.0, 30.0], dtype=F64),
        rtol=0.0,
        atol=atol,
        method=name,
    )
    h = float(sol.step_sizes[-5])
    start = sol.interpolate(sol.step_times[-5:-4]).squeeze(0)
    _, stages = one_step(lambda t, y: y @ turn, method, 0.0, start, h)

    def ratio(which):
        return float(stages.error(which).norm() / math.sqrt(2) / atol)

    r = ratio(0)
    if method.b_error_low is not None:
        r = r**2 / math.hypot(r, 0.1 * ratio(1))
    gap = abs(r / 0.9 ** (k / 0.65) - 1)
    measured(gap, f"{name}: relative distance of the error ratio from 0.9^({k}/0.65)")
    assert gap < 0.02, (r, 0.9 ** (k / 0.65))
    assert abs(r - 1.0) > 0.3, "the ratio does not settle at the tolerance itself"


def boundary(method):
    """Polynomials R, E on y' = zy, and where R leaves the unit interval on the negative axis."""
    a = np.zeros((method.stages, method.stages))
    for i, row in enumerate(method.a):
        a[i + 1, : len(row)] = row
    power, R, E = np.ones(method.stages), [1.0], [0.0]
    for _ in range(method.stages):
        R.append(float(np.dot(method.b, power)))
        E.append(float(np.dot(method.b_error, power)))
        power = a @ power
    R, E = np.polynomial.Polynomial(R), np.polynomial.Polynomial(E)
    roots = np.concatenate([(R - 1).roots(), (R + 1).roots()])
    real = roots[(abs(roots.imag) < 1e-7) & (roots.real < -1e-3)].real
    return R, E, float(real.max())


def control_matrix(u, v, alpha, beta):
    return np.array([[1, -alpha, beta], [u, 1 - alpha * v, beta * v], [0, 1, 0]])


@pytest.mark.claim("prop-solvers-boundary")
@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5"])
def test_linearised_control_at_the_boundary(name, measured):
    """The matrix against the Jacobian, by autograd, of the nonlinear iteration it linearises."""
    method = METHODS[name]
    k = method.error_order + 1
    R, E, z = boundary(method)
    u, v = z * R.deriv()(z) / R(z), z * E.deriv()(z) / E(z)

    def polynomial(p, x):
        return sum(c * x**j for j, c in enumerate(p.coef.tolist()))

    for alpha, beta in ((1 / k, 0.0), (0.85 / k, 0.2 / k), (0.7 / k, 0.4 / k)):

        def iterate(state, alpha=alpha, beta=beta):
            """(log h, log r, log r before) -> the next, for h in units of the boundary step."""
            x, r, before = state.unbind()
            x_next = x - alpha * r + beta * before
            size = r - polynomial(E, z * x.exp()).abs().log()
            size = size + polynomial(R, z * x.exp()).abs().log()
            return torch.stack([x_next, size + polynomial(E, z * x_next.exp()).abs().log(), r])

        zero = torch.zeros(3, dtype=F64)
        jacobian = torch.autograd.functional.jacobian(iterate, zero).numpy()
        claimed = control_matrix(u, v, alpha, beta)
        gap = abs(jacobian - claimed).max()
        measured(gap, f"{name}: matrix against autograd")
        assert gap < 1e-9
        assert abs(jacobian - control_matrix(v, u, alpha, beta)).max() > 1e-2
    elementary = max(abs(np.linalg.eigvals(control_matrix(u, v, 1 / k, 0.0))))
    assert (elementary < 1) == (u < v and (2 * v - u) / k < 4)
    ours = max(abs(np.linalg.eigvals(control_matrix(u, v, 0.85 / k, 0.2 / k))))
    assert ours < 0.91
    assert (elementary < 1) == (name == "bosh3")


@pytest.mark.claim("prop-solvers-boundary")
@pytest.mark.parametrize("angle", [1.7, 2.0, 2.4])
@pytest.mark.parametrize("name", ["bosh3", "dopri5"])
def test_linearised_control_for_a_complex_eigenvalue(name, angle, measured):
    """On a ray of the plane the boundary is another point, and u and v are real parts there."""
    R, E, _ = boundary(METHODS[name])
    ray = complex(math.cos(angle), math.sin(angle))
    sizes = np.linspace(1e-3, 8, 4000)
    out = np.flatnonzero(np.diff(np.sign(np.abs(R(sizes * ray)) - 1)) > 0)[0]
    low, high = sizes[out], sizes[out + 1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(R(middle * ray)) < 1 else (low, middle)
    z = low * ray
    u, v = (z * R.deriv()(z) / R(z)).real, (z * E.deriv()(z) / E(z)).real
    k = METHODS[name].error_order + 1
    alpha, beta = 0.85 / k, 0.2 / k

    def iterate(state):
        """(log h, log r, log r before) -> the next, with h in units of the boundary step."""
        x, r, before = state
        x_next = x - alpha * r + beta * before
        change = np.log(abs(R(z * np.exp(x)) * E(z * np.exp(x_next)) / E(z * np.exp(x))))
        return np.array([x_next, r + change, r])

    e = 1e-5
    columns = [(iterate(e * d) - iterate(-e * d)) / (2 * e) for d in np.eye(3)]
    gap = abs(np.stack(columns, 1) - control_matrix(u, v, alpha, beta)).max()
    assert measured(gap, f"{name}: matrix against differences on a ray") < 1e-6
    wrong = abs(z * R.deriv()(z) / R(z)), abs(z * E.deriv()(z) / E(z))  # sizes, not real parts
    assert abs(np.stack(columns, 1) - control_matrix(*wrong, alpha, beta)).max() > 1e-3


@pytest.mark.claim("prop-solvers-boundary")
def test_both_inequalities_for_the_elementary_controller_are_needed():
    """Random derivatives: stable if and only if u < v and a (2v - u) < 4."""
    u, v, a = np.random.default_rng(0).uniform((0.01, -3, 0.01), (8, 12, 1.5), (5000, 3)).T
    radius = np.array(
        [max(abs(np.linalg.eigvals(control_matrix(*x, 0.0)))) for x in zip(u, v, a, strict=True)]
    )
    clear = abs(radius - 1) > 1e-6
    first, second = u < v, a * (2 * v - u) < 4
    assert ((radius < 1) == (first & second))[clear].all()
    for weaker in (first, second, first & (a * (2 * v - u) < 5), first & (a * (2 * v - u) < 3)):
        assert ((radius < 1) != weaker)[clear].sum() > 50


def test_few_rejections_where_stability_limits_the_step():
    sol = solve(
        lambda t, y: -1000 * (y - torch.cos(t)),
        torch.ones(1, dtype=F64),
        torch.tensor([0.0, 3.0], dtype=F64),
        rtol=0.0,
        atol=1e-4,
    )
    assert sol.rejected <= 5
    late = 1000 * sol.step_sizes[len(sol.step_sizes) // 2 : -2]
    assert float(late.min()) > 3.25 and float(late.max()) < 3.37


@pytest.mark.claim("prop-solvers-nfe")
@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("first_step", [None, 0.9])
def test_number_of_evaluations(name, first_step):
    calls = 0

    def func(t, y):
        nonlocal calls
        calls += 1
        return spiral(t, y)

    options = {} if first_step is None else {"first_step": first_step}
    y0, t = torch.tensor([2.0, 0.0], dtype=F64), torch.tensor([0.0, 5.0], dtype=F64)
    sol = solve(func, y0, t, rtol=1e-6, atol=1e-6, method=name, options=options)
    method = METHODS[name]
    start = 2 if first_step is None else 1
    tries = sol.accepted + sol.rejected
    restarts = 0 if method.fsal else sol.accepted - 1
    assert calls == sol.nfe == start + (method.stages - 1) * tries + restarts
    assert sol.nfe != start + method.stages * tries, "FSAL saves one evaluation a step"
    assert len(sol.step_sizes) == sol.accepted
    if first_step is not None:
        assert sol.rejected > 0, "the case must include rejected steps"


@pytest.mark.claim("prop-solvers-nfe")
def test_fixed_grids_cost_stages_times_steps():
    y0, t = torch.tensor([0.5, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    for name, method in METHODS.items():
        sol = solve(spiral, y0, t, method=name, options={"step_size": 0.1})
        assert sol.accepted == 10
        assert sol.nfe == (1 + 10 * (method.stages - 1) if method.fsal else 10 * method.stages)


def test_outputs_cost_nothing():
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    ends = torch.tensor([0.0, 5.0], dtype=F64)
    many = torch.linspace(0.0, 5.0, 101, dtype=F64)
    for name in ("bosh3", "dopri5", "tsit5"):
        few, lots = (solve(spiral, y0, t, rtol=1e-6, method=name) for t in (ends, many))
        assert few.nfe == lots.nfe
        assert torch.equal(few.y[-1], lots.y[-1])


# Dense output


@pytest.mark.claim("thm-solvers-dense")
@pytest.mark.parametrize("name", list(METHODS))
def test_order_between_the_steps(name, measured):
    """Inside a step the error is O(h^(q+1)); over the whole interval O(h^min(p, q+1))."""
    method = METHODS[name]
    p, q = method.order, method.dense_order
    steps = [12, 16, 22, 30] if p == 8 else [40, 57, 80, 113, 160]
    ends = torch.tensor([0.0, 5.0], dtype=F64)
    times = torch.linspace(0.0, 5.0, 997, dtype=F64)
    y0 = pulse_solution(ends[:1]).squeeze(0)
    errors = []
    for n in steps:
        sol = solve(pulse, y0, ends, method=name, options={"step_size": 5.0 / n})
        errors.append(float((sol.interpolate(times) - pulse_solution(times)).norm(dim=1).max()))
    found = slope([5.0 / n for n in steps], errors)
    measured(abs(found - min(p, q + 1)), f"{name}: distance of the slope from {min(p, q + 1)}")
    assert abs(found - min(p, q + 1)) < 0.3, (found, errors)

    sizes = [0.4, 0.3, 0.2] if p == 8 else [0.1, 0.07, 0.05, 0.035]
    local = []
    for h in sizes:
        span = torch.tensor([0.0, h], dtype=F64)
        sol = solve(pulse, y0, span, method=name, options={"step_size": h})
        inside = torch.linspace(0.05, 0.95, 19, dtype=F64) * h
        local.append(float((sol.interpolate(inside) - pulse_solution(inside)).norm(dim=1).max()))
    assert abs(slope(sizes, local) - (q + 1)) < 0.4, (slope(sizes, local), q)


@pytest.mark.claim("prop-solvers-hermite")
def test_cubic_hermite(measured):
    """The bound of the interpolation error with constant 1/384, and that it is sharp for t^4."""
    theta = torch.linspace(0.0, 1.0, 401, dtype=F64).unsqueeze(-1)

    def hermite(y0, y1, f0, f1, h):
        left, right = 1 - 3 * theta**2 + 2 * theta**3, theta**2 * (3 - 2 * theta)
        rise, fall = theta * (1 - theta) ** 2, theta**2 * (theta - 1)
        return left * y0 + right * y1 + h * (rise * f0 + fall * f1)

    h = 0.7
    one = torch.ones(1, dtype=F64)
    quartic = hermite(0 * one, h**4 * one, 0 * one, 4 * h**3 * one, h) - (theta * h) ** 4
    sharp = float(quartic.abs().max()) / (h**4 / 384 * 24)
    measured(abs(sharp - 1), "error of the interpolant of t^4 over its bound, minus 1")
    assert abs(sharp - 1) < 1e-12

    zero, worst = torch.zeros((), dtype=F64), 0.0
    for name in ("euler", "heun", "bosh3", "rk4", "dopri5"):
        method, errors, sizes = METHODS[name], [], [0.1, 0.07, 0.05, 0.035]
        for h in sizes:
            y0 = pulse_solution(zero)
            y1, _ = one_step(pulse, method, 0.0, y0, h)
            true = pulse_solution(theta.squeeze(-1) * h)
            value = hermite(y0, y1, pulse(zero, y0), pulse(zero, y1), h)
            errors.append(float((value - true).abs().max()))
            defect = float((y1 - true[-1]).abs().max())
            fourth, L = 6.0, 3.0  # bounds of the fourth derivative and of the field's constant
            bound = h**4 / 384 * fourth + (1 + 4 * h * L / 27) * defect
            worst = max(worst, errors[-1] / bound)
        q = min(3, method.order)
        assert abs(slope(sizes, errors) - (q + 1)) < 0.35, (name, slope(sizes, errors))
    measured(worst, "error over its bound, which must be at most 1")
    assert worst <= 1.0


@pytest.mark.claim("prop-solvers-hermite")
def test_the_slope_term_of_the_hermite_bound_is_nearly_attained(measured):
    """f = -Ky from rest: the solution is 0, and all of the error comes from delta."""
    theta, K, h, delta = torch.linspace(0.0, 1.0, 2001, dtype=F64), 20.0, 1.0, 1e-3
    value = theta**2 * (3 - 2 * theta) * delta + h * theta**2 * (theta - 1) * (-K * delta)
    share = float(value.abs().max()) / ((1 + 4 * h * K / 27) * delta)
    measured(share, "error over its bound, at most 1 and near it")
    assert 0.9 < share <= 1.0
    assert float(value.abs().max()) > 3 * delta, "without the term in hK the bound is wrong"


def test_fourth_derivative_bound_used_above():
    """|y''''| <= 6 and |Df|_inf <= 3 near the curve that the Hermite test follows."""
    times = torch.linspace(0.0, 0.1, 21, dtype=F64)
    fourth = pulse_solution
    for _ in range(4):
        fourth = (lambda g: lambda t: torch.func.jvp(g, (t,), (torch.ones_like(t),))[1])(fourth)
    assert float(fourth(times).abs().max()) < 6.0
    grid = torch.cartesian_prod(*2 * [torch.linspace(-1.0, 1.0, 21, dtype=F64)])
    zero = torch.zeros((), dtype=F64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: pulse(zero, y)))(grid)
    assert float(jacobians.abs().sum(-1).max()) < 3.0


# The usual problems, other libraries


def constant(t, y, a=0.2, b=3.0):
    return a + (y - (a * t + b)) ** 5


def sine(t, y):
    return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3


def sine_solution(t):
    """Integrate t^2 sin 2t - 1 + 4t, the derivative of y/t^2; the constant makes y(1) easy."""
    inner = -(t**2) * torch.cos(2 * t) / 2 + t * torch.sin(2 * t) / 2 + torch.cos(2 * t) / 4
    return t**2 * (inner - t + 2 * t**2 + math.pi - 0.25)


def linear_problem():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(10, 10, generator=generator, dtype=F64) * 0.1
    a = 2 * u - (u + u.T)
    y0 = torch.ones(10, dtype=F64)
    return (
        lambda t, y: y @ a.to(y).T,
        lambda t: torch.matrix_exp(t.view(-1, 1, 1) * a.to(t)) @ y0.to(t),
    )


def problem(name):
    """Field and solution of torchdiffeq's own four test problems, by their published formulas."""
    if name == "constant":
        return constant, lambda t: 0.2 * t + 3.0
    if name == "sine":
        return sine, sine_solution
    if name == "exp":
        return lambda t, y: -0.1 * y, lambda t: torch.exp(-0.1 * t)
    return linear_problem()


@pytest.mark.parametrize("name", ["constant", "linear", "sine", "exp"])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("backward", [False, True])
def test_acceptance(name, method, dtype, backward):
    """Ten outputs on [1, 8], forward and reversed, as torchdiffeq's tests have it."""
    func, solution = problem(name)
    t = torch.linspace(1.0, 8.0, 10, dtype=F64)
    t = t.flip(0) if backward else t
    exact = solution(t)
    exact = exact if exact.dim() > 1 else exact.unsqueeze(-1)
    low = method == "adaptive_heun"
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if low else {"rtol": 1e-7, "atol": 1e-9}
    if dtype == torch.float32 and not low:
        tolerance = {"rtol": 1e-6, "atol": 1e-6}
    y = odeint(func, exact[0].to(dtype), t.to(dtype), method=method, **tolerance)
    error = float(((y.double() - exact) / (1 + exact.abs())).abs().max())
    bound = {F64: 4e-3 if low else 1e-5, torch.float32: 4e-3 if low else 3e-4}[dtype]
    assert y.dtype == dtype
    assert error < bound, error


@pytest.mark.parametrize("method", ["rk4", "midpoint", "heun", "euler"])
def test_acceptance_on_a_grid(method):
    for name in ("linear", "sine", "exp"):
        func, solution = problem(name)
        t = torch.linspace(1.0, 8.0, 10, dtype=F64)
        exact = solution(t)
        exact = exact if exact.dim() > 1 else exact.unsqueeze(-1)
        y = odeint(func, exact[0], t, method=method, options={"step_size": 0.005})
        error = float(((y - exact) / (1 + exact.abs())).abs().max())
        assert error < {"rk4": 1e-7, "euler": 5e-2}.get(method, 1e-3), (name, error)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_golden_spiral(method, measured):
    """States of the cubic spiral, which DOP853 at 1e-13 gives to eight decimals."""
    t = torch.tensor([0.0, *GOLDEN], dtype=F64)
    y = odeint(
        spiral, torch.tensor([2.0, 0.0], dtype=F64), t, rtol=1e-11, atol=1e-12, method=method
    )
    golden = torch.tensor(list(GOLDEN.values()), dtype=F64)
    gap = measured((y[1:] - golden).abs().max(), f"{method}: spiral states")
    assert gap < 2e-8
    matrix = SPIRAL.numpy()
    sol = solve_ivp(
        lambda t, y: y**3 @ matrix,
        (0, 25),
        [2.0, 0.0],
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
        t_eval=list(GOLDEN),
    )
    assert np.abs(y[1:].numpy() - sol.y.T).max() < 1e-8


def test_against_scipy_at_equal_tolerance():
    """Same pairs, other controller: about the same evaluations, about the same error."""
    matrix = SPIRAL.numpy()
    y0, t = torch.tensor([2.0, 0.0], dtype=F64), torch.tensor([0.0, 25.0], dtype=F64)
    true = np.array(GOLDEN[25.0])
    for ours, theirs in (("dopri5", "RK45"), ("dopri8", "DOP853"), ("bosh3", "RK23")):
        sol = solve(spiral, y0, t, rtol=1e-6, atol=1e-6, method=ours)
        ref = solve_ivp(
            lambda t, y: y**3 @ matrix, (0, 25), [2, 0], method=theirs, rtol=1e-6, atol=1e-6
        )
        error, other = np.abs(sol.y[-1].numpy() - true).max(), np.abs(ref.y[:, -1] - true).max()
        assert sol.nfe < 1.25 * ref.nfev
        assert error < 3 * other


def test_recorded_numbers_of_torchdiffeq():
    """The chapter quotes evaluations and errors of torchdiffeq 0.2.5; they are measured again."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    if torchdiffeq.__version__ != "0.2.5":
        pytest.skip(f"recorded with torchdiffeq 0.2.5, here is {torchdiffeq.__version__}")
    text = (Path(__file__).parents[3] / "book" / "ode" / "solvers.md").read_text()
    table = re.search(r"^torchdiffeq = {.*?(?=^print)", text, re.MULTILINE | re.DOTALL)[0]
    recorded: dict = {}
    exec(table, recorded)
    recorded = recorded["torchdiffeq"]
    assert sum(map(len, recorded.values())) == 8
    y0, t = torch.tensor([2.0, 0.0], dtype=F64), torch.tensor([0.0, 25.0], dtype=F64)
    true = odeint(spiral, y0, t, rtol=1e-12, atol=1e-13, method="dopri8")[-1]
    for method, rows in recorded.items():
        for tolerance, (evaluations, error) in rows.items():
            calls = 0

            def func(t, y):
                nonlocal calls
                calls += 1
                return spiral(t, y)

            y = torchdiffeq.odeint(func, y0, t, rtol=tolerance, atol=tolerance, method=method)
            assert abs(calls - evaluations) <= 12
            assert abs(float((y[-1] - true).abs().max()) / error - 1) < 0.1


# What goes wrong


def test_stiffness_is_reported():
    def func(t, y):
        return -1e6 * (y - torch.cos(t))

    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    with pytest.raises(SolverError, match="max_steps") as caught:
        odeint(func, y0, t, rtol=1e-3, atol=1e-3, options={"max_steps": 1000})
    assert 0.0 < caught.value.t < 0.01
    assert abs(caught.value.step * 1e6 - 3.3066) < 0.5


def test_evaluations_do_not_follow_the_tolerance_when_stiff():
    nfe = [
        solve(
            lambda t, y: -2000 * (y - torch.cos(t)),
            torch.ones(1, dtype=F64),
            torch.tensor([0.0, 1.0], dtype=F64),
            rtol=tol,
            atol=tol,
        ).nfe
        for tol in (1e-3, 1e-4, 1e-5, 1e-6)
    ]
    assert max(nfe) < 1.1 * min(nfe)
    assert abs(min(nfe) / (6 * 2000 / 3.3066) - 1) < 0.1


def test_blow_up_is_an_underflow():
    """y' = 1 + y^2 has the solution tan t, which ends at pi/2."""
    y0, t = torch.zeros(1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    with pytest.raises(SolverError, match="underflow") as caught:
        odeint(lambda t, y: 1 + y**2, y0, t)
    assert abs(caught.value.t - math.pi / 2) < 1e-6
    assert caught.value.norm > 1e6


def test_floor_of_float32():
    """In float32 a tolerance below the round-off buys evaluations and no accuracy."""
    errors, nfe = {}, {}
    t = torch.tensor([0.0, 10.0], dtype=F64)
    for dtype in (torch.float32, F64):
        for rtol in (1e-4, 1e-6, 1e-8):
            y0 = torch.tensor([2.0, 0.0], dtype=dtype)
            sol = solve(spiral, y0, t.to(dtype), rtol=rtol, atol=rtol)
            gap = sol.y[-1].double() - torch.tensor(GOLDEN[10.0], dtype=F64)
            errors[dtype, rtol], nfe[dtype, rtol] = float(gap.abs().max()), sol.nfe
    assert errors[F64, 1e-8] < 1e-7
    assert errors[torch.float32, 1e-8] > 1e-7
    assert errors[torch.float32, 1e-8] > 0.2 * errors[torch.float32, 1e-6]


def test_batch_mates():
    """With joint steps a solution depends on its mates; with own steps not in a single bit."""

    def func(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, 5 * (1 - x**2) * v - x], -1)

    generator = torch.Generator().manual_seed(0)
    y0 = 4 * torch.rand(8, 2, generator=generator, dtype=F64) - 2
    t = torch.tensor([0.0, 10.0], dtype=F64)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    joint = solve(func, y0, t, **tolerance)
    alone = solve(func, y0[:1], t, **tolerance)
    assert not torch.equal(joint.y[-1, 0], alone.y[-1, 0])
    own = solve(func, y0, t, options={"per_sample": True}, **tolerance)
    single = solve(func, y0[:1], t, options={"per_sample": True}, **tolerance)
    assert torch.equal(own.y[-1, 0], single.y[-1, 0])
    assert int(own.accepted[0]) == int(single.accepted[0])
    assert int((own.accepted + own.rejected).max()) < joint.accepted + joint.rejected


def test_a_tableau_of_ones_own():
    """Two half steps of rk4 and Richardson's combination: order 5, by the trees and by a step."""
    from nodes_tutorial.ode.solvers.order import order_of

    rk4 = METHODS["rk4"]
    rows = [(), *rk4.a]
    a = [tuple(x / 2 for x in row) for row in rows]
    halves = tuple(x / 2 for x in rk4.b)
    a += [(*halves, *(x / 2 for x in row)) for row in rows]
    pad = [(*([0.0] * 8), *row) for row in rows]
    combined = [*a, *pad]
    two, one = 16 / 15, -1 / 15
    b = (*(two * x for x in halves), *(two * x for x in halves), *(one * x for x in rk4.b))
    c = tuple(float(sum(row)) for row in combined)
    method = Tableau("richardson", 5, tuple(combined[1:]), b, c, (), 0)
    assert order_of(method) == 5


@pytest.mark.parametrize("name", list(METHODS))
def test_the_step_of_the_solver_is_the_literal_one(name):
    """Both stores of slopes give the state of the definition, to rounding."""
    from nodes_tutorial.ode.solvers.stages import StageBuffer

    def func(t, y):
        return torch.cos(3 * t) * y.flip(-1) - y**2

    method, y, h = METHODS[name], torch.tensor([[1.0, -0.5], [0.3, 0.8]], dtype=F64), 0.17
    t = torch.tensor(0.4, dtype=F64)
    literal = explicit_step(method, func, t, y, h)
    wrong = explicit_step(method, func, t + 0.1, y, h)
    stores = [StageList] if name == "euler" else [StageList, StageBuffer]
    for store in stores:
        stages = store(method, func(t, y))
        found = rk_step(func, stage_times(0.4, h, method.c, y), y, h, stages)
        torch.testing.assert_close(found, literal, rtol=0, atol=1e-14)
        assert (found - wrong).abs().max() > 1e-3
