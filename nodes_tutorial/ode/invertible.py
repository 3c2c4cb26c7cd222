"""One layer y + h f(y) with a small step is a bijection, and a short loop is its inverse.

``ResidualNet.inverse`` of ``ode.residual`` undoes a whole network with it, the last layer first.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

__all__ = ["invert_layer"]

Layer = Callable[[Tensor], Tensor]


def invert_layer(
    f: Layer, z: Float[Tensor, "*batch dim"], h: float, *, tol: float = 1e-12, max_iter: int = 1000
) -> Float[Tensor, "*batch dim"]:
    r"""The solution y of :math:`y + h f(y) = z`, by the fixed point iteration.

    .. math:: y \leftarrow z - h f(y)

    The error shrinks by the factor hK < 1 per iteration, K the Lipschitz constant of f.

    Args:
        f: the residual branch.
        z: the layer's output.
        h: the step that multiplies the branch.
        tol: stop when no entry moves by more than this.
        max_iter: give up after so many iterations.

    Returns:
        The layer's input.

    Raises:
        RuntimeError: ``max_iter`` is reached: hK is not below 1, or ``tol`` is below rounding.

    Chapter: prop-invertible-layer

    References: Behrmann et al. (2019), Invertible Residual Networks, algorithm 1.

    >>> import math
    >>> import torch
    >>> from nodes_tutorial.ode.invertible import invert_layer
    >>> z = torch.tensor([[1.0 + 0.5 * math.sin(1.0)]])
    >>> invert_layer(torch.sin, z, 0.5, tol=1e-6).round(decimals=4)
    tensor([[1.]])
    """
    y = z
    for _ in range(max_iter):
        new = z - h * f(y)
        move = float((new - y).detach().abs().max())
        y = new
        if move <= tol:
            return y
    raise RuntimeError(f"no inverse after max_iter={max_iter}: last move {move:.3g}; is h K < 1?")
