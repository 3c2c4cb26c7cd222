"""Rooted trees and order conditions, against counting formulas, autograd and real steps."""

import math
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from nodes_tutorial.ode.solvers.order import (
    dense_conditions,
    elementary_weight,
    error_constant,
    order_conditions,
    order_of,
)
from nodes_tutorial.ode.solvers.tableaus import METHODS
from nodes_tutorial.ode.solvers.trees import (
    density,
    elementary_differential,
    rooted_trees,
    symmetry,
    tree_field,
    tree_order,
    tree_string,
)

UP_TO_SIX = [tree for size in range(1, 7) for tree in rooted_trees(size)]
F = Fraction


def one_step(a, b, func, y, h):
    """A Runge-Kutta step written from the definition, independent of the package."""
    rows = [(), *a] if len(a) == len(b) - 1 else a
    stages = []
    for row in rows:
        inner = y
        for weight, stage in zip(row, stages, strict=False):
            inner = inner + h * float(weight) * stage
        stages.append(func(None, inner))
    return y + h * sum(float(weight) * stage for weight, stage in zip(b, stages, strict=True))


def smooth(y):
    """A field of two variables with all derivatives different from zero."""
    return torch.stack([torch.sin(y[0] + 2 * y[1]) + y[0] ** 2, torch.exp(-y[0]) * torch.cos(y[1])])


def test_the_number_of_trees():
    counts = [len(rooted_trees(size)) for size in range(1, 9)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115]
    for size in range(1, 9):
        trees = rooted_trees(size)
        assert len(set(trees)) == len(trees)
        assert all(tree_order(tree) == size for tree in trees)
        assert all(tuple(sorted(tree)) == tree for tree in trees)


@pytest.mark.parametrize("order", [0, -1])
def test_a_tree_has_a_vertex(order):
    with pytest.raises(ValueError, match="order"):
        rooted_trees(order)


def test_labellings_are_counted():
    """n!/(sigma gamma) counts the increasing labellings, and these number (n-1)! in all."""
    for size in range(1, 9):
        labellings = [
            F(math.factorial(size), symmetry(tree) * density(tree)) for tree in rooted_trees(size)
        ]
        assert all(number.denominator == 1 for number in labellings)
        assert sum(labellings) == math.factorial(size - 1)


def test_bushes_and_chains():
    chain = bush = ()
    for size in range(2, 8):
        chain = (chain,)
        bush = ((),) * (size - 1)
        assert (density(chain), symmetry(chain)) == (math.factorial(size), 1)
        assert (density(bush), symmetry(bush)) == (size, math.factorial(size - 1))
    assert tree_string(((), ((),))) == "[•,[•]]"


@pytest.mark.claim("lem-solvers-bseries")
def test_bseries_of_the_field(measured):
    """f(B(a)) by autograd, coefficient by coefficient in h, against the series of the lemma.

    The series a has random coefficients on all trees with up to three vertices. The derivatives of
    h -> f(B(a, h)) at h = 0 are nested forward-mode derivatives of a closed form in h.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0.3, -0.4], dtype=torch.float64)
    small = [tree for size in range(1, 4) for tree in rooted_trees(size)]
    weights = torch.randn(len(small), generator=generator, dtype=torch.float64).tolist()
    a = dict(zip(small, weights, strict=True))
    powers = [
        sum(a[t] / symmetry(t) * elementary_differential(t, smooth, y) for t in rooted_trees(size))
        for size in range(1, 4)
    ]

    def derivative(g):
        return lambda h: torch.func.jvp(g, (h,), (torch.ones_like(h),))[1]

    def curve(h):
        return smooth(y + sum(h ** (j + 1) * power for j, power in enumerate(powers)))

    worst = wrong = 0.0
    for size in range(1, 5):
        direct = curve(torch.zeros((), dtype=torch.float64)) / math.factorial(size - 1)
        curve = derivative(curve)
        terms = [
            (math.prod(a[c] for c in t), symmetry(t), elementary_differential(t, smooth, y))
            for t in rooted_trees(size)
        ]
        claimed = sum(product / sigma * vector for product, sigma, vector in terms)
        careless = sum(product * vector for product, _, vector in terms)
        worst = max(worst, float((direct - claimed).abs().max()))
        wrong = max(wrong, float((direct - careless).abs().max()))
    measured(worst, "largest difference in the coefficients of h to h^4")
    assert worst < 1e-12
    assert wrong > 1e-2, "without the symmetries the series must be wrong"


@pytest.mark.claim("thm-solvers-exact")
def test_derivatives_of_the_solution(measured):
    """y^(q) = sum of q!/(sigma gamma) F(tau), with y^(q) from repeated Lie derivatives."""
    y = torch.tensor([0.3, -0.4], dtype=torch.float64)

    def lie(g):
        return lambda z: torch.func.jvp(g, (z,), (smooth(z),))[1]

    total, worst, wrong = smooth, 0.0, 0.0
    for size in range(1, 7):
        direct = total(y) / math.factorial(size)
        total = lie(total)
        pieces = [
            (symmetry(t), density(t), elementary_differential(t, smooth, y))
            for t in rooted_trees(size)
        ]
        series = sum(vector / (sigma * gamma) for sigma, gamma, vector in pieces)
        careless = sum(vector / gamma for _, gamma, vector in pieces)
        scale = float(direct.abs().max())
        worst = max(worst, float((direct - series).abs().max()) / scale)
        wrong = max(wrong, float((direct - careless).abs().max()) / scale)
    measured(worst, "largest relative difference of the derivatives 1 to 6")
    assert worst < 1e-12
    assert wrong > 1e-2, "without the symmetries the series must be wrong"


@pytest.mark.claim("thm-solvers-order")
@pytest.mark.parametrize("name", list(METHODS))
def test_a_step_reports_its_elementary_weights(name, measured):
    """On the field of a tree one step of size h returns h^|tau| Phi(tau), with no tree algebra."""
    method = METHODS[name]
    rows = ((), *method.a)
    worst = 0.0
    for tree in UP_TO_SIX:
        func, dim = tree_field(tree)
        start = torch.zeros(dim, dtype=torch.float64)
        stepped = one_step(method.a, method.b, func, start, 0.5)[0]
        weight = elementary_weight(tree, rows, method.b)
        worst = max(worst, abs(float(stepped) - 0.5 ** tree_order(tree) * weight))
    measured(worst, f"{name}: step against elementary weight, 37 trees")
    assert worst < 1e-12


def test_the_tree_field_has_the_stated_solution():
    for tree in UP_TO_SIX:
        func, dim = tree_field(tree)
        y = torch.zeros(dim, dtype=torch.float64)
        dopri8 = METHODS["dopri8"]
        for _ in range(4):
            y = one_step(dopri8.a, dopri8.b, func, y, 0.25)
        assert abs(float(y[0]) - 1 / density(tree)) < 1e-13


@pytest.mark.claim("thm-solvers-order")
def test_the_defect_of_a_step_is_the_series():
    """The local error minus its predicted leading term is of the next order."""
    y = torch.tensor([0.3, -0.4], dtype=torch.float64)
    dopri8 = METHODS["dopri8"]

    def reference(h):
        z = y
        for _ in range(16):
            z = one_step(dopri8.a, dopri8.b, lambda t, x: smooth(x), z, h / 16)
        return z

    for name in ("euler", "heun", "bosh3", "rk4"):
        method = METHODS[name]
        p = method.order
        residuals = order_conditions(method, p + 1)
        leading = sum(
            float(residuals[t]) / symmetry(t) * elementary_differential(t, smooth, y)
            for t in rooted_trees(p + 1)
        )
        sizes = [0.2, 0.1, 0.05]
        errors = [
            one_step(method.a, method.b, lambda t, x: smooth(x), y, h) - reference(h) for h in sizes
        ]
        rest = [
            float((e - h ** (p + 1) * leading).norm()) for e, h in zip(errors, sizes, strict=True)
        ]
        slopes = [math.log2(x / z) for x, z in pairwise(rest)]
        assert min(slopes) > p + 1.6, (name, slopes)
        plain = [math.log2(float(x.norm() / z.norm())) for x, z in pairwise(errors)]
        assert abs(plain[-1] - (p + 1)) < 0.3, (name, plain)


@pytest.mark.claim("thm-solvers-order")
@pytest.mark.claim("cor-solvers-eight")
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_its_order(name, measured):
    method = METHODS[name]
    kept = max(abs(float(value)) for value in order_conditions(method, method.order).values())
    measured(kept, f"{name}: largest residual up to order {method.order}")
    assert kept < 1e-13
    broken = order_conditions(method, method.order + 1)
    assert max(abs(float(value)) for value in broken.values()) > 1e-7
    assert order_of(method) == method.order
    a = [[0.0] * method.stages] + [[*row, *[0.0] * (method.stages - len(row))] for row in method.a]
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(method.b, dtype=torch.float64)
    c = torch.tensor(method.c, dtype=torch.float64)
    eight = [
        (b.sum(), 1),
        (b @ c, 1 / 2),
        (b @ c**2, 1 / 3),
        (b @ a @ c, 1 / 6),
        (b @ c**3, 1 / 4),
        (b @ (c * (a @ c)), 1 / 8),
        (b @ a @ c**2, 1 / 12),
        (b @ a @ a @ c, 1 / 24),
    ]
    count = {1: 1, 2: 2, 3: 4}.get(method.order, 8)
    missed = [abs(float(value) - wanted) for value, wanted in eight]
    assert max(missed[:count]) < 1e-14
    if method.order < 4:  # of the next order one equation is violated
        assert max(missed[count : {1: 2, 2: 4, 4: 8}[count]]) > 1e-3


def test_nodes_are_row_sums():
    for method in METHODS.values():
        rows = ((), *method.a, *method.extra_a)
        nodes = (*method.c, *method.extra_c)
        for row, node in zip(rows, nodes, strict=True):
            assert abs(sum(row) - node) < 1e-13


@pytest.mark.parametrize(
    ("name", "order"), [("adaptive_heun", 1), ("bosh3", 2), ("dopri5", 4), ("tsit5", 4)]
)
def test_embedded_formulas(name, order):
    assert order_of(METHODS[name], embedded=True) == order
    assert METHODS[name].error_order == order


def test_embedded_formulas_of_dopri8():
    """Formulas of order 5 and 3; the estimate e5^2 / sqrt(e5^2 + e3^2/100) is then of order h^8."""
    method = METHODS["dopri8"]
    low = SimpleNamespace(a=method.a, b=method.b, b_error=method.b_error_low)
    fifth, third = order_of(method, embedded=True), order_of(low, embedded=True)
    assert (fifth, third) == (5, 3)
    assert method.error_order == 2 * (fifth + 1) - (third + 1) - 1


def test_a_method_without_companion_says_so():
    with pytest.raises(ValueError, match="embedded"):
        order_conditions(METHODS["rk4"], 2, embedded=True)


@pytest.mark.claim("thm-solvers-dense")
@pytest.mark.parametrize("name", list(METHODS))
def test_dense_conditions(name, measured):
    method = METHODS[name]
    kept = dense_conditions(method, method.dense_order).values()
    worst = max(abs(float(value)) for row in kept for value in row)
    measured(worst, f"{name}: continuous conditions to order {method.dense_order}")
    assert worst < 1e-11
    next_order = dense_conditions(method, method.dense_order + 1).values()
    assert max(abs(float(value)) for row in next_order for value in row) > 1e-3


def test_dense_output_ends_where_the_step_ends():
    for method in METHODS.values():
        ends = [sum(row) for row in method.dense]
        wanted = [*method.b, *[0.0] * (len(ends) - method.stages)]
        assert max(abs(x - y) for x, y in zip(ends, wanted, strict=True)) < 1e-10


@pytest.mark.claim("prop-solvers-stages")
def test_order_is_at_most_the_number_of_stages():
    """The chain of s + 1 vertices has weight 0 in every explicit method of s stages."""
    generator = torch.Generator().manual_seed(1)
    for stages in range(1, 6):
        a = torch.randn(stages, stages, generator=generator, dtype=torch.float64).tril(-1).tolist()
        b = torch.randn(stages, generator=generator, dtype=torch.float64).tolist()
        chain = ()
        for _ in range(stages - 1):
            chain = (chain,)
        assert elementary_weight(chain, a, b) != 0.0
        assert elementary_weight((chain,), a, b) == 0.0
        assert density((chain,)) == math.factorial(stages + 1)
    implicit = SimpleNamespace(a=((0.5,),), b=(1.0,))
    assert order_of(implicit) == 2, "an implicit method is not bound by its number of stages"


def test_fractions_stay_exact():
    rk4 = SimpleNamespace(
        a=((), (F(1, 2),), (F(0), F(1, 2)), (F(0), F(0), F(1))),
        b=(F(1, 6), F(1, 3), F(1, 3), F(1, 6)),
        order=4,
    )
    residuals = order_conditions(rk4, 4)
    assert set(residuals.values()) == {F(0)}
    assert all(isinstance(value, Fraction) for value in residuals.values())
    assert abs(error_constant(rk4) - error_constant(METHODS["rk4"])) < 1e-14


def test_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="3 rows"):
        elementary_weight((), [[]], [0.0, 0.0, 1.0])
