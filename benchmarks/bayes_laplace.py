"""The last layer's Laplace approximation beside laplace-torch: fit, and variances of the logits.

The network is 784-256-64-10 with drawn weights, 2,000 examples for the fit and 1,000 for the
variances. Both sides start from the network; the reference is the full matrix in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.bayes_steps import seeded
from benchmarks.harness import Row, Times
from nodes_tutorial.bayes import LastLayerLaplace, softmax_curvature
from nodes_tutorial.nets import MLP

try:
    from laplace import Laplace
except ModuleNotFoundError:  # it is not in the extra: pip install laplace-torch==0.3
    Laplace = None

FIT, ASKED, PRECISION = 2000, 1000, 1.0
THEIRS = {"dense": "full", "kronecker": "kron", "diagonal": "diag"}


def ours(net: nn.Sequential, x: Tensor, asked: Tensor, structure: str) -> Tensor:
    *body, last = net
    with torch.no_grad():
        features, there = (nn.Sequential(*body)(rows) for rows in (x, asked))
        fitted = LastLayerLaplace(features, softmax_curvature(last(features)), PRECISION, structure)
        return fitted.covariance(there)


def theirs(net: nn.Sequential, x: Tensor, y: Tensor, asked: Tensor, structure: str) -> Tensor:
    fitted = Laplace(
        net,
        "classification",
        subset_of_weights="last_layer",
        hessian_structure=THEIRS[structure],
        prior_precision=PRECISION,
    )
    fitted.fit(DataLoader(TensorDataset(x, y), batch_size=len(x)))
    return fitted._glm_predictive_distribution(asked)[1].detach()


def rows() -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    """Goals, and time and error of both for each structure."""
    net = MLP([784, 256, 64, 10], generator=seeded(0)).layers
    x, asked = (torch.randn(n, 784, generator=seeded(n)) for n in (FIT, ASKED))
    y = torch.randint(10, (FIT,), generator=seeded(1))
    goals: list[Row] = []
    lines: list[tuple[str, str, float, float]] = []
    exact = ours(net.double(), x.double(), asked.double(), "dense")
    net.float()
    for structure in THEIRS:
        work: dict[str, Callable[[], Tensor]] = {"ours": lambda s=structure: ours(net, x, asked, s)}
        if Laplace is not None:
            work["laplace-torch"] = lambda s=structure: theirs(net, x, y, asked, s)
        times, name = Times(work, seconds=5.0), f"last-layer Laplace, {structure}"
        for who, run in work.items():
            off = float((run() - exact).norm() / exact.norm())
            lines.append((name, who, times.ms(who), off))
        if Laplace is not None:
            goals.append(
                Row(f"{name}: over laplace-torch", times.ratio("laplace-torch", "ours"), ">=1.0")
            )
    return goals, lines
