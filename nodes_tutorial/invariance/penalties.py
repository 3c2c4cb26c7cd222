"""Penalties that pull a predictor towards being optimal in all environments at once."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nodes_tutorial.checks import check_points

LOSSES = ("logistic", "squared", "softmax")


def irm_penalty(
    logits: Float[Tensor, "..."],
    y: Shaped[Tensor, "..."],
    *,
    loss: str = "logistic",
    weights: Float[Tensor, "..."] | None = None,
    halves: bool = False,
) -> Float[Tensor, "..."]:
    r"""The squared derivative of the risk of :math:`w\cdot z` in the scale w, at w = 1.

    .. math:: \Bigl(\frac{\dd}{\dd w}\Big|_{w=1}\E\,\ell(wz, y)\Bigr)^2 = \bigl(\E\,r\,z\bigr)^2

    with :math:`r=\sigma(z)-y` for ``"logistic"``, :math:`r=z-y` for ``"squared"``, which is the
    loss :math:`\frac12(z-y)^2`, and :math:`rz=\sum_k(p_k-1[k=y])z_k` for ``"softmax"``.

    Args:
        logits: outputs z of one environment, rows on the last axis; with ``"softmax"`` rows on
            the last axis but one, and classes on the last. Axes before that are independent.
        y: targets of the rows. For ``"logistic"`` 0, 1 or a probability of 1; for ``"softmax"``
            classes.
        loss: ``"logistic"``, ``"squared"`` or ``"softmax"``.
        weights: of the rows, with the sum 1; None means equal ones.
        halves: the product of the derivatives on the rows 0, 2, … and 1, 3, …, in place of the
            square of one. For independent rows its mean is the penalty of the population; it
            may be negative.

    Returns:
        The penalty, without the axes of rows and classes.

    Raises:
        TypeError: ``logits`` are no floating-point tensor.
        ValueError: unknown ``loss``, other axes, no row; an odd number of rows or weights
            together with ``halves``.

    Chapter: invariance/irm, prop-irm-penalty

    References: Arjovsky, Bottou, Gulrajani and Lopez-Paz (2019), equation (IRMv1).

    >>> import torch
    >>> from nodes_tutorial.invariance import irm_penalty
    >>> irm_penalty(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), loss="squared")
    tensor(1.)
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    check_points("logits", logits)
    slopes = _slopes(logits, y, loss)
    if slopes.ndim == 0 or slopes.shape[-1] == 0:
        raise ValueError(f"logits must hold at least one row, got shape {tuple(logits.shape)}")
    if not halves:
        return _mean(slopes, weights).square()
    if weights is not None:
        raise ValueError("weights must be None with halves: those are means of equal rows")
    if slopes.shape[-1] % 2:
        raise ValueError(
            f"halves needs an even number of rows, got {slopes.shape[-1]}: drop one of them"
        )
    return slopes[..., 0::2].mean(-1) * slopes[..., 1::2].mean(-1)


def rex_penalty(risks: Float[Tensor, "... envs"]) -> Float[Tensor, "..."]:
    r"""The variance of the risks over the environments, :math:`\frac1E\sum_e(R^e-\bar R)^2`.

    Args:
        risks: one risk for each environment, at least two.

    Returns:
        The variance with the divisor E; 0 if and only if all risks are equal.

    Raises:
        TypeError: ``risks`` are no floating-point tensor.
        ValueError: fewer than two environments.

    Chapter: invariance/irm

    References: Krueger et al. (2021), equation (V-REx).

    >>> import torch
    >>> from nodes_tutorial.invariance import rex_penalty
    >>> rex_penalty(torch.tensor([1.0, 3.0]))
    tensor(1.)
    """
    check_points("risks", risks)
    if risks.ndim == 0 or risks.shape[-1] < 2:
        raise ValueError(f"risks must be of two environments or more, got {tuple(risks.shape)}")
    return risks.var(-1, correction=0)


def _slopes(logits: Tensor, y: Tensor, loss: str) -> Tensor:
    """The derivative of the loss of each row in the scale."""
    rows = logits.shape[:-1] if loss == "softmax" else logits.shape
    if not isinstance(y, Tensor) or y.shape[-1:] != rows[-1:] or y.ndim > len(rows):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"y must have a target for each row of shape {tuple(rows)}, got {shape}")
    if loss == "softmax":
        if y.is_floating_point():
            raise ValueError(f"y must hold classes, whole numbers, for softmax; got {y.dtype}")
        probabilities = logits.softmax(-1)
        chosen = logits.gather(-1, y.expand(rows)[..., None])[..., 0]
        return (probabilities * logits).sum(-1) - chosen
    fitted = logits.sigmoid() if loss == "logistic" else logits
    return (fitted - y) * logits


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return rows.mean(-1)
    if weights.shape[-1:] != rows.shape[-1:]:
        raise ValueError(
            f"weights must have an entry for each of {rows.shape[-1]} rows, "
            f"got shape {tuple(weights.shape)}"
        )
    return torch.linalg.vecdot(rows, weights.to(rows.dtype))
