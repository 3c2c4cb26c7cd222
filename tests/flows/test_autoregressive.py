"""MAF, IAF and their masked networks: arguments, equality with zuko's, vmap over models."""

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from nodes_tutorial.flows import IAF, MADE, MAF, AutoregressiveAffine, Inverse


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="activation"):
        MADE(3, activation="step")
    with pytest.raises(ValueError, match="hidden"):
        MADE(3, [0])
    with pytest.raises(ValueError, match="layers"):
        MAF(3, 0)


def test_iaf_is_maf_run_the_other_way():
    maf, iaf = MAF(3, generator=rng()), IAF(3, generator=rng())
    assert all(isinstance(layer, Inverse) for layer in iaf.transforms)
    z = torch.randn(4, 3, generator=rng(1))
    for ours, theirs in zip(iaf.transforms, maf.transforms, strict=True):
        assert torch.equal(ours(z)[0], theirs.inverse(z)[0])


def test_in_place_activations_leave_the_input_alone():
    net, x = MADE(3, [8], generator=rng()), torch.randn(5, 3, generator=rng(1))
    before = x.clone()
    net(x).sum().backward()
    assert torch.equal(x, before)
    assert MADE(3, [], generator=rng())(x).shape == (5, 6) and torch.equal(x, before)


def test_masked_weights_get_no_gradient():
    layer = AutoregressiveAffine(3, [8], generator=rng())
    layer.inverse(torch.randn(5, 3, generator=rng(1)))[0].sum().backward()
    for linear in layer.net.layers:
        assert (linear.weight.grad[linear.mask == 0] == 0).all()


def test_models_can_be_stacked():
    layers = [AutoregressiveAffine(3, [8], generator=rng(i)) for i in range(4)]
    params, buffers = stack_module_state(layers)
    z = torch.randn(5, 3, generator=rng(9))
    run = vmap(lambda p, b: functional_call(layers[0], (p, b), (z,)))
    x, ladj = run(params, buffers)
    for i, layer in enumerate(layers):
        assert torch.allclose(x[i], layer(z)[0], atol=1e-6)
        assert torch.allclose(ladj[i], layer(z)[1], atol=1e-6)


def test_one_feature_is_a_gaussian():
    flow = MAF(1, 2, [8], generator=rng(), dtype=torch.float64)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    second = flow.log_prob(x).diff(n=2)
    assert (second - second[0]).abs().max() < 1e-9  # a parabola


def test_gaussian_is_represented_exactly():
    """Constant scales and linear shifts: the Cholesky factorization, row by row."""
    root = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    covariance = root @ root.T + torch.eye(4)
    lower = torch.linalg.cholesky(covariance)
    layer = AutoregressiveAffine(4, [], generator=rng(), dtype=torch.float64)
    with torch.no_grad():
        (linear,) = layer.net.layers
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[:4] = torch.eye(4) - lower.diagonal().diag() @ torch.linalg.inv(lower)
        linear.bias[4:] = torch.atanh(lower.diagonal().log() / layer.bound)
    z = torch.randn(6, 4, generator=rng(1), dtype=torch.float64)
    assert (layer(z)[0] - z @ lower.T).abs().max() < 1e-12
