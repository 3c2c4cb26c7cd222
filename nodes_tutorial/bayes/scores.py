"""Proper scores of probabilities, and the parts of one of them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot

from nodes_tutorial.checks import check_filled, check_points


def nll(probs: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
    r"""Mean negative log-probability of the labels, in nats.

    Args:
        probs: probabilities of the classes, one row an example.
        labels: the right classes, 0 … k - 1.

    Returns:
        The mean; infinite where a label has probability 0.

    Raises:
        TypeError: ``probs`` is no floating-point tensor, or ``labels`` no integers.
        ValueError: shapes that do not fit, no example, rows off the simplex, or a label out of
            range.

    Chapter: prop-networks-brier

    >>> import torch
    >>> from nodes_tutorial.bayes import nll
    >>> nll(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    tensor(0.6931)
    """
    check_forecast(probs, labels)
    return nll_loss(probs.log(), labels)


def brier(probs: Float[Tensor, "n k"], labels: Tensor) -> Float[Tensor, ""]:
    r"""The Brier score :math:`\frac1n\sum_i\|p_i - e_{y_i}\|^2`.

    Args:
        probs: probabilities of the classes, one row an example.
        labels: the right classes.

    Returns:
        The score, between 0 and 2.

    Raises:
        TypeError: as for ``nll``.
        ValueError: as for ``nll``.

    Chapter: prop-networks-brier

    References: Brier (1950).

    >>> import torch
    >>> from nodes_tutorial.bayes import brier
    >>> brier(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    tensor(0.5000)
    """
    check_forecast(probs, labels)
    return (probs - one_hot(labels, probs.shape[1])).square().sum(-1).mean()


class BrierParts(NamedTuple):
    """The parts of a Brier score; the score is the first minus the second plus the others.

    Attributes:
        reliability: squared distance of forecasts from frequencies, between groups.
        resolution: squared distance of the groups' frequencies from the overall ones.
        uncertainty: Brier score of the overall frequencies.
        within: what forecasts that differ inside a group add; 0 where they are equal.
    """

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within: Tensor


def brier_parts(probs: Float[Tensor, "n k"], labels: Tensor, groups: Tensor) -> BrierParts:
    r"""The Brier score by groups of examples, exactly.

    Args:
        probs: probabilities of the classes, one row an example.
        labels: the right classes.
        groups: number of the group of each example, from 0 on.

    Returns:
        Reliability, resolution, uncertainty, and what is left inside the groups.

    Raises:
        TypeError: as for ``nll``, or ``groups`` holds no integers.
        ValueError: as for ``nll``, or ``groups`` of another shape or with a negative number.

    Chapter: prop-networks-brier

    References: Murphy (1973); Stephenson, Coelho and Jolliffe (2008).

    >>> import torch
    >>> from nodes_tutorial.bayes import brier_parts
    >>> probs, labels = torch.tensor([[0.5, 0.5]] * 2), torch.tensor([0, 1])
    >>> brier_parts(probs, labels, torch.tensor([0, 0])).uncertainty
    tensor(0.5000)
    """
    check_forecast(probs, labels)
    check_labels("groups", groups, None)
    if groups.shape != labels.shape:
        raise ValueError(f"groups must have shape {tuple(labels.shape)}, got {tuple(groups.shape)}")
    member = one_hot(groups).to(probs.dtype)
    member = member[:, member.sum(0) > 0]
    share = member.mean(0)
    target = one_hot(labels, probs.shape[1]).to(probs.dtype)
    forecast, frequency = (member.mT @ x / member.sum(0)[:, None] for x in (probs, target))
    overall = target.mean(0)
    p, y = probs - member @ forecast, target - member @ frequency
    return BrierParts(
        reliability=share @ (forecast - frequency).square().sum(-1),
        resolution=share @ (frequency - overall).square().sum(-1),
        uncertainty=1 - overall.square().sum(),
        within=(p * (p - 2 * y)).sum(-1).mean(),
    )


def check_forecast(probs: Tensor, labels: Tensor) -> None:
    """Refuse rows off the simplex, and labels that are no classes of theirs.

    Args:
        probs: probabilities, one row an example.
        labels: the right classes.

    Raises:
        TypeError: another kind of tensor.
        ValueError: shapes that do not fit, no row, rows off the simplex, a label out of range.
    """
    check_points("probs", probs)
    check_filled("probs", probs)
    if probs.ndim != 2:
        raise ValueError(f"probs must have shape (n, k), got {tuple(probs.shape)}")
    slack = 1e-4 if probs.dtype in (torch.float32, torch.bfloat16, torch.float16) else 1e-8
    off: Bool[Tensor, " n"] = ((probs.sum(-1) - 1).abs() > slack) | (probs < 0).any(-1)
    if bool((off | probs.isnan().any(-1)).any()):
        raise ValueError("probs must hold rows of probabilities that sum to 1; logits need softmax")
    check_labels("labels", labels, probs.shape[1])
    if labels.shape != probs.shape[:1]:
        raise ValueError(f"labels must have shape ({len(probs)},), got {tuple(labels.shape)}")


def check_labels(name: str, labels: Tensor, classes: int | None) -> None:
    """Refuse what are no numbers of classes.

    Args:
        name: name of the argument, for the message.
        labels: what it got.
        classes: number of classes; None for any.

    Raises:
        TypeError: no tensor of integers.
        ValueError: a number that is negative, or not below ``classes``.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be a tensor of integers")
    out = labels.lt(0) if classes is None else labels.lt(0) | labels.ge(classes)
    if bool(out.any()):
        wanted = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"{name} must be {wanted}, got {int(labels[out][0])}")
