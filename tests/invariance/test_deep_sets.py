"""Claims of the chapter on functions of sets, and the package against obvious oracles."""

import math

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


def test_constant_keys_give_the_mean():
    x, mask = pad(SETS)
    query, keys = randn(4, 3, 6, seed=1), randn(6, seed=2).expand(4, 7, 6)
    found = attend(query, keys, x, mask)
    assert (found - pool(x, "mean", mask)[:, None]).abs().max() < 1e-12
    assert (found - pool(x, "sum", mask)[:, None]).abs().max() > 0.5  # not Deep Sets' sum
    keys = torch.where(torch.arange(7)[:, None] == 0, 2 * keys, keys)  # one key differs
    assert (attend(query, keys, x, mask) - found).abs().max() > 0.1


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


@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_the_set_comes_back_from_its_power_sums(M):
    x = rand(400, M, seed=M).sort(1).values
    apart = (x.diff(dim=1).amin(1) if M > 1 else torch.ones(400)) > 0.02
    assert apart.sum() > 100
    assert (from_power_sums(power_sums(x)) - x)[apart].abs().max() < 1e-6
    repeated = torch.full((M,), 0.3, dtype=F64)
    allowed = 10 * torch.finfo(F64).eps ** (1 / M)
    assert (from_power_sums(power_sums(repeated)) - repeated).abs().max() < allowed


def test_elementary_polynomials_are_coefficients():
    x = randn(20, 5)
    found = elementary(power_sums(x))
    for k in range(1, 6):
        wanted = torch.combinations(torch.arange(5), k)
        assert (x[:, wanted].prod(-1).sum(-1) - found[:, k - 1]).abs().max() < 1e-10
