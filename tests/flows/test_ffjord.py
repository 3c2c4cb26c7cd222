"""Claims of the chapter *Free-form flows* about whole solves.

A batch can hold the same point many times, each copy with another probe. So one solve gives the
estimate for every vector of signs, and means and variances are exact. Copies share the steps.
"""

import itertools
import math

import pytest
import torch

from nodes_tutorial import nets
from nodes_tutorial.flows import CNF, Flow, StandardNormal
from nodes_tutorial.ode import METHODS, odeint
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import rk_step, stage_times

DIM, STEPS = 3, 5
FIELD = nets.TimeMLP(DIM, [16, 16], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
with torch.no_grad():
    for _parameter in FIELD.parameters():
        _parameter.mul_(2.0)
POINT = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)
SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * DIM)
FIXED = dict(method="rk4", options={"step_size": 1 / STEPS + 1e-9})


def estimates(field=FIELD, probes=SIGNS, **how):
    """log|det dz/dx| at POINT, once for each probe."""
    cnf = CNF(field, "hutchinson", **how)
    return cnf.inverse(POINT.expand(len(probes), DIM), probes[None])[1]


def rk4_by_hand():
    """The steps of the classical method from t = 1 to 0, and M = sum of h b_i J."""
    c, b = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    x, t, h, total, jacobians = POINT, 1.0, -1 / STEPS, torch.zeros(DIM, DIM).double(), []
    for _ in range(STEPS):
        ks = []
        for i in range(4):
            at = torch.tensor(t + c[i] * h, dtype=torch.float64)
            here = x if i == 0 else x + h * c[i] * ks[-1]
            ks.append(FIELD(at, here))
            jacobian = torch.autograd.functional.jacobian(lambda x, at=at: FIELD(at, x), here)
            jacobians.append(h * b[i] * jacobian)
            total = total + jacobians[-1]
        x = x + h * sum(weight * k for weight, k in zip(b, ks, strict=True))
        t += h
    return total.detach(), [j.detach() for j in jacobians]


def sign_variance(matrix):
    symmetric = (matrix + matrix.T) / 2
    return 2 * (symmetric.pow(2).sum() - symmetric.diagonal().pow(2).sum())


@pytest.mark.claim("thm-ffjord-held")
@torch.no_grad()
def test_a_held_probe_makes_one_quadratic_form_of_a_solve(measured):
    found = estimates(**FIXED)
    matrix, _ = rk4_by_hand()
    expected = torch.einsum("ki,ij,kj->k", SIGNS, matrix, SIGNS)
    assert measured((found - expected).abs().max(), "quadratic form") < 1e-12
    exact = CNF(FIELD, "exact", **FIXED).inverse(POINT)[1]
    assert measured((found.mean() - exact).abs(), "mean minus exact trace") < 1e-12
    variance = (found - exact).pow(2).mean()
    assert measured((variance - sign_variance(matrix)).abs(), "variance") < 1e-12
    assert variance > 1e-3
    # the variance of the mean Jacobian, not the mean of the variances
    pieces = sum(sign_variance(j).sqrt() for j in rk4_by_hand()[1]) ** 2
    assert (pieces - variance).abs() > 1e-3


@pytest.mark.claim("thm-ffjord-held")
def test_gradient_is_unbiased_too(measured):
    parameters = list(FIELD.parameters())
    estimated = torch.autograd.grad(estimates(**FIXED).mean(), parameters)
    exact = CNF(FIELD, "exact", **FIXED).inverse(POINT)[1]
    right = torch.autograd.grad(exact, parameters, retain_graph=True)
    one = torch.autograd.grad(estimates(probes=SIGNS[:1], **FIXED).sum(), parameters)
    gap = max((a - b).abs().max().item() for a, b in zip(estimated, right, strict=True))
    noise = max((a - b).abs().max().item() for a, b in zip(one, right, strict=True))
    assert measured(gap, "mean gradient") < 1e-12
    assert noise > 1e-2  # a single probe has another gradient


@pytest.mark.claim("thm-ffjord-held")
@torch.no_grad()
def test_probe_does_not_move_the_points():
    z, _ = CNF(FIELD, "hutchinson", **FIXED).inverse(POINT.expand(8, DIM), SIGNS[None])
    assert (z - z[0]).abs().max() == 0


@pytest.mark.claim("thm-ffjord-held")
@torch.no_grad()
def test_fresh_probes_average_out_over_the_steps(measured):
    """Variance of sum h b_i e'J_i e with a new probe at each stage: O(h), against a constant."""
    _, jacobians = rk4_by_hand()
    fresh = sum(sign_variance(j) for j in jacobians)
    held = sign_variance(sum(jacobians))
    assert fresh < 0.25 * held
    # two stages, all pairs of probes: independent draws add their variances
    pair = jacobians[:2]
    forms = [torch.einsum("ki,ij,kj->k", SIGNS, j, SIGNS) for j in pair]
    both = (forms[0][:, None] + forms[1][None, :]).flatten()
    expected = sum(sign_variance(j) for j in pair)
    assert measured((both.var(correction=0) - expected).abs(), "two fresh probes") < 1e-12


@torch.no_grad()
def test_bias_of_adaptive_steps_follows_the_tolerance(measured):
    """Each probe takes its own steps, as if solved alone; the mean over all signs."""
    tight = dict(rtol=1e-10, atol=1e-10, method="dopri8")
    truth = CNF(FIELD, "exact", **tight).inverse(POINT)[1]
    best = estimates(**tight)
    for tol in (1e-3, 1e-5, 1e-7):
        each = estimates(rtol=tol, atol=tol, options={"per_sample": True})
        bias, error = (each.mean() - truth).abs(), (each - best).abs().mean()
        assert bias <= error + 1e-9
        assert measured(bias / tol, "bias over tolerance") < 3
    assert (each[0] - truth).abs() > 0.01  # noise of one estimate, at any tolerance


@pytest.mark.claim("prop-ffjord-redrawn")
@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5"])
def test_embedded_error_of_redrawn_probes_is_first_order(name, measured):
    """One step on dz/dt = Az; the batch holds every choice of two values for all stages."""
    method = METHODS[name]
    swing = 0.7  # e'Ae is 1 + 0.7 or 1 - 0.7, as for A = [[.5, .35], [.35, .5]] and signs
    choices = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * method.stages)
    found = []
    for h in (0.1, 0.05, 0.025):
        turn = itertools.count()

        def redrawn(t, y, turn=turn):
            return 1 + swing * choices[:, next(turn)]

        y = torch.zeros(len(choices), dtype=torch.float64)
        stages = StageList(method, redrawn(0.0, y))
        rk_step(redrawn, stage_times(0.0, h, method.c, y), y, h, stages)
        error = stages.error(0)
        expected = h**2 * sum(d**2 for d in method.b_error) * swing**2
        gap = error.pow(2).mean() - expected
        assert measured(gap.abs() / expected, "mean square of the estimate, relative") < 1e-9
        found.append(error.pow(2).mean().sqrt())
        held = 1 + swing * torch.ones(len(y)).double()
        stages = StageList(method, held)
        rk_step(lambda t, y, held=held: held, stage_times(0.0, h, method.c, y), y, h, stages)
        assert stages.error(0).abs().max() < 1e-15
    assert abs(found[0] / found[1] - 2) < 1e-9  # half the step, half the error: first order


@pytest.mark.claim("thm-ffjord-held")
@pytest.mark.parametrize("kind", ["perceptron", "linear"])
@torch.no_grad()
def test_a_solve_with_fresh_probes_in_the_plane(kind, measured):
    """Two steps of rk4 with a new vector of signs at each of eight stages: all 256 choices."""
    if kind == "perceptron":
        field = nets.TimeMLP(2, [9], generator=torch.Generator().manual_seed(4), dtype=SIGNS.dtype)
    else:
        matrix = torch.tensor([[0.3, 0.8], [-0.2, 0.5]], dtype=torch.float64)

        def field(t, z):
            return z @ matrix.T

    second = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
    x, calls, variances = torch.tensor([0.7, -0.4], dtype=torch.float64), itertools.count(), []

    def redrawn(t, state):
        sign = second[:, next(calls)]
        probe = torch.stack([torch.ones_like(sign), sign], -1)
        value, product = torch.func.jvp(lambda z: field(t, z), (state[0],), (probe,))
        dense = torch.func.jacrev(lambda z: field(t, z))(state[0][0])
        variances.append(sign_variance(dense))
        return value, (product * probe).sum(-1)

    h, weights = 0.5, METHODS["rk4"].b
    how = dict(method="rk4", options={"step_size": h})
    start = (x.expand(256, 2), torch.zeros(256, dtype=torch.float64))
    found = odeint(redrawn, start, torch.tensor([0.0, 1.0]), **how)[1][-1]
    assert len(variances) == 8
    exact = CNF(field, **how)(x)[1]
    assert measured((found.mean() - exact).abs(), "mean minus exact trace") < 1e-12
    expected = sum((h * b) ** 2 * v for b, v in zip(weights * 2, variances, strict=True))
    variance = found.var(correction=0)
    assert measured((variance - expected).abs(), "variance of fresh probes") < 1e-12
    bound = h * max(variances) * sum(b**2 for b in weights)
    assert variance <= bound + 1e-12
    if kind == "linear":
        assert variance > 0.999 * bound  # attained where the Jacobian is constant
    wrong = h * sum(b * v for b, v in zip(weights * 2, variances, strict=True))
    assert (variance - wrong).abs() > 1e-3  # the weights not squared


class Redrawn(torch.nn.Module):
    """The wrong variant: a new probe at every evaluation."""

    def __init__(self, field):
        super().__init__()
        self.field, self.generator, self.calls = field, torch.Generator().manual_seed(0), 0

    def __call__(self, t, state):
        self.calls += 1
        x = state[0]
        probe = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        value, (product,) = self.field.value_and_tangents(t, x, probe[None])
        return value, (product * probe).sum(-1)


@pytest.mark.claim("prop-ffjord-redrawn")
@torch.no_grad()
def test_redrawn_probes_cost_evaluations_in_proportion_to_accuracy():
    x = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t, counts = torch.tensor([1.0, 0.0]), {}
    for tol in (1e-2, 1e-3):
        wrong = Redrawn(FIELD)
        odeint(wrong, (x, x.new_zeros(4)), t, rtol=tol, atol=tol)
        cnf = CNF(FIELD, "hutchinson", rtol=tol, atol=tol, generator=wrong.generator)
        cnf.inverse(x)
        counts[tol] = (cnf.nfe, wrong.calls)
    held = [counts[tol][0] for tol in (1e-2, 1e-3)]
    fresh = [counts[tol][1] for tol in (1e-2, 1e-3)]
    assert held[1] <= 3 * held[0]
    assert 5 < fresh[1] / fresh[0] < 20  # ten times for ten times the accuracy
    assert fresh[1] > 20 * held[1]


@pytest.mark.claim("prop-ffjord-penalties")
@torch.no_grad()
def test_penalty_is_the_squared_norm_on_average(measured):
    probes = SIGNS[None]
    how = dict(regularize=("kinetic", "jacobian"), rtol=1e-9, atol=1e-9)
    cnf = CNF(FIELD, "hutchinson", **how)
    _, _, found = cnf.inverse_with_penalties(POINT.expand(8, DIM), probes)
    _, _, exact = CNF(FIELD, "exact", **how).inverse_with_penalties(POINT)
    gap = (found["jacobian"].mean() - exact["jacobian"]).abs()
    assert measured(gap, "mean squared norm") < 1e-8
    # independent: Simpson's rule along a stored path, dense Jacobians
    t = torch.linspace(1, 0, 401, dtype=torch.float64)
    path = CNF(FIELD, rtol=1e-9, atol=1e-9).path(POINT, t)
    weights = torch.ones(401).double()
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    weights /= 3 * 400
    kinetic = torch.stack([FIELD(s, y).pow(2).sum() for s, y in zip(t, path, strict=True)])
    dense = torch.stack(
        [
            torch.func.jacrev(lambda y, s=s: FIELD(s, y))(y).pow(2).sum()
            for s, y in zip(t, path, strict=True)
        ]
    )
    assert measured((exact["kinetic"] - weights @ kinetic).abs(), "kinetic energy") < 1e-7
    assert measured((exact["jacobian"] - weights @ dense).abs(), "squared norm") < 1e-6
    wrong = weights @ torch.stack(
        [
            torch.func.jacrev(lambda y, s=s: FIELD(s, y))(y).trace() ** 2
            for s, y in zip(t, path, strict=True)
        ]
    )
    assert (wrong - exact["jacobian"]).abs() > 1e-2


@pytest.mark.claim("prop-ffjord-penalties")
@torch.no_grad()
def test_kinetic_energy_is_least_on_straight_paths():
    """At least |x - z|^2; equal for the constant field, whatever the method and the step."""
    for bend in (0.0, 0.3):
        field = BentField(bend)
        how = dict(regularize=("kinetic",), method="euler", options={"step_size": 2.0})
        exact = CNF(field, regularize=("kinetic",), rtol=1e-10, atol=1e-10)
        z, _, found = exact.inverse_with_penalties(POINT)
        least = (POINT - z).pow(2).sum()
        assert found["kinetic"] >= least - 1e-9
        one_step = CNF(field, **how).inverse(POINT)[0]
        if bend:
            assert found["kinetic"] > least + 1e-2
            assert (one_step - z).norm() > 1e-2
        else:
            assert abs(found["kinetic"] - least) < 1e-9
            assert (one_step - z).norm() < 1e-12
            assert exact.nfe <= 30  # the first steps only grow


def runge_kutta_step(a, b, c, field, z, h):
    """One explicit step from time 0, for any coefficients."""
    slopes = []
    for row, node in zip(((), *a), c, strict=True):
        here = z + h * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(z))
        slopes.append(field(node * h, here))
    return z + h * sum(w * k for w, k in zip(b, slopes, strict=True))


@pytest.mark.claim("prop-ffjord-penalties")
@pytest.mark.parametrize("name", METHODS)
def test_one_step_is_exact_where_the_velocity_is_constant_along_the_path(name, measured):
    """The field curves away from the path z = tv, and is v on it."""
    v = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def field(t, z):
        off = z - t * v
        return v + torch.sin(3 * off).flip(-1) + 1 - torch.cos(off)

    z, ends = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0.0, 1.0])
    step = odeint(field, z, ends, method=name, options={"step_size": 1.0})[-1]
    assert measured((step - v).abs().max(), "one step of length 1") < 1e-12
    moved = odeint(field, z + 0.2, ends, method=name, options={"step_size": 1.0})[-1]
    fine = odeint(field, z + 0.2, ends, rtol=1e-9, atol=1e-9)[-1]
    assert (moved - fine).abs().max() > 1e-6  # off the path a step has an error


@pytest.mark.claim("prop-ffjord-penalties")
def test_nodes_must_be_the_sums_of_the_rows():
    def field(t, z):
        return 1 + (z - t)

    zero = torch.zeros(1, dtype=torch.float64)
    right = runge_kutta_step(((0.5,),), (0.0, 1.0), (0.0, 0.5), field, zero, 0.5)
    wrong = runge_kutta_step(((1.0,),), (0.0, 1.0), (0.0, 0.5), field, zero, 0.5)
    heavy = runge_kutta_step(((0.5,),), (0.0, 1.1), (0.0, 0.5), field, zero, 0.5)
    assert right.item() == 0.5
    assert wrong.item() == 0.625
    assert abs(heavy.item() - 0.55) < 1e-15  # the weights must add up to one


class BentField(torch.nn.Module):
    """A constant velocity, and a swing across it that returns."""

    def __init__(self, bend):
        super().__init__()
        self.bend = bend

    def forward(self, t, x):
        across = self.bend * math.tau * math.cos(math.tau * float(t))
        return x * 0 + torch.tensor([1.0, across, 0.0], dtype=x.dtype)


@pytest.mark.claim("prop-ffjord-jensen")
@torch.no_grad()
def test_noisy_densities_integrate_to_more_than_one(measured):
    """The mean of the estimated density over all signs, integrated over the plane."""
    field = nets.TimeMLP(2, [16], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for parameter in field.parameters():
        parameter.mul_(1.5)
    side = torch.linspace(-8, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    cell = (side[1] - side[0]) ** 2
    base, how = StandardNormal(2, dtype=torch.float64), dict(rtol=1e-6, atol=1e-6)
    exact = Flow(base, [CNF(field, **how)]).log_prob(grid)
    assert measured((exact.exp().sum() * cell - 1).abs(), "exact trace: mass minus 1") < 1e-5
    cnf, masses = CNF(field, "hutchinson", **how), []
    for second in (-1.0, 1.0):  # a probe and its negative give the same
        probe = torch.tensor([1.0, second]).double().expand(1, len(grid), 2)
        z, ladj = cnf.inverse(grid, probe)
        masses.append((base.log_prob(z) + ladj).exp().sum() * cell)
    assert sum(masses) / 2 > 1.01


def test_absolute_value_stands_around_the_determinant():
    """log|det J|, not log det|J|: the entrywise absolute value changes the determinant."""
    jacobian = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert torch.linalg.slogdet(jacobian).logabsdet == pytest.approx(math.log(2))
    assert torch.linalg.det(jacobian.abs()) == 0


def test_free_form_flow_has_all_four_properties():
    """Trained on data, sampled in one solve, exact likelihood, and a Jacobian without zeros."""
    cnf = CNF(FIELD, rtol=1e-9, atol=1e-9)
    flow = Flow(StandardNormal(DIM, dtype=torch.float64), [cnf])
    x = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(flow.log_prob(x).mean(), list(FIELD.parameters()))
    assert all(g.abs().max() > 0 for g in gradients[:-1])
    assert flow.sample(5, torch.Generator().manual_seed(2)).shape == (5, DIM)
    jacobian = torch.autograd.functional.jacobian(cnf.pull, POINT)
    assert jacobian.abs().min() > 1e-3
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    assert abs(log_det - cnf.inverse(POINT)[1]) < 1e-6
