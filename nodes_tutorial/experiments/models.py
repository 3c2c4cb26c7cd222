"""The models that the runs compare, by name."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nodes_tutorial.flows import CNF, MAF, Flow, RealNVP, StandardNormal
from nodes_tutorial.nets import TimeMLP

MODELS = ("cnf", "fm", "realnvp", "maf", "gaussian", "kde")
FITTED = ("gaussian", "kde")  # by a formula, without steps


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network; ``layers`` counts couplings, or fields one after the other."""

    hidden: tuple[int, ...]
    activation: str
    layers: int


def default_architecture(model: str, dataset: str, dim: int) -> Architecture:
    """What is used unless the command says otherwise.

    Continuous models of the tabular sets have the sizes that were best in the published search
    (Grathwohl et al., 2019, table 4), those of the toys its three layers of 64.
    """
    if model in ("cnf", "fm"):
        if dataset == "power":
            return Architecture((10 * dim,) * 3, "tanh", 5 if model == "cnf" else 1)
        if dataset == "miniboone":
            return Architecture((20 * dim,) * 2, "softplus", 1)
        return Architecture((64, 64, 64), "tanh" if model == "cnf" else "silu", 1)
    width = 64 if dim == 2 else 100
    return Architecture((width, width), "relu", 8 if model == "realnvp" else 5)


def build(
    model: str,
    dim: int,
    size: Architecture,
    generator: torch.Generator,
    device: str,
    solver: dict[str, Any],
) -> Flow:
    """A model with fresh weights.

    Args:
        model: one of ``MODELS`` that is trained by steps.
        dim: entries of a point.
        size: its architecture.
        generator: source of the weights.
        device: where they live.
        solver: keywords of ``CNF`` for training.
    """
    how: dict[str, Any] = {"generator": generator, "device": device}
    if model in ("cnf", "fm"):
        fields = [TimeMLP(dim, size.hidden, size.activation, **how) for _ in range(size.layers)]
        return continuous(fields, dim, device, solver)
    kind: dict[str, Any] = {"realnvp": RealNVP, "maf": MAF}[model]
    return kind(dim, size.layers, size.hidden, size.activation, **how)


def continuous(fields: list[nn.Module], dim: int, device: str, solver: dict[str, Any]) -> Flow:
    """A flow of these fields, one after the other."""
    return Flow(StandardNormal(dim, device=device), [CNF(field, **solver) for field in fields])


def for_test(flow: Flow, dim: int, device: str, tolerance: float) -> Flow:
    """The same weights with the exact trace and a tight tolerance; other flows as they are."""
    if not any(isinstance(transform, CNF) for transform in flow.transforms):
        return flow
    fields = [transform.field for transform in flow.transforms]
    return continuous(fields, dim, device, {"rtol": tolerance, "atol": tolerance})
