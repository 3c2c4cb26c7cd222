"""What the chapter on choosing the step claims: the controller, the costs, and the failures."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.ode import METHODS, SolverError, odeint, solve
from nodes_tutorial.ode.solvers.control import step_factor
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import rk_step, stage_times
from nodes_tutorial.ode.step_control import linear_polynomials, stability_boundary

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


def one_step(func, method, t, y, h):
    t = torch.as_tensor(t, dtype=y.dtype)
    stages = StageList(method, func(t, y))
    end = rk_step(func, stage_times(float(t), h, method.c, y), y, h, stages)
    return end, stages


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


@pytest.mark.claim("prop-control-boundary")
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_polynomials_are_those_of_a_step(name, measured):
    """R and E against one step of the package on y' = zy, and the boundary against R itself."""
    method = METHODS[name]
    R, E = linear_polynomials(method)
    worst = 0.0
    for z in (-3.0, -0.5, 0.7):
        y, stages = one_step(lambda t, y, z=z: z * y, method, 0.0, torch.ones((), dtype=F64), 1.0)
        worst = max(worst, abs(float(y) - R(z)), abs(float(stages.error(0)) - E(z)))
    assert measured(worst, f"{name}: polynomials against a step") < 1e-11
    z = stability_boundary(method)
    assert abs(abs(R(z)) - 1) < 1e-8 and abs(R(1.001 * z)) > 1
    assert max(abs(R(x * z)) for x in np.linspace(0.01, 0.99, 99)) < 1
    by_hand, _, point = boundary(method)
    assert abs(point - z) < 1e-8 and abs(by_hand(z) - R(z)) < 1e-8


def test_polynomials_want_an_embedded_formula():
    for function in (linear_polynomials, stability_boundary):
        with pytest.raises(ValueError, match="embedded formula, rk4 has none"):
            function(METHODS["rk4"])


def control_matrix(u, v, alpha, beta):
    return np.array([[1, -alpha, beta], [u, 1 - alpha * v, beta * v], [0, 1, 0]])


@pytest.mark.claim("prop-control-boundary")
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


@pytest.mark.claim("prop-control-boundary")
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


@pytest.mark.claim("prop-control-boundary")
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


@pytest.mark.claim("prop-control-nfe")
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


@pytest.mark.claim("prop-control-nfe")
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
    text = (Path(__file__).parents[3] / "book" / "ode" / "step_control.md").read_text()
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
