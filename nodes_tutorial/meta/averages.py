"""The loss of several draws of a network: of each, of their probabilities, of their logits."""

import math

from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_points
from nodes_tutorial.meta.heads import check_labels

AVERAGES = ("losses", "probabilities", "logits")


def averaged_loss(
    logits: Float[Tensor, "draws *points ways"], labels: Tensor, average: str = "losses"
) -> Float[Tensor, "*points"]:
    r"""The loss of several draws at once, in one of three forms.

    ====================  ====================================================================
    ``average``           loss of a point with the label y
    ====================  ====================================================================
    ``"losses"``          :math:`-\frac1P\sum_p\log\mathrm{softmax}(\ell_p)_y`
    ``"probabilities"``   :math:`-\log\frac1P\sum_p\mathrm{softmax}(\ell_p)_y`, the model average
    ``"logits"``          :math:`-\log\mathrm{softmax}\bigl(\frac1P\sum_p\ell_p\bigr)_y`
    ====================  ====================================================================

    Args:
        logits: of the P draws, along the first axis.
        labels: the right classes.
        average: a key of the table.

    Returns:
        One loss for each point, in nats; the first is never below the two others.

    Raises:
        TypeError: ``logits`` are no floating-point tensor, or ``labels`` no integers.
        ValueError: unknown ``average``, shapes that do not fit, or a label out of range.

    Chapter: prop-bayesian-losses

    References: Jensen (1906).

    >>> import torch
    >>> from nodes_tutorial.meta import averaged_loss
    >>> logits, label = torch.tensor([[[3.0, 0.0]], [[-3.0, 0.0]]]), torch.tensor([0])
    >>> [averaged_loss(logits, label, kind).item() for kind in ("losses", "logits")]
    [1.548..., 0.693...]
    """
    check_points("logits", logits)
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {', '.join(AVERAGES)}; got {average!r}")
    if logits.ndim < 2 or not len(logits):
        raise ValueError(f"logits must have an axis of draws, got shape {tuple(logits.shape)}")
    check_labels("labels", labels, logits.shape[1:-1], logits.shape[-1])
    if average == "logits":
        logits = logits.mean(0, keepdim=True)
    rows = logits.log_softmax(-1)
    right = rows.gather(-1, labels.expand(rows.shape[:-1])[..., None])[..., 0]
    if average == "probabilities":
        return math.log(len(rows)) - right.logsumexp(0)
    return -right.mean(0)
