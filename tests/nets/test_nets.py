"""Networks against their formula, written out by hand."""

import pytest
import torch

from nodes_tutorial.nets import ACTIVATIONS, MLP, TimeMLP, count_parameters, reset_parameters

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float64]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mlp_is_its_formula(device, dtype):
    net = MLP([3, 5, 4, 2], generator=seeded(), dtype=dtype, device=device)
    x = torch.randn(7, 3, generator=seeded(1), dtype=dtype).to(device)
    first, second, third = (layer for layer in net.layers if isinstance(layer, torch.nn.Linear))
    hidden = torch.tanh(x @ first.weight.T + first.bias)
    hidden = torch.tanh(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(net(x), hidden @ third.weight.T + third.bias)
    assert count_parameters(net) == 3 * 5 + 5 + 5 * 4 + 4 + 4 * 2 + 2


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation(activation):
    assert MLP([2, 8, 2], activation)(torch.ones(3, 2)).isfinite().all()


def test_generator_decides_the_weights():
    one, two, other = (MLP([4, 8, 1], generator=seeded(s)) for s in (0, 0, 1))
    for a, b, c in zip(one.parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    bound = 1 / 4**0.5
    weights = torch.cat([MLP([4, 4000], generator=seeded(s)).layers[0].weight for s in range(3)])
    assert weights.abs().max() <= bound
    assert abs(weights.var().item() - bound**2 / 3) < 2e-3  # 48,000 draws: one sigma is 3e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_mlp_takes_one_time_or_one_per_row(dtype):
    field = TimeMLP(3, [16, 16], generator=seeded(), dtype=dtype)
    y = torch.randn(5, 3, generator=seeded(1), dtype=dtype)
    t = torch.rand(5, 1, generator=seeded(2), dtype=torch.float64)
    rows = torch.stack([field(t[i, 0], y[i]) for i in range(5)])
    torch.testing.assert_close(field(t, y), rows)
    torch.testing.assert_close(field(t[0, 0], y)[0], rows[0])
    assert field(t, y).dtype == dtype
    images = y[:, None].expand(5, 4, 3)
    torch.testing.assert_close(field(t[..., None], images)[:, 2], rows)
    mapped = torch.func.vmap(field, in_dims=(None, 0))(t[0, 0], y)
    torch.testing.assert_close(mapped, field(t[0, 0], y))


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="sizes"):
        MLP([3])
    with pytest.raises(ValueError, match="sizes"):
        MLP([3, 0, 1])
    with pytest.raises(ValueError, match="activation"):
        MLP([3, 1], "sine")


def test_reset_parameters_reaches_convolutions():
    one, two = torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(2, 3, 3)
    reset_parameters(one, seeded())
    reset_parameters(two, seeded())
    assert torch.equal(one.weight, two.weight)
    assert one.weight.abs().max() <= 1 / 18**0.5
