"""Claims of the chapter on conditional flows."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from nodes_tutorial.flows import (
    CNF,
    IAF,
    MAF,
    NICE,
    NSF,
    AffineCoupling,
    ContextField,
    Density,
    Flow,
    Gaussian,
    HyperField,
    Inverse,
    RealNVP,
    StandardNormal,
    data_init,
    evidence,
    half_mask,
    importance,
    made_masks,
    penalized_nll,
    rational_quadratic,
)
from nodes_tutorial.flows.field import HasTangents, value_and_products
from nodes_tutorial.nets import MLP

F64 = {"dtype": torch.float64}
GRID = {"method": "dopri8", "options": {"step_size": 1 / 8}}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), **F64)


def shaken(flow, by=0.1):
    """Other weights than the first ones, so that no map is near the identity."""
    generator = rng(7)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator, **F64).to(weight))
    return flow


def cnf(field, dim, **options):
    net = field(dim, 2, [8], generator=rng(), **F64)
    return Flow(StandardNormal(dim, **F64), [CNF(net, **{**GRID, **options})])


FLOWS = {
    "nice": lambda dim: NICE(dim, 4, [8], "tanh", rng(), context=2, **F64),
    "realnvp": lambda dim: RealNVP(
        dim, 4, [8], "tanh", rng(), actnorm=True, bound=0.4, context=2, **F64
    ),
    "maf": lambda dim: MAF(dim, 3, [8], "tanh", rng(), bound=0.4, context=2, **F64),
    "iaf": lambda dim: IAF(
        dim,
        layers=3,
        hidden=[8],
        activation="tanh",
        generator=rng(),
        bound=0.4,
        context=2,
        **F64,
    ),
    "nsf": lambda dim: NSF(dim, 4, [8], 5, "tanh", rng(), context=2, **F64),
    "cnf": lambda dim: cnf(ContextField, dim),
    "hyper": lambda dim: cnf(HyperField, dim),
}
every = pytest.mark.parametrize("name", FLOWS)


def make(name, dim=2):
    return shaken(FLOWS[name](dim))


# --- flows of a context ------------------------------------------------------------------------


@every
def test_each_context_has_a_density_that_integrates_to_one(name, measured):
    # a spline's density has kinks, for which the sum over a grid is of second order
    reach, points, bound = (7, 1001, 1e-3) if name == "nsf" else (18, 181, 1e-7)
    flow, side = make(name), torch.linspace(-reach, reach, points, **F64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    for context in (torch.zeros(2, **F64), torch.tensor([1.5, -1.0], **F64)):
        with torch.no_grad():
            mass = flow.log_prob(grid, context).exp().sum() * (side[1] - side[0]) ** 2
        assert measured((mass - 1).abs(), f"mass of {name}") < bound


@every
def test_log_determinant_given_each_context_is_that_of_the_jacobian(name, measured):
    flow, x, c = make(name, 3), randn(4, 3, seed=1), randn(4, 2, seed=2)
    found = flow.log_prob(x, c)
    for i in range(4):

        def pull(y, context=c[i]):
            for transform in reversed(flow.transforms):
                given = {"context": context} if transform.context else {}
                y = transform.pull(y, **given)
            return y

        J = torch.autograd.functional.jacobian(pull, x[i])
        exact = flow.base.log_prob(pull(x[i])) + torch.linalg.slogdet(J).logabsdet
        assert measured((found[i] - exact).detach().abs(), "log-density") < 1e-8


@every
def test_contexts_in_any_batch_and_one_for_all(name):
    flow, x, c = make(name), randn(3, 4, 2, seed=1), randn(3, 4, 2, seed=2)
    whole = flow.log_prob(x, c)
    assert whole.shape == (3, 4)
    assert (flow.log_prob(x[1, 2], c[1, 2]) - whole[1, 2]).abs() < 1e-8
    one = flow.log_prob(x, c[0, 0])
    for context in (c[:1, :1], c[0, 0].expand(3, 4, 2), c[0, 0].expand(3, 1, 2)):
        assert (flow.log_prob(x, context) - one).abs().max() < 1e-8
    assert (one[0, 0] - whole[0, 0]).abs() < 1e-8
    vmapped = torch.func.vmap(torch.func.vmap(flow.log_prob))(x, c)
    assert (vmapped - whole).abs().max() < 1e-8
    assert (
        torch.func.vmap(flow.log_prob, in_dims=(0, None))(x[0], c[0, 0]) - one[0]
    ).abs().max() < 1e-8


def hangs_on_context(flow):
    """Smallest change of a log-density when the contexts trade places."""
    x, c = randn(16, 2, seed=1), randn(16, 2, seed=2)
    return (flow.log_prob(x, c) - flow.log_prob(x, c.roll(1, 0))).abs().min()


class Deaf(nn.Module):
    """A network with a mask that lets the context through nowhere."""

    def __init__(self, net, inputs):
        super().__init__()
        self.net, self.inputs = net, inputs

    def forward(self, x):
        kept = torch.arange(x.shape[-1]) < self.inputs
        return self.net(x * kept)


@every
def test_permuted_contexts_change_the_density(name):
    assert hangs_on_context(make(name)) > 1e-5


def test_a_flow_that_ignores_its_context_is_found_out():
    flow = make("realnvp")
    for transform in flow.transforms:
        if isinstance(transform, AffineCoupling):
            transform.net = Deaf(transform.net, 1)
    assert hangs_on_context(flow) == 0
    assert not hangs_on_context(flow) > 1e-5


def test_the_first_entry_of_a_made_sees_the_context():
    """With hidden degrees from 1 on, as without a context, entry 1 would be blind."""
    flow = MAF(3, 1, [16], "tanh", rng(), context=2, **F64)
    net = flow.transforms[0].net
    x, c = randn(3, seed=1), randn(2, seed=2)

    def of_context():
        return torch.autograd.functional.jacobian(lambda c: net(x, c), c)

    assert (of_context().abs().sum(1) > 0).all()
    blind = made_masks(5, [16])  # the context as two more entries, from which 1 … 3 may not see
    for layer, mask in zip(net.layers, blind, strict=True):
        if mask.shape == layer.mask.shape:
            layer.mask.copy_(mask)
    assert (of_context()[0] == 0).all()


@every
def test_draws_follow_their_contexts(name):
    flow, c = make(name), randn(6, 2, seed=2)
    x, log_prob = flow.rsample_and_log_prob(6, rng(3), context=c)
    assert (flow.log_prob(x, c) - log_prob).abs().max() < 1e-7
    assert (flow.sample(6, rng(3), context=c) - x).abs().max() < 1e-8
    assert (flow.rsample(6, rng(3), context=c) - x).abs().max() < 1e-8
    one = flow.sample(6, rng(3), context=c[2])
    assert one.shape == (6, 2) and not one.requires_grad
    assert (one[2] - x[2]).abs().max() < 1e-8 and (one[0] - x[0]).abs().max() > 1e-6
    assert (flow.sample(6, rng(3), context=c[2:3]) - one).abs().max() < 1e-12


@every
def test_gradients_of_draws_reach_weights_and_context(name):
    flow, c = make(name), randn(5, 2, seed=2).requires_grad_()
    (x,) = flow.rsample(5, rng(3), context=c).square().sum(-1)[:1]
    (slope,) = torch.autograd.grad(x, [c], retain_graph=True)
    assert slope[0].abs().min() > 0 and (slope[1:] == 0).all()
    x.backward()
    assert any(
        weight.grad.abs().max() > 0 for weight in flow.parameters() if weight.grad is not None
    )


@every
def test_single_precision(name):
    x, c = randn(8, 2, seed=1), randn(8, 2, seed=2)
    exact, flow = make(name).log_prob(x, c), make(name).float()
    found = flow.log_prob(x.float(), c.float())
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-3
    assert flow.sample(3, context=c[0].float()).dtype == torch.float32


@every
def test_functional_weights(name):
    """Weights from outside, many at once: the flow is a function of them and of the context."""
    flow, x, c = make(name), randn(4, 2, seed=1), randn(4, 2, seed=2)

    class LogProb(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, x, c):
            return self.flow.log_prob(x, c)

    model = LogProb()
    weights = {k: torch.stack([v, 0.5 * v]) for k, v in model.named_parameters()}
    both = torch.func.vmap(lambda w: torch.func.functional_call(model, w, (x, c)))(weights)
    assert (both[0] - flow.log_prob(x, c)).abs().max() < 1e-8
    with torch.no_grad():
        for weight in flow.parameters():
            weight.mul_(0.5)
    assert (both[1] - flow.log_prob(x, c)).abs().max() < 1e-8


WRONG = {
    "missing": (None, ValueError, "context must have 2 entries"),
    "too wide": (torch.zeros(5, 3, **F64), ValueError, "context must end in the axes"),
    "too narrow": (torch.zeros(5, 1, **F64), ValueError, "context must end in the axes"),
    "a number": (torch.zeros((), **F64), ValueError, "context must end in the axes"),
    "other points": (torch.zeros(4, 2, **F64), ValueError, "context must be one for all or one"),
    "more axes": (torch.zeros(1, 5, 2, **F64), ValueError, "context must be one for all or one"),
    "nan": (torch.tensor([0.0, math.nan], **F64), ValueError, "context must be finite"),
    "infinite": (torch.tensor([0.0, math.inf], **F64), ValueError, "context must be finite"),
    "integers": (torch.zeros(5, 2, dtype=torch.long), TypeError, "context must hold"),
    "single": (torch.zeros(5, 2), TypeError, "context must be torch.float64"),
    "a list": ([[0.0, 0.0]], TypeError, "context must be a tensor"),
}


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("wrong", WRONG)
@every
def test_a_wrong_context_is_named(name, wrong):
    flow, (context, kind, message) = make(name), WRONG[wrong]
    for call in (
        lambda: flow.log_prob(torch.zeros(5, 2, **F64), context),
        lambda: flow.sample(5, context=context),
        lambda: flow.rsample(5, context=context),
        lambda: flow.rsample_and_log_prob(5, context=context),
    ):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.usefixtures("as_at_the_users")
def test_a_context_for_a_flow_that_takes_none_is_refused():
    plain, c = RealNVP(2, 2, [4]), torch.zeros(3)
    assert plain.context == 0 and make("maf").context == 2
    for call in (
        lambda: plain.log_prob(torch.zeros(5, 2), c),
        lambda: plain.sample(5, context=c),
        lambda: data_init(plain, torch.randn(5, 2), c),
        lambda: penalized_nll(plain, torch.zeros(5, 2), {}, c),
        lambda: plain.transforms[0](torch.zeros(5, 2), c),
        lambda: CNF(lambda t, x: x)(torch.zeros(5, 2), context=c),
    ):
        with pytest.raises(ValueError, match="context must be None"):
            call()
    with pytest.raises(TypeError, match="generator must be"):
        plain.sample(5, c)
    single = make("realnvp").transforms[0]
    with pytest.raises(ValueError, match="context must have 2 entries"):
        single(torch.zeros(5, 2, **F64))


def test_a_nan_context_stays_in_its_row_where_nobody_looks():
    """Under vmap, as on a device, the numbers are not looked at, and nothing hides the NaN."""
    for name in ("realnvp", "nsf", "maf"):
        flow, c = make(name), randn(3, 2, seed=2)
        c[1, 0] = math.nan
        for x in (randn(3, 2, seed=1), 100 * torch.ones(3, 2, **F64)):
            found = torch.func.vmap(flow.log_prob)(x, c)
            assert found.isnan().tolist() == [False, True, False], name


def test_initialization_from_data_with_contexts():
    flow, x, c = FLOWS["realnvp"](2), 3 + 2 * randn(500, 2, seed=1), randn(500, 2, seed=2)
    data_init(flow, x, c)
    z = x
    for transform in reversed(flow.transforms):
        z = transform.pull(z, **({"context": c} if transform.context else {}))
    assert z.mean(0).abs().max() < 0.5 and (z.std(0) - 1).abs().max() < 0.5


def test_penalties_with_contexts():
    flow = cnf(ContextField, 2, regularize=("kinetic",))
    x, c = randn(5, 2, seed=1), randn(5, 2, seed=2)
    loss, parts = penalized_nll(flow, x, {"kinetic": 0.1}, c)
    assert (parts["nll"] + flow.log_prob(x, c).mean()).abs() < 1e-8
    assert (loss - parts["nll"] - 0.1 * parts["kinetic"]).abs() < 1e-12
    other = penalized_nll(flow, x, {"kinetic": 0.1}, c.flip(0))[1]
    assert (other["kinetic"] - parts["kinetic"]).abs() > 1e-6


# --- fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [ContextField, HyperField])
@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu"])
def test_products_of_a_field_given_its_context(field, activation):
    net = field(3, 2, [8, 8], activation=activation, generator=rng(), **F64)
    x, c, v, t = randn(5, 3, seed=1), randn(5, 2, seed=2), randn(2, 5, 3, seed=3), torch.tensor(0.3)
    for context in (c, c[0]):
        given = net.given(context)
        assert isinstance(given, HasTangents)
        value, columns = value_and_products(given, t, x)
        assert (value - net(t, x, context)).abs().max() < 1e-12
        _, products = value_and_products(given, t, x, v)
        for i in range(5):
            own = context if context.ndim == 1 else context[i]
            J = torch.autograd.functional.jacobian(lambda y, c=own: net(t, y[None], c)[0], x[i])
            assert (columns[:, i] - J.mT).abs().max() < 1e-12
            assert (products[:, i] - v[:, i] @ J.mT).abs().max() < 1e-12


def test_weights_of_a_hypernetwork_are_those_of_a_plain_field():
    net = HyperField(3, 2, [8], generator=rng(), **F64)
    x, c, t = randn(5, 3, seed=1), randn(2, seed=2), torch.tensor(0.3, **F64)
    change = net.hyper(c)
    parts = change.split([w.numel() for w in net.main.parameters()])
    weights = {
        name: w + d.view(w.shape)
        for (name, w), d in zip(net.main.named_parameters(), parts, strict=True)
    }
    plain = torch.func.functional_call(net.main, weights, (t, x))
    assert (net(t, x, c) - plain).abs().max() < 1e-12
    assert (net(t, x, c) - net.main(t, x)).abs().max() > 1e-3


@pytest.mark.parametrize("field", [ContextField, HyperField])
@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_gradients_through_the_solve_reach_the_context(field, gradient):
    x, c = randn(4, 2, seed=1), randn(4, 2, seed=2).requires_grad_()
    slopes = []
    for how in ("direct", gradient):
        flow = shaken(
            cnf(field, 2, gradient=how, method="dopri5", options={}, rtol=1e-9, atol=1e-9)
        )
        leaves = [c, *flow.parameters()]
        slopes.append(torch.autograd.grad(flow.log_prob(x, c).sum(), leaves))
    for direct, other in zip(*slopes, strict=True):
        assert (direct - other).abs().max() < 1e-5 * direct.abs().max()


def test_a_field_of_ones_own():
    """A function with a context, whose flow is known: x(1) = e^c z."""
    flow = Flow(StandardNormal(2, **F64), [CNF(lambda t, x, c: c * x, context=1, **GRID)])
    x, c = randn(5, 2, seed=1), randn(5, 1, seed=2)
    exact = StandardNormal(2).log_prob(x * (-c).exp()) - 2 * c[:, 0]
    assert (flow.log_prob(x, c) - exact).abs().max() < 1e-8
    estimated = Flow(
        StandardNormal(2, **F64), [CNF(lambda t, x, c: c * x, "hutchinson", context=1, **GRID)]
    )
    assert (estimated.log_prob(x, c) - exact).abs().max() < 1e-8  # a diagonal Jacobian


# --- splines -----------------------------------------------------------------------------------


def knots(parameters, bound=5.0):
    """Knots and slopes of one spline by the definition, in a loop."""
    bins = (len(parameters) + 1) // 3
    w, h, d = parameters.split([bins, bins, bins - 1])
    x, y = [-bound], [-bound]
    for values, ends in ((w, x), (h, y)):
        for share in values.exp() / values.exp().sum():
            ends.append(ends[-1] + 2 * bound * (0.001 + (1 - 0.001 * bins) * float(share)))
    inner = [0.001 + math.log1p(math.exp(float(v)) * math.expm1(0.999)) for v in d]
    return x, y, [1.0, *inner, 1.0]


def slowly(x, parameters, bound=5.0):
    """A spline by the definition, one point."""
    if abs(x) > bound:
        return x
    xs, ys, ds = knots(parameters, bound)
    j = max(i for i in range(len(xs) - 1) if xs[i] <= x)
    w, h = xs[j + 1] - xs[j], ys[j + 1] - ys[j]
    u, s = (x - xs[j]) / w, h / w
    top = h * (s * u * u + ds[j] * u * (1 - u))
    return ys[j] + top / (s + (ds[j] + ds[j + 1] - 2 * s) * u * (1 - u))


@pytest.mark.claim("thm-conditional-spline")
def test_spline_is_that_of_the_definition(measured):
    parameters = randn(14)
    x = torch.linspace(-6, 6, 301, **F64)
    y, _ = rational_quadratic(x, parameters.expand(301, 14))
    slow = torch.tensor([slowly(float(v), parameters) for v in x], **F64)
    assert measured((y - slow).abs().max(), "spline") < 1e-12


@pytest.mark.claim("thm-conditional-spline")
@pytest.mark.parametrize("bins", [1, 2, 8, 30])
def test_spline_inverse_undoes(bins, measured):
    x = 7 * (2 * torch.rand(4000, generator=rng(1), **F64) - 1)
    parameters = randn(4000, 3 * bins - 1)
    y, slope = rational_quadratic(x, parameters)
    back, back_slope = rational_quadratic(y, parameters, inverse=True)
    error = (back - x).abs()
    # where the map is flat, x is known from y less exactly by the factor 1 / slope
    assert measured(error[slope.exp() > 1e-2].max(), "round trip") < 1e-12
    assert measured((error * slope.exp().clamp(max=1)).max(), "round trip in y") < 1e-13
    assert measured((slope + back_slope).abs().max(), "slopes") < 1e-9


@pytest.mark.claim("thm-conditional-spline")
def test_spline_inverse_at_extreme_parameters(measured):
    """No digits are lost by cancellation: the value found is mapped to y again."""
    x = 5 * (2 * torch.rand(20000, generator=rng(1), **F64) - 1)
    parameters = 4 * randn(20000, 23)
    y, slope = rational_quadratic(x, parameters)
    back, _ = rational_quadratic(y, parameters, inverse=True)
    assert slope.min() < -8 and slope.max() > 4
    again, _ = rational_quadratic(back, parameters)
    assert measured((again - y).abs().max(), "value of the inverse") < 1e-11


@pytest.mark.claim("thm-conditional-spline")
def test_spline_slope_is_the_derivative(measured):
    x = (5.5 * (2 * torch.rand(4000, generator=rng(1), **F64) - 1)).requires_grad_()
    parameters = randn(4000, 23)
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, parameters, inverse=inverse)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert measured((slope.log() - log_slope).abs().max(), "log slope") < 1e-10
        assert slope.min() > 0


@pytest.mark.claim("thm-conditional-spline")
def test_spline_with_its_slopes_swapped_is_found_out(monkeypatch):
    """The package's own function, with the two slopes of each bin in each other's place."""
    x = 5 * (2 * torch.rand(400, generator=rng(1), **F64) - 1)
    parameters, cat = randn(400, 23), torch.cat
    right, _ = rational_quadratic(x, parameters)
    monkeypatch.setattr(torch, "cat", lambda parts, dim: cat(parts[::-1], dim))
    wrong, _ = rational_quadratic(x, parameters)
    slow = [slowly(float(v), p) for v, p in zip(x, parameters, strict=True)]
    slow = torch.tensor(slow, **F64)
    assert (right - slow).abs().max() < 1e-12 and (wrong - slow).abs().max() > 1e-2


@pytest.mark.claim("thm-conditional-spline")
def test_spline_beyond_the_bound_is_the_identity_and_joins_smoothly(measured):
    x = torch.tensor([-1e6, -7.0, -5.0, 5.0, 5.000001, 7.0, 1e6], **F64)
    parameters = randn(len(x), 23)
    y, log_slope = rational_quadratic(x, parameters)
    assert measured((y - x).abs().max(), "identity") < 1e-12
    assert measured(log_slope.abs().max(), "slope of one") < 1e-12
    for end in (-5.0, 5.0):
        near = torch.tensor([end * (1 - 1e-9), end * (1 + 1e-9)], **F64)
        value, slope = rational_quadratic(near, parameters[:1].expand(2, 23))
        assert (value - near).abs().max() < 1e-8 and slope.abs().max() < 1e-6


@pytest.mark.claim("thm-conditional-spline")
def test_spline_is_smooth_at_its_knots():
    parameters = randn(23)
    xs, ys, ds = (torch.tensor(part, **F64) for part in knots(parameters))
    for side in (-1e-9, 0.0, 1e-9):
        y, log_slope = rational_quadratic(xs + side, parameters.expand(9, 23))
        assert (y - ys).abs().max() < 1e-7
        assert (log_slope - ds.log()).abs().max() < 1e-5


@pytest.mark.claim("thm-conditional-spline")
def test_spline_increases():
    x = torch.linspace(-6, 6, 20001, **F64)
    for seed in range(5):
        for inverse in (False, True):
            y, _ = rational_quadratic(
                x, 2 * randn(23, seed=seed).expand(20001, 23), inverse=inverse
            )
            assert (y.diff() > 0).all()


def test_spline_of_zeros_is_the_identity():
    x = torch.linspace(-6, 6, 101, **F64)
    y, log_slope = rational_quadratic(x, torch.zeros(101, 23, **F64))
    assert (y - x).abs().max() < 1e-12 and log_slope.abs().max() < 1e-12


@pytest.mark.claim("thm-conditional-spline")
def test_a_slope_that_is_not_positive_makes_no_bijection():
    """Without the positive slopes of the definition the curve turns back."""
    s, d0, d1 = 1.0, -2.0, 1.0
    u = torch.linspace(0, 1, 1001, **F64)
    y = (s * u * u + d0 * u * (1 - u)) / (s + (d0 + d1 - 2 * s) * u * (1 - u))
    assert y.diff().min() < 0


def test_gradients_of_splines_in_both_directions():
    """Also at and beyond the bound, where the parameters have no influence."""
    x = torch.tensor([-5.5, -5.0, -1.0, 0.3, 4.9, 5.0, 6.0], **F64, requires_grad=True)
    parameters = randn(7, 11).requires_grad_()
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, parameters, inverse=inverse)
        for g in torch.autograd.grad((y + log_slope).sum(), [x, parameters]):
            assert g.isfinite().all()
    inside = torch.tensor([-3.0, 0.3, 4.0], **F64, requires_grad=True)
    p = randn(3, 11).requires_grad_()
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, p, inverse=inverse: rational_quadratic(x, p, inverse=inverse), (inside, p)
        )


def test_single_precision_spline():
    x, parameters = torch.linspace(-6, 6, 2001, **F64), randn(2001, 23)
    for inverse in (False, True):
        exact, exact_slope = rational_quadratic(x, parameters, inverse=inverse)
        y, slope = rational_quadratic(x.float(), parameters.float(), inverse=inverse)
        assert y.dtype == slope.dtype == torch.float32
        assert (y - exact).abs().max() < 1e-4 and (slope - exact_slope).abs().max() < 1e-2


# --- importance weights ------------------------------------------------------------------------


def test_rsample_is_sample_with_a_graph():
    """The protocol that all densities share: log_prob, sample, rsample, rsample_and_log_prob."""
    for q in (StandardNormal(2), Gaussian(torch.ones(2), torch.eye(2)), RealNVP(2, 2, [4])):
        assert isinstance(q, Density)
        x = q.rsample(5, rng(1))
        assert torch.equal(q.sample(5, rng(1)), x) and not q.sample(5).requires_grad
        assert torch.equal(q.rsample_and_log_prob(5, rng(1))[0].detach(), x.detach())
        assert torch.equal(q.rsample(5, generator=rng(1)), x)
    flow = RealNVP(2, 2, [4])
    assert flow.rsample(5).requires_grad
    on_gaussian = Flow(Gaussian(torch.ones(2), torch.eye(2)), flow.transforms)
    assert Flow(on_gaussian, []).sample(3).shape == (3, 2)


@pytest.mark.claim("prop-conditional-weights")
def test_effective_sample_size_of_known_weights():
    n = 8
    assert abs(evidence(torch.zeros(n, **F64)).ess - n) < 1e-12
    one = torch.full((n,), -math.inf, **F64)
    one[3] = 2.0
    assert abs(evidence(one).ess - 1) < 1e-12
    assert abs(evidence(one).log_z - (2.0 - math.log(n))) < 1e-12
    w = torch.tensor([1.0, 2.0, 3.0], **F64)
    found = evidence(w.log()[:, None].expand(3, 2))
    assert found.ess.shape == (2,)
    assert (found.ess - 36 / 14).abs().max() < 1e-12
    assert (found.se - w.std() / w.mean() / math.sqrt(3)).abs().max() < 1e-12
    shifted = evidence(w.log() - 1e4)  # weights that underflow
    assert abs(shifted.log_z + 1e4 - math.log(2)) < 1e-9 and abs(shifted.ess - 36 / 14) < 1e-9


@pytest.mark.claim("prop-conditional-weights")
def test_weights_of_gaussians_have_their_known_efficiency(measured):
    """p = N(m, 1), q = N(0, s²): E w² by the formula, against 200,000 draws; 4 standard errors."""
    m, s, n = 0.5, 1.2, 200_000
    q = Gaussian(torch.zeros(1, **F64), torch.full((1, 1), s * s, **F64))
    found = importance(
        lambda x: torch.distributions.Normal(m, 1.0).log_prob(x[:, 0]) + 3.0, q, n, generator=rng(0)
    )
    assert measured((found.evidence.log_z - 3.0).abs() / found.evidence.se, "in se") < 4
    a = 2 - 1 / s**2  # integral of p²/q
    second = s * math.exp(m * m * (2 / a - 1)) / math.sqrt(a)
    assert measured((found.evidence.ess / n * second - 1).abs(), "efficiency") < 0.02
    assert (found.mean(found.x) - m).abs().max() < 0.02
    assert found.mean(found.x.float()).dtype == torch.float32
    assert abs(found.mean(found.x[:, 0].square()) - (1 + m * m)) < 0.03
    turned = importance(
        lambda x: -torch.distributions.Normal(m, 1.0).log_prob(x[:, 0]), q, n, generator=rng(0)
    )
    assert abs(turned.mean(turned.x) - m).max() > 0.05  # a wrong sign is found


@pytest.mark.claim("prop-conditional-weights")
def test_spread_of_the_evidence_is_its_standard_error(measured):
    """1,000 estimates from 100 draws each: their standard deviation, and coverage of two se."""
    q = StandardNormal(1, **F64)
    x, log_q = q.rsample_and_log_prob(100_000, rng(1))
    log_w = (norm.logpdf(x[:, 0].numpy(), 0.3, 0.9) - log_q.numpy()).reshape(100, 1000)
    found = evidence(torch.from_numpy(log_w))
    ratio = found.log_z.std() / found.se.square().mean().sqrt()
    assert measured((ratio - 1).abs(), "spread over se") < 0.1
    assert 0.93 < (found.log_z.abs() < 2 * found.se).double().mean() < 0.97


@pytest.mark.claim("prop-conditional-weights")
def test_estimates_of_the_logarithm_are_low_and_efficiency_is_bounded_by_the_divergence():
    """Jensen twice: E log Z < log Z by about chi²/2n, and ESS / n < exp(-KL)."""
    m, s = 0.8, 1.0
    q = Gaussian(torch.zeros(1, **F64), torch.full((1, 1), s * s, **F64))
    x, log_q = q.rsample_and_log_prob(400_000, rng(2))
    log_w = (torch.distributions.Normal(m, 1.0).log_prob(x[:, 0]) - log_q).view(20, -1)
    found = evidence(log_w)
    chi2 = math.exp(m * m) - 1
    low, error = found.log_z.mean(), found.log_z.std() / math.sqrt(20_000)
    assert abs(found.log_z.exp().mean() - 1) < 4 * found.log_z.exp().std() / math.sqrt(20_000)
    assert low < -4 * error and -2 < low / (chi2 / 40) < -0.5
    whole = evidence(log_w.flatten())
    assert 0.8 * math.exp(-m * m) < whole.ess / 400_000 < math.exp(-m * m / 2)


@pytest.mark.claim("prop-conditional-weights")
def test_weights_without_their_hypotheses():
    """q narrower than p/sqrt(2): chi² infinite, ESS / n sinks. q = 0 on a half: E w is Z / 2."""
    shares = []
    for n in (100, 10_000, 1_000_000):
        q = Gaussian(torch.zeros(1, **F64), torch.full((1, 1), 0.25, **F64))
        found = importance(lambda x: -0.5 * x[:, 0].square(), q, n, generator=rng(3))
        shares.append(float(found.evidence.ess / n))
    assert shares[2] < 0.5 * shares[0]

    class Half(StandardNormal):
        def rsample_and_log_prob(self, n, generator=None):
            x = self.sample(n, generator).abs()
            return x, self.log_prob(x) + math.log(2)

    found = importance(lambda x: -0.5 * x[:, 0].square(), Half(1, **F64), 1000, generator=rng(3))
    assert abs(found.evidence.log_z - 0.5 * math.log(math.tau) + math.log(2)) < 1e-9
    assert found.evidence.ess > 999.9  # and nothing in the weights tells


# --- the conditional likelihood ------------------------------------------------------------------


def nodes(n=60):
    """Gauss-Hermite rule for a standard normal number."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


@pytest.mark.claim("prop-conditional-likelihood")
def test_loss_is_entropy_plus_mean_divergence(measured):
    """c ~ N(0, 1), x given c ~ N(sin c, (0.5 + c²/4)²) in the plane of two such numbers.

    The loss of a flow by one rule over (c, x1, x2); entropy in closed form; the divergence given
    each c by a sum over a grid of the plane.
    """
    flow = NICE(2, 2, [8], "tanh", rng(), context=1, **F64)
    with torch.no_grad():
        flow.transforms[-1].log_scale.copy_(torch.tensor([-0.3, 0.2]))
    z, w = nodes(40)
    c, wc = nodes(20)
    center, sd = torch.sin(c), 0.5 + c**2 / 4
    pairs = torch.cartesian_prod(z, z)
    weight = (w[:, None] * w).flatten()
    x = center[:, None, None] + sd[:, None, None] * pairs
    log_q = flow.log_prob(x, c[:, None, None])
    loss = -(wc @ (log_q @ weight))
    entropy = wc @ (2 * (0.5 * math.log(math.tau * math.e) + sd.log()))
    divergence = torch.zeros((), **F64)
    for i in range(20):
        line = center[i] + sd[i] * torch.linspace(-8, 8, 161, **F64)
        plane = torch.cartesian_prod(line, line)
        log_p = torch.distributions.Normal(center[i], sd[i]).log_prob(plane).sum(-1)
        ratio = log_p - flow.log_prob(plane, c[i : i + 1])
        divergence += wc[i] * (log_p.exp() * ratio).sum() * (line[1] - line[0]) ** 2
    assert divergence > 0.1
    assert measured((loss - entropy - divergence).detach().abs(), "loss") < 1e-6


@pytest.mark.claim("prop-conditional-likelihood")
def test_who_ignores_the_context_pays_the_mutual_information(measured):
    """Jointly normal x in the plane and c: the marginal law as a flow, and others."""
    A = torch.tensor([[0.8], [-0.5]], **F64)  # x = A c + noise of covariance S
    S = torch.tensor([[0.5, 0.2], [0.2, 0.3]], **F64)
    marginal = S + A @ A.mT
    information = 0.5 * (torch.logdet(marginal) - torch.logdet(S))
    floor = Gaussian(torch.zeros(2, **F64), S).entropy()

    def loss(mean, covariance):
        """E of -log q(x) of the package's normal law, by a rule for the true x."""
        z, w = nodes(20)
        x = torch.cartesian_prod(z, z) @ torch.linalg.cholesky(marginal).mT
        return -(Gaussian(mean, covariance).log_prob(x) @ (w[:, None] * w).flatten())

    best = loss(torch.zeros(2, **F64), marginal)
    assert measured((best - floor - information).abs(), "price of ignoring") < 1e-9
    for mean, covariance in ((0.3, marginal), (0.0, S), (0.0, 2 * marginal)):
        assert loss(torch.full((2,), mean, **F64), covariance) > best + 1e-3
    assert information > 0.5


def test_inverse_of_a_conditional_transform_takes_the_context():
    layer = AffineCoupling(half_mask(2), MLP([3, 8, 2], generator=rng(), **F64), context=2)
    z, c, turned = randn(5, 2), randn(5, 2, seed=1), Inverse(layer)
    assert turned.context == 2
    assert (turned.inverse(z, context=c)[0] - layer(z, c)[0]).abs().max() == 0
    assert (turned.pull(z, context=c) - layer.push(z, context=c)).abs().max() == 0
    assert (turned(z, context=c)[1] - layer.inverse(z, c)[1]).abs().max() == 0
