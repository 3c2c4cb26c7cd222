"""Claims of the chapter *Continuous normalizing flows*, and the flow as it is used."""

import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.utils.flop_counter import FlopCounterMode

from nodes_tutorial import nets
from nodes_tutorial.flows import (
    CNF,
    Flow,
    Gaussian,
    Inverse,
    PlanarField,
    PlanarTransform,
    StandardNormal,
    penalized_nll,
    trace,
)
from nodes_tutorial.linalg import draw_probes
from nodes_tutorial.ode import odeint

F64 = torch.float64
TIGHT = {"method": "dopri8", "rtol": 1e-11, "atol": 1e-11}
GRID = {"method": "dopri8", "options": {"step_size": 1 / 8}}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def curved(dim=2, seed=0, scale=2.0):
    field = nets.TimeMLP(dim, [12, 12], generator=rng(seed), dtype=F64)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(scale)
    return field


def points(n, dim=2, seed=1):
    return torch.randn(n, dim, generator=rng(seed), dtype=F64)


def gap(a, b):
    return (a - b).detach().abs().max()


def derivative(fun, t, e=1e-3):
    """A central difference of fourth order."""
    return sum(w * fun(t + s * e) for w, s in ((1, -2), (-8, -1), (8, 1), (-1, 2))) / (12 * e)


def flow_of_the_line():
    """A flow in one dimension, and a grid that holds all of its mass with the size of a cell."""
    x = torch.linspace(-12, 12, 4001, dtype=F64)[:, None]
    flow = Flow(StandardNormal(1, dtype=F64), [CNF(curved(1, 5, 3.0), **TIGHT)])
    return flow, x, (x[1] - x[0]).item()


MATRIX = torch.tensor([[0.4, -1.5], [0.9, -0.7]], dtype=F64)
SHIFT = torch.tensor([0.3, -0.2], dtype=F64)


def linear(t, z):
    return z @ MATRIX.T + SHIFT


def linear_end(t1=1.0):
    """Mean and covariance of the linear flow of a standard normal, by the augmented exponential."""
    block = torch.zeros(3, 3, dtype=F64)
    block[:2, :2], block[:2, 2] = MATRIX, SHIFT
    end = torch.matrix_exp(t1 * block)
    return end[:2, 2], end[:2, :2] @ end[:2, :2].T


# -- statements -----------------------------------------------------------------------------------


@pytest.mark.claim("prop-continuous-diffeomorphism")
def test_flow_map_is_a_diffeomorphism(measured):
    field, z = curved(3), points(30, 3)
    cnf = CNF(field, **TIGHT)
    x, _ladj = cnf(z)
    back, _ = cnf.inverse(x)
    assert measured(gap(back, z), "there and back") < 1e-9
    matrices = torch.stack([jacobian(cnf.push, row) for row in z[:6]])
    assert (matrices.det() > 0).all()
    inverses = torch.stack([jacobian(cnf.pull, row) for row in x[:6].detach()])
    assert measured(gap(inverses @ matrices, torch.eye(3, dtype=F64)), "inverse matrices") < 1e-8
    weights = [w for w in field.parameters() if w.dim() == 2]
    K = math.prod(torch.linalg.matrix_norm(w[:, :12], 2).item() for w in weights)
    stretch = torch.pdist(x.detach()) / torch.pdist(z)
    assert math.exp(-K) < stretch.min() and stretch.max() < math.exp(K)
    # wrong: the field with the other sign, but with the clock still running forwards
    wrong = CNF(lambda t, y: -field(t, y), **TIGHT).push(x)
    assert gap(wrong, z) > 1e-2


@pytest.mark.claim("prop-continuous-diffeomorphism")
@pytest.mark.parametrize("t1", [0.5, 1.0])
def test_bounds_are_attained_by_a_saddle(t1, measured):
    K, z = 1.3, points(40, 2)
    field = torch.tensor([K, -K], dtype=F64)
    ends = torch.cat([z, z + torch.tensor([1.0, 0.0]), z + torch.tensor([0.0, 1.0])])
    x = CNF(lambda t, y: field * y, t1=t1, **TIGHT).push(ends)
    start, along, across = x.split(40)
    stretch = (along - start).norm(dim=-1)
    assert measured(gap(stretch, torch.full((40,), math.exp(K * t1), dtype=F64)), "upper") < 1e-9
    shrink = (across - start).norm(dim=-1)
    assert measured(gap(shrink, torch.full((40,), math.exp(-K * t1), dtype=F64)), "lower") < 1e-9
    ratios = torch.pdist(x) / torch.pdist(ends)
    assert ratios.max() < math.exp(K * t1) + 1e-9
    assert ratios.min() > math.exp(-K * t1) - 1e-9
    assert stretch.max() > math.exp(K * t1 / 2)  # half the constant is no bound


@pytest.mark.claim("prop-continuous-diffeomorphism")
def test_field_need_not_be_injective_but_lipschitz(measured):
    """The field 0 gives the identity; -2 sqrt|z| sign z, not Lipschitz, merges paths."""
    z = points(5)
    still, ladj = CNF(lambda t, y: 0 * y)(z)
    assert torch.equal(still, z) and torch.equal(ladj, torch.zeros(5, dtype=F64))
    for start in (0.01, 0.04, 0.09):
        t = torch.tensor([0.0, 0.9 * math.sqrt(start)], dtype=F64)
        y = odeint(lambda t, y: -2 * y.abs().sqrt(), torch.tensor([start], dtype=F64), t, **TIGHT)
        assert measured(abs(y[-1].item() - 0.01 * start), "falls to 0 in finite time") < 1e-9


@pytest.mark.claim("lem-continuous-jacobi")
def test_determinant_near_the_identity(measured):
    B = torch.randn(5, 5, generator=rng(2), dtype=F64)
    second = (B.trace() ** 2 - (B @ B).trace()) / 2
    for e in (1e-3, 1e-4):
        det = torch.linalg.det(torch.eye(5, dtype=F64) + e * B)
        assert abs((det - 1 - e * B.trace()) / e**2 - second) < 50 * e
    A = torch.randn(5, 5, generator=rng(3), dtype=F64)
    complex_step = torch.linalg.det(A + 1e-20j * B).imag / 1e-20
    formula = torch.linalg.det(A) * torch.linalg.solve(A, B).trace()
    assert measured(abs(complex_step - formula), "Jacobi's formula") < 1e-11
    assert abs(complex_step - B.trace()) > 0.1  # without A


@pytest.mark.claim("thm-continuous-change")
def test_density_along_a_path(measured):
    """Solved with the trace, against the determinant of the flow map at every time."""
    field, base, z = curved(), StandardNormal(2, dtype=F64), points(4)
    for t1 in (0.3, 0.7, 1.0):
        cnf = CNF(field, t1=t1, **TIGHT)
        x, ladj = cnf(z)
        exact = torch.stack([jacobian(cnf.push, row).det().log() for row in z])
        assert measured(gap(ladj, exact), "trace integral minus log-determinant") < 1e-8
        density = Flow(base, [cnf]).log_prob(x)
        assert measured(gap(density, base.log_prob(z) - exact), "log-density") < 1e-8
        assert gap(density, base.log_prob(z) + exact) > 1e-2  # the flipped sign
    e, t = 1e-4, 0.6
    ends = [CNF(field, t1=t + s * e, **TIGHT)(z) for s in (-1, 1)]
    logs = [base.log_prob(z) - ladj for _, ladj in ends]
    middle = CNF(field, t1=t, **TIGHT).push(z)
    slope = (logs[1] - logs[0]) / (2 * e)
    divergence = trace.exact(field)(torch.tensor(t, dtype=F64), middle)[1]
    # a central difference of solves at 1e-11: error about e^2 + 1e-11 / e
    assert measured(gap(slope, -divergence), "slope along the path") < 1e-6


@pytest.mark.claim("thm-continuous-change", "cor-continuous-likelihood")
def test_linear_field_in_closed_form(measured):
    exact = Gaussian(*linear_end())
    flow = Flow(StandardNormal(2, dtype=F64), [CNF(linear, **TIGHT)])
    x = points(20)
    assert measured(gap(flow.log_prob(x), exact.log_prob(x)), "linear field") < 1e-9
    drawn, log_prob = flow.rsample_and_log_prob(20, rng(4))
    assert measured(gap(log_prob, exact.log_prob(drawn)), "forwards") < 1e-9
    z, ladj = flow.transforms[0].inverse(x)
    assert gap(ladj, torch.full((20,), -MATRIX.trace().item(), dtype=F64)) < 1e-10
    wrong = flow.base.log_prob(z) - ladj
    assert gap(wrong, exact.log_prob(x)) > 0.1


@pytest.mark.claim("prop-continuous-liouville")
def test_liouville_at_fixed_places(measured):
    field, base, x, t = curved(scale=1.5), StandardNormal(2, dtype=F64), points(8), 0.6

    def at(t):
        return Flow(base, [CNF(field, t1=t, **TIGHT)]).log_prob

    with torch.no_grad():
        rate = derivative(lambda t: at(t)(x), t)
    y = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(at(t)(y).sum(), y)
    f, divergence = trace.exact(field)(torch.tensor(t, dtype=F64), x)
    equation = -divergence - (f * score).sum(-1)
    assert measured(gap(rate, equation), "Liouville's equation") < 1e-6
    assert gap(rate, -divergence) > 0.05  # the derivative along the path is not the partial one


@pytest.mark.claim("prop-continuous-liouville")
def test_liouville_against_a_test_function(measured):
    """Both sides of the weak form by quadrature over the noise; psi smooth and fast to vanish."""
    field, t = curved(scale=1.5), 0.5
    side = torch.linspace(-7, 7, 141, dtype=F64)
    z = torch.cartesian_prod(side, side)
    mass = StandardNormal(2, dtype=F64).log_prob(z).exp() * (side[1] - side[0]) ** 2

    def psi(y):
        return torch.exp(-y.square().sum(-1)) * torch.sin(y[..., 0] + 2 * y[..., 1])

    with torch.no_grad():

        def path(t):
            return CNF(field, t1=t, rtol=1e-10, atol=1e-10).push(z)

        left = derivative(lambda t: (psi(path(t)) * mass).sum(), t)
        x = path(t)
        slope = torch.func.vmap(torch.func.grad(psi))(x)
        right = ((slope * field(torch.tensor(t, dtype=F64), x)).sum(-1) * mass).sum()
    assert measured(abs(left - right), "weak form") < 1e-7
    assert abs(left) > 1e-3 and abs(left + right) > 1e-3


@pytest.mark.claim("cor-continuous-likelihood")
def test_the_two_directions_agree(measured):
    field, z = curved(3), points(10, 3)
    cnf = CNF(field, **TIGHT)
    x, there = cnf(z)
    _, back = cnf.inverse(x)
    assert measured(gap(there, -back), "log-determinants") < 1e-9
    flow = Flow(StandardNormal(3, dtype=F64), [cnf])
    assert measured(gap(flow.log_prob(x), flow.base.log_prob(z) - there), "log-density") < 1e-9
    swapped = Flow(StandardNormal(3, dtype=F64), [Inverse(cnf)])
    assert gap(swapped.log_prob(x), flow.log_prob(x)) > 1e-2
    assert there.abs().max() > 0.05


@pytest.mark.claim("cor-continuous-likelihood")
def test_mass_is_one(measured):
    flow, x, cell = flow_of_the_line()
    with torch.no_grad():
        mass = flow.log_prob(x).exp().sum() * cell
    assert measured(abs(mass - 1), "mass") < 1e-8
    with torch.no_grad():
        z, ladj = flow.transforms[0].inverse(x)
    assert abs((flow.base.log_prob(z) - ladj).exp().sum() * cell - 1) > 1e-2  # the flipped sign


@pytest.mark.claim("prop-continuous-sign")
def test_flipped_sign_integrates_to_the_second_moment_of_the_determinant(measured):
    flow, x, cell = flow_of_the_line()
    cnf, base = flow.transforms[0], flow.base
    with torch.no_grad():
        z, ladj = cnf.inverse(x)
        flipped = (base.log_prob(z) - ladj).exp().sum() * cell
        none = base.log_prob(z).exp().sum() * cell
        determinant = cnf(x)[1].exp()  # the same grid, now of noise
        weight = base.log_prob(x).exp() * cell
    square, mean = (weight * determinant**2).sum(), (weight * determinant).sum()
    assert measured(abs(flipped - square), "flipped sign") < 1e-7
    assert measured(abs(none - mean), "no trace") < 1e-7
    assert square > mean**2 and abs(square - mean) > 1e-2


@pytest.mark.claim("prop-continuous-sign")
def test_flipped_sign_has_no_floor():
    """Scaling by e^a: the flipped NLL goes to minus infinity, the right one has a minimum."""
    x = 2 * points(200)
    flipped, right = [], []
    for a in (0.0, 1.0, 2.0, 4.0):
        cnf = CNF(lambda t, z, a=a: a * z, rtol=1e-6, atol=1e-6)
        z, ladj = cnf.inverse(x)
        base = StandardNormal(2, dtype=F64).log_prob(z)
        flipped.append(-(base - ladj).mean().item())
        right.append(-(base + ladj).mean().item())
    assert flipped == sorted(flipped, reverse=True) and flipped[-1] < -5
    assert right[1] < right[0] and right[1] < right[2] < right[3]


@pytest.mark.claim("prop-continuous-euler")
def test_euler_layers_converge(measured):
    field, z = curved(3, scale=1.2), points(20, 3)
    end, exact = (part.detach() for part in CNF(field, **TIGHT)(z))
    errors, wrong = [], []
    for L in (20, 40, 80, 160):
        x, total = z, torch.zeros(20, dtype=F64)
        for i in range(L):
            t, h = torch.tensor(i / L, dtype=F64), 1 / L

            def layer(y, t=t, h=h):
                return y + h * field(t, y)

            matrices = torch.func.vmap(torch.func.jacrev(layer))(x)
            step = torch.linalg.slogdet(matrices)
            assert (step.sign > 0).all()
            divergence = trace.exact(field)(t, x)[1]
            K = torch.linalg.matrix_norm(matrices - torch.eye(3, dtype=F64), 2) / h
            assert (K * h <= 0.5).all()
            room = 3 * (h * K) ** 2
            assert ((step.logabsdet - h * divergence).abs() <= room).all()
            total, x = (total + step.logabsdet).detach(), layer(x).detach()
        errors.append(float(gap(x, end) + gap(total, exact)))
        wrong.append(float(gap(total, -exact)))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert measured(abs(slopes[-1] - 1), "slope minus 1") < 0.02
    assert min(wrong) > 0.05


@pytest.mark.claim("prop-continuous-euler")
def test_layer_of_the_planar_field_is_a_planar_transform(measured):
    field, z = PlanarField(2, 1, generator=rng(6), dtype=F64), points(10)
    t, h = torch.tensor(0.4, dtype=F64), 1 / 16
    w, b, u = (part.detach()[0] for part in field.weights_at(t))
    layer = PlanarTransform(2, dtype=F64)
    score = torch.log(torch.expm1(1 + h * w @ u))  # so that the corrected direction is h u
    with torch.no_grad():
        layer.w.copy_(w)
        layer.b.copy_(b)
        layer.u.copy_(h * u + (score - h * w @ u) * w / w.square().sum())
    x, ladj = layer(z)
    euler = z + h * field(t, z)
    matrices = torch.stack([jacobian(lambda y: y + h * field(t, y), row) for row in z])
    assert measured(gap(x, euler), "value") < 1e-13
    assert measured(gap(ladj, matrices.det().log()), "log-determinant") < 1e-13
    assert gap(z + field(t, z), euler) > 1e-2  # without h


@pytest.mark.claim("prop-continuous-cost")
@pytest.mark.parametrize("dim, hidden", [(2, [8]), (5, [7, 11]), (12, [4, 4, 4])])
def test_products_for_one_evaluation(dim, hidden):
    """Counted by the dispatcher, product by product; no tolerance."""
    field, n = nets.TimeMLP(dim, hidden, generator=rng()), 6
    sizes = [dim, *hidden, dim]
    value = 2 * sum(a * b for a, b in itertools.pairwise(sizes))
    x, t = torch.zeros(n, dim), torch.tensor(0.1)
    for call, formula in (
        (trace.exact(field), value + dim * (value - 2 * dim * hidden[0])),
        (trace.hutchinson(field, torch.ones(1, n, dim)), 2 * value),
    ):
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            call(t, x)
        assert flops.get_total_flops() == n * formula
        assert flops.get_total_flops() != n * (1 + dim) * value
    dense = torch.func.jacrev(lambda y: field(t, y))(x[0]).double().detach() + torch.eye(dim)
    value, count = eliminated(dense.tolist())
    assert abs(value - torch.linalg.det(dense)) < 1e-6
    assert abs(count - 2 * dim**3 / 3) <= dim**2


def eliminated(rows):
    """Determinant by elimination without pivots, and the operations that clear the columns."""
    dim, count, value = len(rows), 0, 1.0
    for k in range(dim):
        value *= rows[k][k]
        for below in rows[k + 1 :]:
            factor = below[k] / rows[k][k]
            count += 1
            for j in range(k + 1, dim):
                below[j] -= factor * rows[k][j]
                count += 2
    return value, count


# -- the transform --------------------------------------------------------------------------------


def test_gradient_modes_agree():
    field, x = curved(), points(6)
    found = {}
    for mode in ("direct", "checkpoint", "adjoint"):
        for law in ("exact", "hutchinson"):
            cnf = CNF(field, law, gradient=mode, generator=rng(7), rtol=1e-9, atol=1e-9)
            loss = -Flow(StandardNormal(2, dtype=F64), [cnf]).log_prob(x).mean()
            found[law, mode] = torch.autograd.grad(loss, list(field.parameters()))
            assert cnf.nfe > 20
    for law in ("exact", "hutchinson"):
        for ours, check in zip(found[law, "direct"], found[law, "checkpoint"], strict=True):
            torch.testing.assert_close(ours, check, rtol=1e-10, atol=1e-12)
        for ours, solved in zip(found[law, "direct"], found[law, "adjoint"], strict=True):
            torch.testing.assert_close(ours, solved, rtol=1e-5, atol=1e-7)


def test_probes_are_drawn_once_for_each_call_and_held():
    field, x = curved(4, scale=3.0), points(8, 4)
    one, two = (CNF(field, "hutchinson", generator=rng(8), **TIGHT) for _ in range(2))
    first, again = one.inverse(x)[1], two.inverse(x)[1]
    assert torch.equal(first, again)
    assert gap(one.inverse(x)[1], first) > 1e-3  # the second call draws anew
    probes = draw_probes(1, x, generator=rng(8))
    assert torch.equal(one.inverse(x, probes)[1], first)
    _, there = one(one.pull(x), probes)
    assert gap(there, -first) < 1e-8  # held, so that there and back cancel
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 4)
    probes = every[:, None].expand(16, 8, 4)
    _, mean = one.inverse(x, probes)
    assert gap(mean, CNF(field, **TIGHT).inverse(x)[1]) < 1e-8  # all signs: the exact trace


def test_batch_axes_of_given_probes():
    x = points(6).view(2, 3, 2)
    probes = draw_probes(2, x, generator=rng(9))
    cnf = CNF(curved(), "hutchinson", probes=2, **GRID)
    y, ladj = cnf(x, probes)
    part, its = cnf(x[1], probes[:, 1])
    assert y.shape == x.shape and ladj.shape == (2, 3)
    assert gap(part, y[1]) < 1e-12 and gap(its, ladj[1]) < 1e-12


@pytest.mark.parametrize("law", ["exact", "hutchinson"])
def test_penalties_do_not_change_the_flow(law, measured):
    field, x = curved(), points(8)
    probes = None if law == "exact" else draw_probes(3, x, generator=rng(10))
    plain = CNF(field, law, probes=3)
    rich = CNF(field, law, probes=3, regularize=("jacobian", "kinetic"))
    z, ladj = plain.inverse(x, probes)
    z2, ladj2, penalties = rich.inverse_with_penalties(x, probes)
    assert rich.nfe == plain.nfe
    assert torch.equal(z, z2) and torch.equal(ladj, ladj2)
    with torch.no_grad():
        assert gap(rich.inverse(x, probes)[0], z) < 1e-12
        assert gap(rich.inverse_with_penalties(x, probes)[1], ladj) < 1e-12
    tight = CNF(field, law, probes=3, regularize=("kinetic", "jacobian"), **TIGHT)
    _, _, penalties = tight.inverse_with_penalties(x, probes)
    times = torch.linspace(1, 0, 401, dtype=F64)
    path = tight.path(x, times)
    speed, size = [], []
    for t, here in zip(times, path, strict=True):
        matrices = torch.func.vmap(torch.func.jacrev(lambda y, t=t: field(t, y)))(here)
        speed.append(field(t, here).square().sum(-1))
        if probes is None:
            size.append(matrices.square().sum((-1, -2)))
        else:
            size.append(torch.einsum("bij,kbj->kbi", matrices, probes).square().sum(-1).mean(0))
    weight = torch.full((401,), 1 / 400, dtype=F64)  # Simpson's rule
    weight[1:-1:2] *= 4 / 3
    weight[2:-1:2] *= 2 / 3
    weight[[0, -1]] /= 3
    for name, rates in (("kinetic", speed), ("jacobian", size)):
        exact = torch.einsum("t,tb->b", weight, torch.stack(rates))
        assert measured(gap(penalties[name], exact), name) < 1e-8
        assert (penalties[name] > 0).all()


def test_penalized_loss():
    field, x = curved(), points(8)
    cnf = CNF(field, regularize=("kinetic", "jacobian"), **TIGHT)
    flow = Flow(StandardNormal(2, dtype=F64), [PlanarTransform(2, rng(), dtype=F64), cnf])
    loss, parts = penalized_nll(flow, x, {"kinetic": 0.1, "jacobian": 0.02})
    _, _, penalties = cnf.inverse_with_penalties(x)
    means = {name: value.mean() for name, value in penalties.items()}
    expected = -flow.log_prob(x).mean() + 0.1 * means["kinetic"] + 0.02 * means["jacobian"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts["jacobian"], means["jacobian"])
    plain, _ = penalized_nll(flow, x, {})
    torch.testing.assert_close(plain, -flow.log_prob(x).mean())
    with pytest.raises(ValueError, match="weights"):
        penalized_nll(Flow(flow.base, [CNF(field)]), x, {"kinetic": 1.0})
    with pytest.raises(ValueError, match="without a CNF"):
        penalized_nll(Flow(flow.base, []), x, {"kinetic": 1.0})


def test_paths_and_pushes():
    cnf, z = CNF(curved(), **TIGHT), points(5)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=F64)
    path = cnf.path(z, t)
    assert path.shape == (3, 5, 2) and torch.equal(path[0], z)
    assert gap(path[-1], cnf(z)[0]) < 1e-9 and gap(cnf.push(z), path[-1]) < 1e-9
    assert gap(path[1], CNF(cnf.field, t1=0.25, **TIGHT).push(z)) < 1e-9
    assert gap(cnf.pull(path[-1]), z) < 1e-9
    assert cnf.path(z[0], t).shape == (3, 2)


def test_own_steps_for_each_sample():
    field, x = curved(scale=3.0), points(6)
    cnf = CNF(field, options={"per_sample": True}, regularize=("kinetic",))
    z, ladj, penalties = cnf.inverse_with_penalties(x)
    for i in range(6):
        alone = cnf.inverse_with_penalties(x[i : i + 1])
        assert gap(alone[0], z[i]) < 1e-12 and gap(alone[1], ladj[i]) < 1e-12
        assert gap(alone[2]["kinetic"], penalties["kinetic"][i]) < 1e-12
    exact = CNF(field, **TIGHT).inverse(x)
    assert gap(exact[0], z) < 1e-3 and gap(exact[1], ladj) < 1e-3


def test_log_determinant_is_held_to_the_tolerance():
    """A field that turns no point but spreads them: only the trace has an error to control."""

    def field(t, z):
        return torch.sin(40 * t) * 0.05 * z

    x = points(4)
    exact = 0.05 * 2 * (1 - math.cos(40)) / 40
    for tol in (1e-4, 1e-6, 1e-8):
        _, ladj = CNF(field, rtol=tol, atol=tol)(x)
        assert (ladj - exact).abs().max() < 20 * tol


@pytest.mark.parametrize(
    "options, name",
    [
        ({"trace": "stochastic"}, "trace"),
        ({"noise": "uniform"}, "noise"),
        ({"probes": 0}, "probes"),
        ({"t1": 0.0}, "t1"),
        ({"regularize": "kinetic"}, "regularize"),
        ({"regularize": ("energy",)}, "regularize"),
    ],
)
def test_bad_input_names_the_argument(options, name):
    with pytest.raises(ValueError, match=name):
        CNF(curved(), **options)


def test_bad_probes_and_options():
    x = points(3)
    with pytest.raises(ValueError, match="probes"):
        CNF(curved()).inverse(x, torch.ones(1, 3, 2, dtype=F64))
    with pytest.raises(ValueError, match="method"):
        CNF(curved(), method="rk5").inverse(x)
    t = torch.tensor([0.0, 1.0])
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="controlled"):
            odeint(lambda t, y: y, (x, x), t, options={"controlled": wrong})
    with pytest.raises(ValueError, match="controlled"):
        odeint(lambda t, y: y, x, t, options={"controlled": 1})


# -- formulas as sources print them ---------------------------------------------------------------


def test_kl_of_a_continuous_flow_needs_the_minus_sign(measured):
    """Monte Carlo with all terms against the closed form for a linear flow."""
    cnf = CNF(linear, **TIGHT)
    mean, covariance = linear_end()
    exact = 0.5 * (covariance.trace() + mean @ mean - 2 - covariance.logdet())
    nodes, weights = torch.tensor([-1.0, 1.0], dtype=F64) * math.sqrt(1.0), 0.25
    z = torch.cartesian_prod(nodes, nodes)  # Gauss-Hermite with two nodes: exact for quadratics
    x, ladj = cnf(z)
    base = StandardNormal(2, dtype=F64)
    ours = weights * (base.log_prob(z) - ladj - base.log_prob(x)).sum()
    printed = weights * (base.log_prob(z) + ladj - base.log_prob(x)).sum()
    assert measured(abs(float(ours - exact)), "KL of a linear flow") < 1e-9
    assert abs(float(printed - exact)) > 0.1


def test_two_sign_slips_cancel_in_a_printed_proof():
    """The limit of minus the adjugate is minus the identity; the trace is that of df/dz."""
    field, z = curved(), points(1)[0]
    t, e = torch.tensor(0.2, dtype=F64), 1e-6
    near = jacobian(lambda y: y + e * field(t, y), z)
    adjugate = near.det() * torch.linalg.inv(near)
    assert gap(-adjugate, -torch.eye(2, dtype=F64)) < 1e-4
    slope = (near.det() - 1) / e
    assert abs(slope - jacobian(lambda y: field(t, y), z).trace()) < 1e-4


# -- compiled -------------------------------------------------------------------------------------

CASES = Path(__file__).with_name("compiled_cases.py")


@pytest.mark.parametrize("case", re.findall(r"^def (\w+)\(\):", CASES.read_text(), re.MULTILINE))
def test_compiled(case):
    """In a process of its own: what tests check at run time is not for the compiler."""
    done = subprocess.run([sys.executable, CASES, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
