"""Couplings and the flows made of them: arguments, masks, training."""

import pytest
import torch

from nodes_tutorial.flows import (
    NICE,
    AffineCoupling,
    RealNVP,
    alternating_mask,
    checkerboard_mask,
    half_mask,
)
from nodes_tutorial.nets import MLP, count_parameters


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", [half_mask, alternating_mask])
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_masks_of_two_parities_are_complements(make, dim):
    assert torch.equal(make(dim), ~make(dim, 1))


def test_checkerboard_neighbours_differ():
    board = checkerboard_mask((2, 4, 5))
    assert torch.equal(board[:, 1:], ~board[:, :-1]) and torch.equal(
        board[..., 1:], ~board[..., :-1]
    )


def test_a_split_in_one_piece_needs_no_reordering():
    net = MLP([2, 8, 4])
    assert AffineCoupling(half_mask(4), net).order is None
    assert AffineCoupling(half_mask(4, 1), net).order is None
    assert AffineCoupling(alternating_mask(4), net).order is not None


def test_wrong_masks():
    with pytest.raises(ValueError, match="mask must keep some"):
        AffineCoupling(torch.ones(3, dtype=torch.bool), MLP([3, 1]))
    with pytest.raises(ValueError, match="axes"):
        AffineCoupling(torch.ones(3, 3, dtype=torch.bool), MLP([3, 1]))


@pytest.mark.parametrize("build", [NICE, RealNVP])
def test_wrong_sizes(build):
    with pytest.raises(ValueError, match="dim"):
        build(1)
    with pytest.raises(ValueError, match="layers"):
        build(3, 1)


def test_scales_are_bounded():
    layer = AffineCoupling(half_mask(2), MLP([1, 8, 2]), bound=1.5)
    z = 1e4 * torch.randn(100, 2, generator=rng())
    assert layer(z)[1].abs().max() <= 1.5


def test_nice_has_one_volume_everywhere():
    flow = NICE(4, generator=rng())
    with torch.no_grad():
        flow.transforms[-1].log_scale.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    z = torch.randn(8, 4, generator=rng(1))
    x, log_prob = flow.rsample_and_log_prob(8, rng(1))
    assert torch.allclose(flow.base.log_prob(z) - 1.0, log_prob, atol=1e-5)
    assert not torch.allclose(x, z)


def test_generator_gives_the_same_weights_and_counts_are_those_of_the_networks():
    first, second = (RealNVP(5, 4, (16,), generator=rng(3)) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    # kept 2: 2*16+16 + 16*6+6 = 150; kept 3: 3*16+16 + 16*4+4 = 132
    assert count_parameters(first) == 2 * (150 + 132)


def test_training_raises_the_likelihood():
    flow = RealNVP(2, 4, (16,), "tanh", rng())
    x = 0.3 * torch.randn(256, 2, generator=rng(1)) + torch.tensor([2.0, -1.0])
    adam = torch.optim.Adam(flow.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_built_on_the_gpu():
    flow = RealNVP(3, device="cuda", generator=rng())
    assert flow.sample(2).is_cuda and flow.log_prob(flow.sample(2)).is_cuda
