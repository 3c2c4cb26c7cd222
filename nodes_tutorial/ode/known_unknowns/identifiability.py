"""What a trajectory tells of the parameters of its equation, and what labels add."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["grounding_loss", "identify"]

Field = Callable[[Tensor, Tensor, Tensor], Tensor]


def identify(
    design: Float[Tensor, "*batch times equations parameters"],
    target: Float[Tensor, "*batch times equations"],
    t: Float[Tensor, " times"],
) -> tuple[Float[Tensor, "*batch parameters"], Float[Tensor, "*batch parameters parameters"]]:
    r"""The parameters of an equation that is affine in them, from a whole trajectory.

    .. math:: \hat\theta = G^{-1}\int F^\top(\dot z - f_0)\,dt,\qquad G = \int F^\top F\,dt
        \qquad\text{for}\qquad \dot z = f_0(z) + F(z)\,\theta

    The integrals are trapezoidal sums.

    Args:
        design: F along the trajectory.
        target: :math:`\dot z - f_0` along it.
        t: times of the trajectory, increasing.

    Returns:
        The estimate, and the Gram matrix G, whose kernel is what the trajectory cannot tell.

    Raises:
        ValueError: fewer than two times.
        torch.linalg.LinAlgError: G is singular to working precision.

    Chapter: thm-unknowns-identifiable

    References: Ljung (1999), section 4.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import identify
    >>> t = torch.linspace(0, 1, 11)
    >>> z = torch.exp(-2 * t)  # z' = -theta z
    >>> theta, gram = identify(-z[:, None, None], (-2 * z)[:, None], t)
    >>> f"{theta.item():.4f}"
    '2.0000'
    """
    if len(t) < 2:
        raise ValueError(f"t must have two or more times, got {len(t)}")
    gram = torch.trapezoid(design.mT @ design, t, dim=-3)
    moment = torch.trapezoid((design.mT @ target[..., None])[..., 0], t, dim=-2)
    return torch.linalg.solve(gram, moment), gram


def grounding_loss(
    z: Float[Tensor, "*copies batch times state"],
    truth: Float[Tensor, "batch times state"],
    mask: Bool[Tensor, "batch times"],
) -> Float[Tensor, "*copies"]:
    r"""Mean squared distance to the labelled states, :math:`\sum_{(i,k)}|z - z^*|^2/\#`.

    Args:
        z: states of the model, or of several models.
        truth: true values of the states; read only where there is a label.
        mask: True where there is a label.

    Returns:
        The mean over labels; 0 when there are none.

    Chapter: prop-unknowns-symmetry

    References: Linial, Ravid, Eytan and Shalit (2021), section 4.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import grounding_loss
    >>> z = torch.ones(1, 3, 2)
    >>> grounding_loss(z, -z, torch.tensor([[True, False, False]]))
    tensor(8.)
    """
    error = torch.where(mask[..., None], z - truth, 0).square().sum((-3, -2, -1))
    return error / mask.sum().clamp(min=1)
