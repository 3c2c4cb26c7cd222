"""A field that is known in part, with a network for what it lacks."""

from torch import Tensor, nn

from nodes_tutorial.ode.known_unknowns.identifiability import Field

__all__ = ["PartlyKnown"]


class PartlyKnown(nn.Module):
    r"""A known field plus a network for what it lacks: :math:`f(z, \theta) + v(z)`.

    Args:
        known: ``known(t, z, theta)``.
        net: the network v.

    Chapter: prop-misspecified-missing

    References: Linial, Ravid, Eytan and Shalit (2021), section 5.2.

    >>> import torch
    >>> from torch import nn
    >>> from nodes_tutorial.ode.misspecified import PartlyKnown
    >>> field = PartlyKnown(lambda t, z, theta: -theta * z, nn.Linear(2, 2))
    >>> field(torch.tensor(0.0), torch.ones(3, 2), torch.ones(3, 1)).shape
    torch.Size([3, 2])
    """

    def __init__(self, known: Field, net: nn.Module) -> None:
        super().__init__()
        self.known, self.net = known, net

    def forward(self, t: Tensor, z: Tensor, theta: Tensor) -> Tensor:
        """Evaluate the sum of the two fields."""
        return self.known(t, z, theta) + self.net(z)
