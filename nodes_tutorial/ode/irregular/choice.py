"""What is reported of the best of several networks depends on who chose it."""

from jaxtyping import Float
from torch import Tensor


def reported(
    chosen_by: Float[Tensor, "networks *batch"], measured_on: Float[Tensor, "networks *batch"]
) -> Float[Tensor, "*batch"]:
    r"""Error of the network that is best on one set of series, measured on another.

    .. math:: v_{\hat k}, \qquad \hat k = \operatorname{argmin}_k u_k

    With the same set in both places it is :math:`\min_k u_k`, which is too small on average.

    Args:
        chosen_by: error u of each network on the series that choose.
        measured_on: error v of each network on the series that measure.

    Returns:
        The error of the chosen network, without the axis of the networks.

    Raises:
        ValueError: the two have different shapes.

    Chapter: prop-irregular-chosen

    >>> import torch
    >>> from nodes_tutorial.ode.irregular import reported
    >>> reported(torch.tensor([0.3, 0.2, 0.4]), torch.tensor([0.2, 0.5, 0.3]))
    tensor(0.5000)
    """
    if chosen_by.shape != measured_on.shape:
        raise ValueError(
            f"measured_on must have the shape of chosen_by, {tuple(chosen_by.shape)}, "
            f"got {tuple(measured_on.shape)}"
        )
    best = chosen_by.argmin(0, keepdim=True)
    return measured_on.gather(0, best).squeeze(0)
