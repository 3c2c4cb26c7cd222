"""Weights as curves in depth: their refinement, and how rough or large they are."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["prolong", "smoothness_penalty", "tikhonov_penalty"]


def prolong(w: Float[Tensor, "layers *shape"]) -> Float[Tensor, "fine *shape"]:
    r"""Weights for twice the layers: the piecewise linear curve through the old ones.

    .. math:: w'_{2j} = w_j, \quad w'_{2j+1} = \tfrac12 (w_j + w_{j+1}), \quad
              w'_{2L-1} = w_{L-1}

    Args:
        w: stacked weights at the times jh.

    Returns:
        Stacked weights at the times jh/2.

    Chapter: prop-multilevel-prolong

    References: Haber and Ruthotto (2018), section 3.3.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import prolong
    >>> prolong(torch.tensor([0.0, 1.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000, 2.5000, 4.0000, 4.0000])
    """
    middle = (w + torch.cat([w[1:], w[-1:]])) / 2
    return torch.stack([w, middle], 1).flatten(0, 1)


def smoothness_penalty(weights: Sequence[Tensor], h: float | int) -> Float[Tensor, ""]:
    r"""How much the weights change with depth, :math:`\frac1{2h} \sum_j \|w_j - w_{j-1}\|_F^2`.

    It is the energy :math:`\frac12 \int \|\dot w\|^2\,dt` of the piecewise linear curve.

    Args:
        weights: stacked weights, depth in front; those of a classifier of images once with each
            axis of pixels in front, and h = 1.
        h: time between two layers.

    Returns:
        The penalty, a 0-d tensor.

    Chapter: prop-multilevel-prolong

    References: Haber and Ruthotto (2018), equation (3.1).

    >>> import torch
    >>> from nodes_tutorial.ode.stability import smoothness_penalty
    >>> smoothness_penalty([torch.tensor([0.0, 1.0, 3.0])], 0.5)
    tensor(5.)
    """
    return sum(w.diff(dim=0).square().sum() for w in weights) / (2 * h)


def tikhonov_penalty(weights: Sequence[Tensor], h: float | int = 1.0) -> Float[Tensor, ""]:
    r"""How large the weights are, :math:`\frac h2 \sum_j \|w_j\|_F^2`: weight decay.

    Args:
        weights: stacked weights; those of a classifier with h = 1.
        h: time between two layers.

    Returns:
        The penalty, a 0-d tensor.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import tikhonov_penalty
    >>> tikhonov_penalty([torch.tensor([3.0, 4.0])], 2.0)
    tensor(25.)
    """
    return sum(w.square().sum() for w in weights) * (h / 2)
