"""What an ensemble of infinitely wide networks predicts while it is trained."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_filled, check_number, check_points
from nodes_tutorial.generalization.wide import WideKernels


class NTKPrediction(NamedTuple):
    """Mean and covariance of the trained networks at new points."""

    mean: Float[Tensor, "..."]
    """Mean of the trained networks, a row for each new point."""
    covariance: Float[Tensor, "..."]
    """Covariance between new points, the same for each output."""


def ntk_gp(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "n *outputs"],
    new: Float[Tensor, "m dim"],
    *,
    kernels: Callable[[Tensor, Tensor], WideKernels],
    time: float | int = math.inf,
) -> NTKPrediction:
    r"""The law of a wide network at new points, after training with squared error.

    .. math:: T=\Theta_{*X}\Theta_{XX}^{-1}(I-e^{-t\Theta_{XX}}),\qquad \mu=Ty,\qquad
        \Sigma=S_{**}-TS_{X*}-S_{*X}T^\top+TS_{XX}T^\top

    Args:
        x: inputs of the data.
        y: a target for each, or a row of targets.
        new: where to predict.
        kernels: ``relu_ntk``, ``erf_ntk``, or a function like them of two sets of inputs.
        time: length t of the gradient flow of half the sum of squares: the number of small
            steps times the rate.

    Returns:
        The mean (m, ...), and the covariance (m, m) of one output.

    Raises:
        TypeError: no tensors of floating-point numbers, or ``time`` is no number.
        ValueError: shapes that do not fit, ``time`` negative, or a kernel of the data that is not
            positive definite where ``time`` is infinite.

    Chapter: prop-ntk-ensemble

    References: Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein and Pennington (2019),
    equations 14 and 15.

    >>> import torch
    >>> from nodes_tutorial.generalization import ntk_gp, relu_ntk
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> ntk_gp(x, torch.tensor([3.0]), 2 * x, kernels=relu_ntk)
    NTKPrediction(mean=tensor([6.]), covariance=tensor([[0.]]))
    """
    check_points("x", x)
    check_filled("x", x)
    check_points("new", new, x.shape[1:], x)
    check_points("y", y, like=x)
    if len(y) != len(x):
        raise ValueError(f"y must hold a target for each of the {len(x)} inputs, got {len(y)}")
    check_number("time", time, "a number of at least 0", lambda t: t >= 0)
    data, cross, there = kernels(x, x), kernels(new, x), kernels(new, new)
    values, vectors = torch.linalg.eigh(data.ntk)
    if math.isinf(time):
        least = len(x) * torch.finfo(values.dtype).eps * values[-1]
        if not values[0] > least:
            raise ValueError(
                "kernels must be positive definite at the data for an infinite time, got the "
                f"eigenvalue {float(values[0]):.3g}; equal inputs make it 0"
            )
        gains = 1 / values
    else:  # (1 - exp(-t v)) / v, and t where v is 0
        safe = torch.where(values > 0, values, 1.0)
        gains = torch.where(values > 0, -torch.expm1(-time * safe) / safe, float(time))
    transfer = cross.ntk @ (vectors * gains) @ vectors.mT
    mixed = transfer @ cross.nngp.mT
    covariance = there.nngp - mixed - mixed.mT + transfer @ data.nngp @ transfer.mT
    return NTKPrediction(transfer @ y, covariance)
