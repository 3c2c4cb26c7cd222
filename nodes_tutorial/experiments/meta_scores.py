"""What heads of few-shot tasks are worth: accuracy, scores, and classes that were never seen."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nodes_tutorial.bayes import auroc, ece
from nodes_tutorial.meta import averaged_loss, class_means, prototype_logits

CHUNK = 50  # tasks at a time

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps support features, labels and query features to logits (draws, tasks, queries, ways)."""


class Episodes(NamedTuple):
    """Tasks of the test: support and queries of their classes, and queries of other classes."""

    support_x: Tensor
    support_y: Tensor
    seen_x: Tensor
    seen_y: Tensor
    unseen_x: Tensor


class Said(NamedTuple):
    """What a row says of the queries of both kinds: averages over its draws."""

    seen: Tensor
    unseen: Tensor
    logits: Tensor
    losses: Tensor
    seen_information: Tensor
    unseen_information: Tensor
    spread: float


@torch.no_grad()
def ask(predict: Predict, given: Episodes) -> Said:
    """Probabilities of all queries, their mutual information with the draws, and losses."""
    parts: list[tuple[Tensor, ...]] = []
    spreads = []
    for sx, sy, qx, qy, ux in zip(*(x.split(CHUNK) for x in given), strict=True):
        logits = predict(sx, sy, torch.cat([qx, ux], 1))
        known, other = logits.split(qx.shape[1], -2)
        means, information = zip(*map(_information, (known, other)), strict=True)
        losses = averaged_loss(known, qy, "losses")
        parts.append((*means, averaged_loss(known, qy, "logits"), losses, *information))
        spreads.append(float(logits.std(0, correction=0).mean()))
    joined = [torch.cat(x) for x in zip(*parts, strict=True)]
    return Said(*joined, spread=sum(spreads) / len(spreads))


def _information(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean probabilities over the draws, and the mutual information of draw and class."""
    probs = logits.softmax(-1)
    mean = probs.mean(0)
    information = (entropy(mean) - entropy(probs).mean(0)).clamp_min(0)
    return mean, information if len(logits) > 1 else torch.zeros_like(information)


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats."""
    return -torch.special.xlogy(probs, probs).sum(-1)


def log_loss(probs: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of probabilities, by the one draw that they are."""
    return averaged_loss(probs.clamp_min(1e-30).log()[None], labels, "probabilities").mean()


def scores(said: Said, given: Episodes, heat: Tensor) -> dict[str, float]:
    """The numbers of a row."""
    probs, labels = said.seen.flatten(0, 1), given.seen_y.flatten()
    cooled = (probs.clamp_min(1e-30).log() / heat).softmax(-1)
    per_task = (said.seen.argmax(-1) == given.seen_y).float().mean(-1)
    sure, unsure = entropy(said.seen), entropy(said.unseen)
    numbers = {
        "accuracy": per_task.mean(),
        "interval": 1.96 * per_task.std() / len(per_task) ** 0.5,
        "nll": log_loss(probs, labels),
        "nll_losses": said.losses.mean(),
        "nll_logits": said.logits.mean(),
        "ece": ece(probs, labels),
        "temperature": heat,
        "nll_scaled": log_loss(cooled, labels),
        "ece_scaled": ece(cooled, labels),
        "entropy_seen": sure.mean(),
        "entropy_unseen": unsure.mean(),
        "auroc_entropy": auroc(unsure.flatten(), sure.flatten()),
        "auroc_information": auroc(
            said.unseen_information.flatten(), said.seen_information.flatten()
        ),
        "auroc_distance": _by_distance(given),
    }
    return {name: round(float(value), 5) for name, value in numbers.items()}


def _by_distance(given: Episodes) -> Tensor:
    """AUROC of the distance to the nearest class mean, which hangs on the features alone."""
    ways = int(given.seen_y.max()) + 1
    queries = torch.cat([given.seen_x, given.unseen_x], 1)
    means = class_means(given.support_x, given.support_y, ways)
    near = -prototype_logits(queries, means).amax(-1)
    seen, unseen = near.split(given.seen_x.shape[1], 1)
    return auroc(unseen.flatten(), seen.flatten())
