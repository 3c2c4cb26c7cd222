"""Whether probabilities mean what they say: calibration errors, coverage, temperature."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.bayes.scores import brier, brier_parts, check_forecast, check_labels, nll
from nodes_tutorial.checks import check_count, check_filled, check_points

__all__ = [
    "auroc",
    "brier",
    "brier_parts",
    "confidence_bins",
    "coverage",
    "ece",
    "nll",
    "temperature_scale",
]


def ece(
    probs: Float[Tensor, "n k"],
    labels: Tensor,
    bins: int = 15,
    *,
    equal_mass: bool = False,
) -> Float[Tensor, ""]:
    r"""Expected calibration error of the most probable class.

    .. math:: \sum_b\frac{n_b}n\,\lvert\mathrm{accuracy}_b - \mathrm{confidence}_b\rvert

    Args:
        probs: probabilities of the classes, one row an example.
        labels: the right classes.
        bins: number of bins of the confidence.
        equal_mass: bins with equally many examples, instead of bins of equal width.

    Returns:
        The error, between 0 and 1. It depends on the bins, and it is not 0 for a calibrated
        model of finitely many examples.

    Raises:
        TypeError: as for ``nll``, or ``bins`` is not an integer.
        ValueError: as for ``nll``, or ``bins`` below 1.

    Chapter: prop-networks-brier

    References: Guo et al. (2017), equation 3.

    >>> import torch
    >>> from nodes_tutorial.bayes import ece
    >>> ece(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    tensor(0.)
    """
    check_forecast(probs, labels)
    check_count("bins", bins, least=1)
    confidence, guess = probs.max(-1)
    gap = confidence - (guess == labels).to(probs.dtype)
    group = confidence_bins(confidence, bins, equal_mass=equal_mass)
    return torch.zeros(bins, dtype=gap.dtype, device=gap.device).index_add(
        0, group, gap
    ).abs().sum() / len(gap)


def confidence_bins(
    confidence: Float[Tensor, " n"], bins: int, *, equal_mass: bool = False
) -> Int[Tensor, " n"]:
    """Number of the bin of each confidence.

    Args:
        confidence: numbers in [0, 1].
        bins: number of bins.
        equal_mass: bins with equally many examples; equal confidences may then part.

    Returns:
        Numbers 0 … bins - 1. A bin of equal width holds its upper end.

    Raises:
        TypeError: ``confidence`` is no floating-point tensor, or ``bins`` is not an integer.
        ValueError: ``bins`` below 1.

    Chapter: prop-networks-brier

    >>> import torch
    >>> from nodes_tutorial.bayes.calibration import confidence_bins
    >>> confidence_bins(torch.tensor([0.1, 0.5, 0.6]), 2)
    tensor([0, 0, 1])
    """
    check_points("confidence", confidence)
    check_count("bins", bins, least=1)
    if equal_mass:
        return confidence.argsort().argsort() * bins // len(confidence)
    return ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)


def coverage(
    cdf: Float[Tensor, "*batch"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, " levels"]:
    r"""How often the central intervals of a forecast hold what was observed.

    An interval of level c holds y if :math:`\lvert F(y)-\frac12\rvert\le\frac c2`.

    Args:
        cdf: the forecast's distribution function F at what was observed, in [0, 1].
        levels: levels of the intervals, in [0, 1].

    Returns:
        The share of observations inside, one for each level.

    Raises:
        TypeError: ``cdf`` or ``levels`` is no floating-point tensor.
        ValueError: a number outside [0, 1], or no observation.

    Chapter: prop-networks-brier

    >>> import torch
    >>> from nodes_tutorial.bayes import coverage
    >>> coverage(torch.tensor([0.1, 0.4, 0.5, 0.9]), torch.tensor([0.5, 0.9]))
    tensor([0.5000, 1.0000])
    """
    for name, x in (("cdf", cdf), ("levels", levels)):
        check_points(name, x)
        if x.numel() == 0 or not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"{name} must hold numbers in [0, 1], at least one")
    inside = (cdf.flatten() - 0.5).abs()[:, None] <= levels / 2
    return inside.to(cdf.dtype).mean(0)


def auroc(high: Float[Tensor, " n"], low: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    r"""Probability that a score of the first kind is above one of the second; ties count half.

    Args:
        high: scores of the kind that should have the larger ones.
        low: scores of the other kind.

    Returns:
        The area under the curve of hits against false alarms; 1/2 for scores that tell nothing.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: an argument is empty or no vector, or holds a NaN.

    Chapter: prop-networks-brier

    >>> import torch
    >>> from nodes_tutorial.bayes import auroc
    >>> auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1]))
    tensor(0.8750)
    """
    for name, x in (("high", high), ("low", low)):
        check_points(name, x)
        check_filled(name, x)
        if x.ndim != 1 or bool(x.isnan().any()):
            raise ValueError(f"{name} must be one vector of scores without NaN")
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high)
    up_to = torch.searchsorted(ordered, high, right=True)
    return (below + up_to).to(high.dtype).mean() / (2 * len(low))


def temperature_scale(
    logits: Float[Tensor, "n k"], labels: Tensor, *, most: float = 1e3
) -> Float[Tensor, ""]:
    r"""The temperature T that minimizes the cross-entropy of ``logits / T``.

    The cross-entropy is convex in β = 1/T, and its slope in β is
    :math:`\frac1n\sum_i\sum_k p_{ik}(\beta) z_{ik} - z_{iy_i}`. The zero is found by bisection of
    log β. Give it data that the network was not trained on, and report on others again.

    Args:
        logits: outputs z of the network.
        labels: the right classes, 0 … k - 1.
        most: the temperature is sought between 1/most and most.

    Returns:
        The temperature, above 1 for a network that is too confident. Where the labels are all
        the most probable classes it is at its lower end, since more confidence is always better.

    Raises:
        TypeError: ``logits`` is no floating-point tensor, or ``labels`` no integers.
        ValueError: shapes that do not fit, no example, or a label out of range.

    Chapter: prop-networks-brier

    References: Guo et al. (2017), section 4.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import temperature_scale
    >>> logits = torch.tensor([[4.0, 0.0]] * 4)
    >>> temperature_scale(logits, torch.tensor([0, 0, 0, 1]))
    tensor(3.6410)
    """
    check_points("logits", logits)
    check_filled("logits", logits)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "labels must hold one class for each row of logits, "
            f"got shapes {tuple(labels.shape)} and {tuple(logits.shape)}"
        )
    check_labels("labels", labels, logits.shape[1])
    right = logits.gather(1, labels[:, None])[:, 0]
    ends = torch.tensor([1 / most, most], dtype=logits.dtype, device=logits.device).log()
    low, high = ends[0], ends[1]
    for _ in range(60):
        middle = (low + high) / 2
        p = (middle.exp() * logits).softmax(-1)
        too_hot = ((p * logits).sum(-1) - right).mean() < 0
        low, high = torch.where(too_hot, middle, low), torch.where(too_hot, high, middle)
    return (-(low + high) / 2).exp()
