"""Images: cells, logits, bits."""

import math

import pytest
import torch

from nodes_tutorial.data import digits
from nodes_tutorial.flows import (
    Flow,
    Glow,
    Logit,
    StandardNormal,
    bits_per_dim,
    dequantize,
    quantize,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_round_trip_of_every_level():
    for levels in (2, 17, 256):
        k = torch.arange(levels).repeat(2000)
        y = dequantize(k, levels, rng(), torch.float64)
        assert torch.equal(quantize(y, levels), k)


def test_wrong_pixels():
    with pytest.raises(ValueError, match="k must lie in 0"):
        dequantize(torch.tensor([17]), 17)
    with pytest.raises(ValueError, match="alpha"):
        Logit(alpha=0.5)


def test_logit_of_a_logistic_law_is_uniform():
    """If z is logistic and alpha is 0, pixels are uniform: 0 bits above log2(levels)."""
    x = torch.tensor([[0.01, 0.3, 0.99]], dtype=torch.float64)
    z, ladj = Logit(1, alpha=0.0).inverse(x)
    logistic = (-z - 2 * torch.nn.functional.softplus(-z)).sum(-1)
    assert (logistic + ladj).abs().max() < 1e-12
    assert abs(float(bits_per_dim(logistic + ladj, 3, 256)) - 8) < 1e-12


def test_density_of_pixels_integrates_to_the_mass_between_the_ends():
    flow = Flow(StandardNormal(1, dtype=torch.float64), [Logit(1, alpha=0.05)])
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    mass = torch.trapezoid(flow.log_prob(x).exp(), x[:, 0])
    end = math.log(0.95 / 0.05)
    assert abs(float(mass) - math.erf(end / math.sqrt(2))) < 1e-8


def test_flow_of_digits_is_finite_and_samples_are_pixels():
    k = (digits()[0] * 16).round().long()
    glow = Glow((1, 8, 8), width=8, generator=rng())
    flow = Flow(glow.base, [*glow.transforms, Logit()])
    log_prob = flow.log_prob(dequantize(k[:16], 17, rng()))
    assert log_prob.shape == (16,) and log_prob.isfinite().all()
    assert quantize(flow.sample(3, rng()), 17).unique().max() <= 16
