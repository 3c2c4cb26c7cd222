"""Training steps of Bayesian networks and of ensembles: contenders of `bayes` and `cuda`.

Every contender starts from the same means and deviations and takes one step of fused Adam. It
returns the loss before the step: its distance to the closed form stands as the error.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodes_tutorial.bayes import BayesianMLP, Ensemble, bbb_loss
from nodes_tutorial.nets import MLP

try:
    import pyro
    from pyro import poutine
    from pyro.distributions import Categorical, Normal
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal, init_to_value
    from pyro.nn import PyroSample
    from pyro.nn.module import to_pyro_module_
except ModuleNotFoundError:  # it is not in the extra: pip install pyro-ppl==1.9.2
    pyro = None

SIZES, BATCH, TOTAL, SCALE, RATE = (784, 400, 400, 10), 128, 60_000, 0.02, 1e-4
MEMBERS = 8
SHAPES = {"784-400-400-10": (SIZES, BATCH), "6-50-2": ((6, 50, 2), 100)}
Step = Callable[[], Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(sizes: tuple[int, ...], rows: int, device: str) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, sizes[0], generator=seeded(0))
    y = torch.randint(sizes[-1], (rows,), generator=seeded(1))
    return x.to(device), y.to(device)


def log_lik(logits: Tensor, y: Tensor) -> Tensor:
    return -F.cross_entropy(logits.movedim(-1, 1), y.expand(len(logits), -1), reduction="none")


def stepper(loss: Step, parameters: Any) -> Step:
    adam = torch.optim.Adam(parameters, RATE, fused=True)

    def step() -> Tensor:
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
        return value.detach()

    return step


class TextbookLayer(nn.Module):
    """Means and deviations of each tensor by themselves; log q and log p at the draw."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.means = nn.ParameterList([layer.weight.detach().clone(), layer.bias.detach().clone()])
        rho = math.log(math.expm1(SCALE))
        self.rhos = nn.ParameterList([torch.full_like(mean, rho) for mean in self.means])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drawn, gap = [], x.new_zeros(())
        for mean, rho in zip(self.means, self.rhos, strict=True):
            law = torch.distributions.Normal(mean, F.softplus(rho), validate_args=False)
            w = law.rsample()
            prior = torch.distributions.Normal(0.0, 1.0, validate_args=False)
            gap = gap + law.log_prob(w).sum() - prior.log_prob(w).sum()
            drawn.append(w)
        return F.linear(x, *drawn), gap


class Textbook(nn.Module):
    def __init__(self, net: MLP) -> None:
        super().__init__()
        linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
        self.layers = nn.ModuleList(TextbookLayer(layer) for layer in linear)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        kl = x.new_zeros(())
        for i, layer in enumerate(self.layers):
            x, gap = layer(x if i == 0 else x.relu())
            kl = kl + gap
        return kl / TOTAL + F.cross_entropy(x, y)


def with_pyro(net: MLP, x: Tensor, y: Tensor) -> Step:
    """One step of Pyro with its own guide; its loss is of the whole data set."""
    pyro.clear_param_store()
    pyro.enable_validation(False)
    values = {name: p.detach().clone() for name, p in net.named_parameters()}
    to_pyro_module_(net)
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            for name, p in list(layer.named_parameters()):
                law = Normal(x.new_zeros(()), x.new_ones(())).expand(p.shape).to_event(p.dim())
                delattr(layer, name)
                setattr(layer, name, PyroSample(law))

    def model(x: Tensor, y: Tensor) -> None:
        logits = net(x)
        with pyro.plate("rows", len(x)), poutine.scale(scale=TOTAL / len(x)):
            pyro.sample("y", Categorical(logits=logits), obs=y)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values=values), init_scale=SCALE)
    adam = pyro.optim.Adam({"lr": RATE})
    svi = SVI(model, guide, adam, Trace_ELBO())
    return lambda: torch.as_tensor(svi.step(x, y) / TOTAL)


def bayes_by_backprop(device: str) -> tuple[dict[str, Step], float]:
    """The steps, and the loss before them: closed divergence, likelihood from 200 draws."""
    x, y = batch(SIZES, BATCH, device)

    def ours() -> BayesianMLP:
        return BayesianMLP(SIZES, scale=SCALE, generator=seeded(2)).to(device)

    def plain() -> MLP:
        return MLP(SIZES, generator=seeded(2)).to(device)

    def of(model: BayesianMLP, **how: Any) -> Step:
        return stepper(
            lambda: bbb_loss(model, x, y, log_lik, total=TOTAL, **how), model.parameters()
        )

    model, net, textbook = ours(), plain(), Textbook(plain())
    with torch.no_grad():
        truth = float(bbb_loss(model, x, y, log_lik, total=TOTAL, n=200))
    work = {
        "ordinary step": stepper(lambda: F.cross_entropy(net(x), y), net.parameters()),
        "ours": of(model),
        "ours, drawn divergence": of(ours(), closed=False),
        "ours, noise for each example": of(ours(), local=True),
        "textbook loop": stepper(lambda: textbook.loss(x, y), textbook.parameters()),
    }
    if pyro is not None and device == "cpu":
        work["Pyro, AutoNormal"] = with_pyro(plain(), x, y)
    return work, truth


def ensembles(name: str, device: str) -> dict[str, Step]:
    """Eight networks in one graph, and one after the other; the sum of their losses."""
    sizes, rows = SHAPES[name]
    x, y = batch(sizes, rows, device)
    members = [MLP(sizes, generator=seeded(k)).to(device) for k in range(MEMBERS)]
    together = Ensemble(members)
    loop = [
        stepper(lambda net=net: F.cross_entropy(net(x), y), net.parameters()) for net in members
    ]

    def in_turn() -> Tensor:
        return torch.stack([step() for step in loop]).sum()

    mean = stepper(lambda: -log_lik(together(x), y).mean(1).sum(), together.parameters())
    return {"ours, one graph": mean, "loop": in_turn}
