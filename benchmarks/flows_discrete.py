"""Training steps of discrete flows beside zuko and normflows; `flows.py` prints these rows too.

A step is the mean of -log p of 512 points, its gradient, and one update by fused Adam. Each library
has networks of the same sizes and the same number of weights. What is done for the peers:

- normflows' MADE has no activation after its first layer; it is added, so that all three compute
  the same network.
- normflows' `log_prob` of a MAF takes a pass for each entry. That is what a user of it gets, and
  what the goal compares with. Beside it stands "normflows, one pass": its layers in a chain of our
  own, turned around.
- zuko bounds log-scales by a soft clip, normflows' MAF by a sigmoid, its couplings not at all.
- For zuko's MAF there is a check of value: with our bound as its univariate map and with our
  weights, its log-density is ours.
"""

import sys

import torch
import zuko
from normflows.distributions import DiagGaussian
from normflows.flows import AffineCouplingBlock, MaskedAffineAutoregressive, Permute
from normflows.nets import MLP
from torch import Tensor, nn

from benchmarks.harness import Row, Times, show
from nodes_tutorial.flows import MAF, RealNVP
from nodes_tutorial.nets import count_parameters

POINTS, BOUND = 512, 2.0
SIZES = {2: (64, 64), 43: (128, 128), 63: (128, 128)}  # the plane, MINIBOONE, BSDS300


class Normflows(nn.Module):
    """A chain of normflows' layers; ``inverse`` says which way leads from data to noise."""

    def __init__(self, layers: list[nn.Module], dim: int, inverse: bool) -> None:
        super().__init__()
        self.layers, self.inverse = nn.ModuleList(layers), inverse
        self.base = DiagGaussian(dim, trainable=False)

    def log_prob(self, x: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for layer in self.layers:
            x, ladj = layer.inverse(x) if self.inverse else layer(x)
            total = total + ladj
        return self.base.log_prob(x) + total


class Bounded(torch.distributions.Transform):
    """Our univariate map, from data to noise, for zuko."""

    domain = codomain = torch.distributions.constraints.real
    bijective, sign = True, +1

    def __init__(self, shift: Tensor, a: Tensor) -> None:
        super().__init__()
        self.shift, self.log_scale = shift, torch.tanh(a) * -BOUND

    def _call(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.log_scale.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_scale).exp() + self.shift

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_scale


def maf(dim: int, hidden: tuple[int, ...]) -> dict[str, nn.Module]:
    theirs = [
        MaskedAffineAutoregressive(dim, hidden[0], num_blocks=1, use_residual_blocks=False)
        for _ in range(5)
    ]
    for layer in theirs:
        net = layer.autoregressive_net
        net.initial_layer = nn.Sequential(net.initial_layer, nn.ReLU())
    return {
        "ours": MAF(dim, 5, hidden, bound=BOUND),
        "zuko": zuko.flows.MAF(dim, transforms=5, hidden_features=hidden),
        "normflows": Normflows(theirs, dim, inverse=True),
        "normflows, one pass": Normflows(theirs, dim, inverse=False),
    }


def real_nvp(dim: int, hidden: tuple[int, ...]) -> dict[str, nn.Module]:
    first, second = (dim + 1) // 2, dim // 2
    theirs: list[nn.Module] = []
    for _ in range(8):
        net = MLP([first, *hidden, 2 * second])
        theirs += [AffineCouplingBlock(net, scale_map="exp"), Permute(dim, mode="swap")]
    return {
        "ours": RealNVP(dim, 8, hidden, bound=BOUND),
        "zuko": zuko.flows.RealNVP(dim, transforms=8, hidden_features=hidden),
        "normflows": Normflows(theirs, dim, inverse=True),
    }


def training_step(model: nn.Module, x: Tensor):
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    density = model if hasattr(model, "log_prob") else None

    def step() -> Tensor:
        adam.zero_grad()
        log_prob = density.log_prob(x) if density else model().log_prob(x)
        loss = -log_prob.mean()
        loss.backward()
        adam.step()
        return loss

    return step


@torch.no_grad()
def disagreement(dim: int, hidden: tuple[int, ...]) -> float:
    """Largest difference of log-densities between our MAF and zuko's with the same weights."""
    ours = MAF(dim, 5, hidden, bound=BOUND)
    theirs = zuko.flows.MAF(dim, transforms=5, hidden_features=hidden, univariate=Bounded)
    x = torch.randn(POINTS, dim, generator=torch.Generator().manual_seed(0))
    for layer, other in zip(reversed(ours.transforms), theirs.transform.transforms, strict=True):
        linears = [part for part in other.hyper if isinstance(part, nn.Linear)]
        for a, b in zip(layer.net.layers, linears, strict=True):
            last = b is linears[-1]  # zuko: two numbers an entry; ours: first all shifts
            order = torch.arange(2 * dim).view(2, dim).T.flatten() if last else slice(None)
            b.weight.copy_(a.weight[order])
            b.bias.copy_(a.bias[order])
            b.mask.copy_(a.mask[order].to(b.mask.dtype))
    return float((ours.log_prob(x) - theirs().log_prob(x)).abs().max())


def rows(seconds: float = 4.0) -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    """The goals, and for each contender its time; the last column is the loss after the rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    goals: list[Row] = []
    lines: list[tuple[str, str, float, float]] = []
    for name, build in (("MAF(5)", maf), ("RealNVP(8)", real_nvp)):
        for dim, hidden in SIZES.items():
            x = torch.randn(POINTS, dim)
            models = build(dim, hidden)
            counts = {who: count_parameters(model) for who, model in models.items()}
            assert max(counts.values()) < 1.01 * min(counts.values()), counts
            work = {who: training_step(model, x) for who, model in models.items()}
            times = Times(work, seconds=seconds, least=15)
            fastest = min(("zuko", "normflows"), key=times.ms)
            what = f"{name} step, d = {dim}, over"
            ratio = times.ratio(fastest, "ours")
            goals.append(Row(f"{what} the faster of zuko and normflows", ratio, ">=1.2"))
            if "normflows, one pass" in models:
                ratio = times.ratio("normflows, one pass", "ours")
                goals.append(Row(f"{what} normflows turned around", ratio, ">=1.0"))
            for who in models:
                lines.append(
                    (f"{name}, d = {dim}", who, times.ms(who), float(work[who]().detach()))
                )
    gap = max(disagreement(dim, hidden) for dim, hidden in SIZES.items())
    goals.append(Row("MAF with zuko's and our weights: largest difference", gap, "<=1e-3"))
    return goals, lines


if __name__ == "__main__":
    goals, lines = rows(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)
    show(goals, lines)
