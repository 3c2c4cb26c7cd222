"""Actnorm, triangular matrices, squeezing, levels: what the battery does not ask."""

import pytest
import torch

from nodes_tutorial.flows import (
    ActNorm,
    Diagonal,
    Flow,
    Glow,
    InvertibleLinear,
    RealNVP,
    StandardNormal,
    data_init,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_data_init_whitens_each_channel_on_the_way():
    flow = RealNVP(3, 4, [8], "tanh", rng(), actnorm=True, dtype=torch.float64)
    x = 5 + 3 * torch.randn(500, 3, generator=rng(1), dtype=torch.float64)
    data_init(flow, x)
    z = x
    for layer in reversed(flow.transforms):
        z = layer.pull(z)
        if isinstance(layer, ActNorm):
            assert z.mean(0).abs().max() < 1e-9 and (z.std(0, correction=0) - 1).abs().max() < 1e-9


def test_data_init_of_images_is_over_pixels_and_survives_a_state_dict():
    def build():
        return Glow((1, 4, 4), levels=1, steps=1, width=4, generator=rng(), dtype=torch.float64)

    x = 2 + torch.randn(64, 1, 4, 4, generator=rng(1), dtype=torch.float64)
    flow, other = build(), build()
    assert torch.equal(flow.log_prob(x), other.log_prob(x))
    data_init(flow, x)
    norm = next(m for m in flow.modules() if isinstance(m, ActNorm))
    channels = torch.nn.functional.pixel_unshuffle(x, 2)
    assert (norm.shift[:, 0, 0] - channels.mean((0, 2, 3))).abs().max() < 1e-12
    other.load_state_dict(flow.state_dict())
    other.log_prob(10 * x)  # other data must not start a second initialization
    assert torch.equal(flow.log_prob(x), other.log_prob(x))


def test_data_init_of_a_constant_channel_stays_finite():
    flow = Flow(StandardNormal(2), [ActNorm(2)])
    data_init(flow, torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    assert flow.log_prob(torch.ones(2)).isfinite()
    with pytest.raises(ValueError, match="two points"):
        data_init(flow, torch.ones(1, 2))


def test_glow_sets_half_of_the_channels_aside():
    """With two levels, half of the squeezed channels reach the second level and half do not."""
    flow = Glow((1, 8, 8), levels=2, steps=2, width=4, generator=rng(), dtype=torch.float64)
    sizes = [
        module.lu.shape[0] for module in flow.modules() if isinstance(module, InvertibleLinear)
    ]
    assert sorted(sizes) == [4, 4, 8, 8]
    with pytest.raises(ValueError, match="divisible by 4"):
        Glow((1, 6, 8))


def test_inverse_of_linear_is_a_solve():
    mix = InvertibleLinear(5, generator=rng(), dtype=torch.float64)
    with torch.no_grad():
        mix.lu.diagonal()[0] = -12  # nearly singular
    z = torch.randn(3, 5, generator=rng(1), dtype=torch.float64)
    assert (mix.inverse(mix(z)[0])[0] - z).abs().max() < 1e-9


def test_diagonal_is_its_scale():
    layer = Diagonal(2, dtype=torch.float64)
    with torch.no_grad():
        layer.log_scale.copy_(torch.tensor([0.5, -1.0]))
    x, ladj = layer(torch.ones(4, 2, dtype=torch.float64))
    assert torch.allclose(x[0].log(), torch.tensor([0.5, -1.0], dtype=torch.float64))
    assert torch.allclose(ladj, torch.full((4,), -0.5, dtype=torch.float64))
