"""How much a trajectory bends: the angles between the steps from frame to frame."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_points

ROUNDINGS = 64  # a step of so many roundings of a frame has a direction that is good to a degree


def curvature(x: Float[Tensor, "*batch frames features"]) -> Float[Tensor, "*batch inner"]:
    r"""The angles between successive steps :math:`v_t=x_t-x_{t-1}`, in degrees.

    .. math:: \alpha_t=\arccos\frac{v_t^\top v_{t+1}}{\|v_t\|\,\|v_{t+1}\|}

    They are computed as :math:`2\arctan(\|\hat v_t-\hat v_{t+1}\|/\|\hat v_t+\hat v_{t+1}\|)` from
    the unit vectors, which is accurate near 0 and 180 too. Asking whether a step is zero waits for
    the device.

    Args:
        x: three or more frames, one row each.

    Returns:
        One angle for each frame but the first and the last; their mean is the curvature.

    Raises:
        TypeError: ``x`` holds no floating-point numbers.
        ValueError: fewer than three frames, or two successive frames that are equal but for
            rounding, between which there is no direction.

    Chapter: def-straightening-curvature

    References: Hénaff, Goris and Simoncelli (2019), methods.

    >>> import torch
    >>> from nodes_tutorial.invariance import curvature
    >>> curvature(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]))
    tensor([90.,  0.])
    """
    check_points("x", x)
    if x.ndim < 2 or x.shape[-2] < 3:
        raise ValueError(f"x must have three or more frames, got shape {tuple(x.shape)}")
    steps = x.diff(dim=-2)
    lengths = steps.norm(dim=-1, keepdim=True)
    least = ROUNDINGS * torch.finfo(x.dtype).eps * x.norm(dim=-1).amax(-1)
    if bool((lengths <= least[..., None, None]).any()):
        raise ValueError("x must not repeat a frame: a step of length 0 has no direction")
    units = steps / lengths
    before, after = units[..., :-1, :], units[..., 1:, :]
    angle = 2 * torch.atan2((before - after).norm(dim=-1), (before + after).norm(dim=-1))
    return angle * (180 / math.pi)
