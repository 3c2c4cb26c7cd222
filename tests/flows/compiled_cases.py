"""Compiled continuous flows; run one by name: `python compiled_cases.py gradient`."""

import sys

import torch

from nodes_tutorial import nets
from nodes_tutorial.flows import CNF, Flow, StandardNormal


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


FIELD = nets.TimeMLP(2, [16, 16], "softplus", rng(), dtype=torch.float64)
X = torch.randn(8, 2, generator=rng(1), dtype=torch.float64)


def results(law, compiled):
    cnf = CNF(FIELD, law, generator=rng(2), options={"compile": compiled}, rtol=1e-7, atol=1e-7)
    flow = Flow(StandardNormal(2, dtype=torch.float64), [cnf])
    loss = -flow.log_prob(X).mean()
    return cnf, loss, torch.autograd.grad(loss, list(FIELD.parameters()))


def same(law):
    _, loss, gradients = results(law, False)
    for _ in range(2):  # the second time with other steps of the same program, and new probes
        cnf, ours, found = results(law, True)
        assert cnf.nfe is None
        assert abs(ours - loss) < 1e-9
        for a, b in zip(found, gradients, strict=True):
            assert (a - b).abs().max() < 1e-9
    from torch._dynamo.utils import counters

    assert counters["stats"]["unique_graphs"] <= 2, counters["stats"]


def gradient():
    same("exact")


def gradient_with_probes():
    same("hutchinson")


@torch.no_grad()
def without_gradient():
    eager, compiled = (CNF(FIELD, options={"compile": c}) for c in (False, True))
    for ours, exact in zip(compiled(X), eager(X), strict=True):
        assert (ours - exact).abs().max() < 1e-4
    assert (compiled.push(X) - eager.push(X)).abs().max() < 1e-4


if __name__ == "__main__":
    globals()[sys.argv[1]]()
