"""Claims of the chapter *Free-form flows* about the estimated trace.

No test draws random probes. A law with finitely many values is enumerated, and a Gaussian one is
replaced by the three-point rule of Gauss and Hermite, which is exact for polynomials of degree 5 in
each component: the square of a quadratic form has degree 4. So means and variances are exact.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nodes_tutorial import linalg, nets

DIM = 4
MATRIX = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SYMMETRIC = (MATRIX + MATRIX.T) / 2
OFF = SYMMETRIC.pow(2).sum() - SYMMETRIC.diagonal().pow(2).sum()

# values and probabilities of one component: mean 0, variance 1; the fourth moment is in the name
LAWS = {
    "signs, 1": ([-1.0, 1.0], [0.5, 0.5]),
    "Gauss-Hermite, 3": ([-math.sqrt(3), 0.0, math.sqrt(3)], [1 / 6, 2 / 3, 1 / 6]),
    "sparse, 8": ([-math.sqrt(8), 0.0, math.sqrt(8)], [1 / 16, 7 / 8, 1 / 16]),
    "skewed, 3.25": ([2.0, -0.5], [0.2, 0.8]),
}


def every_probe(law, dim=DIM):
    """All probes with independent components of a law, and their probabilities."""
    values, weights = (torch.tensor(part, dtype=torch.float64) for part in LAWS[law])
    probes = torch.cartesian_prod(*[values] * dim)
    return probes, torch.cartesian_prod(*[weights] * dim).prod(-1)


def moments(fun, probes, weights):
    """Exact mean and variance of the estimate with one probe, through the package."""
    rows = torch.zeros_like(probes)
    draws = linalg.hutchinson_trace(fun, rows, probes[None])
    mean = (weights * draws).sum()
    return mean, (weights * (draws - mean) ** 2).sum()


def linear(matrix):
    return lambda x: x @ matrix.T


def fourth_moment(law):
    values, weights = LAWS[law]
    return sum(w * v**4 for v, w in zip(values, weights, strict=True))


@pytest.mark.claim("prop-ffjord-unbiased")
@pytest.mark.parametrize("law", LAWS)
def test_unbiased_for_independent_components(law, measured):
    mean, _ = moments(linear(MATRIX), *every_probe(law))
    assert measured((mean - MATRIX.trace()).abs(), "mean minus trace") < 1e-12


@pytest.mark.claim("prop-ffjord-unbiased")
def test_unbiased_for_dependent_components(measured):
    """One random coordinate, scaled by the root of the dimension: covariance 1, no independence."""
    probes = math.sqrt(DIM) * torch.eye(DIM, dtype=torch.float64)
    probes = torch.cat([probes, -probes])
    weights = torch.full((2 * DIM,), 1 / (2 * DIM), dtype=torch.float64)
    mean, variance = moments(linear(MATRIX), probes, weights)
    assert measured((mean - MATRIX.trace()).abs(), "mean minus trace") < 1e-12
    diagonal = DIM * MATRIX.diagonal()
    assert abs(variance - diagonal.var(correction=0)) < 1e-12
    # without the root the covariance is 1/dim, and the mean is the trace over the dimension
    wrong, _ = moments(linear(MATRIX), probes / math.sqrt(DIM), weights)
    assert (wrong - MATRIX.trace()).abs() > 0.5 * MATRIX.trace().abs()


@pytest.mark.claim("prop-ffjord-unbiased")
def test_uncentered_probes_with_unit_second_moments_will_do():
    """Only E[e e'] = I enters: the mean may be anything. With covariance 1 and a mean it fails."""
    probes, weights = every_probe("signs, 1")
    mean = (weights * linalg.hutchinson_trace(linear(MATRIX), probes * 0, probes[None])).sum()
    shifted = probes + 0.5
    biased, _ = moments(linear(MATRIX), shifted, weights)
    assert (mean - MATRIX.trace()).abs() < 1e-12
    assert (biased - MATRIX.trace() - 0.25 * MATRIX.sum()).abs() < 1e-12
    assert 0.25 * MATRIX.sum().abs() > 0.1


@pytest.mark.claim("thm-ffjord-variance")
@pytest.mark.parametrize("law", LAWS)
def test_variance_for_any_fourth_moment(law, measured):
    _, variance = moments(linear(MATRIX), *every_probe(law))
    diagonal = SYMMETRIC.diagonal().pow(2).sum()
    expected = 2 * OFF + (fourth_moment(law) - 1) * diagonal
    assert measured((variance - expected).abs(), "variance") < 1e-11
    # the matrix itself in place of its symmetric part
    unsymmetric = MATRIX.pow(2).sum() - MATRIX.diagonal().pow(2).sum()
    wrong = 2 * unsymmetric + (fourth_moment(law) - 1) * diagonal
    assert (variance - wrong).abs() > 1


@pytest.mark.claim("thm-ffjord-variance")
def test_gaussian_and_rademacher_variances(measured):
    _, gaussian = moments(linear(MATRIX), *every_probe("Gauss-Hermite, 3"))
    _, signs = moments(linear(MATRIX), *every_probe("signs, 1"))
    frobenius = SYMMETRIC.pow(2).sum()
    assert measured((gaussian - 2 * frobenius).abs(), "Gaussian variance") < 1e-11
    right = 2 * (frobenius - SYMMETRIC.diagonal().pow(2).sum())
    assert measured((signs - right).abs(), "Rademacher variance") < 1e-11
    assert gaussian - signs > 1  # one formula does not serve both


@pytest.mark.claim("thm-ffjord-variance")
def test_package_draws_these_laws():
    """Second and fourth moments of what the package draws; 4 million numbers, bound 5 sd."""
    like = torch.zeros(2_000_000, 2, dtype=torch.float64)
    for noise, fourth, spread in (("rademacher", 1.0, 0.0), ("gaussian", 3.0, math.sqrt(96))):
        drawn = linalg.draw_probes(1, like, noise, torch.Generator().manual_seed(1))[0]
        count = drawn.numel()
        assert drawn.mean().abs() < 5 / math.sqrt(count)
        assert abs(drawn.pow(4).mean() - fourth) <= 5 * spread / math.sqrt(count)
        assert drawn.prod(-1).mean().abs() < 5 / math.sqrt(len(drawn))


@pytest.mark.claim("cor-ffjord-rademacher")
def test_signs_have_the_least_variance(measured):
    found = {law: moments(linear(MATRIX), *every_probe(law))[1] for law in LAWS}
    assert all(found["signs, 1"] <= value for value in found.values())
    assert found["Gauss-Hermite, 3"] - found["signs, 1"] > 1
    # zero exactly where the symmetric part is diagonal, also when the matrix is not
    skew = torch.diag(torch.arange(1.0, DIM + 1).double()) + MATRIX - MATRIX.T
    _, none = moments(linear(skew), *every_probe("signs, 1"))
    assert measured(none, "variance, diagonal symmetric part") < 1e-11
    assert moments(linear(skew), *every_probe("Gauss-Hermite, 3"))[1] > 1


# --- cost ---------------------------------------------------------------------------------------

SIZES, ROWS = (6, 32, 20, 6), 7
PRODUCTS = sum(a * b for a, b in itertools.pairwise(SIZES))  # multiplications of one evaluation


def counted(run):
    """Multiplications in matrix products, one for each row of the batch."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / (2 * ROWS)


@pytest.mark.claim("prop-ffjord-cost")
def test_products_cost_as_much_as_the_function():
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(b, a, generator=draw) for a, b in itertools.pairwise(SIZES)]

    def net(x):
        for weight in weights[:-1]:
            x = torch.tanh(x @ weight.T)
        return x @ weights[-1].T

    x, v = torch.randn(2, ROWS, 6, generator=draw)
    assert counted(lambda: net(x)) == PRODUCTS
    assert counted(lambda: linalg.vjp(net, x, v)) == 2 * PRODUCTS
    assert counted(lambda: linalg.hutchinson_trace(net, x, v[None])) == 2 * PRODUCTS
    # PyTorch's forward mode may multiply with the zero tangent of the weights too
    assert counted(lambda: linalg.jvp(net, x, v)) in (2 * PRODUCTS, 3 * PRODUCTS)
    exact = counted(lambda: linalg.exact_trace(net, x))
    assert exact == (1 + 6) * PRODUCTS
    assert exact != 2 * PRODUCTS  # a trace by one product would be an estimate


@pytest.mark.claim("prop-ffjord-cost")
def test_trace_of_one_hidden_layer_in_one_pass(measured):
    """tr(V diag(s') W) = sum_k s'_k (W V)_kk: D products are not needed with one hidden layer."""
    net = nets.MLP([6, 32, 6], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net.requires_grad_(False)
    first, _, last = net.layers
    x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = 1 - torch.tanh(first(x)) ** 2
    trace = slope @ (first.weight * last.weight.T).sum(-1)
    assert measured((trace - linalg.exact_trace(net, x)).abs().max(), "one pass") < 1e-12


class Number:
    """A number that counts the multiplications and divisions it takes part in."""

    count = 0

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Number(self.value + other.value)

    def __sub__(self, other):
        return Number(self.value - other.value)

    def __mul__(self, other):
        Number.count += 1
        return Number(self.value * other.value)

    def __truediv__(self, other):
        Number.count += 1
        return Number(self.value / other.value)


def matrix(values):
    return [[Number(float(v)) for v in row] for row in values]


def dot(a, b):
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def multiplications(work):
    Number.count = 0
    return work(), Number.count


@pytest.mark.claim("prop-ffjord-cost")
@pytest.mark.parametrize("sizes", [(3, 5, 4, 3), (4, 2, 4), (2, 3, 3, 3, 2)])
def test_multiplications_one_by_one(sizes, measured):
    """All parts, with numbers that count: products, tangents, trace, elimination."""
    net = nets.MLP(sizes, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = [matrix(layer.weight.detach()) for layer in net.layers[::2]]
    biases = [[Number(float(b)) for b in layer.bias.detach()] for layer in net.layers[::2]]
    dim, slopes, point = sizes[0], [], torch.linspace(-0.5, 0.8, sizes[0], dtype=torch.float64)
    N, M = sum(a * b for a, b in itertools.pairwise(sizes)), sum(sizes[1:-1])

    def value():
        slopes.clear()
        h = [Number(float(v)) for v in point]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = [dot(row, h) + b for row, b in zip(weight, bias, strict=True)]
            if i < len(weights) - 1:
                h = [Number(math.tanh(v.value)) for v in h]
                slopes.append([Number(1 - v.value**2) for v in h])
        return h

    def tangent(v):
        for weight, slope in zip(weights, [*slopes, None], strict=True):
            v = [dot(row, v) for row in weight]
            v = v if slope is None else [a * b for a, b in zip(slope, v, strict=True)]
        return v

    def covector(v):
        backwards = zip(reversed(weights), [*reversed(slopes), None], strict=True)
        for weight, slope in backwards:
            v = [dot(column, v) for column in zip(*weight, strict=True)]
            v = v if slope is None else [a * b for a, b in zip(slope, v, strict=True)]
        return v

    assert multiplications(value)[1] == N
    probe = [Number((-1.0) ** k) for k in range(dim)]
    assert multiplications(lambda: tangent(probe))[1] == N + M
    assert multiplications(lambda: covector(probe))[1] == N + M
    assert multiplications(lambda: (value(), dot(probe, tangent(probe))))[1] == 2 * N + M + dim
    unit = matrix(torch.eye(dim))
    (_, columns), count = multiplications(lambda: (value(), [tangent(e) for e in unit]))
    assert count == (dim + 1) * N + dim * M
    dense = torch.func.jacrev(net)(point).detach()
    gap = max(abs(columns[j][i].value - dense[i, j]) for i in range(dim) for j in range(dim))
    assert measured(gap, "Jacobian by counted products") < 1e-12

    def determinant():
        rows, total = [list(row) for row in zip(*columns, strict=True)], None
        for k in range(dim):
            total = rows[k][k] if total is None else total * rows[k][k]
            for below in range(k + 1, dim):
                factor = rows[below][k] / rows[k][k]
                for j in range(k + 1, dim):
                    rows[below][j] = rows[below][j] - factor * rows[k][j]
        return total

    found, count = multiplications(determinant)
    assert abs(found.value - torch.linalg.det(dense)) < 1e-12
    assert count == sum(k * k + k for k in range(dim)) + dim - 1
    assert abs(count - dim**3 / 3) <= dim**2
    if len(sizes) == 3:  # part 5, with the first layer once more for the slopes
        hidden = sizes[1]

        def in_one_pass():
            inner = [
                dot([weights[1][i][k] for i in range(dim)], weights[0][k]) for k in range(hidden)
            ]
            return dot(slopes[0], inner)

        trace, count = multiplications(in_one_pass)
        assert abs(trace.value - dense.trace()) < 1e-12
        assert count + dim * hidden == 2 * dim * hidden + hidden


# --- bottleneck ---------------------------------------------------------------------------------


def through(outer, inner):
    """g(h(z)) with linear parts: the Jacobian is outer @ inner, the short one inner @ outer."""
    return linear(outer @ inner), linear(inner @ outer)


@pytest.mark.claim("prop-ffjord-bottleneck")
@pytest.mark.parametrize("law", ["signs, 1", "Gauss-Hermite, 3"])
def test_short_probe_has_the_same_mean(law, measured):
    draw = torch.Generator().manual_seed(2)
    outer = torch.randn(5, 2, generator=draw, dtype=torch.float64)
    inner = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    long, short = through(outer, inner)
    mean_long, variance_long = moments(long, *every_probe(law, 5))
    mean_short, variance_short = moments(short, *every_probe(law, 2))
    assert measured((mean_long - mean_short).abs(), "means") < 1e-12
    if law != "signs, 1":
        gap = (outer @ inner).pow(2).sum() - (inner @ outer).pow(2).sum()
        assert measured((variance_long - variance_short - gap).abs(), "variances") < 1e-11
        # the gap of twice the squared norms forgets that the traces of the squares cancel
        assert (variance_long - variance_short - 2 * gap).abs() > 1


@pytest.mark.claim("prop-ffjord-bottleneck")
def test_short_probe_may_have_the_larger_variance():
    """B = diag(1, t) and C = [[0, 1], [0, 0]], padded by zeros: |BC| = 1, |CB| = t."""
    size = 3.0
    outer, inner = torch.zeros(5, 2).double(), torch.zeros(2, 5).double()
    outer[0, 0], outer[1, 1], inner[0, 1] = 1.0, size, 1.0
    long, short = through(outer, inner)
    _, variance_long = moments(long, *every_probe("Gauss-Hermite, 3", 5))
    _, variance_short = moments(short, *every_probe("Gauss-Hermite, 3", 2))
    assert abs(variance_long - 1) < 1e-12
    assert abs(variance_short - size**2) < 1e-11


@pytest.mark.claim("prop-ffjord-bottleneck")
def test_mean_squared_norms_of_random_factors():
    """E|BC|^2 : E|CB|^2 = D : H; 4,000 pairs of signs, bound 5 sd of the two means."""
    draw = np.random.default_rng(0)
    dim, width, count = 8, 3, 4000
    outer = draw.choice([-1.0, 1.0], (count, dim, width))
    inner = draw.choice([-1.0, 1.0], (count, width, dim))
    for product, expected in (
        (outer @ inner, dim * dim * width),
        (inner @ outer, width * width * dim),
    ):
        norms = (product**2).sum((1, 2))
        assert abs(norms.mean() - expected) < 5 * norms.std() / math.sqrt(count)


# --- densities are not log-densities --------------------------------------------------------------


@pytest.mark.claim("prop-ffjord-jensen")
def test_estimated_density_is_too_large_on_average(measured):
    """exp of the estimate, for signs by enumeration and for normal probes in closed form."""
    probes, weights = every_probe("signs, 1")
    small = 0.2 * MATRIX
    draws = linalg.hutchinson_trace(linear(small), probes * 0, probes[None])
    mean = (weights * draws.exp()).sum()
    assert mean > small.trace().exp() * 1.05
    # E exp(e'Se) = det(1 - 2S)^(-1/2) for normal probes and 2S < 1, by Gauss and Hermite
    symmetric = 0.05 * SYMMETRIC
    nodes, masses = np.polynomial.hermite_e.hermegauss(40)
    masses = torch.tensor(masses / masses.sum())
    values = torch.linalg.eigvalsh(symmetric)
    by_rule = (masses * (values[:, None] * torch.tensor(nodes) ** 2).exp()).sum(-1).prod()
    closed = torch.linalg.det(torch.eye(DIM).double() - 2 * symmetric) ** -0.5
    assert measured((by_rule - closed).abs(), "exponential moment") < 1e-9
    assert closed > symmetric.trace().exp() * 1.001


@pytest.mark.claim("prop-ffjord-jensen")
def test_equality_without_variance_and_the_infinite_case(measured):
    """Signs see no diagonal; normal probes have no mean from the eigenvalue one half on."""
    probes, weights = every_probe("signs, 1")
    diagonal = torch.diag(0.3 * torch.arange(DIM)).double() + MATRIX - MATRIX.T
    draws = linalg.hutchinson_trace(linear(diagonal), probes * 0, probes[None])
    mean = (weights * draws.exp()).sum()
    assert measured((mean - diagonal.trace().exp()).abs(), "equality") < 1e-11

    def truncated(size, limit):
        """E exp(size xi^2) over |xi| < limit, by quadrature."""
        xi = torch.linspace(-limit, limit, 20_001, dtype=torch.float64)
        return torch.trapezoid(((size - 0.5) * xi**2).exp() / math.sqrt(math.tau), xi)

    for size in (0.3, 0.45):
        closed = (1 - 2 * size) ** -0.5
        assert abs(truncated(size, 40.0) - closed) < 1e-6
    for size in (0.5, 0.55):  # grows without end
        assert truncated(size, 20.0) > 1.9 * truncated(size, 10.0)
