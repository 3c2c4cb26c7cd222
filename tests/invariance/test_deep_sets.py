"""Claims of the chapter on functions of sets, and the package against obvious oracles."""

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from nodes_tutorial.invariance import (
    POOLS,
    DeepSets,
    Equivariant,
    attend,
    elementary,
    from_power_sums,
    pad,
    pool,
    power_sums,
)
from nodes_tutorial.invariance import sets as sets_module
from nodes_tutorial.nets import MLP

F64 = torch.float64
PLAIN = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.max(0).values,
    "logsumexp": lambda x: x.exp().sum(0).log(),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=dtype)


def rand(*size, seed=0):
    return torch.rand(size, generator=rng(seed), dtype=F64)


def network(how="sum", dtype=F64):
    phi, rho = (
        MLP([2, 8, 5], "silu", rng(1), dtype=dtype),
        MLP([5, 8, 3], "silu", rng(2), dtype=dtype),
    )
    return DeepSets(phi, rho, how)


SETS = [randn(n, 2, seed=n) for n in (4, 1, 7, 3)]


# --- pools, masks and batches --------------------------------------------------------------------


@pytest.mark.parametrize("how", POOLS)
def test_pools_are_what_they_are_called(how):
    x = randn(3, 6, 2)
    found = pool(x, how)
    assert (found - torch.stack([PLAIN[how](one) for one in x])).abs().max() < 1e-12
    low = [one - 5 for one in SETS]
    padded, mask = pad(low)
    wanted = torch.stack([PLAIN[how](one) for one in low])
    assert (pool(padded, how, mask) - wanted).abs().max() < 1e-12
    if how != "sum":  # zeros that count: the wrong variant (a sum does not notice zeros)
        assert (pool(padded, how) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("how", POOLS)
def test_a_set_does_not_know_its_batch_mates(how):
    net = network(how)
    alone = torch.stack([net(one) for one in SETS])
    assert (net(*pad(SETS)) - alone).abs().max() < 1e-12
    more = [*SETS, 100 * randn(50, 2, seed=9)]
    assert (net(*pad(more))[:-1] - alone).abs().max() < 1e-12
    x, _ = pad(SETS)  # without the mask the padding counts, since phi(0) is not 0
    assert (net(x) - alone).abs().max() > 1e-3


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("filling", [math.nan, math.inf, 1e30])
def test_padding_is_not_read(how, filling):
    net = network(how)
    x, mask = pad(SETS)
    clean = net(x, mask)
    wanted = torch.autograd.grad(clean.square().sum(), list(net.parameters()))
    found = net(torch.where(mask[..., None], x, filling), mask)
    assert torch.equal(found, clean)
    slopes = torch.autograd.grad(found.square().sum(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(slopes, wanted, strict=True))
    assert torch.equal(
        pool(torch.where(mask[..., None], x, filling), how, mask), pool(x, how, mask)
    )


def test_what_phi_makes_of_the_padding_is_left_out(monkeypatch):
    """The wrong variant: the mask is applied before phi only."""
    net, (x, mask) = network(), pad(SETS)
    right = net(x, mask)
    monkeypatch.setattr(sets_module, "pool", lambda z, how, mask: pool(z, how))
    assert (net(x, mask) - right).abs().max() > 1e-3


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_order_batches_and_types(how, dtype):
    net = network(how, dtype)
    x = randn(2, 3, 6, 2, dtype=dtype)
    found = net(x)
    assert found.dtype == dtype and found.shape == (2, 3, 3)
    close = 1e-12 if dtype == F64 else 1e-5
    order = torch.randperm(6, generator=rng(3))
    assert (net(x[:, :, order]) - found).abs().max() < close
    assert (net(x[1, 2]) - found[1, 2]).abs().max() < close
    each = torch.vmap(net)(x.flatten(0, 1)).unflatten(0, (2, 3))
    assert (each - found).abs().max() < close


@pytest.mark.parametrize("how", POOLS)
def test_gradients_of_pools(how):
    x, mask = pad(SETS)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, how, mask), x)


def test_empty_sets():
    net = network()
    nothing = torch.zeros(0, 2, dtype=F64)
    assert torch.equal(pool(nothing), torch.zeros(2, dtype=F64))
    assert torch.equal(net(nothing), net.rho(torch.zeros(5, dtype=F64)))
    x, mask = pad([*SETS, nothing])
    assert torch.equal(mask[-1], torch.zeros(7, dtype=torch.bool))
    assert (net(x, mask)[-1] - net(nothing)).abs().max() < 1e-12
    for how in ("mean", "max", "logsumexp"):
        with pytest.raises(
            ValueError, match=f"x must have no empty set: an empty set has no {how}"
        ):
            pool(nothing, how)
        with pytest.raises(ValueError, match="x must have no empty set"):
            network(how)(x, mask)
    with pytest.raises(ValueError, match="values must have no empty set"):
        attend(randn(5, 1, 2), x, x, mask)
    with pytest.raises(ValueError, match="empty set has no mean"):
        Equivariant(2, 3, dtype=F64)(x, mask)


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_is_named():
    x, mask = pad(SETS)
    with pytest.raises(ValueError, match="how must be one of sum, mean, max, logsumexp; got 'min'"):
        pool(x, "min")
    with pytest.raises(ValueError, match="pool must be one of"):
        network("median")
    with pytest.raises(TypeError, match=r"mask must be a tensor of booleans, got torch\.float64"):
        pool(x, "sum", mask.double())
    with pytest.raises(ValueError, match=r"mask must have the shape \(4, 7\), got \(7,\)"):
        network()(x, mask[0])
    with pytest.raises(ValueError, match="x must have axes of elements and features"):
        network()(x[0, 0])
    with pytest.raises(TypeError, match="x must hold floating-point numbers"):
        pool(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="sets must hold at least one set"):
        pad([])
    with pytest.raises(ValueError, match=r"sets must end in the axes \(2,\)"):
        pad([randn(3, 2), randn(3, 4)])
    with pytest.raises(ValueError, match=r"keys must end in the axes \(3,\)"):
        attend(randn(1, 3), randn(5, 2), randn(5, 2))
    with pytest.raises(ValueError, match="count must be at least 1"):
        power_sums(rand(3), 0)
    with pytest.raises(ValueError, match="p must be power sums of real numbers"):
        from_power_sums(torch.tensor([0.0, -2.0], dtype=F64))  # of i and -i


# --- attention and layers ------------------------------------------------------------------------


def test_attention_is_the_library_s():
    query, keys, values = randn(2, 3, 4), randn(2, 6, 4, seed=1), randn(2, 6, 5, seed=2)
    wanted = nn.functional.scaled_dot_product_attention(query, keys, values)
    assert (attend(query, keys, values) - wanted).abs().max() < 1e-12
    mask = rand(2, 6, seed=3) < 0.6
    mask[:, 0] = True
    wanted = nn.functional.scaled_dot_product_attention(query, keys, values, mask[:, None])
    assert (attend(query, keys, values, mask) - wanted).abs().max() < 1e-12


@pytest.mark.claim("prop-sets-pools")
def test_constant_keys_give_the_mean():
    x, mask = pad(SETS)
    query, keys = randn(4, 3, 6, seed=1), randn(6, seed=2).expand(4, 7, 6)
    found = attend(query, keys, x, mask)
    assert (found - pool(x, "mean", mask)[:, None]).abs().max() < 1e-12
    assert (found - pool(x, "sum", mask)[:, None]).abs().max() > 0.5  # not Deep Sets' sum
    keys = torch.where(torch.arange(7)[:, None] == 0, 2 * keys, keys)  # one key differs
    assert (attend(query, keys, x, mask) - found).abs().max() > 0.1


@pytest.mark.claim("prop-sets-equivariant")
def test_layers_commute_with_permutations():
    net = [Equivariant(2, 4, rng(1), dtype=F64), Equivariant(4, 3, rng(2), dtype=F64)]
    x = randn(5, 6, 2)

    def both(x):
        return net[1](net[0](x).tanh())

    order = torch.randperm(6, generator=rng(3))
    assert (both(x[:, order]) - both(x)[:, order]).abs().max() < 1e-12
    padded, mask = pad(SETS)
    found = net[0](padded, mask)
    for one, row in zip(SETS, found, strict=True):
        assert (row[: len(one)] - net[0](one)).abs().max() < 1e-12
        assert row[len(one) :].abs().sum() == 0


# --- power sums ----------------------------------------------------------------------------------


@pytest.mark.claim("thm-sets-power")
@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_the_set_comes_back_from_its_power_sums(M):
    x = rand(400, M, seed=M).sort(1).values
    apart = (x.diff(dim=1).amin(1) if M > 1 else torch.ones(400)) > 0.02
    assert apart.sum() > 100
    assert (from_power_sums(power_sums(x)) - x)[apart].abs().max() < 1e-6
    repeated = torch.full((M,), 0.3, dtype=F64)
    allowed = 10 * torch.finfo(F64).eps ** (1 / M)
    assert (from_power_sums(power_sums(repeated)) - repeated).abs().max() < allowed


def products(x):
    """Elementary symmetric polynomials from their definition."""
    M = x.shape[-1]
    parts = [torch.combinations(torch.arange(M), k) for k in range(1, M + 1)]
    return torch.stack([x[..., part].prod(-1).sum(-1) for part in parts], -1)


@pytest.mark.claim("thm-sets-power")
@pytest.mark.parametrize("M", [1, 2, 5])
def test_newtons_identities(M, measured):
    x = randn(20, M)
    p = power_sums(x)
    error = measured((elementary(p) - products(x)).abs().max(), "against products")
    assert error < 1e-9
    shifted = torch.cat([torch.full((20, 1), float(M), dtype=F64), p[:, :-1]], 1)
    assert (elementary(shifted) - products(x)).abs().max() > 0.1  # sums from the power 0 on
    assert (elementary(-p) - products(x)).abs().max() > 0.1  # the sign


@pytest.mark.claim("thm-sets-power")
def test_invariant_functions_go_through_the_sums():
    """Of one length, and of all lengths up to M with c outside; with c inside it fails."""
    functions = [lambda x: x.amax(-1), lambda x: x.median(-1).values, lambda x: x.sin().prod(-1)]
    x = rand(200, 3, seed=1)
    x = x[x.sort(1).values.diff(dim=1).amin(1) > 0.02]
    for f in functions:
        assert (f(from_power_sums(power_sums(x))) - f(x)).abs().max() < 1e-6

    def sums(x, c):
        return power_sums(x - c, 4)

    for size in range(5):
        one = torch.linspace(0, 0.9, 5, dtype=F64)[:size]
        back = from_power_sums(sums(one, -1.0)) - 1.0
        assert (back[4 - size :] - one).abs().sum() < 1e-6
        assert (back[: 4 - size] + 1).abs().sum() < 1e-2  # zeros that were filled in, repeated
    one, none = torch.zeros(1, dtype=F64), torch.zeros(0, dtype=F64)
    assert torch.equal(sums(one, 0.0), sums(none, 0.0))  # c = 0 is an element: lengths are lost


def test_sums_change_little_where_a_continuous_function_does():
    """The way back is continuous at repeated numbers: a root of the change, not a jump."""
    p = power_sums(torch.tensor([0.5, 0.5], dtype=F64))
    for change in (1e-4, 1e-8, 1e-12):
        x = from_power_sums(p + torch.tensor([0.0, change], dtype=F64))
        assert abs(x[1] - 0.5 - (change / 2) ** 0.5) < 1e-2 * change**0.5 + 1e-8


@pytest.mark.claim("prop-sets-conditioning")
@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_determinant_of_the_power_sums(M, measured):
    x = rand(M, seed=M)
    found = torch.linalg.det(torch.func.jacrev(power_sums)(x))
    gaps = torch.stack([x[j] - x[i] for i in range(M) for j in range(i + 1, M)] or [found * 0 + 1])
    assert measured((found - math.factorial(M) * gaps.prod()).abs(), "determinant") < 1e-12
    assert M == 1 or (found - gaps.prod()).abs() > 0.4 * found.abs()  # without the factorial


def circle(M, theta, delta=0.3, z=0.5):
    angles = theta + 2 * math.pi * torch.arange(1, M + 1, dtype=F64) / M
    return z + delta * angles.cos()


@pytest.mark.claim("prop-sets-conditioning")
@pytest.mark.parametrize("M", range(2, 9))
def test_sets_whose_sums_nearly_agree(M):
    a, b = circle(M, 0.0), circle(M, math.pi / M)
    change = power_sums(a - 0.5) - power_sums(b - 0.5)
    assert change[:-1].abs().sum() < 1e-12
    assert abs(change[-1] - M * 2 ** (2 - M) * 0.3**M) < 1e-12
    assert abs(a.max() - b.max() - 0.3 * (1 - math.cos(math.pi / M))) < 1e-12
    third = power_sums(circle(M, 0.2) - 0.5)[-1] - power_sums(b - 0.5)[-1]
    assert abs(third - M * 2 ** (1 - M) * 0.3**M * (math.cos(0.2 * M) + 1)) < 1e-12


# --- how many latent numbers ---------------------------------------------------------------------


def codes(elements, longest, base):
    lists = [
        x
        for n in range(longest + 1)
        for x in itertools.combinations_with_replacement(range(1, elements + 1), n)
    ]
    return [sum((Fraction(1, base**c) for c in x), Fraction(0)) for x in lists]


@pytest.mark.claim("thm-sets-countable")
@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_one_number_for_countable_elements(M):
    found = codes(6, M, M + 1)
    assert len(set(found)) == len(found)
    assert M == 1 or len(set(codes(6, M, M))) < len(found)  # a base without the + 1
    longer = codes(6, M + 1, M + 1)
    assert len(set(longer)) < len(longer)  # lists of more than M elements


@pytest.mark.claim("thm-sets-countable")
def test_the_code_of_rational_numbers_is_continuous_nowhere():
    rationals = list(dict.fromkeys(Fraction(a, b) for b in range(1, 60) for a in range(b + 1)))
    code = {x: Fraction(1, 4 ** (c + 1)) for c, x in enumerate(rationals)}
    for x in (Fraction(1, 2), Fraction(1, 3)):
        near = [x + Fraction(1, n) for n in (13, 17, 19)]
        assert all(code[y] < code[x] / 4**20 for y in near)
        assert near[-1] - x < 0.06


def order_statistic(x, j):
    return x.sort().values[j - 1]


def peeled(x, j):
    """All of x from values of the order statistic at lists with known numbers exchanged."""
    M, s = len(x), x.sort().values
    known, low, high = {j: order_statistic(x, j)}, j, j
    while low > 1 or high < M:
        down = low > 1
        copies = j - low + 1 if down else j - low
        ends = torch.tensor([0.0] * copies + [1.0] * (high - low + 1 - copies), dtype=F64)
        found = order_statistic(torch.cat([s[: low - 1], ends, s[high:]]), j)
        low, high = (low - 1, high) if down else (low, high + 1)
        known[low if down else high] = found
    return torch.stack([known[i] for i in range(1, M + 1)])


@pytest.mark.claim("thm-sets-necessary")
@pytest.mark.parametrize("M", range(1, 7))
def test_order_statistics_at_changed_lists_tell_the_whole_set(M):
    for j in range(1, M + 1):
        for x in (rand(M, seed=10 * M + j), rand(M, seed=1).round(decimals=0)):  # with ties too
            assert torch.equal(peeled(x, j), x.sort().values)


@pytest.mark.claim("thm-sets-necessary")
@pytest.mark.parametrize("M", range(2, 7))
def test_one_power_sum_less_confuses_every_order_statistic(M):
    a, b = circle(M, 0.0), circle(M, math.pi / M)
    assert (power_sums(a, M - 1) - power_sums(b, M - 1)).abs().max() < 1e-12
    assert (power_sums(a, M) - power_sums(b, M)).abs().max() > 1e-6  # the last sum tells them apart
    assert (a.sort().values - b.sort().values).abs().min() > 1e-3


@pytest.mark.claim("thm-sets-necessary")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("M", [2, 3, 4])
def test_networks_of_one_feature_less_confuse_order_statistics(M, seed):
    """Along a curve on which all sums of a network's features stay, the order statistics move."""
    phi = MLP([1, 16, M - 1], "tanh", rng(seed), dtype=F64)

    def sums(x):
        return phi(4 * x.unsqueeze(-1)).sum(-2)

    x = torch.linspace(0.3, 0.7, M, dtype=F64)
    start, total = x, sums(x).detach()
    for _ in range(200):
        slope = torch.func.jacrev(sums)(x).detach()
        normal = torch.linalg.svd(slope).Vh[-1]
        normal = normal * torch.sign(normal[0])
        x = x + 1e-3 * normal
        for _ in range(3):  # Newton's steps back to the curve
            x = x - torch.linalg.pinv(torch.func.jacrev(sums)(x)) @ (sums(x) - total)
        x = x.detach()
    assert (sums(x) - total).abs().max() < 1e-10
    assert (x.sort().values - start).abs().min() > 1e-3
    assert (x > 0).all() and (x < 1).all()


@pytest.mark.claim("thm-sets-necessary")
def test_without_continuity_or_for_sums_one_number_is_enough():
    grid = [Fraction(k, 6) for k in range(7)]
    table = {}
    for x in itertools.combinations_with_replacement(range(7), 3):
        table[sum(Fraction(1, 4 ** (k + 1)) for k in x)] = grid[max(x)]
    assert len(table) == math.comb(9, 3)  # a table from the sum to the maximum
    x = rand(50, 4)
    assert (power_sums(x, 1)[:, 0] - x.sum(1)).abs().max() < 1e-12


@pytest.mark.claim("prop-sets-logsumexp")
@pytest.mark.parametrize("M", [1, 2, 7])
def test_bounds_of_the_soft_maximum(M):
    x = randn(300, M, 1, seed=M)
    for t in (0.5, 5.0, 500.0):
        error = pool(t * x, "logsumexp") / t - pool(x, "max")
        assert error.min() > -1e-12 and error.max() < math.log(M) / t + 1e-12
        assert M == 1 or error.max() < math.log(M) / t - 1e-6 / t  # strict: no two are equal
        equal = pool(t * torch.full((M, 1), 0.3, dtype=F64), "logsumexp") / t - 0.3
        assert abs(equal - math.log(M) / t) < 1e-12


# --- what pools keep -----------------------------------------------------------------------------


@pytest.mark.claim("prop-sets-pools")
def test_repeated_lists():
    x = randn(5, 2)
    for times in (2, 3):
        many = x.repeat(times, 1)
        assert (network("mean")(many) - network("mean")(x)).abs().max() < 1e-12
        assert (network("sum")(many) - network("sum")(x)).abs().max() > 1e-2


@pytest.mark.claim("prop-sets-pools")
def test_size_and_mean_are_the_sum_with_a_one():
    for x in SETS:
        total = pool(torch.cat([torch.ones(len(x), 1, dtype=F64), x], 1))
        assert total[0] == len(x)
        assert (total[1:] / total[0] - pool(x, "mean")).abs().max() < 1e-12
        assert (len(x) * pool(x, "mean") - total[1:]).abs().max() < 1e-12


@pytest.mark.claim("prop-sets-pools")
def test_a_maximum_looks_at_as_many_elements_as_it_has_features():
    net, x = network("max"), randn(40, 2, seed=4)
    critical = net.phi(x).argmax(0).unique()
    assert len(critical) <= 5
    whole = net(x)
    for seed in range(5):
        others = torch.randperm(40, generator=rng(seed))[:8]
        assert torch.equal(net(x[torch.cat([critical, others]).unique()]), whole)
    assert (net(x[critical[1:]]) - whole).abs().max() > 1e-6  # without one of them
    corners = torch.eye(3, dtype=F64)  # the bound is attained: three features, three entries
    assert len(corners.argmax(0).unique()) == 3
    assert (network("sum")(x[critical]) - network("sum")(x)).abs().max() > 1e-2


@pytest.mark.claim("prop-sets-equivariant")
@pytest.mark.parametrize("M, dimension", [(1, 6), (2, 12), (3, 12)])
def test_maps_that_commute_have_two_free_matrices(M, dimension):
    """For p = 2 and q = 3: the null space of all conditions; for M = 1 nothing is asked."""
    p, q = 2, 3
    conditions = []
    for order in itertools.permutations(range(M)):
        P = torch.eye(M, dtype=F64)[list(order)]
        left = torch.kron(P, torch.eye(q, dtype=F64))
        right = torch.kron(P, torch.eye(p, dtype=F64))
        inner, outer = torch.eye(M * p, dtype=F64), torch.eye(M * q, dtype=F64)
        conditions.append(torch.kron(inner, left) - torch.kron(right.mT.contiguous(), outer))
    stacked = torch.cat(conditions)
    assert M * M * p * q - torch.linalg.matrix_rank(stacked) == dimension
    layer = Equivariant(p, q, rng(5), dtype=F64)
    flat = torch.func.jacrev(lambda x: layer(x.view(M, p)).flatten())(torch.zeros(M * p, dtype=F64))
    assert (stacked @ flat.mT.flatten()).abs().max() < 1e-12
    if M > 1:
        flat = flat.detach().clone()
        flat[0, -1] += 0.1
        assert (stacked @ flat.mT.flatten()).abs().max() > 0.05


@pytest.mark.claim("prop-sets-equivariant")
def test_a_chain_with_a_pool_at_its_end_is_invariant():
    first, second = Equivariant(2, 4, rng(1), dtype=F64), Equivariant(4, 3, rng(2), dtype=F64)
    x = randn(6, 2)
    order = torch.randperm(6, generator=rng(3))

    def value(x):
        return pool(second(first(x).tanh()), "max")

    assert (value(x[order]) - value(x)).abs().max() < 1e-12
    first.common.weight.data += 0.5
    assert (value(x[order]) - value(x)).abs().max() < 1e-12


def test_moving_averages_and_the_order():
    x = randn(9, 2)

    def averaged(rows, rate):
        s = torch.zeros(2, dtype=F64)
        for n, row in enumerate(rows, 1):
            s = s + rate(n) * (row - s)
        return s

    assert (averaged(x, lambda n: 1 / n) - pool(x, "mean")).abs().max() < 1e-12
    assert (averaged(x, lambda n: 0.3) - averaged(x.flip(0), lambda n: 0.3)).abs().max() > 0.1


# --- the recorded runs ---------------------------------------------------------------------------

RECORD = Path(__file__).parents[2] / "results" / "sets.json"


def recorded(**wanted):
    rows = json.loads(RECORD.read_text())["rows"]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def means(lines):
    return torch.tensor(lines, dtype=F64).mean(1)


@pytest.mark.claim("obs-sets-record-width")
def test_recorded_medians_gain_less_and_less():
    """Margins of each gain from 1, or from 2, in standard errors over the five seeds."""
    gains = {}
    for M, constant in ((3, 0.2236), (5, 0.1890), (9, 0.1507)):
        (row,) = recorded(task="median", elements=M, activation="silu")
        assert row["settings"]["seeds"] == [0, 1, 2, 3, 4] and row["settings"]["steps"] == 20_000
        assert abs(row["constant_rmse"] - constant) < 5e-5
        assert row["widths"] == list(range(1, M + 3))
        logs = torch.tensor(row["rmse"], dtype=F64).log()
        drop = -logs.diff(dim=0)
        gains[M] = drop.mean(1), drop.std(1) / 5**0.5
    mean, spread = gains[3]
    assert (mean[:2] - 3 * spread[:2]).min() > math.log(2)  # null: 0
    assert mean[2:].max() < math.log(1.3) and mean[2:].min() > 0  # null: log 2
    for M in (5, 9):
        mean, spread = gains[M]
        assert (mean[: M - 3] - 3 * spread[: M - 3]).min() > 0  # null: 0
        assert mean[M - 1 :].max() < mean[: M - 3].min()  # no jump at M
        assert mean[M - 1 :].max() < math.log(1.2)


@pytest.mark.claim("obs-sets-record-width")
@pytest.mark.parametrize(
    "M, told",
    [
        (3, "0.0776 0.0248 0.0097 0.0079 0.0071"),
        (5, "0.0788 0.0414 0.0238 0.0161 0.0125 0.0112 0.0102"),
    ],
)
def test_errors_that_the_page_tells(M, told):
    (row,) = recorded(task="median", elements=M, activation="silu")
    assert " ".join(f"{e:.4f}" for e in means(row["rmse"])) == told


@pytest.mark.claim("obs-sets-record-lengths")
def test_recorded_sums_of_digits_go_on():
    found = {row["pool"]: row for row in recorded(task="digits", activation="tanh")}
    assert all(row["settings"]["seeds"] == [0, 1, 2] for row in found.values())
    at = found["sum"]["lengths"].index(50)
    rival = found["sum"]["constant_mae"][at]
    last = {how: torch.tensor(row["mae"][at], dtype=F64) for how, row in found.items()}
    assert (last["sum"] + 3 * last["sum"].std()).max() < 0.25 * rival  # null: the rival's error
    assert last["mean"].min() > 10 * rival and last["max"].min() > 10 * rival
    told = [f"{float(last[how].mean()):.3f}" for how in ("sum", "mean", "max")]
    assert told == ["3.047", "201.078", "199.723"] and f"{rival:.3f}" == "16.725"
    assert f"{sum(found['sum']['validation_mae']) / 3:.3f}" == "0.417"
