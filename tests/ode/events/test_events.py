"""Claims of the chapter on events: their derivative, resets, the order across a jump, grazing."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from nodes_tutorial.ode import METHODS, SolverError, odeint, odeint_adjoint, odeint_event
from nodes_tutorial.ode.events import NoEventError, bracketed_root, event, find_event

F64 = torch.float64
TIGHT = {"rtol": 1e-11, "atol": 1e-13}
START = torch.tensor(0.0, dtype=F64)


def number(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def decay(t, y):
    return -y


def pendulum(p):
    def field(t, y):
        return torch.stack([y[1], -p[0] * y[0].sin() - p[1] * y[1] + 0.1 * t.cos()])

    return field


def moving_line(q):
    """A surface that depends on time, on both coordinates and on its own parameters."""
    return lambda t, y: y[0] + q[0] * y[1] ** 2 + q[1] * (1 + t**2)


def pendulum_event(y0, t0, p, q, **kwargs):
    kwargs = {**TIGHT, "horizon": 10.0, **kwargs}
    t, y = odeint_event(pendulum(p), y0, t0, event_fn=moving_line(q), **kwargs)
    return t, y[-1]


def pendulum_inputs():
    values = ([1.2, -0.3], 0.4, [2.0, 0.3], [0.2, 0.02])
    return tuple(number(value) for value in values)


# --- the derivative ---------------------------------------------------------------------------


@pytest.mark.claim("thm-events-derivative")
@pytest.mark.parametrize("reverse_time", [False, True])
def test_derivatives_are_those_of_differences(reverse_time):
    """All inputs at once: state, start, parameters of the field and of the event function."""

    def call(*inputs):
        return pendulum_event(*inputs, reverse_time=reverse_time)

    assert torch.autograd.gradcheck(call, pendulum_inputs(), eps=1e-5, atol=1e-7, rtol=1e-6)


@pytest.mark.claim("thm-events-derivative")
def test_derivative_in_closed_form():
    """y' = -k y from y0 at t0 meets c at t0 + ln(y0 / c) / k, where the state is c."""
    y0, t0, k, c = number(3.0), number(0.5), number(0.7), number(1.1)
    t, y = odeint_event(lambda t, y: -k * y, y0, t0, event_fn=lambda t, y: y - c, **TIGHT)
    exact = t0 + (y0 / c).log() / k
    inputs = (y0, t0, k, c)
    found = torch.stack(torch.autograd.grad(t, inputs, retain_graph=True))
    wanted = torch.stack(torch.autograd.grad(exact, inputs))
    torch.testing.assert_close(t, exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    of_state = torch.stack(torch.autograd.grad(y[-1], inputs))
    torch.testing.assert_close(of_state, torch.tensor([0, 0, 0, 1.0], dtype=F64), atol=1e-9, rtol=0)


@pytest.mark.claim("thm-events-derivative")
@pytest.mark.parametrize("part", ["explicit time", "field"])
def test_speed_needs_both_of_its_terms(monkeypatch, part):
    """The package with a term of the denominator left out fails the test of differences."""
    right = event.slope_along

    def wrong(event_fn, component, t, y, slope):
        if part == "field":
            return right(event_fn, component, t, y, torch.zeros_like(slope))
        return right(lambda s, z: event_fn(t.detach(), z), component, t, y, slope)

    inputs = pendulum_inputs()
    exact = torch.autograd.grad(pendulum_event(*inputs)[0], inputs)
    monkeypatch.setattr(event, "slope_along", wrong)
    found = torch.autograd.grad(pendulum_event(*inputs)[0], inputs)
    for a, b in zip(exact, found, strict=True):
        assert (a - b).abs().max() > 1e-3


@pytest.mark.claim("thm-events-derivative")
def test_without_a_derivative_the_backward_pass_raises():
    """A speed of zero, and an event function that autograd cannot see through."""
    y0 = number(0.0)
    for event_fn in (lambda t, y: (y - 1).sign(), lambda t, y: y.detach() - 1):
        t, y = odeint_event(lambda t, y: torch.ones_like(y), y0, START, event_fn=event_fn)
        assert abs(t.item() - 1) < 1e-9
        for value in (t, y[-1]):
            with pytest.raises(RuntimeError, match="no derivative"):
                torch.autograd.grad(value, y0, retain_graph=True)


@pytest.mark.claim("thm-events-derivative")
def test_the_first_event_stays_the_first_near_by():
    y0, t0, p, q = pendulum_inputs()
    t = pendulum_event(y0, t0, p, q)[0].item()
    for shift in (-1e-4, 1e-4):
        assert abs(pendulum_event(y0 + shift, t0, p, q)[0].item() - t) < 1e-3


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_gradient_modes_agree(interface):
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.tensor([2.0, 0.3], dtype=F64))

        def forward(self, t, y):
            return pendulum(self.p)(t, y)

    y0, t0, p, q = pendulum_inputs()
    exact = torch.autograd.grad(pendulum_event(y0, t0, p, q)[0], (y0, t0, p, q))
    field = Field()
    t, _ = odeint_event(field, y0, t0, event_fn=moving_line(q), odeint_interface=interface, **TIGHT)
    found = torch.autograd.grad(t, (y0, t0, field.p, q))
    for a, b in zip(exact, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_second_derivatives_are_refused():
    y0, t0, p, q = pendulum_inputs()
    t, y = pendulum_event(y0, t0, p, q)
    for value in (t, y.sum()):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(value, y0, create_graph=True, retain_graph=True)


def test_transforms_are_refused():
    def call(y0):
        return pendulum_event(y0, *pendulum_inputs()[1:])[0]

    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(call)(torch.tensor([1.2, -0.3], dtype=F64))


# --- resets: the ball -------------------------------------------------------------------------


def bounces(height, gravity, restitution, count, keep=1.0, **kwargs):
    """Times of the first bounces; ``keep=0`` drops the derivative of the time of a reset."""
    t = torch.zeros((), dtype=F64)
    state, times = torch.stack([height, 0 * height]), []
    for _ in range(count):
        t, path = odeint_event(
            lambda s, y: torch.stack([y[1], -gravity + 0 * y[1]]),
            state,
            t,
            event_fn=lambda s, y: y[0],
            direction=-1,
            **{**TIGHT, "horizon": 10.0, **kwargs},
        )
        t = keep * t + (1 - keep) * t.detach()
        times.append(t)
        state = torch.stack([path[-1][0], -restitution * path[-1][1]])
    return torch.stack(times)


def bounces_exact(height, gravity, restitution, count):
    first = (2 * height / gravity).sqrt()
    powers = restitution ** torch.arange(1, count)
    return first * (1 + 2 * torch.cat([torch.zeros(1, dtype=F64), powers.cumsum(0)]))


@pytest.mark.claim("cor-events-reset")
def test_times_of_bounces_and_their_gradients():
    inputs = (number(1.3), number(9.81), number(0.8))
    found, exact = bounces(*inputs, 6), bounces_exact(*inputs, 6)
    assert (found - exact).abs().max() < 1e-8
    for n in range(6):
        ours = torch.autograd.grad(found[n], inputs, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(exact[n], inputs, retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            assert abs((0.0 if a is None else a) - b) < 1e-8


@pytest.mark.claim("cor-events-reset")
def test_a_reset_without_the_derivative_of_its_time_is_wrong():
    inputs = (number(1.3), number(9.81), number(0.8))
    exact = torch.autograd.grad(bounces_exact(*inputs, 4)[-1], inputs[0])[0]
    found = torch.autograd.grad(bounces(*inputs, 4, keep=0.0)[-1] / 1.0, inputs[0])
    assert abs(found[0] - exact) > 1e-2


@pytest.mark.claim("cor-events-reset")
def test_saltation_matrix():
    """In the plane, with a curved wall and a field that the reset changes."""
    y0, start = torch.tensor([0.2, 0.1], dtype=F64, requires_grad=True), START

    def before(t, y):
        return torch.stack([1 + 0.3 * y[1], 0.5 - y[0]])

    def after(t, y):
        return torch.stack([-y[1], 2 * y[0]])

    def wall(t, y):
        return y[0] + 0.2 * y[1] ** 2 + 0.1 * t - 1

    def reset(y):
        return torch.stack([y[0] * y[1], y[1] - y[0] ** 2])

    t, path = odeint_event(before, y0, start, event_fn=wall, **TIGHT)
    end = path[-1]
    whole = odeint(after, reset(end), torch.stack([t, torch.tensor(2.0, dtype=F64)]), **TIGHT)[-1]
    rows = [torch.autograd.grad(v, y0, retain_graph=True)[0] for v in whole]
    # by the formula, from Jacobians of smooth pieces alone
    time, z = t.detach(), end.detach()
    jac = torch.autograd.functional.jacobian
    ends = torch.stack([start, time])
    s_before = jac(lambda y: odeint(before, y, ends, **TIGHT)[-1], y0.detach())
    ends_after = torch.stack([time, torch.tensor(2.0, dtype=F64)])
    s_after = jac(lambda y: odeint(after, y, ends_after, **TIGHT)[-1], reset(z))
    g_y, d_reset = jac(lambda y: wall(time, y), z), jac(reset, z)
    speed = 0.1 + g_y @ before(time, z)
    jump = (after(time, reset(z)) - d_reset @ before(time, z))[:, None] * g_y / speed
    salt = d_reset + jump
    torch.testing.assert_close(torch.stack(rows), s_after @ salt @ s_before, rtol=1e-8, atol=1e-8)
    assert (jump).abs().max() > 0.1  # the reset's own Jacobian is not enough


# --- the order across a jump ------------------------------------------------------------------


def thermostat_error(method, h, restart):
    """y' = -y until y = 1/2, then y' = 1; at t = 1.5 the state is 2 - ln 2."""
    y0, end = torch.tensor([1.0], dtype=F64), torch.tensor(1.5, dtype=F64)
    kwargs = {"method": method, "options": {"step_size": h}}
    if restart:
        t, path = odeint_event(decay, y0, START, event_fn=lambda t, y: y - 0.5, **kwargs)
        y = odeint(lambda t, y: torch.ones_like(y), path[-1], torch.stack([t, end]), **kwargs)
    else:
        tau = math.log(2.0)

        def switched(t, y):
            return -y if t < tau else torch.ones_like(y)

        y = odeint(switched, y0, torch.stack([START, end]), **kwargs)
    return abs(y[-1].item() - (2 - tau_exact()))


def tau_exact():
    return math.log(2.0)


def fitted_order(method, restart, counts=(16, 24, 36, 54, 81, 122)):
    """Slope of the logarithm of the error, the largest of some near-by steps at each size."""
    errors = [
        max(thermostat_error(method, 1.5 / (n + shift), restart) for shift in (0, 1, 2, 3))
        for n in counts
    ]
    x = torch.tensor([math.log(n) for n in counts], dtype=F64)
    y = torch.tensor(errors, dtype=F64).log()
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


@pytest.mark.claim("thm-events-order")
@pytest.mark.parametrize("method", ["midpoint", "bosh3", "rk4"])
def test_a_jump_leaves_order_one_and_a_restart_gives_it_back(method):
    assert 0.7 < fitted_order(method, restart=False) < 1.4
    assert abs(fitted_order(method, restart=True) - METHODS[method].order) < 0.35


@pytest.mark.claim("thm-events-order")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_over_a_jump_misses_by_its_length(method):
    """On y' = 1 for t >= tau one step misses by h |sum of b beyond - (1 - theta)|."""
    tableau, worst = METHODS[method], 0.0
    for theta in torch.linspace(0.05, 0.95, 31).tolist():

        def field(t, y, theta=theta):
            return (t >= theta).to(y) + 0 * y

        ends = torch.tensor([0.0, 1.0], dtype=F64)
        y = odeint(field, torch.zeros(1, dtype=F64), ends, method=method, options={"step_size": 1})
        beyond = sum(float(b) for b, c in zip(tableau.b, tableau.c, strict=True) if c >= theta)
        error = float(y[-1]) - (1 - theta)
        assert abs(error - (beyond - (1 - theta))) < 1e-12
        worst = max(worst, abs(error))
    assert worst > 0.05


# --- grazing, and events that are stepped over ------------------------------------------------


@pytest.mark.claim("prop-events-graze")
def test_derivative_near_a_graze():
    """A ball thrown up at speed 1 with gravity 1 passes a at 1 - sqrt(1 - 2 a), if a <= 1/2."""

    def throw(t, y):
        return torch.stack([y[1], -torch.ones_like(y[1])])

    y0 = torch.tensor([0.0, 1.0], dtype=F64)
    how = {"method": "rk4", "options": {"step_size": 0.01}, "horizon": 2.0, "direction": 1}
    for gap in (1e-1, 1e-3, 1e-5):
        a = number(0.5 - gap)
        t, _ = odeint_event(throw, y0, START, event_fn=lambda t, y, a=a: y[0] - a, **how)
        slope = torch.autograd.grad(t, a)[0].item()
        assert abs(slope * math.sqrt(2 * gap) - 1) < 1e-5
    with pytest.raises(NoEventError, match="no zero"):
        odeint_event(throw, y0, START, event_fn=lambda t, y: y[0] - 0.51, **how)


def test_an_event_between_two_looks_is_stepped_over():
    """g rises above zero for 0.02 units of time only; more looks find it."""

    def field(t, y):
        return torch.ones_like(y)

    def blip(t, y):
        return 0.01**2 - (y - 0.3) ** 2

    y0 = torch.zeros(1, dtype=F64)
    kwargs = {"event_fn": blip, "method": "rk4", "options": {"step_size": 0.25}, "horizon": 1.0}
    with pytest.raises(NoEventError):
        odeint_event(field, y0, START, looks=1, **kwargs)
    t, _ = odeint_event(field, y0, START, looks=50, **kwargs)
    assert abs(t.item() - 0.29) < 1e-9


# --- values, directions, shapes ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_events_are_those_of_scipy(method):
    y0, _, p, q = pendulum_inputs()
    size = 1e-8 if method == "bosh3" else 1e-10
    with torch.no_grad():
        t, y = pendulum_event(y0, START, p, q, method=method, rtol=size, atol=size)

    def field(t, y):
        return pendulum(p.detach())(torch.tensor(t), torch.tensor(y)).numpy()

    def line(t, y):
        return moving_line(q.detach())(torch.tensor(t), torch.tensor(y)).item()

    line.terminal = True
    other = solve_ivp(field, (0, 10), y0.detach().numpy(), events=line, rtol=1e-11, atol=1e-12)
    assert abs(t.item() - other.t_events[0][0]) < 100 * size
    assert abs(y.numpy() - other.y_events[0][0]).max() < 100 * size


@pytest.mark.parametrize(("direction", "wanted"), [(0, 0.5), (1, 1.5), (-1, 0.5)])
def test_direction(direction, wanted):
    """cos(pi t) falls at 1/2 and rises at 3/2."""
    found = find_event(
        lambda t, y: torch.ones_like(y),
        torch.zeros(1, dtype=F64),
        0.0,
        lambda t, y: (math.pi * y).cos(),
        direction=direction,
        options={"first_step": 0.1, "step_size": 0.1},
    )
    assert abs(found.t - wanted) < 1e-12 and found.component == 0 and found.step > 0


def test_the_first_of_several_components_counts():
    levels = torch.tensor([[0.2, 0.6], [1.4, 0.5]], dtype=F64)
    found = find_event(decay, torch.ones(1, dtype=F64), 0.0, lambda t, y: y - levels)
    assert found.component == 1 and abs(found.t + math.log(0.6)) < 1e-7


def test_a_start_on_the_event_needs_a_direction():
    def throw(t, y):
        return torch.stack([y[1], -torch.ones_like(y[1])])

    def ground(t, y):
        return y[0]

    up, down = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=F64)
    for y0, direction in ((up, 0), (up, 1), (down, -1), (0 * up, -1)):
        with pytest.raises(ValueError, match="already zero at t0"):
            odeint_event(throw, y0, START, event_fn=ground, direction=direction)
    t, _ = odeint_event(throw, up, START, event_fn=ground, direction=-1)
    assert abs(t.item() - 2) < 1e-7


def test_shapes_and_dtypes():
    for dtype in (torch.float32, F64):
        y0 = (torch.ones(2, 3, dtype=dtype), torch.zeros((), dtype=dtype))
        t0 = torch.zeros(1, dtype=dtype)
        t, (a, b) = odeint_event(
            lambda t, y: (-y[0], torch.ones_like(y[1])), y0, t0, event_fn=lambda t, y: y[1] - 0.25
        )
        assert t.shape == () and a.shape == (2, 2, 3) and b.shape == (2,)
        assert t.dtype == a.dtype == b.dtype == dtype
        torch.testing.assert_close(a[0], y0[0])
        torch.testing.assert_close(t, torch.tensor(0.25, dtype=dtype))


def test_the_solve_does_not_look_far_beyond_the_event():
    """The field blows up at t = 1, the event is at t = 1/2."""
    t, _ = odeint_event(
        lambda t, y: y * y, torch.ones(1, dtype=F64), START, event_fn=lambda t, y: y - 2, **TIGHT
    )
    assert abs(t.item() - 0.5) < 1e-9


def test_roots():
    for g, wanted in ((lambda x: x**9 - 1e-9, 0.1), (lambda x: math.atan(1e6 * (x - 0.7)), 0.7)):
        calls = []
        root = bracketed_root(lambda x, g=g, c=calls: c.append(x) or g(x), 0.0, 1.0, 1e-14)
        assert abs(root - wanted) < 1e-13 and len(calls) < 120
    assert bracketed_root(lambda x: x, 0.0, 1.0, 1e-9) == 0.0
    with pytest.raises(ValueError, match="change its sign"):
        bracketed_root(lambda x: 1.0 + x, 0.0, 1.0, 1e-9)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"event_fn": 3}, TypeError, "event_fn must be callable"),
        ({"event_fn": lambda t, y: 1.0}, TypeError, "event_fn must return"),
        ({"event_fn": lambda t, y: y[:0]}, ValueError, "event_fn must return a component"),
        ({"event_fn": lambda t, y: y * math.nan}, SolverError, "event_fn returned NaN"),
        ({"event_fn": lambda t, y: y}, NoEventError, "within the horizon"),
        ({"t0": 0.0}, TypeError, "t0 must be"),
        ({"t0": torch.zeros(2)}, ValueError, "t0 must have one element"),
        ({"direction": 2}, ValueError, "direction must be"),
        ({"horizon": math.inf}, ValueError, "horizon must be"),
        ({"looks": 0}, ValueError, "looks must be"),
        ({"options": {"per_sample": True}}, ValueError, "per_sample"),
        ({"method": "rk4"}, ValueError, "step_size"),
        ({"odeint_interface": None}, TypeError, "odeint_interface must be callable"),
        ({"func": None}, TypeError, "func must be callable"),
        ({"y0": [1.0]}, TypeError, "y0 must be"),
        ({"wrong": 1}, TypeError, "wrong"),
        (
            {"method": "rk4", "options": {"step_size": 0.1, "max_steps": 3}},
            SolverError,
            "max_steps = 3 exceeded",
        ),
    ],
)
def test_bad_input_names_the_argument(change, error, words):
    given = {"func": decay, "y0": torch.ones(1, dtype=F64), "t0": START, "horizon": 20.0}
    given |= {"event_fn": lambda t, y: y - 0.5} | change
    positional = [given.pop(name) for name in ("func", "y0", "t0")]
    with pytest.raises(error, match=words):
        odeint_event(*positional, **given)
