"""One rule over all entry points: a derivative, a row or a time is right, or a named error says no.

Each test stands for a kind of fault and runs over methods, gradient modes and ways in.
"""

import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from nodes_tutorial.ode import (
    METHODS,
    ODEBlock,
    SolverError,
    Tableau,
    odeint,
    odeint_adjoint,
    solve,
)

F64 = torch.float64
ENDS = torch.tensor([0.0, 1.0], dtype=F64)
GRADIENTS = ("direct", "checkpoint", "adjoint")
GRID = {"step_size": 0.05}


class Square(nn.Module):
    """y' = w y^2, solved by y0 / (1 - w t y0)."""

    def __init__(self, w=0.1):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))

    def forward(self, t, y):
        return self.w * y * y


def tolerances(method):
    """Methods of low order would take thousands of steps at 1e-9."""
    name = method if isinstance(method, str) else method.name
    size = {"adaptive_heun": 1e-4, "bosh3": 1e-6}.get(name, 1e-9)
    return {"rtol": size, "atol": size}


def start():
    return torch.tensor([[2.0], [1.0]], dtype=F64)


def final(way, func, y0, gradient="direct", method="dopri5"):
    """The state at t = 1 by one of the ways in."""
    kwargs = dict(tolerances(method), method=method, gradient=gradient)
    own = {"adjoint_params": list(getattr(func, "parameters", list)())}
    if way == "odeint":
        return odeint(func, y0, ENDS, **kwargs, **own)[-1]
    if way == "own steps":
        return odeint(func, y0, ENDS, **kwargs, **own, options={"per_sample": True})[-1]
    if way == "grid":
        return odeint(func, y0, ENDS, **kwargs, **own, options=GRID)[-1]
    if way == "tuple":

        def pair(t, state):
            return func(t, state[0]), torch.zeros_like(state[1])

        return odeint(pair, (y0, torch.zeros(3, dtype=F64)), ENDS, **kwargs, **own)[0][-1]
    if way == "outputs inside":
        times = torch.linspace(0, 1, 7, dtype=F64)
        return odeint(func, y0, times, **kwargs, **own)[-1]
    if way == "block":
        return ODEBlock(func, **kwargs)(y0)
    kwargs.pop("gradient")
    if way == "odeint_adjoint":
        return odeint_adjoint(func, y0, ENDS, **kwargs, **own)[-1]
    if way == "solve":
        return solve(func, y0, ENDS, **kwargs).y[-1]
    if way == "interpolate":
        return solve(func, y0, ENDS, **kwargs).interpolate(ENDS)[-1]
    raise AssertionError(way)


ALL_WAYS = [
    (way, gradient)
    for way in ("odeint", "grid", "tuple", "outputs inside", "block")
    for gradient in GRADIENTS
]
ALL_WAYS += [("own steps", "direct"), ("own steps", "checkpoint"), ("odeint_adjoint", "adjoint")]
ALL_WAYS += [("solve", "direct"), ("interpolate", "direct")]
all_ways = pytest.mark.parametrize(("way", "gradient"), ALL_WAYS)
METHODS_TRIED = ("bosh3", "dopri5", "dopri8")  # a list, a buffer, extra stages


# A: a derivative that the result does not carry


@all_ways
@pytest.mark.parametrize("linear", [True, False])
def test_second_derivatives_are_right_or_refused(way, gradient, linear):
    """Of y1 = y0 / (1 - w y0) the mixed derivative with respect to y0 and w is known."""
    field, y0 = Square(), start().requires_grad_()
    y1 = final(way, field, y0, gradient)
    loss = y1.sum() if linear else y1.square().sum()
    if gradient != "direct":
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(loss, y0, create_graph=True)
        return
    (slope,) = torch.autograd.grad(loss, y0, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), field.w)
    w = field.w.detach().clone().requires_grad_()
    z = y0.detach().requires_grad_()
    exact = z / (1 - w * z)
    exact = exact.sum() if linear else exact.square().sum()
    (slope,) = torch.autograd.grad(exact, z, create_graph=True)
    (exact,) = torch.autograd.grad(slope.sum(), w)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, GRID])
@pytest.mark.parametrize("method", METHODS_TRIED)
@pytest.mark.parametrize("way", ["odeint", "solve"])
def test_second_derivatives_in_t(way, method, options):
    field = Square()
    t = torch.tensor([0.1, 0.5, 1.0], dtype=F64, requires_grad=True)
    settings = dict(tolerances(method), method=method, options=options)
    y = odeint(field, start(), t, **settings)
    if way == "solve":
        y = solve(field, start(), t, **settings).y
    functional = y[1].sum() + y[2].square().sum()
    w = field.w.detach().clone().requires_grad_()
    s = t.detach().clone().requires_grad_()
    exact = start() / (1 - w * (s[1:, None, None] - s[0]) * start())
    exact = exact[0].sum() + exact[1].square().sum()
    (speed,) = torch.autograd.grad(functional, t, create_graph=True)
    (exact_speed,) = torch.autograd.grad(exact, s, create_graph=True)
    torch.testing.assert_close(speed, exact_speed, rtol=1e-4, atol=0)
    weights = torch.tensor([0.3, -1.0, 0.7], dtype=F64)
    second = torch.autograd.grad((speed * weights).square().sum(), (field.w, t))
    exact_second = torch.autograd.grad((exact_speed * weights).square().sum(), (w, s))
    for found, right in zip(second, exact_second, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", METHODS_TRIED)
def test_times_of_an_interpolation_carry_derivatives(method, per_sample):
    kwargs = dict(tolerances(method), method=method, options={"per_sample": per_sample})
    run = solve(Square(), start(), ENDS, **kwargs)
    times = torch.tensor([0.7, 0.2], dtype=F64, requires_grad=True)
    run.interpolate(times).sum().backward()
    y = start() / (1 - 0.1 * times.detach()[:, None, None] * start())
    torch.testing.assert_close(times.grad, (0.1 * y * y).sum((1, 2)), rtol=1e-5, atol=0)


@all_ways
@pytest.mark.parametrize(("kind", "of"), [("jvp", "y0"), ("dual", "w")])
def test_forward_mode_is_right_or_refused(way, gradient, kind, of):
    y0, w = start(), torch.tensor(0.1, dtype=F64)

    def end(value):
        if of == "y0":
            return final(way, lambda t, y: w * y * y, value, gradient)
        return final(way, lambda t, y: value * y * y, y0, gradient)

    if way == "block":  # its field must be a module
        pytest.skip("the same call of odeint")
    value = y0 if of == "y0" else w
    tangent = torch.ones_like(value)

    def derivative():
        if kind == "jvp":
            return torch.func.jvp(end, (value,), (tangent,))[1]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(value, tangent)
            return torch.autograd.forward_ad.unpack_dual(end(dual)).tangent

    if gradient != "direct":
        with pytest.raises(RuntimeError, match="use gradient='direct'"):
            derivative()
        return
    exact = 1 / (1 - w * y0).square() * (1 if of == "y0" else y0.square())
    torch.testing.assert_close(derivative(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, GRID])
@pytest.mark.parametrize("method", METHODS_TRIED)
def test_forward_mode_in_t(method, options):
    field = Square().requires_grad_(False)

    def end(t, gradient="direct"):
        settings = dict(tolerances(method), method=method, options=options, gradient=gradient)
        return odeint(field, start(), t, **settings)[-1]

    for tangent in ([1.0, 0.0], [0.0, 1.0]):
        _, found = torch.func.jvp(end, (ENDS,), (torch.tensor(tangent, dtype=F64),))
        y = start() / (1 - 0.1 * start())
        sign = 1 if tangent[1] else -1
        torch.testing.assert_close(found, sign * 0.1 * y * y, rtol=1e-5, atol=0)
    for gradient in ("checkpoint", "adjoint"):
        if gradient == "checkpoint" or options != {"per_sample": True}:
            with pytest.raises(RuntimeError, match="use gradient='direct'"):
                torch.func.jvp(lambda t, g=gradient: end(t, g), (ENDS,), (torch.ones_like(ENDS),))


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_second_derivatives_in_t_are_refused_by_the_other_modes(gradient):
    t = torch.tensor([0.1, 0.5, 1.0], dtype=F64, requires_grad=True)
    y = odeint(Square(), start(), t, gradient=gradient)
    for functional in (y[-1].sum(), y[-1].square().sum()):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(functional, t, create_graph=True)


TRANSFORMS = {
    "vmap": lambda f, y: torch.func.vmap(f)(y),
    "grad": lambda f, y: torch.func.grad(lambda z: f(z).sum())(y),
    "jacrev": lambda f, y: torch.func.jacrev(f)(y).sum((2, 3)),
    "hessian": lambda f, y: torch.func.hessian(lambda z: f(z).sum())(y).sum((2, 3)),
    "functional hessian": lambda f, y: torch.autograd.functional.hessian(
        lambda z: f(z).sum(), y
    ).sum((2, 3)),
}


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_transforms_are_right_or_refused(kind, gradient):
    def end(y0):
        kwargs = dict(method="rk4", options=GRID, gradient=gradient)
        return odeint(lambda t, y: 0.1 * y * y, y0, ENDS, **kwargs)[-1]

    if gradient != "direct":
        with pytest.raises(RuntimeError, match="use gradient='direct'"):
            TRANSFORMS[kind](end, start())
        return
    left = 1 - 0.1 * start()
    value, first, second = start() / left, left**-2, 0.2 * left**-3
    exact = {"vmap": value, "grad": first, "jacrev": first}.get(kind, second)
    torch.testing.assert_close(TRANSFORMS[kind](end, start()), exact, rtol=1e-6, atol=0)


# B: the backward pass sees the field of the forward pass


class Net(nn.Module):
    """A network that makes a field of its layer in each call."""

    def __init__(self, way, gradient, method):
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=F64)
        self.way, self.gradient, self.method = way, gradient, method

    def forward(self, x):
        layer = self.layer

        class Field(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = layer

            def forward(self, t, y):
                return torch.tanh(self.inner(y))

        return final(self.way, Field(), x, self.gradient, self.method).sum()


@all_ways
@pytest.mark.parametrize(
    ("method", "frozen", "derived"),
    [("dopri5", False, False), ("bosh3", True, False), ("dopri5", False, True)],
)
def test_weights_of_a_functional_call(way, gradient, method, frozen, derived):
    torch.manual_seed(0)
    x = torch.ones(3, 2, dtype=F64)
    found = {}
    for mode in ("direct", gradient):
        torch.manual_seed(0)
        net = Net("odeint" if mode == "direct" else way, mode, method).requires_grad_(not frozen)
        leaves = [p.detach().clone().requires_grad_() for p in net.parameters()]
        weights = [p * 1.0 for p in leaves] if derived else leaves
        swapped = dict(zip(dict(net.named_parameters()), weights, strict=True))
        found[mode] = torch.autograd.grad(functional_call(net, swapped, (x,)), leaves)
    for a, b in zip(found["direct"], found[gradient], strict=True):
        assert b.abs().max() > 0.1
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


class Scaled(Square):
    """Attributes that autograd does not watch: a number, and a tensor without gradient."""

    def __init__(self):
        super().__init__()
        self.c = 1.0
        self.register_buffer("d", torch.ones(2, 1, dtype=F64))

    def forward(self, t, y):
        return -self.c * self.d * self.w * y


@all_ways
@pytest.mark.parametrize("change", ["number", "buffer", "y0", "data", "weight"])
def test_changes_between_the_passes(way, gradient, change):
    field, y0 = Scaled(), start()
    y1 = final(way, field, y0, gradient)
    with torch.no_grad():
        if change == "number":
            field.c = 2.0
        elif change == "buffer":
            field.d.mul_(2.0)
        elif change == "y0":
            y0.mul_(3.0)
        elif change == "data":
            field.w.data = torch.tensor(0.7, dtype=F64)
        else:
            field.w.mul_(2.0)
    try:
        y1.sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace" in str(error) or "was changed in between" in str(error)
        return
    exact = -(start() * torch.exp(torch.tensor(-0.1, dtype=F64))).sum()
    torch.testing.assert_close(field.w.grad, exact, rtol=1e-5, atol=0)


@all_ways
def test_leaves_made_inside_the_field(way, gradient):
    """As a field does that takes derivatives by autograd; here y' = -w y = -dH/dy."""

    class Gradient(Square):
        def forward(self, t, y):
            t = t.detach().clone().requires_grad_()
            with torch.enable_grad():
                z = y if y.requires_grad else y.detach().requires_grad_()
                energy = (self.w * z.square() / 2).sum() + 0.0 * t.sum()
                (force,) = torch.autograd.grad(energy, z, create_graph=True)
            return -force + 0.0 * t

    field = Gradient()
    final(way, field, start().requires_grad_(), gradient).sum().backward()
    exact = -(start() * torch.exp(torch.tensor(-0.1, dtype=F64))).sum()
    torch.testing.assert_close(field.w.grad, exact, rtol=1e-5, atol=0)


@all_ways
def test_a_field_that_differentiates_by_its_own_argument(way, gradient):
    """It marks y itself, so an evaluation that watches for tensors must have marked it before."""

    class Force(Square):
        def forward(self, t, y):
            with torch.enable_grad():
                energy = (self.w * y.requires_grad_().square() / 2).sum()
                (slope,) = torch.autograd.grad(energy, y, create_graph=True)
            return -slope

    field = Force()
    final(way, field, start(), gradient).sum().backward()
    exact = -(start() * torch.exp(torch.tensor(-0.1, dtype=F64))).sum()
    torch.testing.assert_close(field.w.grad, exact, rtol=1e-5, atol=0)


# C: slopes belong to the step


@all_ways
@pytest.mark.parametrize(
    ("method", "buffers"),
    [("heun", 1), ("rk4", 2), ("bosh3", 1), ("dopri5", 1), ("dopri5", 2), ("dopri8", 2)],
)
def test_a_field_that_reuses_its_memory(way, gradient, method, buffers):
    if way == "own steps" and METHODS[method].b_error is None:
        pytest.skip("needs an adaptive method")
    outs = [torch.empty(2, 1, dtype=F64) for _ in range(buffers)]
    calls = [0]

    class Reuse(nn.Module):
        def forward(self, t, y):
            calls[0] += 1
            return torch.mul(y.detach(), -1, out=outs[calls[0] % buffers])

    class Fresh(nn.Module):
        def forward(self, t, y):
            return -y.detach()

    found = final(way, Reuse(), start(), gradient, method)
    assert torch.equal(found, final(way, Fresh(), start(), gradient, method))


@all_ways
@pytest.mark.parametrize("method", ["rk4", *METHODS_TRIED])
def test_a_field_that_works_in_place(way, gradient, method):
    if way == "own steps" and METHODS[method].b_error is None:
        pytest.skip("needs an adaptive method")

    class InPlace(nn.Module):
        def forward(self, t, y):
            return y.neg_()

    # The parts of a tuple are views, which torch itself protects where a graph is recorded.
    message = "must not change y in place|is being modified inplace"
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        final(way, InPlace(), start(), gradient, method)


# D: what the first slope tells is not all


class Later(nn.Module):
    """A field that shows something only in the second half."""

    def __init__(self, late):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.0, dtype=F64))
        self.late = late

    def forward(self, t, y):
        if float(t.max()) < 0.5:
            return -y
        return self.late(self, y)


@pytest.mark.parametrize(
    ("way", "gradient", "method"),
    [(*way, method) for way in ALL_WAYS for method in ("bosh3", "dopri5")]
    + [("odeint", gradient, "dopri8") for gradient in GRADIENTS]
    + [("outputs inside", "direct", "dopri8"), ("interpolate", "direct", "dopri8")],
)
def test_a_gradient_that_begins_later(way, gradient, method):
    """The field jumps; where steps are not chosen for that, the error is of the size of a step."""
    field = Later(lambda self, y: -y - self.k)
    final(way, field, torch.ones(2, 1, dtype=F64), gradient, method).sum().backward()
    exact = -2 * (1 - torch.exp(torch.tensor(-0.5, dtype=F64)))
    bound = {"own steps": 2e-2, "grid": GRID["step_size"]}.get(way, 1e-4)
    torch.testing.assert_close(field.k.grad, exact, rtol=bound, atol=0)


@all_ways
@pytest.mark.parametrize(
    ("late", "method"), [("shape", "dopri5"), ("dtype", "bosh3"), ("number", "dopri5")]
)
def test_later_slopes_are_checked(way, gradient, late, method):
    if way == "own steps" and METHODS[method].b_error is None:
        pytest.skip("needs an adaptive method")
    wrong = {
        "shape": lambda self, y: -y[:1],
        "dtype": lambda self, y: -y.float(),
        "number": lambda self, y: 0.0,
    }[late]
    # Where the package wraps the field, the tests' own type checks may come first.
    message = "func must return|whilst checking the return value"
    with pytest.raises((TypeError, ValueError), match=message):
        final(way, Later(wrong), start(), gradient, method)


@all_ways
@pytest.mark.parametrize("wrong", [None, 0.0, "slope", (torch.ones(2, 1, dtype=F64),)])
def test_what_is_no_slope_is_named_in_every_way_in(way, gradient, wrong):
    class Wrong(nn.Module):
        def forward(self, t, y):
            return wrong

    # Where the package wraps the field, the tests' own type checks may come first.
    message = "func must return tensors|whilst checking the return value"
    with pytest.raises(TypeError, match=message):
        final(way, Wrong(), start(), gradient)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("when", ["early", "late"])
def test_a_tensor_that_is_not_listed_is_found_whenever_it_is_used(gradient, when):
    hidden = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def field(t, y):
        return -hidden * y if (t < 0.5) == (when == "early") else -y

    y0 = start().requires_grad_()
    with pytest.raises(ValueError, match="not in adjoint_params"):
        odeint(field, y0, ENDS, gradient=gradient)[-1].sum().backward()


# F, G: what one way in supports, all do


@all_ways
@pytest.mark.parametrize("inside", [True, False])
def test_inference_mode(way, gradient, inside):
    field = Square()
    with torch.inference_mode():
        y0 = start()
        found = final(way, field, y0, gradient) if inside else None
    if not inside:
        found = final(way, field, y0, gradient)
        found.sum().backward()
        assert field.w.grad > 0
    torch.testing.assert_close(found.detach(), start() / (1 - 0.1 * start()), rtol=1e-7, atol=0)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, GRID])
@pytest.mark.parametrize("method", METHODS_TRIED)
def test_a_solution_can_be_pickled(method, options):
    run = solve(Square().requires_grad_(False), start(), ENDS, method=method, options=options)
    again = pickle.loads(pickle.dumps(run))
    times = torch.tensor([0.4, 0.9], dtype=F64)
    assert torch.equal(again.interpolate(times), run.interpolate(times))


@pytest.mark.parametrize("method", [*METHODS_TRIED, "rk4"])
@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("own", [False, True])
def test_empty_batches(method, shape, gradient, own):
    if own and (METHODS[method].b_error is None or gradient == "adjoint"):
        pytest.skip("refused")
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0, t = torch.zeros(shape, dtype=F64), torch.linspace(0, 1, 3, dtype=F64)
    kwargs = {"method": method, "options": {"per_sample": own}}
    y = odeint(lambda t, y: w * y, y0, t, gradient=gradient, adjoint_params=[w], **kwargs)
    assert y.shape == (3, *shape)
    y.sum().backward()
    assert w.grad == 0.0
    run = solve(lambda t, y: -y, y0, t, **kwargs)
    assert run.y.shape == run.interpolate(t).shape == (3, *shape)


@all_ways
def test_autocast_is_for_the_field_alone(way, gradient):
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.5, 1.0], [-1.0, -0.25]]))

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, t, y):
            return self.layer(y)

    y0 = torch.ones(3, 2)
    loose = dict(rtol=1e-3, atol=1e-3)

    def end():
        field = Field()
        kwargs = dict(loose, gradient=gradient)
        if way == "block":
            return ODEBlock(field, **kwargs)(y0)
        options = {"own steps": {"per_sample": True}, "grid": GRID}.get(way)
        if way in ("solve", "interpolate"):
            run = solve(field, y0, ENDS, **loose)
            return run.y[-1] if way == "solve" else run.interpolate(ENDS)[-1]
        return odeint(field, y0, ENDS, options=options, **kwargs)[-1]

    exact = end()
    (right,) = torch.autograd.grad(exact.sum(), layer.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = end()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=2e-2, atol=1e-2)
    assert not torch.equal(found, exact)
    (gradient,) = torch.autograd.grad(found.sum(), layer.weight)
    torch.testing.assert_close(gradient, right, rtol=5e-2, atol=5e-2)


# H: the message names what is wrong


@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
@pytest.mark.parametrize(
    ("y0", "allowed"),
    [
        ([[1.0, 0.0]], dict(rtol=1e-5, atol=0.0)),
        ([[1.0, 2.0]], dict(rtol=0.0, atol=0.0)),
    ],
)
def test_a_tolerance_of_zero_is_named(y0, allowed, options):
    with pytest.raises(SolverError, match="larger atol is needed"):
        odeint(lambda t, y: -y, torch.tensor(y0), ENDS, **allowed, options=options)


def test_half_precision_does_not_know_the_default_atol():
    with pytest.raises(SolverError, match="larger atol is needed"):
        odeint(lambda t, y: -y, torch.tensor([1.0, 0.0]).half(), torch.tensor([0.0, 1.0]))


def test_a_state_that_is_nan_is_not_the_fields_fault():
    with pytest.raises(SolverError, match="the state is NaN or Inf"):
        odeint(lambda t, y: -y, torch.tensor([float("nan")]), torch.tensor([0.0, 1.0]))


def test_an_infinite_slope_is():
    with pytest.raises(SolverError, match="the field returned NaN or Inf"):
        odeint(lambda t, y: y * torch.inf, torch.ones(1), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("call", [odeint, solve])  # odeint_adjoint hands all on to odeint
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rtol": [1e-3]}, "rtol must be one for all"),
        ({"rtol": None}, "rtol must be a number >= 0"),
        ({"atol": "1e-6"}, "atol must be a number >= 0"),
        ({"atol": torch.ones(3)}, "atol must go with the state"),
        ({"rtol": float("inf")}, "rtol must be a number >= 0 and finite"),
        ({"options": {"step_size": ".1"}}, r"options\['step_size'\] must be a positive number"),
        ({"options": {"first_step": float("inf")}}, r"options\['first_step'\] must be a positive"),
        ({"options": {"max_steps": 1.5}}, r"options\['max_steps'\] must be whole"),
        ({"options": {"per_sample": "no"}}, r"options\['per_sample'\] must be True or False"),
        ({"options": []}, "options must be a dict"),
        ({"options": {3: 4}}, "options knows"),
        ({"method": ["rk4"]}, "method must be one of"),
        ({"y0": 1.0}, "y0 must be a tensor"),
        ({"y0": None}, "y0 must be a tensor"),
    ],
)
def test_arguments_are_named(call, change, match):
    arguments = {"func": lambda t, y: -y, "y0": torch.ones(2), "t": torch.tensor([0.0, 1.0])}
    with pytest.raises((TypeError, ValueError), match=match):
        getattr(call, "__wrapped__", call)(**arguments | change)


def test_a_grid_of_too_many_steps_is_counted_before_it_is_made():
    options = {"step_size": 1e-12}
    with pytest.raises(ValueError, match="the grid has 1000000000000 steps"):
        odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]).double(), options=options)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("wrong", ["w", [3], [None]])
def test_what_is_no_parameter_is_named(gradient, wrong, as_at_the_users):
    with pytest.raises(TypeError, match="adjoint_params must hold tensors"):
        odeint(Square(), start(), ENDS, gradient=gradient, adjoint_params=wrong)


def test_what_is_no_time_no_state_and_no_field_is_named(as_at_the_users):
    run = solve(Square(), start(), ENDS)
    for wrong in (0.5, [0.5], torch.tensor([1])):
        with pytest.raises(TypeError, match="t must be a floating-point tensor"):
            run.interpolate(wrong)
    with pytest.raises(ValueError, match="t must be 1-D with times in"):
        run.interpolate(torch.tensor(0.5))
    with pytest.raises(TypeError, match=r"field must be an nn\.Module"):
        ODEBlock(None)
    with pytest.raises(TypeError, match="y0 must be a tensor"):
        ODEBlock(Square())([1.0])


# Tableaus of one's own

HEUN3 = dict(
    order=3, a=((1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), c=(0.0, 1 / 3, 2 / 3), dense=(),
    dense_order=0,
)  # fmt: skip


@all_ways
def test_a_tableau_is_a_method(way, gradient):
    if way in ("own steps",):
        pytest.skip("needs an adaptive method")
    if way == "interpolate":
        pytest.skip("has no dense output")
    rule = Tableau("heun3", **HEUN3)
    field = Square()
    if way != "grid":
        assert final(way, field, start(), gradient, rule).shape == (2, 1)
        return
    found = final(way, field, start(), gradient, rule)
    torch.testing.assert_close(found, start() / (1 - 0.1 * start()), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"b": (1 / 4, 0.1, 3 / 4)}, "must sum to 1"),
        ({"c": (0.0, 1 / 2, 2 / 3)}, "must be the sum of its row of a"),
        ({"c": (0.0, 1 / 3, 2 / 3, 1.0)}, "one node c for each stage"),
        ({"a": ((1 / 3,), (0.0, 2 / 3, 0.0))}, "a row of a for each stage"),
        ({"dense": ((1.0,),)}, "rows of dense"),
        ({"b_error": (0.1, 0.1, 0.1)}, "with sum 0"),
    ],
)
def test_a_tableau_that_does_not_fit_together(change, match):
    with pytest.raises(ValueError, match=match):
        Tableau("wrong", **HEUN3 | change)


def test_a_tableau_without_its_order_or_its_dense_output():
    with pytest.raises(ValueError, match="does not have the order 4"):
        odeint(Square(), start(), ENDS, method=Tableau("wrong", **HEUN3 | {"order": 4}))
    run = solve(Square(), start(), ENDS, method=Tableau("heun3", **HEUN3))
    with pytest.raises(ValueError, match="no dense output"):
        run.interpolate(torch.tensor([0.5], dtype=F64))
