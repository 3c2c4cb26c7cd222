"""The table of the fake device on a real one, where there is one: the numbers are the host's."""

import copy

import pytest
import torch

from tests.device.test_device import COMPUTED, CONDITIONAL, DENSITIES

pytestmark = [
    pytest.mark.usefixtures("as_at_the_users"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
DRAWS = (
    "matching", "probes", "bayesian network", "dropout", "goku", "roots of outputs", "autoencoder",
    "rate", "bootstrap", "noise on the way", "gaussian heads", "cnf heads",
)  # fmt: skip
# they name the device themselves
THERE_ALONE = ("draw with divergence", "grounding", "pictures", "sets", "maxima of sets")


def both(module):
    here = module.double() if module is not None else None
    return here, copy.deepcopy(here).cuda() if here is not None else None


def simplex(*shape):
    """Numbers that may be points, weights, probabilities or pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_those_of_the_host(name):
    here, there = both(DENSITIES[name]())
    x = simplex(6, *here.event_shape)
    drawn, log_prob = there.rsample_and_log_prob(5)
    assert drawn.is_cuda and log_prob.is_cuda and there.sample(5).is_cuda
    if "estimated" not in name:
        torch.testing.assert_close(there.log_prob(x.cuda()).cpu(), here.log_prob(x), **CLOSE)
        back = {"rtol": 1e-6, "atol": 1e-6} if "cnf" in name else CLOSE  # steps back are others
        torch.testing.assert_close(log_prob.cpu(), here.log_prob(drawn.cpu()), **back)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_densities_are_those_of_the_host(name):
    here, there = both(CONDITIONAL[name]())
    x = simplex(5, *here.event_shape)
    for context in (simplex(5, 3), simplex(3)):
        found = there.log_prob(x.cuda(), context.cuda()).cpu()
        torch.testing.assert_close(found, here.log_prob(x, context), **CLOSE)
        assert there.sample(5, context=context.cuda()).is_cuda


@pytest.mark.parametrize("name", COMPUTED)
def test_algorithms_are_those_of_the_host(name, monkeypatch):
    make, inputs, compute, _ = COMPUTED[name]
    here, there = both(make())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *shape, device: simplex(*shape))
        arguments = [x() for x in inputs]
    found = compute(there, *(x.cuda() for x in arguments))
    assert found.is_cuda and found.isfinite().all()
    if name not in (*DRAWS, *THERE_ALONE):
        torch.testing.assert_close(found.cpu(), compute(here, *arguments), **CLOSE)
