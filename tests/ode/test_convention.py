"""What torchdiffeq's calling convention asks for: each argument does what it says."""

import math

import pytest
import torch
import torchdiffeq

from nodes_tutorial.ode import METHODS, SolverError, Tableau, odeint, odeint_adjoint, solve

F64 = {"dtype": torch.float64}
T = torch.linspace(0, 1, 5, **F64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def turning(t, y):
    """A field with two speeds."""
    return torch.stack([y[1], -y[0], -20 * (y[2] - torch.cos(t))])


START = torch.tensor([1.0, 0.0, 0.5], **F64)


class Recorder:
    """A field that keeps the times at which it was asked."""

    def __init__(self, func):
        self.func, self.times = func, []

    def __call__(self, t, y):
        self.times.append(float(t))
        return self.func(t, y)


# --- tolerances ------------------------------------------------------------------------------


def test_a_tolerance_for_each_entry_is_a_change_of_units():
    """atol = a without rtol is atol = 1 for y / a: the same steps, the same states."""
    units = torch.tensor([1e-3, 1e-6, 1e-5], **F64)
    own = solve(turning, START, T, rtol=0.0, atol=units)
    scaled = solve(lambda t, z: turning(t, z * units) / units, START / units, T, rtol=0.0, atol=1.0)
    torch.testing.assert_close(own.step_sizes, scaled.step_sizes, rtol=1e-9, atol=0)
    torch.testing.assert_close(own.y, scaled.y * units, rtol=1e-9, atol=1e-12)
    uniform = solve(turning, START, T, rtol=0.0, atol=1e-6)
    assert uniform.accepted != own.accepted


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
def test_equal_tolerances_for_all_entries_are_the_number(name, options):
    y0 = torch.stack([START, 2 * START])
    field = lambda t, y: torch.stack([y[:, 1], -y[:, 0], -20 * y[:, 2]], 1)  # noqa: E731
    number = solve(field, y0, T, options=options, **{name: 1e-4})
    for value in (torch.full((3,), 1e-4, **F64), torch.full((2, 3), 1e-4, **F64)):
        each = solve(field, y0, T, options=options, **{name: value})
        torch.testing.assert_close(each.y, number.y, rtol=1e-12, atol=1e-13)


def test_a_tolerance_for_each_part():
    parts = (START[:2], START[2:])

    def field(t, y):
        slope = turning(t, torch.cat(y))
        return slope[:2], slope[2:]

    joined = torch.tensor([1e-4, 1e-4, 1e-8], **F64)
    whole = solve(turning, START, T, atol=joined, rtol=1e-6)
    found = solve(field, parts, T, atol=(1e-4, torch.tensor([1e-8], **F64)), rtol=(1e-6, 1e-6))
    torch.testing.assert_close(torch.cat(found.y, -1), whole.y, rtol=1e-12, atol=1e-14)


def test_gradients_hold_with_tolerances_for_entries():
    y0, units = START.clone().requires_grad_(), torch.tensor([1e-6, 1e-8, 1e-7], **F64)
    found = {}
    for gradient in ("direct", "checkpoint"):
        y = odeint(turning, y0, T, rtol=0.0, atol=units, gradient=gradient, adjoint_params=())
        (found[gradient],) = torch.autograd.grad(y[-1].square().sum(), y0)
    torch.testing.assert_close(found["checkpoint"], found["direct"], rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="adjoint_rtol and adjoint_atol"):
        odeint(turning, y0, T, atol=units, gradient="adjoint", adjoint_params=())
    y = odeint_adjoint(turning, y0, T, atol=units, adjoint_params=(), adjoint_atol=1e-9)
    (adjoint,) = torch.autograd.grad(y[-1].square().sum(), y0)
    torch.testing.assert_close(adjoint, found["direct"], rtol=1e-4, atol=1e-5)


# --- times and steps -------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_one_time_returns_the_start(interface):
    y = interface(lambda t, y: -y, START, T[:1])
    assert torch.equal(y, START[None])
    parts = interface(lambda t, y: (-y[0],), (START,), T[2:3])
    assert torch.equal(parts[0], START[None])


def test_another_name_for_the_number_of_steps():
    with pytest.raises(SolverError, match="max_steps = 3 exceeded"):
        odeint(turning, START, T, options={"max_num_steps": 3})
    with pytest.raises(ValueError, match="give one"):
        odeint(turning, START, T, options={"max_num_steps": 3, "max_steps": 4})


def test_steps_keep_their_limits():
    run = solve(turning, START, T, rtol=1e-4, options={"max_step": 0.05})
    assert run.step_sizes.abs().max() < 0.05 * (1 + 1e-6) and run.accepted >= 20
    no_limit = solve(turning, START, T, rtol=1e-4, options={"max_step": math.inf, "min_step": 0})
    assert torch.equal(no_limit.y, solve(turning, START, T, rtol=1e-4).y)
    short = solve(turning, START, T, rtol=1e-12, atol=1e-14)
    forced = solve(turning, START, T, rtol=1e-12, atol=1e-14, options={"min_step": 0.05})
    assert short.step_sizes.abs().min() < 0.02 and forced.rejected == 0
    assert forced.step_sizes[1:-1].abs().min() >= 0.05 * (1 - 1e-9)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_steps_end_where_they_shall(ends):
    t = torch.tensor(ends, **F64)
    stops = torch.tensor([0.31, 0.77, 2.0, -1.0], **F64)
    run = solve(lambda t, y: -y, START, t, rtol=1e-3, options={"step_t": stops})
    begins = run.step_times.tolist()
    assert 0.31 in begins and 0.77 in begins and 2.0 not in begins


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_a_jump_costs_nothing_when_it_is_known(ends):
    def kicked(t, y):
        return torch.where(t < 0.5, -y, 2 * y)

    t, jump = torch.tensor(ends, **F64), {"jump_t": torch.tensor([0.5], **F64)}
    exact = START * math.exp(0.5 if ends[1] else -0.5)
    known = solve(kicked, START, t, options=jump)
    unknown = solve(kicked, START, t)
    assert known.nfe < unknown.nfe / 2 and known.rejected < unknown.rejected
    assert (known.y[-1] - exact).abs().max() < 1e-6
    seen = Recorder(kicked)
    odeint(seen, START, t, options=jump)
    assert 0.5 not in seen.times
    inside = [s for s in seen.times if abs(s - 0.5) < 1e-12]
    assert min(inside) < 0.5 < max(inside)  # once before it, once behind it


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_gradients_across_a_jump(gradient):
    rate = torch.tensor([1.0, 2.0], **F64).requires_grad_()
    field = lambda t, y: torch.where(t < 0.5, -rate[0], rate[1]) * y  # noqa: E731
    how = {"gradient": gradient, "adjoint_params": (rate,)}
    options = {"jump_t": torch.tensor([0.5], **F64)}
    y = odeint(field, START, T[[0, -1]], rtol=1e-9, atol=1e-10, options=options, **how)
    (found,) = torch.autograd.grad(y[-1].sum(), rate)
    exact = START.sum() * math.exp(0.5) * torch.tensor([-0.5, 0.5], **F64)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-7)


def test_a_norm_of_ones_own():
    parts = (START[:2], START[2:])

    def field(t, y):
        slope = turning(t, torch.cat(y))
        return slope[:2], slope[2:]

    def first_part(errors):
        assert [e.shape for e in errors] == [(2,), (1,)]
        return errors[0].square().mean().sqrt()

    own = solve(field, parts, T, rtol=1e-4, options={"norm": first_part})
    same = solve(field, parts, T, rtol=1e-4, options={"controlled": 1})
    torch.testing.assert_close(own.step_sizes, same.step_sizes, rtol=1e-10, atol=0)
    largest = solve(turning, START, T, rtol=1e-4, options={"norm": lambda e: e.abs().max()})
    assert largest.accepted >= solve(turning, START, T, rtol=1e-4).accepted
    with pytest.raises(TypeError, match="options\\['norm'\\] must return a real number"):
        odeint(turning, START, T, options={"norm": lambda e: e})


def test_a_grid_of_ones_own():
    grid = torch.tensor([0.0, 0.1, 0.4, 1.0], **F64)
    options = {"grid_constructor": lambda func, y0, t: grid}
    y = odeint(lambda t, y: -y, START, T[[0, -1]], method="euler", options=options)
    torch.testing.assert_close(y[-1], START * 0.9 * 0.7 * 0.4)
    theirs = torchdiffeq.odeint(lambda t, y: -y, START, T, method="euler", options=options)
    ours = odeint(lambda t, y: -y, START, T, method="euler", options=options)
    torch.testing.assert_close(ours, theirs)  # linear between the points of the grid
    for wrong in (grid[1:], grid.flip(0), grid[[0, 2, 1, 3]], 3.0):
        with pytest.raises(ValueError, match="grid_constructor"):
            odeint(
                turning,
                START,
                T,
                method="euler",
                options={"grid_constructor": lambda *_, w=wrong: w},
            )


def test_fixed_steps_look_into_their_interval():
    seen = Recorder(lambda t, y: -y)
    options = {"step_size": 0.5, "perturb": True}
    odeint(seen, START, T[[0, -1]], method="heun", options=options)
    begin, end, again, last = seen.times
    assert 0.0 < begin < 1e-300
    assert 0.5 < again < 0.5 + 1e-15 and 1 - 1e-15 < last < 1.0 and 0.5 - 1e-15 < end < 0.5


# --- callbacks -------------------------------------------------------------------------------


class Told(torch.nn.Module):
    """A field that counts what it is told."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.0, **F64))
        self.heard = {}

    def forward(self, t, y):
        return -self.rate * y * (1 + 50 * torch.exp(-1000 * (t - 0.5) ** 2))

    def _hear(self, name, t, y, h):
        shape = tuple(y.shape) if torch.is_tensor(y) else tuple(tuple(p.shape) for p in y)
        self.heard.setdefault(name, []).append((float(t), shape, float(h)))


for _name in ("step", "accept_step", "reject_step"):
    for _suffix in ("", "_adjoint"):
        setattr(
            Told,
            f"callback_{_name}{_suffix}",
            lambda self, t, y, h, key=_name + _suffix: self._hear(key, t, y, h),
        )


def test_callbacks_hear_of_every_step():
    told = Told()
    run = solve(told, START, T, rtol=1e-5)
    heard = told.heard
    assert run.rejected > 0
    assert len(heard["step"]) == run.accepted + run.rejected
    assert len(heard["accept_step"]) == run.accepted
    assert len(heard["reject_step"]) == run.rejected
    torch.testing.assert_close(
        torch.tensor([h for _, _, h in heard["accept_step"]], **F64), run.step_sizes
    )
    assert heard["step"][0][1] == (3,) and "step_adjoint" not in heard


def test_callbacks_of_the_way_back():
    told = Told()
    odeint_adjoint(told, START, T, rtol=1e-5)[-1].sum().backward()
    back = told.heard["accept_step_adjoint"]
    assert back[0][0] == 1.0 and all(h > 0 for _, _, h in back)
    assert back[0][1] == ((), (3,), (3,), ())
    fixed = Told()
    with pytest.warns(UserWarning, match="callback_accept_step is not called"):
        odeint(fixed, START, T, method="rk4", options={"step_size": 0.125})
    assert len(fixed.heard["step"]) == 8 and "accept_step" not in fixed.heard


@pytest.mark.parametrize(
    "ours, theirs",
    [(odeint, torchdiffeq.odeint), (odeint_adjoint, torchdiffeq.odeint_adjoint)],
)
@pytest.mark.parametrize(
    "method, options",
    [
        ("midpoint", {"step_size": 0.125}),
        ("dopri5", {"first_step": 0.125, "min_step": 0.125, "max_step": 0.125}),
    ],
)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.filterwarnings("ignore:.*callback")
def test_equal_steps_are_told_as_torchdiffeq_tells_them(ours, theirs, method, options, ends):
    """Steps of an eighth, once on a grid and once forced by their limits."""
    heard = []
    for solver in (ours, theirs):
        told = Told()
        y = solver(told, START, torch.tensor(ends, **F64), method=method, options=options)
        y[-1].sum().backward()
        heard.append(told.heard)
    assert set(heard[0]) == set(heard[1])
    assert len(heard[0]["step"]) == 8
    for name, calls in heard[1].items():
        times, shapes, lengths = zip(*calls, strict=True)
        own_times, own_shapes, own_lengths = zip(*heard[0][name], strict=True)
        assert own_shapes == shapes
        if ends[0] and name.endswith("_adjoint"):  # torchdiffeq tells these with another sign
            times = [-t for t in times]
        torch.testing.assert_close(torch.tensor(own_times), torch.tensor(times))
        torch.testing.assert_close(torch.tensor(own_lengths), torch.tensor(lengths))


@pytest.mark.parametrize("options", [{"per_sample": True}, {"compile": True}])
def test_callbacks_are_refused_where_they_would_be_silent(options):
    with pytest.raises(ValueError, match=r"func\.callback_step is not called"):
        odeint(Told(), START, T, options=options)


# --- the way back ----------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=rng(), **F64))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return torch.tanh(self.weight @ y)


def backward_cost(**arguments):
    net = Net()
    y = odeint_adjoint(net, START, T, rtol=1e-9, atol=1e-10, **arguments)
    before = net.calls
    y[-1].square().sum().backward()
    return net.calls - before, net.weight.grad


def test_the_way_back_has_settings_of_its_own():
    plain, exact = backward_cost()
    loose, found = backward_cost(adjoint_rtol=1e-4, adjoint_atol=1e-5)
    assert loose < plain / 2
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-3)
    _, found = backward_cost(adjoint_method="bosh3", adjoint_rtol=1e-5, adjoint_atol=1e-6)
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-3)
    fixed, found = backward_cost(adjoint_method="rk4", adjoint_options={"step_size": 0.05})
    assert fixed == 4 * (4 * 5) + 0 or fixed >= 80  # five steps in each of four intervals
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    semi, _ = backward_cost(adjoint_options={"norm": "seminorm"})
    assert semi == plain


def test_a_norm_for_the_way_back():
    sizes = []

    def norm(parts):
        sizes.append([tuple(part.shape) for part in parts])
        return max(part.abs().max() for part in parts)

    _, found = backward_cost(adjoint_options={"norm": norm})
    _, exact = backward_cost()
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-8)
    assert sizes[0] == [(), (3,), (3,), (3, 3)]


def test_a_grid_of_ones_own_is_walked_back():
    """With Euler's rule on equal steps the adjoint is torchdiffeq's to the last digits."""
    found = []
    for solver in (odeint_adjoint, torchdiffeq.odeint_adjoint):
        net = Net()

        def halves(func, y0, t):
            return torch.linspace(float(t[0]), float(t[-1]), 3, **F64)

        back = {} if solver is odeint_adjoint else {"adjoint_options": {"grid_constructor": halves}}
        options = {"grid_constructor": lambda *_: torch.linspace(0, 1, 9, **F64)}
        y = solver(net, START, T, method="euler", options=options, **back)
        y.square().sum().backward()
        found.append((y.detach(), net.weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_stops_and_jumps_of_the_way_back():
    jump = torch.tensor([0.5], **F64)
    ends, net = T[[0, -1]], Net()

    def kicked(t, y):
        net.calls += 1
        return torch.where(t < 0.5, -1.0, 2.0) * (net.weight @ y)

    cost = {}
    for name, back in (("known", {"jump_t": jump}), ("stop", {"step_t": jump}), ("unknown", {})):
        net.calls, net.weight.grad = 0, None
        how = {"adjoint_options": back, "adjoint_params": (net.weight,)}
        y = odeint_adjoint(kicked, START, ends, rtol=1e-7, atol=1e-9, **how)
        before = net.calls
        y[-1].sum().backward()
        cost[name] = net.calls - before
    assert cost["known"] < cost["stop"] < cost["unknown"]


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"adjoint_rtol": -1.0}, "adjoint_rtol must be"),
        ({"adjoint_atol": "small"}, "adjoint_atol must be"),
        ({"adjoint_method": "rk5"}, "method must be one of"),
        ({"adjoint_options": 3}, "adjoint_options must be a dict"),
        (
            {"options": {"first_step": 0.1}, "adjoint_method": "bosh3"},
            "adjoint_options must be given",
        ),
        ({"adjoint_options": {"per_sample": True}}, "adjoint_options does not take per_sample"),
        ({"adjoint_params": 3}, "adjoint_params must hold tensors, got 3"),
    ],
)
def test_bad_settings_of_the_way_back(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        odeint_adjoint(Net(), START, T, **arguments)


# --- methods and states ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["heun2", "heun3", "euler", "midpoint"])
def test_fixed_methods_of_the_same_name_agree(name):
    options = {"step_size": 0.125}
    theirs = torchdiffeq.odeint(turning, START, T, method=name, options=options)
    torch.testing.assert_close(odeint(turning, START, T, method=name, options=options), theirs)


def test_a_step_of_fehlberg_is_theirs():
    """One forced step each, so that no controller decides."""
    t = torch.tensor([0.0, 0.01], **F64)
    ours = odeint(turning, START, t, method="fehlberg2", rtol=1.0, atol=1.0)
    assert METHODS["fehlberg2"].order == 2
    options = {"first_step": torch.tensor(0.01, **F64)}
    theirs = torchdiffeq.odeint(
        turning, START, t, method="fehlberg2", rtol=1.0, atol=1.0, options=options
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
def test_fehlberg_errs_as_theirs_does(options):
    """Its estimate is small beside its error, here as there."""
    t = torch.tensor([0.0, 3.0], **F64)
    y0 = torch.randn(5, 2, generator=rng(), **F64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], **F64)
    exact = odeint(lambda t, y: y @ turn, y0, t, method="dopri8", rtol=1e-12, atol=1e-12)
    how = {"method": "fehlberg2", "rtol": 1e-4, "atol": 1e-4}
    ours = odeint(lambda t, y: y @ turn, y0, t, options=options, **how)
    theirs = torchdiffeq.odeint(lambda t, y: y @ turn, y0, t, **how)
    assert (ours - exact).abs().max() < 1.5 * (theirs - exact).abs().max()


def test_no_method_is_the_default():
    torch.testing.assert_close(odeint(turning, START, T, method=None), odeint(turning, START, T))


@pytest.mark.parametrize(
    "name, hint",
    [("implicit_adams", "multistep"), ("trbdf2", "odeint_stiff"), ("scipy_solver", "solve_ivp")],
)
def test_what_is_not_offered_says_where_to_look(name, hint):
    with pytest.raises(ValueError, match=hint):
        odeint(turning, START, T, method=name)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_complex_states(gradient):
    """y' = (i w - 1) y, with values, and the gradient of a real loss."""
    w = torch.tensor(3.0, **F64).requires_grad_()
    y0 = torch.tensor([1.0 + 2.0j, -0.5j], dtype=torch.complex128).requires_grad_()
    how = {"rtol": 1e-9, "atol": 1e-11, "gradient": gradient, "adjoint_params": (w,)}
    y = odeint(lambda t, y: (1j * w - 1) * y, y0, T, **how)
    exact = y0 * torch.exp((1j * w - 1) * T[:, None])
    torch.testing.assert_close(y, exact, rtol=1e-7, atol=1e-8)
    loss = [(x[-1] * (1.0 + 0.3j)).real.sum() for x in (y, exact)]
    for found, right in zip(*(torch.autograd.grad(x, (y0, w)) for x in loss), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


def test_real_and_complex_parts():
    parts = (torch.ones(2, **F64), torch.tensor(1.0 + 0j, dtype=torch.complex128))
    y = odeint(lambda t, y: (-y[0], 1j * y[1] * y[0].sum()), parts, T)
    assert y[0].dtype == torch.float64 and y[1].dtype == torch.complex128 and y[1].shape == (5,)
    angle = 2 * (1 - torch.exp(-T))
    torch.testing.assert_close(y[1], torch.exp(1j * angle), rtol=1e-6, atol=1e-6)
    batch = torch.randn(4, dtype=torch.complex128, generator=rng())
    own = odeint(lambda t, y: 1j * y, batch, T, options={"per_sample": True})
    torch.testing.assert_close(own[-1], batch * torch.exp(torch.tensor(1j)), rtol=1e-6, atol=1e-7)


def test_an_error_of_one_sample_names_it():
    y0 = torch.tensor([[0.1], [0.2], [5.0], [0.1]], **F64)
    with pytest.raises(SolverError, match="sample 2") as caught:
        odeint(lambda t, y: y**2, y0, T, options={"per_sample": True})
    assert caught.value.sample == 2 and abs(caught.value.t - 0.2) < 1e-3
    with pytest.raises(SolverError, match="sample 1") as caught:
        odeint(
            lambda t, y: torch.where(y > 0.15, torch.nan, y),
            y0[:2],
            T,
            options={"per_sample": True},
        )


@pytest.mark.parametrize(
    "interface, theirs",
    [(odeint, torchdiffeq.odeint), (odeint_adjoint, torchdiffeq.odeint_adjoint)],
)
def test_a_solve_until_an_event(interface, theirs):
    class Fall(torch.nn.Module):
        def forward(self, t, y):
            return y[1], torch.full_like(y[1], -9.81)

    start = (torch.tensor([2.0], **F64), torch.tensor([0.0], **F64))
    found = []
    for solver in (interface, theirs):
        t, y = solver(Fall(), start, T[[0, -1]], event_fn=lambda t, y: y[0], atol=1e-10)
        found.append((t, y[1][-1]))
    assert abs(float(found[0][0]) - math.sqrt(4 / 9.81)) < 1e-9
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="t must have two times"):
        interface(Fall(), start, T, event_fn=lambda t, y: y[0])


# --- two programs with one line exchanged ----------------------------------------------------

TRAINED = """
import torch
from torchdiffeq import odeint_adjoint as odeint
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
class Field(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.nfe = net, 0
    def forward(self, t, y):
        self.nfe += 1
        return self.net(y**3)
field, t = Field(), torch.linspace(0.0, 1.0, 4).double()
y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]]).double()
adam = torch.optim.Adam(field.parameters(), 1e-2)
for _ in range(5):
    adam.zero_grad()
    y = odeint(field, y0, t, rtol=1e-8, atol=1e-9, method="dopri5",
               options={"max_num_steps": 10_000, "dtype": torch.float64},
               adjoint_rtol=1e-8, adjoint_atol=1e-9, adjoint_options={"norm": "seminorm"})
    loss = (y[-1] - 1.0).abs().mean()
    loss.backward()
    adam.step()
result = loss.detach()
"""

BOUNCING = """
import torch
from torchdiffeq import odeint, odeint_event
class Ball(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor([9.8]).double())
        self.keep = torch.nn.Parameter(torch.tensor(0.8).double())
    def forward(self, t, state):
        position, velocity = state
        return velocity, -self.gravity.expand_as(velocity)
    def hit(self, t, state):
        return state[0]
ball, t0 = Ball(), torch.tensor(0.0).double()
state = (torch.tensor([10.0]).double(), torch.tensor([0.0]).double())
times = []
for _ in range(3):
    t0, found = odeint_event(ball, state, t0, event_fn=ball.hit, reverse_time=False,
                             atol=1e-9, rtol=1e-9, odeint_interface=odeint)
    position, velocity = (part[-1] for part in found)
    state = (position + 1e-6, -ball.keep * velocity)
    times.append(t0)
times[-1].backward()
result = torch.stack([times[-1].detach(), ball.gravity.grad[0], ball.keep.grad])
"""


SPIRAL = """
import torch
from torch import nn
from torchdiffeq import odeint_adjoint as odeint


class RunningMean:
    def __init__(self, keep=0.9):
        self.keep, self.value = keep, None

    def add(self, x):
        self.value = x if self.value is None else self.keep * self.value + (1 - self.keep) * x


class Truth(nn.Module):
    def forward(self, t, y):
        return y**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]).double()


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 2)).double()

    def forward(self, t, y):
        return self.net(y**3)


torch.manual_seed(0)
t = torch.linspace(0.0, 2.0, 21).double()
start = torch.tensor([[2.0, 0.0]]).double()
with torch.no_grad():
    path = odeint(Truth(), start, t, method="dopri5")
field, loss_mean = Field(), RunningMean()
rms_prop = torch.optim.RMSprop(field.parameters(), lr=1e-3)
for _ in range(6):
    rms_prop.zero_grad()
    first = torch.randint(0, 11, (5,))
    wanted = torch.stack([path[first + i] for i in range(10)])
    found = odeint(field, path[first], t[:10])
    loss = (found - wanted).abs().mean()
    loss.backward()
    rms_prop.step()
    loss_mean.add(loss.item())
result = torch.cat([torch.tensor([loss_mean.value]).double(), field.net[0].bias.detach()])
"""

DENSITY = """
import torch
from torch import nn
from torchdiffeq import odeint_adjoint


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Softplus(), nn.Linear(16, 2)).double()
        self.register_buffer("calls", torch.tensor(0.0).double())

    def before(self, e):
        self.e, self.calls = e, torch.zeros_like(self.calls)

    def forward(self, t, states):
        y = states[0]
        self.calls = self.calls + 1
        t = torch.ones_like(y[:, :1]) * t.clone().detach().requires_grad_(True)
        with torch.enable_grad():
            y.requires_grad_(True)
            t.requires_grad_(True)
            dy = self.net(torch.cat([t, y], 1))
            (back,) = torch.autograd.grad(dy, y, self.e, create_graph=True)
            trace = (back * self.e).sum(1, keepdim=True)
        return (dy, -trace, *(torch.zeros_like(s) for s in states[2:]))


torch.manual_seed(0)
flow = Flow()
x = torch.randn(20, 2).double() * 0.5 + 1.0
adam = torch.optim.Adam(flow.parameters(), 1e-2)
losses = []
for _ in range(4):
    adam.zero_grad()
    flow.before(torch.randn(20, 2).double().sign())
    states = (x, torch.zeros(20, 1).double())
    times = torch.tensor([1.0, 0.0]).double()
    z, change = odeint_adjoint(
        flow, states, times, atol=[1e-7, 1e-7], rtol=[1e-7, 1e-7], method="dopri5",
        options={"first_step": 0.1}, adjoint_rtol=1e-7, adjoint_atol=1e-7,
        adjoint_options={"norm": "seminorm", "max_num_steps": 5000},
    )
    log_p = -0.5 * z[-1].square().sum(1, keepdim=True) - change[-1]
    loss = -log_p.mean()
    loss.backward()
    adam.step()
    losses.append(loss.detach())
result = torch.stack([*losses, *flow.net[0].bias.detach()[:4]])
"""


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize(
    "program",
    [TRAINED, BOUNCING, SPIRAL, DENSITY],
    ids=["trained", "bouncing", "spiral", "density"],
)
def test_a_program_runs_with_one_line_exchanged(program):
    results = []
    for module in ("torchdiffeq", "nodes_tutorial.ode"):
        space = {}
        exec(program.replace("from torchdiffeq", f"from {module}"), space)
        results.append(space["result"])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


BAD = {
    "a tolerance for other entries": (
        {"atol": torch.ones(2, **F64)},
        "atol must go with the state",
    ),
    "a negative one": (
        {"rtol": torch.tensor([1.0, -1.0, 0.0], **F64)},
        "rtol must be finite and 0",
    ),
    "one with a gradient": (
        {"rtol": torch.ones(3, **F64).requires_grad_()},
        "rtol must hold real numbers without a gradient",
    ),
    "parts of a tensor": ({"rtol": (1e-3, 1e-3)}, "rtol must be one for all"),
    "a jump without a tensor": (
        {"options": {"jump_t": [0.5]}},
        r"options\['jump_t'\] must be a 1-D",
    ),
    "a stop at infinity": (
        {"options": {"step_t": torch.tensor([math.inf])}},
        r"options\['step_t'\] must be finite",
    ),
    "a grid with compile": (
        {
            "method": "euler",
            "options": {"compile": True, "grid_constructor": lambda *_: T},
        },
        "compile.*grid_constructor",
    ),
    "limits that cross": (
        {"options": {"min_step": 1.0, "max_step": 0.1}},
        "must not be above",
    ),
    "half precision of time": ({"options": {"dtype": torch.float32}}, "torch.float64"),
    "a norm that is a word": ({"options": {"norm": "rms"}}, r"options\['norm'\] must be callable"),
    "a controller's constant": ({"options": {"safety": 0.9}}, "options knows"),
    "stops on a grid": (
        {"method": "rk4", "options": {"step_t": torch.tensor([0.5])}},
        r"options\['step_t'\] needs an adaptive method",
    ),
}


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    arguments, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message):
        odeint(turning, START, T, **arguments)


def test_a_tableau_is_still_a_method():
    own = METHODS["heun"]
    assert isinstance(own, Tableau)
    torch.testing.assert_close(
        odeint(turning, START, T, method=own), odeint(turning, START, T, method="heun2")
    )
