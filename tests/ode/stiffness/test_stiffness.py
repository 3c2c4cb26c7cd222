"""Implicit methods: regions, Newton's method, gradients, and what happens with bad input."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.ode import METHODS, SolverError, odeint
from nodes_tutorial.ode.stiffness import (
    IMPLICIT,
    DiagonallyImplicit,
    NewtonError,
    limit_at_infinity,
    newton,
    odeint_stiff,
    row_jacobian,
    solve_stiff,
    stability_function,
    with_gradient,
)

F64 = torch.float64
UNIT = torch.tensor([0.0, 1.0], dtype=F64)
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
L_STABLE = ("implicit_euler", "sdirk2", "tr_bdf2")
NEWTON = importlib.import_module("nodes_tutorial.ode.stiffness.iteration")


def pendulum(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) - 0.2 * t * y[..., 1]], -1)


def relax(rate):
    return lambda t, y: -rate * (y - t.cos()) - t.sin()


def one_step(method, z):
    """R(z) by the package's own step on y' = λy, with λ = a + ib as a rotation in the plane."""
    a, b = z.real, z.imag
    matrix = torch.tensor([[a, b], [-b, a]], dtype=F64)
    y = odeint_stiff(
        lambda t, y: y @ matrix,
        torch.tensor([1.0, 0.0], dtype=F64),
        UNIT,
        method=method,
        step_size=1.0,
        **TIGHT,
    )[-1]
    return complex(y[0], y[1])


@pytest.mark.claim("prop-stiffness-function")
@pytest.mark.parametrize("name", IMPLICIT)
def test_stability_function_is_what_a_step_does(name, measured):
    for z in (-1.0 + 0j, -50 + 3j, 0.3 - 2j, -1e4 + 1e3j):
        wanted = complex(
            stability_function(IMPLICIT[name], torch.tensor(z, dtype=torch.complex128))
        )
        error = measured(abs(one_step(name, z) - wanted), "against a step")
        assert error < 1e-6
        # a method with another row fails
        other = IMPLICIT["sdirk2" if name == "trapezoid" else "trapezoid"]
        assert (
            abs(
                one_step(name, z)
                - complex(stability_function(other, torch.tensor(z, dtype=torch.complex128)))
            )
            > 1e-3
        )


@pytest.mark.claim("prop-stiffness-function")
@pytest.mark.parametrize("name", METHODS)
def test_stability_function_of_explicit_methods(name, measured):
    for x in (-0.7, 0.4):
        field = lambda t, y, x=x: x * y  # noqa: E731
        y = odeint(field, torch.ones(1, dtype=F64), UNIT, method=name, options={"step_size": 1.0})
        wanted = stability_function(METHODS[name], torch.tensor(x, dtype=F64))
        assert measured((y[-1, 0] - wanted).abs(), "explicit") < 1e-12
    rows = METHODS["rk4"]
    assert abs(float(stability_function(rows, torch.tensor(-1.0, dtype=F64)).real) - 0.375) < 1e-12


@pytest.mark.claim("prop-stiffness-function")
@pytest.mark.parametrize("name", [*IMPLICIT, *METHODS])
def test_stability_function_as_a_quotient_of_determinants(name, measured):
    method = {**IMPLICIT, **METHODS}[name]
    rows = method.a if name in IMPLICIT else ((), *method.a)
    a = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    eye, z = np.eye(len(rows)), -0.9 + 1.3j
    quotient = np.linalg.det(eye - z * a + z * np.outer(np.ones(len(rows)), method.b))
    quotient /= np.linalg.det(eye - z * a)
    found = complex(stability_function(method, torch.tensor(z, dtype=torch.complex128)))
    assert measured(abs(found - quotient), "determinants") < 1e-10


def half_plane():
    x = -torch.logspace(-3, 5, 60, dtype=F64)
    y = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-3, 5, 60, dtype=F64)])
    return torch.complex(x[:, None].expand(60, 61), y.expand(60, 61))


@pytest.mark.claim("prop-stiffness-astable")
@pytest.mark.parametrize("name", IMPLICIT)
def test_a_stable_methods_keep_linear_systems_bounded(name, measured):
    """The bound κ(V), for a matrix that is not normal; it is nearly attained by large steps."""
    assert float(stability_function(IMPLICIT[name], half_plane()).abs().max()) <= 1 + 1e-12
    basis = torch.tensor([[1.0, 1.0], [0.0, 0.05]], dtype=F64)
    matrix = basis @ torch.diag(torch.tensor([-1e-6, -1e4], dtype=F64)) @ basis.inverse()
    kappa = float(torch.linalg.cond(basis))
    times = torch.arange(9, dtype=F64)
    angle = torch.linspace(0, math.pi, 2000, dtype=F64)
    y0 = torch.stack([angle.cos(), angle.sin()], -1)
    y = odeint_stiff(lambda t, y: y @ matrix.T, y0, times, method=name, step_size=1.0)
    worst = float(y.norm(dim=-1).max())
    assert measured(worst, "growth") <= kappa
    assert worst > kappa / 2


@pytest.mark.claim("prop-stiffness-astable")
@pytest.mark.parametrize("name", METHODS)
def test_explicit_methods_are_not_a_stable(name):
    sizes = stability_function(METHODS[name], torch.tensor([-1e2, -1e3, -1e4])).abs()
    assert sizes.min() > 1 and bool((sizes.diff() > 0).all())
    assert float(stability_function(METHODS[name], half_plane()).abs().max()) > 1
    with pytest.raises(AssertionError):  # without Re λ <= 0 there is nothing to keep
        assert float(stability_function(IMPLICIT["tr_bdf2"], torch.tensor(0.5)).abs()) <= 1


@pytest.mark.claim("prop-stiffness-infinity")
@pytest.mark.parametrize("name", IMPLICIT)
def test_limit_at_infinity(name, measured):
    far = stability_function(IMPLICIT[name], torch.tensor(-1e9, dtype=F64)).abs()
    limit = limit_at_infinity(IMPLICIT[name])
    assert measured(abs(float(far) - limit), "limit") < 1e-7
    assert limit == (0.0 if name in L_STABLE else 1.0)
    own = DiagonallyImplicit("own", 1, ((0.0,), (0.25, 0.75)))  # the θ-method
    assert abs(limit_at_infinity(own) - 1 / 3) < 1e-15
    assert limit_at_infinity(METHODS["rk4"]) == math.inf


@pytest.mark.claim("thm-stiffness-lstable")
@pytest.mark.parametrize("name", ["sdirk2", "tr_bdf2"])
def test_the_two_methods_of_order_two_are_l_stable(name, measured):
    z = half_plane()
    for gamma in (1 - 1 / math.sqrt(2), 1 + 1 / math.sqrt(2)):
        R = (1 + (1 - 2 * gamma) * z) / (1 - gamma * z) ** 2
        assert float(R.abs().max()) <= 1 and float(R[-1].abs().max()) < 1e-4
        small = torch.tensor(1e-3, dtype=F64)
        R = (1 + (1 - 2 * gamma) * small) / (1 - gamma * small) ** 2
        assert abs(R - small.exp()) < 5e-9
    gamma = IMPLICIT[name].gamma
    R = (1 + (1 - 2 * gamma) * z) / (1 - gamma * z) ** 2
    error = (stability_function(IMPLICIT[name], z) - R).abs().max()
    assert measured(error, "closed form") < 1e-9  # z up to 1e5 costs five digits
    wrong = (1 + (1 - 2 * 0.3) * z) / (1 - 0.3 * z) ** 2
    assert (stability_function(IMPLICIT[name], z) - wrong).abs().max() > 1e-3
    # γ below 1/4: A-stability is lost
    R = (1 + (1 - 2 * 0.2) * z) / (1 - 0.2 * z) ** 2
    assert float(R.abs().max()) > 1


@pytest.mark.claim("thm-stiffness-lstable")
@pytest.mark.parametrize(
    ("name", "order"), [("implicit_euler", 1), ("sdirk2", 2), ("tr_bdf2", 2), ("trapezoid", 2)]
)
def test_order_is_measured(name, order, measured):
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    exact = odeint(pendulum, y0, UNIT, rtol=1e-12, atol=1e-13)[-1]
    errors = [
        (odeint_stiff(pendulum, y0, UNIT, method=name, step_size=1 / n, **TIGHT)[-1] - exact).norm()
        for n in (20, 40)
    ]
    assert measured(abs(float((errors[0] / errors[1]).log2()) - order), "order") < 0.05


def test_embedded_weights_have_order_three():
    method = IMPLICIT["tr_bdf2"]
    b = np.array(method.b) - np.array(method.b_error)
    c, a = np.array(method.c), np.zeros((3, 3))
    for i, row in enumerate(method.a):
        a[i, : len(row)] = row
    found = [b.sum(), b @ c, b @ c**2, b @ a @ c]
    np.testing.assert_allclose(found, [1, 1 / 2, 1 / 3, 1 / 6], atol=1e-14)


def newton_on(field, known, weight, scale=1e-8, jacobian=None, start=None):
    start = torch.zeros_like(known) if start is None else start
    return newton(field, known, weight, start, torch.full_like(known, scale), jacobian)


@pytest.mark.claim("prop-stiffness-residual")
def test_residual_bounds_the_error(measured):
    """Attained by y' = λy; in three dimensions with a coupling, for μ of both signs."""
    torch.manual_seed(0)
    for mu in (-3.0, 0.0, 0.8):
        skew = torch.randn(3, 3, dtype=F64)
        skew = 30 * (skew - skew.T)
        field = lambda y, m=mu, s=skew: m * y - torch.tanh(y) + y @ s.T  # noqa: E731
        known = torch.randn(5, 3, dtype=F64)
        exact = newton_on(field, known, 0.5, 1e-13)[0]
        y = exact + 0.1 * torch.randn(5, 3, dtype=F64)
        residual = (y - 0.5 * field(y) - known).norm(dim=-1)
        error = (y - exact).norm(dim=-1)
        assert bool((error <= residual / (1 - 0.5 * mu) + 1e-12).all())
    residual = abs(1 - 0.5 * -3.0) * 0.1  # y' = -3y, off by 0.1
    assert measured(abs(0.1 - residual / (1 + 1.5)), "attained") < 1e-15
    near = abs(1 - 0.5 * 1.999) * 0.1  # y' = 1.999y: the residual of the same error
    assert near < 1e-3 * 0.1  # without the divisor the bound is false


@pytest.mark.claim("prop-stiffness-residual")
def test_neither_test_alone_is_enough(monkeypatch):
    field = lambda y: -y  # noqa: E731
    known = torch.ones(2, 1, dtype=F64)
    stale = torch.full((2, 1, 1), -1e12, dtype=F64)  # the steps look tiny
    y, _, jacobians = newton_on(field, known, 1.0, 1e-4, stale)
    assert jacobians > 0 and float((y - 0.5).abs().max()) < 1e-8
    monkeypatch.setattr(NEWTON, "_residual_floor", lambda *given: torch.inf)
    y, _, jacobians = newton_on(field, known, 1.0, 1e-4, stale)
    assert jacobians == 0 and float((y - 0.5).abs().min()) > 0.4  # accepted, and wrong
    monkeypatch.undo()
    # nearly singular: the residual at the start is tiny, the error is not
    y, _, _ = newton_on(lambda y: (1 - 1e-7) * y, 1e-9 * known, 1.0, 1e-6)
    assert float((y - 0.01).abs().max()) < 1e-8


def test_newton_fails_by_name_and_rows_do_not_hide():
    no_root = lambda y: y + y**2 + 1  # noqa: E731  y - f(y) = 0 has no real solution
    assert newton_on(no_root, torch.zeros(1, dtype=F64), 1.0)[0] is None
    mixed = lambda y: torch.cat([-y[:99], no_root(y[99:])])  # noqa: E731
    assert newton_on(mixed, torch.zeros(100, 1, dtype=F64), 1.0)[0] is None
    with pytest.raises(NewtonError, match="does not converge") as caught:
        odeint_stiff(lambda t, y: y**2, torch.ones(1, dtype=F64), UNIT, step_size=1.0)
    assert caught.value.step == 1.0 and caught.value.t == 0.0
    with pytest.raises(SolverError, match=r"underflows|max_steps|NaN"):
        odeint_stiff(lambda t, y: y**2, torch.ones(1, dtype=F64), 2 * UNIT, max_steps=3000)


@pytest.mark.parametrize("dim", [1, 4])
def test_row_jacobian_against_autograd(dim):
    torch.manual_seed(1)
    weight = torch.randn(3, dim, dim, dtype=F64)  # every row has its own
    field = lambda y: torch.tanh(torch.einsum("rij,rj->ri", weight, y))  # noqa: E731
    y = torch.randn(3, dim, dtype=F64)
    full = torch.autograd.functional.jacobian(field, y)
    wanted = torch.stack([full[r, :, r] for r in range(3)])
    torch.testing.assert_close(row_jacobian(field, y), wanted, rtol=0, atol=1e-12)


@pytest.mark.claim("thm-stiffness-gradient")
@pytest.mark.parametrize("name", IMPLICIT)
def test_gradient_is_that_of_the_discrete_steps(name, measured):
    """y' = -λ(y - θ): the gradient of R(z)^n and of 1 - R(z)^n is known."""
    y0, rate, theta = (torch.tensor([v], dtype=F64, requires_grad=True) for v in (2.0, 30.0, 0.5))
    y = odeint_stiff(
        lambda t, y: -rate * (y - theta), y0, UNIT, method=name, step_size=0.2, **TIGHT
    )[-1]
    found = torch.autograd.grad(y, [y0, rate, theta])
    z = -0.2 * rate
    R = stability_function(IMPLICIT[name], z).real ** 5
    wanted = torch.autograd.grad(R * (y0 - theta) + theta, [y0, rate, theta])
    for one, other in zip(found, wanted, strict=True):
        assert measured((one - other).abs(), "closed form") < 1e-9


@pytest.mark.claim("thm-stiffness-gradient")
@pytest.mark.parametrize("name", IMPLICIT)
def test_gradcheck_of_a_coupled_nonlinear_batch(name):
    torch.manual_seed(2)
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    w = torch.randn(2, 2, dtype=F64, requires_grad=True)

    def final(y0, w):
        field = lambda t, y: torch.tanh(y @ w.T) - 40 * y + t * y.flip(-1)  # noqa: E731
        return odeint_stiff(field, y0, UNIT, method=name, step_size=0.25, **TIGHT)[1:]

    assert torch.autograd.gradcheck(final, (y0, w), atol=1e-7, rtol=1e-6)


@pytest.mark.claim("thm-stiffness-gradient")
def test_derivative_of_one_stage_and_its_error(measured):
    theta = torch.tensor([0.7], dtype=F64, requires_grad=True)
    field = lambda y: -theta * y**3  # noqa: E731
    known = torch.ones(1, dtype=F64)
    exact = newton_on(field, known, 2.0, 1e-14)[0].detach()
    slope = -2 * exact**3 / (1 + 6 * theta.detach() * exact**2)
    errors = []
    for off in (0.0, 1e-3, 1e-4):
        y = with_gradient(field, known, 2.0, exact + off)
        assert torch.equal(y.detach(), exact + off)
        errors.append(float((torch.autograd.grad(y, theta)[0] - slope).abs()))
    assert measured(errors[0], "stage") < 1e-12
    assert 8 < errors[1] / errors[2] < 12  # first order in the error of the stage
    # the right side alone, without the matrix, is no derivative
    residual = exact - 2 * field(exact) - known
    assert float((-torch.autograd.grad(residual, theta)[0] - slope).abs()) > 0.1


def test_second_derivatives_are_refused_and_t_carries_none():
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = odeint_stiff(lambda t, y: -(y**2), y0, UNIT, step_size=0.5)[-1]
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(TypeError, match="t must not require"):
        odeint_stiff(lambda t, y: -y, y0, UNIT.clone().requires_grad_())


def test_adaptive_gradient_near_the_flows():
    rate = torch.tensor(1e3, dtype=F64, requires_grad=True)
    ends = torch.tensor([0.0, 1.3], dtype=F64)
    y = odeint_stiff(
        lambda t, y: -rate * (y - t.cos()), torch.zeros(1, dtype=F64), ends, rtol=1e-7, atol=1e-9
    )
    (found,) = torch.autograd.grad(y[-1].sum(), rate)
    L, s, c = 1e3, math.sin(1.3), math.cos(1.3)  # y = L (L cos t + sin t)/(1 + L²), far from 0
    wanted = (2 * L * c + s) / (1 + L * L) - (L * L * c + L * s) * 2 * L / (1 + L * L) ** 2
    assert abs(found - wanted) < 1e-9


@pytest.mark.parametrize("name", ["implicit_euler", "tr_bdf2"])
def test_adaptive_error_follows_the_tolerance(name):
    rows = torch.tensor([[1.1], [0.0], [-3.0]], dtype=F64)
    errors = []
    for tol in (1e-3, 1e-5):
        found = solve_stiff(relax(1e6), rows, UNIT, rtol=tol, atol=tol, method=name)
        assert float((found.y[-1] - math.cos(1)).abs().max()) < tol and found.steps < 800
        found = odeint_stiff(relax(3.0), rows, UNIT, rtol=tol, atol=tol, method=name)
        exact = math.cos(1) + (rows - 1) * math.exp(-3)
        errors.append(float((found[-1] - exact).abs().max()))
        assert errors[-1] < 2 * math.sqrt(tol)  # at order 1 the root of the tolerance
    assert errors[1] < errors[0] / 5


def test_van_der_pol_against_radau():
    mu = 1000.0

    def field(t, y):
        return torch.stack([y[..., 1], mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)

    def numpy_field(t, y):
        return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]

    ends = torch.tensor([0.0, 900.0], dtype=F64)
    reference = solve_ivp(numpy_field, (0, 900), [2.0, 0.0], method="Radau", rtol=1e-9, atol=1e-11)
    found = solve_stiff(field, torch.tensor([2.0, 0.0], dtype=F64), ends, rtol=1e-4, atol=1e-6)
    assert abs(float(found.y[-1, 0]) - reference.y[0, -1]) < 5e-3
    assert found.nfe < 5000


def test_a_batch_of_equal_rows_is_one_row_and_time_runs_both_ways():
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    one = odeint_stiff(pendulum, y0, times)
    three = odeint_stiff(pendulum, y0.expand(3, 2).clone(), times)
    assert one.shape == (3, 2) and three.shape == (3, 3, 2)
    torch.testing.assert_close(three[:, 1], one, rtol=0, atol=1e-12)
    back = odeint_stiff(pendulum, one[-1], times.flip(0), rtol=1e-7, atol=1e-9)
    assert (back[-1] - y0).abs().max() < 2e-3
    torch.testing.assert_close(odeint_stiff(pendulum, y0, UNIT)[-1], one[-1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["implicit_euler", "tr_bdf2"])
def test_float32(name):
    y0 = torch.tensor([1.1])
    y = odeint_stiff(relax(1e5), y0, UNIT.float(), rtol=1e-3, atol=1e-4, method=name)
    assert y.dtype == torch.float32 and abs(float(y[-1]) - math.cos(1)) < 5e-3


def test_values_do_not_depend_on_the_graph():
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    plain = odeint_stiff(pendulum, y0, UNIT)
    traced = odeint_stiff(pendulum, y0.clone().requires_grad_(), UNIT)
    torch.testing.assert_close(plain, traced.detach(), rtol=0, atol=1e-14)


GOOD = {"func": lambda t, y: -y, "y0": torch.ones(1, dtype=F64), "t": UNIT}


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"func": 3}, TypeError, "func"),
        ({"func": lambda t, y: y[None]}, ValueError, "func"),
        ({"func": lambda t, y: y.float()}, ValueError, "func"),
        ({"func": lambda t, y: 0.0}, ValueError, "func"),
        ({"func": lambda t, y: y * math.nan}, SolverError, "NaN"),
        ({"y0": (torch.ones(1),)}, TypeError, "y0"),
        ({"y0": torch.ones(1).cfloat()}, TypeError, "y0"),
        ({"y0": torch.tensor(1.0)}, ValueError, "y0"),
        ({"y0": torch.ones(3, 0)}, ValueError, "y0"),
        ({"t": [0.0, 1.0]}, TypeError, "t must"),
        ({"t": UNIT[:1]}, ValueError, "t must"),
        ({"t": torch.tensor([0.0, 0.0])}, ValueError, "strictly"),
        ({"t": torch.tensor([0.0, math.inf])}, ValueError, "finite"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"atol": 0.0}, ValueError, "atol"),
        ({"atol": "1"}, TypeError, "atol"),
        ({"step_size": 0.0}, ValueError, "step_size"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"max_steps": 2}, SolverError, "max_steps"),
        ({"method": "dopri5"}, ValueError, "method"),
        ({"method": "trapezoid"}, ValueError, "step_size"),
    ],
)
def test_bad_input_names_the_argument(change, error, word):
    with pytest.raises(error, match=word):
        odeint_stiff(**(GOOD | change))


@pytest.mark.parametrize(
    "change",
    [
        {"a": ((0.0, 1.0),)},
        {"a": ()},
        {"a": ((0.0,), (1.0, 0.0))},
        {"a": ((0.3,), (0.5, 0.5))},
        {"b_error": (1.0,)},
    ],
)
def test_bad_tableaus(change):
    with pytest.raises(ValueError, match="tr_bdf2"):
        replace(IMPLICIT["tr_bdf2"], **change)


@pytest.mark.usefixtures("as_at_the_users")
def test_not_a_tableau():
    with pytest.raises(TypeError, match="tableau"):
        stability_function("rk4", torch.ones(1))
