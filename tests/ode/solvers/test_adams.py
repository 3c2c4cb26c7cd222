"""``method="explicit_adams"``: its coefficients, its order, and torchdiffeq beside it."""

import math
from fractions import Fraction

import mpmath
import pytest
import torch
import torchdiffeq

from nodes_tutorial.ode import odeint, odeint_adjoint, odeint_event, solve
from nodes_tutorial.ode.solvers import adams_integrals, adams_step

F64 = {"dtype": torch.float64}
MOST = 11  # slopes of the highest formula
T = torch.linspace(0, 2, 5, **F64)
START = torch.tensor([1.0, 0.5, -0.3], **F64)


def turning(t, y):
    """A field that depends on time and is not linear."""
    return torch.stack([y[1] * torch.cos(t), -torch.sin(y[0]), torch.cos(y[0] * y[2]) - y[2]])


def adams(func, y0, t, solver=odeint, *, options=None, **arguments):
    options = {"step_size": 1 / 16, "max_order": 6} | (options or {})
    return solver(func, y0, t, method="explicit_adams", options=options, **arguments)


def weights(count):
    return [sum(row) for row in adams_integrals(count)]


# --- coefficients ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "denominator, numerators",
    [
        (1, [1]),
        (2, [3, -1]),
        (12, [23, -16, 5]),
        (24, [55, -59, 37, -9]),
        (720, [1901, -2774, 2616, -1274, 251]),
    ],
)
def test_the_weights_are_the_known_fractions(denominator, numerators):
    assert weights(len(numerators)) == [Fraction(n, denominator) for n in numerators]


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_polynomials_are_integrated_exactly(count):
    """In fractions, for every power that k slopes determine, inside the step as at its end."""
    rows = adams_integrals(count)
    for power in range(count + 1):
        for theta in (Fraction(1), Fraction(2, 7)):
            row = [sum(c * theta**i for i, c in enumerate(coefs, 1)) for coefs in rows]
            found = sum(w * Fraction(-j) ** power for j, w in enumerate(row))
            exact = theta ** (power + 1) / (power + 1)
            assert (found == exact) == (power < count)


@pytest.mark.parametrize("count", [0, -1])
def test_no_slope_makes_no_polynomial(count):
    with pytest.raises(ValueError, match="count must be at least 1"):
        adams_integrals(count)


def test_the_step_is_its_formula():
    slopes = list(torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), **F64))
    y, h, row = torch.ones(2, 3, **F64), 0.3, tuple(map(float, weights(4)))
    expected = y + h * sum(w * f for w, f in zip(row, slopes, strict=True))
    torch.testing.assert_close(adams_step(row, y, h, slopes), expected, rtol=1e-14, atol=1e-14)
    turned = adams_step(row, y, h, slopes[::-1])
    assert not torch.allclose(turned, expected)
    with pytest.raises(ValueError, match="shorter"):
        adams_step(row, y, h, slopes[:3])


# --- order -----------------------------------------------------------------------------------


def rate(errors):
    return math.log2(errors[0] / errors[1])


def errors_of_decay(step, one, exp, count, h):
    """Errors at time 1 of y' = -y with steps of h and of h / 2, from exact slopes."""
    errors = []
    for size in (h, h / 2):
        y, slopes = one, [-exp(j * size) for j in range(count)]
        for _ in range(round(1 / size)):
            y = step(y, size, slopes)
            slopes = [-y, *slopes[:-1]]
        errors.append(abs(float(y - exp(-1.0))))
    return errors


@pytest.mark.parametrize("count", range(1, 8))
def test_a_step_has_its_order(count):
    row = tuple(map(float, weights(count)))
    errors = errors_of_decay(
        lambda y, h, slopes: adams_step(row, y, h, slopes),
        torch.ones((), **F64),
        lambda x: torch.tensor(math.exp(x), **F64),
        count,
        1 / 16 if count > 5 else 1 / 64,
    )
    assert abs(rate(errors) - count) < 0.12


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_each_formula_has_its_order(count):
    """In forty digits, as rounding hides the order of the highest ones."""
    with mpmath.workdps(40):
        row = [mpmath.mpf(w.numerator) / w.denominator for w in weights(count)]
        errors = errors_of_decay(
            lambda y, h, slopes: y + h * sum(w * f for w, f in zip(row, slopes, strict=True)),
            mpmath.mpf(1),
            mpmath.exp,
            count,
            1 / 512,
        )
    assert abs(rate(errors) - count) < 0.05


@pytest.mark.parametrize("max_order, order", [(2, 4), (3, 4), (4, 3), (5, 4), (6, 4), (8, 4)])
@pytest.mark.filterwarnings("ignore:with options")
def test_the_order_of_a_solve(max_order, order):
    """The starting steps bound it by four, whatever is taken later."""
    exact = odeint(turning, START, T, rtol=1e-13, atol=1e-14)[-1]
    errors = []
    for step in (1 / 64, 1 / 128):
        y = adams(turning, START, T, options={"step_size": step, "max_order": max_order})
        errors.append(float((y[-1] - exact).abs().max()))
    assert abs(rate(errors) - order) < 0.35


@pytest.mark.parametrize("change", [0.5, 2.0])
def test_unequal_steps_keep_their_order(change):
    """The weights are those of equal steps: where the length changes, all begins anew."""
    exact, errors = odeint(turning, START, T, rtol=1e-13, atol=1e-14)[-1], []
    for fine in (1, 2):
        counts = (64 * fine, round(64 * fine / change))
        first, second = (torch.linspace(0, 1, count + 1, **F64) for count in counts)
        grid = torch.cat([first, 1 + second[1:]])
        options = {"grid_constructor": lambda *_, g=grid: g, "step_size": None}
        y = adams(turning, START, T[[0, -1]], options=options)
        errors.append(float((y[-1] - exact).abs().max()))
    assert abs(rate(errors) - 4) < 0.3
    theirs = adams(turning, START, T[[0, -1]], torchdiffeq.odeint, options=options)
    assert errors[1] < 0.02 * float((theirs[-1] - exact).abs().max())


def test_outputs_at_any_distance_keep_the_accuracy():
    times = torch.tensor([0.0, 0.001, 0.3, 0.31, 1.7, 2.0], **F64)
    exact = odeint(turning, START, times, rtol=1e-13, atol=1e-14)
    y = adams(turning, START, times, options={"step_size": 0.005})
    assert (y - exact).abs().max() < 1e-8


# --- beside torchdiffeq ----------------------------------------------------------------------


@pytest.mark.parametrize("max_order", [2, 3, 4, 5, 8, None])
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, -1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore:with options", "ignore:max_order is below")
def test_values_are_torchdiffeqs(max_order, ends, dtype):
    """Their steps go across outputs, and so does the history."""
    t = torch.linspace(*ends, 9, dtype=dtype) / (8 if max_order is None else 1)
    options = {"step_size": 1 / 1024 if max_order is None else 1 / 32, "max_order": max_order}
    ours = adams(turning, START.to(dtype), t, options=options)
    theirs_options = {name: value for name, value in options.items() if value is not None}
    theirs = torchdiffeq.odeint(
        turning, START.to(dtype), t, method="explicit_adams", options=theirs_options
    )
    bound = (
        {"rtol": 2e-12, "atol": 2e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    )
    torch.testing.assert_close(ours, theirs, **bound)
    restarted = torch.stack(
        [adams(turning, START.to(dtype), t[[0, 1]], options=options)[1]]
        + [
            adams(turning, y, t[[i, i + 1]], options=options)[1]
            for i, y in enumerate(ours[1:-1], 1)
        ]
    )
    if dtype == torch.float64 and max_order in (4, 5, 8):
        assert not torch.allclose(restarted, ours[1:], **bound)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_interval_is_a_step_by_default(dtype):
    t = torch.linspace(0, 25, 701, dtype=dtype)  # steps that are equal to rounding only
    ours = adams(turning, START.to(dtype), t, options={"step_size": None, "max_order": 5})
    theirs = torchdiffeq.odeint(
        turning, START.to(dtype), t, method="explicit_adams", options={"max_order": 5}
    )
    bound = 1e-10 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.parametrize("options", [{"perturb": True}, {"interp": "cubic"}])
def test_options_of_fixed_steps(options):
    jump = lambda t, y: torch.where(t > 0.5, 2.0, -1.0) * y  # noqa: E731
    found = [
        adams(jump, START, T, solver, options=options) for solver in (odeint, torchdiffeq.odeint)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_grid_of_ones_own():
    grid = torch.linspace(0, 2, 65, **F64)
    options = {"step_size": None, "grid_constructor": lambda func, y0, t: grid}
    found = [
        adams(turning, START, T, solver, options=options) for solver in (odeint, torchdiffeq.odeint)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    errors = []
    for t in (T, T + T / 100 * (2 - T)):  # on the grid, and between its points
        exact = odeint(turning, START, t, rtol=1e-12, atol=1e-13)
        errors.append((adams(turning, START, t, options=options) - exact).abs().max())
    assert errors[1] < 1.5 * errors[0]


def test_tuples_and_complex_states():
    y0 = (START[:2], torch.tensor(1.0 - 2.0j, dtype=torch.complex128))

    def field(t, y):
        return torch.sin(t) * y[0].flip(0), (1j - 0.2) * y[1] * y[0][0]

    found = adams(field, y0, T, options={"step_size": 1 / 64})
    whole = odeint(field, y0, T, rtol=1e-12, atol=1e-13)
    for part, exact in zip(found, whole, strict=True):
        assert part.dtype == exact.dtype
        torch.testing.assert_close(part, exact, rtol=1e-5, atol=1e-5)
    real = lambda t, y: (y[1][:1], -y[0].sum() * torch.ones_like(y[1]))  # noqa: E731
    parts = (START[:1], START[1:])
    for ours, theirs in zip(
        adams(real, parts, T), adams(real, parts, T, torchdiffeq.odeint), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    turn = torch.tensor([1.0 + 2.0j, -0.5j], dtype=torch.complex128)
    pair = [
        adams(lambda t, y: 1j * t * y, turn, T, solver) for solver in (odeint, torchdiffeq.odeint)
    ]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=draws, **F64))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return torch.tanh(y @ self.weight) * torch.cos(t)


@pytest.mark.parametrize(
    "interface, theirs",
    [(odeint, torchdiffeq.odeint), (odeint_adjoint, torchdiffeq.odeint_adjoint)],
)
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_gradients_are_torchdiffeqs(interface, theirs, ends):
    found = []
    for solver in (interface, theirs):
        net, y0 = Net(), torch.stack([START, -START]).requires_grad_()
        y = adams(net, y0, torch.linspace(*ends, 5, **F64), solver)
        y.square().sum().backward()
        found.append((y0.grad, net.weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-11)


def test_another_method_on_the_way_back():
    found = []
    for solver in (odeint_adjoint, torchdiffeq.odeint_adjoint):
        net = Net()
        back = {
            "adjoint_method": "explicit_adams",
            "adjoint_options": {"step_size": 1 / 32, "max_order": 5},
        }
        y = solver(net, START, T[[0, -1]], method="midpoint", options={"step_size": 1 / 32}, **back)
        y[-1].sum().backward()
        found.append(net.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


def test_a_step_costs_one_evaluation():
    net = Net()
    with torch.no_grad():
        adams(net, START, T)
    assert net.calls == 32 + 2 * 3  # two steps begin with a method of four stages


# --- derivatives -----------------------------------------------------------------------------


def test_derivatives_of_first_and_second_order():
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), **F64)
    times = torch.tensor([0.0, 0.5, 0.7], **F64)

    def end(y0, weight, times):
        field = lambda t, y: torch.tanh(y @ weight) * torch.cos(t)  # noqa: E731
        return adams(field, y0, times, options={"step_size": 0.1})[1:]

    inputs = [x.clone().requires_grad_() for x in (START, weight)]
    assert torch.autograd.gradcheck(lambda *x: end(*x, times), inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *x: end(*x, times), inputs)
    moved = times.clone().requires_grad_()
    (found,) = torch.autograd.grad(end(START, weight, moved)[-1].sum(), moved)
    slope = torch.tanh(end(START, weight, times)[-1] @ weight) * torch.cos(times[-1])
    torch.testing.assert_close(found[-1], slope.sum())


def test_function_transforms():
    batch = torch.stack([START, -START, 2 * START])
    each = torch.stack([adams(turning, y0, T) for y0 in batch])
    together = torch.func.vmap(lambda y0: adams(turning, y0, T))(batch)
    torch.testing.assert_close(together, each, rtol=1e-13, atol=1e-13)


def test_a_graph_that_comes_late():
    """The first slopes carry none, so the solve begins again when one does."""
    rate_of = torch.tensor(2.0, **F64).requires_grad_()
    field = lambda t, y: -y if t < 1 else -rate_of * y  # noqa: E731
    (found,) = torch.autograd.grad(adams(field, START, T)[-1].sum(), rate_of)
    known = adams(lambda t, y: -y * (1 if t < 1 else rate_of) + 0 * rate_of, START, T)
    torch.testing.assert_close(found, torch.autograd.grad(known[-1].sum(), rate_of)[0])
    assert found.abs() > 0.01


@pytest.mark.parametrize("buffers", [1, 2, 5])
def test_a_field_may_use_its_memory_again(buffers):
    store, calls = [torch.empty(3, **F64) for _ in range(buffers)], [0]

    def field(t, y):
        calls[0] += 1
        return store[calls[0] % buffers].copy_(turning(t, y))

    assert torch.equal(adams(field, START, T), adams(turning, START, T))
    single = T[:2], {"step_size": None}
    alone = [adams(each, START, single[0], options=single[1]) for each in (field, turning)]
    assert torch.equal(*alone)


# --- records, events, refusals ---------------------------------------------------------------


def test_the_record_and_the_solution_between_steps():
    run = solve(
        turning, START, T, method="explicit_adams", options={"step_size": 1 / 16, "max_order": 5}
    )
    assert run.nfe == 38 and run.accepted == 32 and run.rejected == 0
    t = torch.linspace(0.01, 1.99, 83, **F64)
    exact = odeint(turning, START, torch.cat([T[:1], t]), rtol=1e-12, atol=1e-13)[1:]
    at_outputs = (run.y - odeint(turning, START, T, rtol=1e-12, atol=1e-13)).abs().max()
    assert (run.interpolate(t) - exact).abs().max() < 3 * at_outputs
    torch.testing.assert_close(run.interpolate(T[1:]), run.y[1:], rtol=1e-12, atol=1e-13)


def test_callbacks_are_told_as_torchdiffeq_tells_them():
    heard = []
    for solver in (odeint, torchdiffeq.odeint):
        net = Net()
        told = []
        net.callback_step = lambda t, y, h, told=told: told.append([float(t), float(h)])
        with torch.no_grad():
            adams(net, START, T, solver)
        heard.append(torch.tensor(told, **F64))
    torch.testing.assert_close(*heard)


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_events(interface):
    class Fall(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drag = torch.nn.Parameter(torch.tensor(0.3, **F64))

        def forward(self, t, y):
            return torch.stack([y[1], -1.0 - self.drag * y[1]])

    found = []
    for arguments in (
        {"method": "explicit_adams", "options": {"step_size": 0.01, "max_order": 5}},
        {"rtol": 1e-11, "atol": 1e-12},
    ):
        fall = Fall()
        t, y = odeint_event(
            fall,
            torch.tensor([2.0, 0.0], **F64),
            torch.tensor(0.0, **F64),
            event_fn=lambda t, y: y[0],
            odeint_interface=interface,
            **arguments,
        )
        t.backward()
        found.append((t.detach(), y.detach(), fall.drag.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-7)


BAD = {
    "one sample at a time": ({"options": {"per_sample": True}}, "per_sample.*adaptive method"),
    "compile": ({"options": {"compile": True}}, "compile.*explicit_adams"),
    "checkpoint": ({"gradient": "checkpoint"}, "checkpoint.*slopes of the steps before"),
    "a stop": ({"options": {"jump_t": torch.tensor([0.5])}}, "jump_t.*adaptive method"),
    "no order": ({"options": {"max_order": 0}}, r"max_order.*positive"),
    "the first order": ({"options": {"max_order": 1}}, "must be 2 to 12, got 1"),
    "an order too high": ({"options": {"max_order": 13}}, "must be 2 to 12, got 13"),
    "half an order": ({"options": {"max_order": 4.5}}, "must be whole, got 4.5"),
    "a word": ({"options": {"max_order": "five"}}, "max_order.*must be a positive number"),
    "other options": ({"options": {"max_iters": 3}}, "options knows"),
}


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    arguments, message = BAD[name]
    options = {"max_order": 6} | arguments.pop("options", {})
    with pytest.raises((TypeError, ValueError), match=message):
        odeint(turning, START, T, method="explicit_adams", options=options, **arguments)


def test_the_order_belongs_to_this_method():
    with pytest.raises(ValueError, match=r"max_order.*needs method='explicit_adams'"):
        odeint(turning, START, T, options={"max_order": 5})
    with pytest.raises(ValueError, match=r"max_order.*needs method='explicit_adams'"):
        odeint_adjoint(Net(), START, T, adjoint_options={"max_order": 5})


def test_an_order_without_a_multistep_formula_says_so():
    with pytest.warns(UserWarning, match="all steps are Runge-Kutta steps"):
        adams(turning, START, T, options={"max_order": 3})


def test_a_blow_up_is_told():
    with pytest.raises(RuntimeError, match="the state became NaN or Inf"):
        adams(lambda t, y: y**2, 3 + START, T)
