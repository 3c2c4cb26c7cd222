"""How sure are networks of their digits, and of letters that they have never seen?"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.bayes import (
    BayesianMLP,
    DropoutMLP,
    Ensemble,
    LastLayerLaplace,
    NormalPrior,
    auroc,
    bbb_loss,
    brier,
    ece,
    minibatch_joint,
    minibatch_loss,
    nll,
    softmax_curvature,
    temperature_scale,
)
from nodes_tutorial.bayes.sgld import sgld
from nodes_tutorial.experiments.letters import Images, data
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import MLP
from nodes_tutorial.training import fit

METHODS = ("linear", "map", "ensemble", "dropout", "bbb", "sgld", "laplace")
KEY = ("method", "seed")
RATES = (1e-3, 4e-3)  # of Adam
STEPS = (0.05, 0.2)  # of SGLD: half its step size times the number of images


@dataclass(frozen=True)
class Run:
    """All that decides a run."""

    method: str = "map"
    width: int = 100
    epochs: int = 3
    batch: int = 100
    members: int = 5
    draws: int = 20
    drop: float = 0.2
    prior: float = 0.3
    start_scale: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("width", "epochs", "batch", "members", "draws")
        check(self, {"method": METHODS}, positive)

    def sizes(self) -> list[int]:
        """Features of the layers."""
        return [784, 10] if self.method == "linear" else [784, self.width, 10]


Predict = Callable[[Tensor], Tensor]


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 500, progress: bool | None = None
) -> dict[str, Any]:
    """Train with each rate, keep the one that predicts the validation images best, and test.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from; each rate has one of its own.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Returns:
        The row for the record.
    """
    images = data()
    clock = Clock()
    found: dict[float, tuple[float, Predict]] = {}
    for rate in STEPS if run.method == "sgld" else RATES:
        path = None if checkpoint is None else f"{checkpoint}.{rate:g}"
        how = {"checkpoint": path, "every": every, "progress": progress}
        predict = _TRAIN[run.method](run, images, rate, how)
        with torch.no_grad():
            guess = predict(images.validation)
        found[rate] = float(nll(guess, images.validation_labels)), predict
    rate = min(found, key=lambda r: found[r][0])
    scores = _scores(found[rate][1], images)
    seconds = clock.state_dict()
    return {
        **{name: getattr(run, name) for name in KEY},
        **{name: round(float(value), 5) for name, value in scores.items()},
        "rate": rate,
        "validation": {f"{r:g}": round(v, 4) for r, (v, _) in found.items()},
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(),
    }


@torch.no_grad()
def _scores(predict: Predict, images: Images) -> dict[str, Tensor]:
    held, seen, unseen = (predict(x) for x in (images.validation, images.test, images.letters))
    labels = images.test_labels
    heat = temperature_scale(_log(held), images.validation_labels)
    cooled = (_log(seen) / heat).softmax(-1)
    return {
        "error": (seen.argmax(-1) != labels).float().mean(),
        "nll": nll(seen, labels),
        "brier": brier(seen, labels),
        "ece": ece(seen, labels),
        "ece_mass": ece(seen, labels, equal_mass=True),
        "auroc": auroc(entropy(unseen), entropy(seen)),
        "entropy_letters": entropy(unseen).mean(),
        "entropy_digits": entropy(seen).mean(),
        "temperature": heat,
        "nll_scaled": nll(cooled, labels),
        "ece_scaled": ece(cooled, labels),
    }


def _log(probs: Tensor) -> Tensor:
    return probs.clamp_min(1e-30).log()


def entropy(probs: Tensor) -> Tensor:
    """Entropy of the predicted class in nats."""
    return -torch.special.xlogy(probs, probs).sum(-1)


def categorical(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the labels, for each draw."""
    rows = logits.log_softmax(-1)
    return rows.gather(-1, labels.expand(rows.shape[:-1])[..., None])[..., 0]


def _fit(
    run: Run,
    images: Images,
    module: nn.Module,
    rate: float,
    loss: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    how: dict[str, Any],
    share: float = 1.0,
) -> torch.Generator:
    """Adam with a rate that falls to 0 by a cosine."""
    generator = torch.Generator().manual_seed(run.seed + 1)
    steps = round(share * run.epochs * len(images.train) / run.batch)
    adam = torch.optim.Adam(module.parameters(), rate)

    def step(i: int) -> Tensor:
        for group in adam.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * i / steps)) / 2
        rows = torch.randint(len(images.train), (run.batch,), generator=generator)
        value = loss(images.train[rows], images.labels[rows], generator)
        adam.zero_grad()
        value.backward()
        adam.step()
        return value

    fit(step, steps=steps, state={"module": module, "adam": adam, "draws": generator}, **how)
    return generator


def _members(
    run: Run, images: Images, rate: float, how: dict[str, Any], share: float = 1.0
) -> Ensemble:
    count = run.members if run.method == "ensemble" else 1
    start = torch.Generator().manual_seed(run.seed)
    members = Ensemble([MLP(run.sizes(), "relu", start) for _ in range(count)])
    prior, total = NormalPrior(run.prior), len(images.train)

    def loss(x: Tensor, y: Tensor, _: torch.Generator) -> Tensor:
        penalty = -prior.log_prob(members.weights).mean()
        return count * minibatch_loss(categorical(members(x), y), penalty, total=total)

    _fit(run, images, members, rate, loss, how, share)
    return members


def _points(run: Run, images: Images, rate: float, how: dict[str, Any]) -> Predict:
    members = _members(run, images, rate, how)
    return lambda x: members(x).softmax(-1).mean(0)


def _dropout(run: Run, images: Images, rate: float, how: dict[str, Any]) -> Predict:
    start = torch.Generator().manual_seed(run.seed)
    net = DropoutMLP(run.sizes(), run.drop, generator=start)
    prior, total = NormalPrior(run.prior), len(images.train)

    def loss(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        weights = torch.cat([p.flatten() for p in net.parameters()])
        log_lik = categorical(net(x, 1, generator), y)
        return minibatch_loss(log_lik, -prior.log_prob(weights), total=total)

    generator = _fit(run, images, net, rate, loss, how)
    return lambda x: net(x, run.draws, generator).softmax(-1).mean(0)


def _bbb(run: Run, images: Images, rate: float, how: dict[str, Any]) -> Predict:
    start = torch.Generator().manual_seed(run.seed)
    prior = NormalPrior(run.prior)
    net = BayesianMLP(run.sizes(), prior, scale=run.start_scale, generator=start)
    total = len(images.train)

    def loss(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return bbb_loss(net, x, y, categorical, total=total, local=True, generator=generator)

    generator = _fit(run, images, net, rate, loss, how)
    return lambda x: net(x, run.draws, generator).softmax(-1).mean(0)


def _sgld(run: Run, images: Images, rate: float, how: dict[str, Any]) -> Predict:
    """Half of the updates by Adam, then one chain for the other half."""
    start = _members(run, images, RATES[-1], how, share=0.5)
    total = len(images.train)
    steps = round(run.epochs * total / run.batch) // 2
    generator = torch.Generator().manual_seed(run.seed + 2)
    joint = minibatch_joint(
        NormalPrior(run.prior).log_prob,
        lambda w, x, y: categorical(start.flat(w, x), y),
        (images.train, images.labels),
        run.batch,
        generator,
    )
    kept = sgld(
        joint,
        start.weights.detach(),
        steps=steps,
        step_size=2 * rate / total,
        burn=steps // 4,
        thin=steps * 3 // 4 // run.draws,
        generator=generator,
    )[:, 0]
    return lambda x: torch.stack([start.flat(w, x).softmax(-1) for w in kept]).mean(0)


def _laplace(run: Run, images: Images, rate: float, how: dict[str, Any]) -> Predict:
    members = _members(run, images, rate, how)
    parts = members.flat.split(members.weights.detach()[0])
    v, b, w, c = parts.values()

    def features(x: Tensor) -> Tensor:
        return (x @ v.mT + b).relu()

    def logits(x: Tensor) -> Tensor:
        return features(x) @ w.mT + c

    last = LastLayerLaplace(
        features(images.train),
        softmax_curvature(logits(images.train)),
        1 / run.prior**2,
        "kronecker",
    )
    generator = torch.Generator().manual_seed(run.seed + 2)

    def predict(x: Tensor) -> Tensor:
        return last.sample(features(x), logits(x), run.draws, generator).softmax(-1).mean(0)

    return predict


_TRAIN: dict[str, Callable[[Run, Images, float, dict[str, Any]], Predict]] = {
    "linear": _points,
    "map": _points,
    "ensemble": _points,
    "dropout": _dropout,
    "bbb": _bbb,
    "sgld": _sgld,
    "laplace": _laplace,
}
