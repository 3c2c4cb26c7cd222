"""The derivative of a stage by the implicit function theorem."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.stiffness.iteration import row_jacobian


class _FirstDerivatives(torch.autograd.Function):
    """The identity; its backward pass refuses to be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError("odeint_stiff carries first derivatives only: no create_graph=True")
        return grad


def with_gradient(
    field: Callable[[Tensor], Tensor],
    known: Float[Tensor, "*batch dim"],
    weight: float,
    solution: Float[Tensor, "*batch dim"],
) -> Float[Tensor, "*batch dim"]:
    r"""Give the solution of :math:`G(Y) = Y - w f(Y) - r = 0` its derivative.

    One Newton step from the detached solution, with the matrix held constant, has the derivative
    of the implicit function theorem. Its value is taken off again, so the numbers do not change.

    .. math:: \mathrm dY = (I - w J)^{-1} (w\,\partial_\theta f\,\mathrm d\theta + \mathrm dr)

    Args:
        field: the map f, rows to rows; its parameters get gradients.
        known: the right side r, which gets a gradient.
        weight: the number w, of either sign.
        solution: the rows Y, without a graph.

    Returns:
        The rows Y with a graph to ``known`` and to the parameters of ``field``; first derivatives
        only. Without anything to differentiate, ``solution`` itself.

    Raises:
        RuntimeError: a second derivative is asked for.

    Chapter: thm-stiffness-gradient

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import with_gradient
    >>> r = torch.tensor([3.0], requires_grad=True)
    >>> y = with_gradient(lambda y: -2 * y, r, 1.0, torch.tensor([1.0]))  # y = r / 3
    >>> torch.autograd.grad(y, r)[0]
    tensor([0.3333])
    """
    if not torch.is_grad_enabled():
        return solution
    residual = solution - weight * field(solution) - known
    if not residual.requires_grad:
        return solution
    jacobian = row_jacobian(field, solution).detach()
    eye = torch.eye(solution.shape[-1], dtype=solution.dtype, device=solution.device)
    matrix = eye - weight * jacobian
    step = torch.linalg.solve(matrix, _FirstDerivatives.apply(residual).unsqueeze(-1)).squeeze(-1)
    return solution - (step - step.detach())
