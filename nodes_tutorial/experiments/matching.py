"""Flow matching, its optimally paired form, and maximum likelihood, at equal CPU time."""

import time
from typing import Any

import torch
from torch import nn

from nodes_tutorial.data import toy2d
from nodes_tutorial.experiments.record import provenance
from nodes_tutorial.flows import (
    CNF,
    Flow,
    StandardNormal,
    flow_matching_loss,
    straightness,
    wasserstein2,
)
from nodes_tutorial.nets import TimeMLP, count_parameters

METHODS = ("CFM", "OT-CFM", "FFJORD")
EULER = (1, 2, 4, 8, 16)
BATCH = {"CFM": 256, "OT-CFM": 64, "FFJORD": 256}
RATE = {"CFM": 5e-3, "OT-CFM": 5e-3, "FFJORD": 1e-2}


def train(
    method: str, dataset: str, seconds: float, seed: int, width: int = 64
) -> tuple[TimeMLP, int]:
    """Train a field for so many CPU seconds, with a rate that falls to zero in that time.

    Args:
        method: one of ``METHODS``. FFJORD is maximum likelihood with the exact trace, through
            eight steps of ``rk4``.
        dataset: a key of ``toy2d.ENTROPY``.
        seconds: CPU time of this process.
        seed: of weights, noise and data.
        width: of the three hidden layers.

    Returns:
        The field, and the number of steps it got.

    Raises:
        ValueError: unknown ``method``.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    generator = torch.Generator().manual_seed(seed)
    field = TimeMLP(2, [width] * 3, "silu", generator)
    solver: dict[str, Any] = {"method": "rk4", "options": {"step_size": 1 / 8}}
    flow = Flow(StandardNormal(2), [CNF(field, **solver)])
    adam = torch.optim.Adam(field.parameters(), fused=True)
    begin, steps = time.process_time(), 0
    while (passed := (time.process_time() - begin) / seconds) < 1:
        adam.param_groups[0]["lr"] = RATE[method] * min(1.0, 1.5 * (1 - passed))
        x = toy2d.sample(dataset, BATCH[method], generator)
        if method == "FFJORD":
            loss = -flow.log_prob(x).mean()
        else:
            coupling = "ot" if method == "OT-CFM" else "independent"
            loss = flow_matching_loss(field, x, coupling=coupling, generator=generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
        steps += 1
    return field, steps


def measure(
    field: nn.Module, dataset: str, *, points: int = 2000, pairs: int = 1000
) -> dict[str, Any]:
    """Judge a field: likelihood, evaluations, straightness, and distance of its samples.

    Args:
        field: the field.
        dataset: a key of ``toy2d.ENTROPY``.
        points: test points for the likelihood.
        pairs: samples for the distance, beside as many of the truth.

    Returns:
        ``excess`` (NLL minus that of the truth on the same points, in nats), ``nfe`` of a
        likelihood at tolerance 1e-5, ``sample_nfe``, ``straightness``, ``loss`` (matching, with
        independent pairs), ``w2``, ``w2_truth`` (between two samples of the truth) and
        ``w2_euler`` (by number of Euler steps).
    """
    generator = torch.Generator().manual_seed(10**6)
    x = toy2d.sample(dataset, points, generator)
    truth, other = (toy2d.sample(dataset, pairs, generator) for _ in range(2))
    noise = torch.randn(pairs, 2, generator=generator)
    cnf = CNF(field)
    with torch.no_grad():
        gap = toy2d.log_prob(dataset, x) - Flow(StandardNormal(2), [cnf]).log_prob(x)
        row: dict[str, Any] = {"excess": gap.mean().item(), "nfe": cnf.nfe}
        samples = cnf.push(noise)
        row |= {"sample_nfe": cnf.nfe, "w2": wasserstein2(samples, truth).item()}
        row["w2_truth"] = wasserstein2(other, truth).item()
        row["straightness"] = straightness(field, noise, rtol=1e-4, atol=1e-4).item()
        many = toy2d.sample(dataset, 20_000, generator)
        row["loss"] = flow_matching_loss(field, many, generator=generator).item()
        row["w2_euler"] = {}
        for steps in EULER:
            euler = CNF(field, method="euler", options={"step_size": 1 / steps})
            row["w2_euler"][str(steps)] = wasserstein2(euler.push(noise), truth).item()
    return row


def compare(dataset: str, method: str, seconds: float, seed: int, width: int) -> dict[str, Any]:
    """One row of the record."""
    field, steps = train(method, dataset, seconds, seed, width)
    row = {"dataset": dataset, "model": method, "seed": seed, "cpu_seconds": seconds}
    row |= {"steps": steps, "width": width, "parameters": count_parameters(field)}
    return row | measure(field, dataset, points=10_000, pairs=2000) | provenance()
