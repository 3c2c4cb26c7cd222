"""A network replaced by its tangent in the weights."""

import copy

from torch import Tensor, nn
from torch.func import functional_call, jvp


class Linearized(nn.Module):
    r"""The tangent :math:`f_{\theta_0}(x)+J_{\theta_0}(x)(\theta-\theta_0)` of a network.

    Its parameters are those of the network, start at its values and are trained as usual; the
    point :math:`\theta_0` and the network stay as they are. ``linearize`` makes it.

    Args:
        module: the network, copied.

    Raises:
        ValueError: no trainable parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        base = copy.deepcopy(module)
        named = {name: p for name, p in base.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("module must have trainable parameters")
        self.names = list(named)
        self.theta = nn.ParameterList(p.detach().clone() for p in named.values())
        self.base = base
        _as_buffers(base)

    def forward(self, x: Tensor) -> Tensor:
        """Value of the tangent.

        Args:
            x: inputs of the network.

        Returns:
            What the network returns, to first order in the step of the weights.
        """
        start = {name: self.base.get_buffer(name) for name in self.names}
        step = {
            name: theta - start[name] for name, theta in zip(self.names, self.theta, strict=True)
        }
        value = jvp(lambda w: functional_call(self.base, w, (x,)), (start,), (step,))
        return value[0] + value[1]


def _as_buffers(module: nn.Module) -> None:
    """Parameters become buffers, so that only the trained ones are parameters; ties stay."""
    values = {id(p): p.detach() for p in module.parameters()}
    for owner in module.modules():
        for name, p in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            delattr(owner, name)
            owner.register_buffer(name, values[id(p)])


def linearize(module: nn.Module) -> Linearized:
    r"""The network as an affine function of its weights, tangent at their present values.

    .. math:: f^{\mathrm{lin}}_\theta(x)=f_{\theta_0}(x)+J_{\theta_0}(x)(\theta-\theta_0)

    Args:
        module: the network at :math:`\theta_0`.

    Returns:
        A module with trainable parameters :math:`\theta`, which start at :math:`\theta_0`.

    Raises:
        ValueError: no trainable parameter.

    Chapter: prop-ntk-linear

    References: Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein and Pennington (2019), eq. 5.

    >>> import torch
    >>> from nodes_tutorial.generalization import linearize
    >>> line = torch.nn.Linear(2, 1)
    >>> tangent, x = linearize(line), torch.ones(3, 2)
    >>> torch.equal(tangent(x), line(x))
    True
    """
    return Linearized(module)
