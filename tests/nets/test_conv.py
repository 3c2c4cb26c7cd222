"""Conv4: its size by hand, its layers one by one, many tasks at once, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from nodes_tutorial.nets import Conv4, count_parameters
from nodes_tutorial.nets.conv import BatchNorm


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=5):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "how, parameters, features",
    [
        # first 9·c·w + w, the others 9·w² + w, and 2·w for each normalization
        ({"width": 32}, 9 * 32 + 3 * 9 * 1024 + 4 * 3 * 32, 128),
        ({"width": 32, "pool": "max"}, 28_320, 32),
        ({"width": 64, "pool": "max", "classes": 5}, 111_936 + 5 * 65, 64),
        ({"channels": 3, "width": 64, "pool": "max", "side": 84}, 113_088, 64 * 25),
        ({"width": 4, "side": 17, "classes": 3}, 36 + 3 * 144 + 48 + 3 * 17, 16),
    ],
)
def test_size_by_hand(how, parameters, features):
    net = Conv4(**how)
    assert (count_parameters(net), net.features) == (parameters, features)
    side, channels = how.get("side", 28), how.get("channels", 1)
    x = torch.zeros(2, channels, side, side)
    assert net.embed(x).shape == (2, features)
    assert net(x).shape == (2, how.get("classes", features))


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_layers_one_by_one(pool):
    """Against the same weights in plain formulas: mean and variance of the batch by hand."""
    net = Conv4(2, 3, side=16, pool=pool, classes=4, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(1), dtype=p.dtype))
    x = images(6, 2, 16, 16)
    h, w = x, list(net.parameters())
    for kernel, bias, scale, shift in zip(w[0:16:4], w[1:16:4], w[2:16:4], w[3:16:4], strict=True):
        h = nn.functional.conv2d(h, kernel, bias, padding=1)
        h = h[..., ::2, ::2] if pool == "stride" else h
        mean = h.mean((0, 2, 3), keepdim=True)
        var = ((h - mean) ** 2).mean((0, 2, 3), keepdim=True)
        h = (h - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        h = h.clamp(min=0)
        if pool == "max":
            h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    torch.testing.assert_close(net(x), h.flatten(1) @ w[16].T + w[17], rtol=1e-10, atol=1e-10)
    net.eval()
    torch.testing.assert_close(net(x), h.flatten(1) @ w[16].T + w[17], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_tasks_at_once_equal_a_loop(pool):
    """Values and gradients, with the same weights for all tasks and with weights of their own."""
    how = {"side": 16, "pool": pool, "classes": 3, "dtype": torch.float64}
    nets = [Conv4(1, 2, **how, generator=seeded(s)) for s in range(3)]
    net, x, y = nets[0], images(3, 5, 1, 16, 16), torch.arange(15).view(3, 5) % 3

    def loss(weights, x, y):
        return nn.functional.cross_entropy(functional_call(net, weights, (x,)), y)

    shared = dict(net.named_parameters())
    at_once = vmap(grad(loss), (None, 0, 0))(shared, x, y)
    own, _ = stack_module_state(nets)
    at_once_own = vmap(grad(loss))(own, x, y)
    for t in range(3):
        for found, module in ((at_once, net), (at_once_own, nets[t])):
            value = nn.functional.cross_entropy(module(x[t]), y[t])
            wanted = torch.autograd.grad(value, list(module.parameters()))
            for name, one in zip(found, wanted, strict=True):
                torch.testing.assert_close(found[name][t], one, rtol=1e-9, atol=1e-12)
    assert (at_once["head.weight"][0] - at_once["head.weight"][1]).abs().max() > 1e-3


def test_second_derivatives_of_tasks_at_once_equal_a_loop():
    """Two inner steps and their gradient; PyTorch's own normalization fails this under vmap."""
    net = Conv4(1, 2, side=16, classes=3, dtype=torch.float64, generator=seeded())
    x, y = images(2, 6, 1, 16, 16), torch.arange(12).view(2, 6) % 3

    def loss(weights, x, y):
        return nn.functional.cross_entropy(functional_call(net, weights, (x,)), y)

    def adapted(weights, x, y):
        for _ in range(2):
            slope = grad(loss)(weights, x, y)
            weights = {name: w - 0.4 * slope[name] for name, w in weights.items()}
        return loss(weights, x, y)

    weights = dict(net.named_parameters())
    at_once = vmap(grad(adapted), (None, 0, 0))(weights, x, y)
    for t in range(2):
        moved = weights
        for _ in range(2):
            value = loss(moved, x[t], y[t])
            slopes = torch.autograd.grad(value, list(moved.values()), create_graph=True)
            moved = {n: w - 0.4 * s for (n, w), s in zip(moved.items(), slopes, strict=True)}
        wanted = torch.autograd.grad(loss(moved, x[t], y[t]), list(weights.values()))
        for name, one in zip(weights, wanted, strict=True):
            torch.testing.assert_close(at_once[name][t], one, rtol=1e-8, atol=1e-11)


def test_normalization_is_that_of_pytorch_and_refuses_a_single_number():
    own, theirs = BatchNorm(3, dtype=torch.float64), nn.BatchNorm2d(3, track_running_stats=False)
    x = images(4, 3, 5, 2)
    torch.testing.assert_close(own(x), theirs.double()(x), rtol=1e-12, atol=1e-12)
    assert [n for n, _ in own.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    with pytest.raises(ValueError, match="more than one number for each channel"):
        own(images(1, 3, 1, 1))


def test_statistics_of_the_batch_or_of_the_past():
    x, more = images(4, 1, 28, 28), images(4, 1, 28, 28, seed=6)
    batch, running = (
        Conv4(width=4, norm=norm, generator=seeded(), dtype=torch.float64)
        for norm in ("batch", "running")
    )
    assert not list(batch.buffers()) and len(list(running.buffers())) == 12
    torch.testing.assert_close(batch(x), running(x))  # in training they do the same
    for net in (batch, running):
        net.eval()
    with torch.no_grad():
        both = torch.cat([x, more])
        assert (batch(both)[:4] - batch(x)).abs().max() > 1e-3
        torch.testing.assert_close(running(both)[:4], running(x))


def test_weights_come_from_the_generator():
    one, two, other = (Conv4(width=2, generator=seeded(s)) for s in (0, 0, 1))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.blocks[0].weight, other.blocks[0].weight)
    assert one.blocks[0].weight.abs().max() <= 1 / 3


@pytest.mark.parametrize(
    "how, error, message",
    [
        ({"channels": 0}, ValueError, "channels must be at least 1"),
        ({"width": 0}, ValueError, "width must be at least 1"),
        ({"side": 0}, ValueError, "side must be at least 1"),
        ({"side": 15, "pool": "max"}, ValueError, "side must be at least 16"),
        ({"classes": 0}, ValueError, "classes must be at least 1"),
        ({"pool": "mean"}, ValueError, "pool must be one of"),
        ({"norm": "layer"}, ValueError, "norm must be one of"),
        ({"width": 2.0}, TypeError, "width must be an integer"),
    ],
)
def test_what_is_refused_is_named(how, error, message, as_at_the_users):
    with pytest.raises(error, match=message):
        Conv4(**how)
