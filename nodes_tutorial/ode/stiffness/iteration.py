"""Newton's method for all rows of a batch, with a test of convergence on residual and step."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.solvers.control import SolverError

FROZEN_ITERATIONS = 6  # with the given Jacobian, before new ones are computed
FRESH_ITERATIONS = 12  # with a Jacobian at every iterate
ROUNDING = 8  # a residual of this many roundings of its own terms cannot be made smaller


class NewtonError(SolverError):
    """The equation of a stage was not solved; its attributes are those of ``SolverError``."""


def row_jacobian(
    field: Callable[[Tensor], Tensor], y: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch dim dim"]:
    r"""The Jacobian of each row, column j by one Jacobian-vector product for all rows.

    Rows must not see each other: :math:`f(y)_r` depends on :math:`y_r` alone. Each row may have
    parameters of its own.

    Args:
        field: the map, from rows to rows of the same shape.
        y: where, one problem a row.

    Returns:
        Entry (…, i, j) is the derivative of output i with respect to input j.

    Chapter: prop-stiffness-residual

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import row_jacobian
    >>> row_jacobian(lambda y: y.flip(-1) ** 2, torch.tensor([[1.0, 2.0]]))
    tensor([[[0., 4.],
             [2., 0.]]])
    """

    def column(direction: Tensor) -> Tensor:
        return torch.func.jvp(field, (y,), (direction.expand_as(y),))[1]

    basis = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    return torch.func.vmap(column, out_dims=-1)(basis)


def _residual_floor(y: Tensor, jacobian: Tensor, weight: float) -> Tensor:
    """The rounding error of the terms of the residual, entry by entry."""
    image = (jacobian.abs() @ y.abs().unsqueeze(-1)).squeeze(-1)
    return ROUNDING * torch.finfo(y.dtype).eps * (y.abs() + abs(weight) * image)


def newton(
    field: Callable[[Tensor], Tensor],
    known: Float[Tensor, "*batch dim"],
    weight: float,
    start: Float[Tensor, "*batch dim"],
    scale: Float[Tensor, "*batch dim"],
    jacobian: Float[Tensor, "*batch dim dim"] | None = None,
) -> tuple[Float[Tensor, "*batch dim"] | None, int, int]:
    r"""Solve :math:`G(Y) = Y - w f(Y) - r = 0` for every row.

    An iterate is accepted when **both** are small in every entry of every row: the residual G at
    the new iterate and the step that led to it, against ``scale``. The given Jacobian is tried
    first, in all iterations; when that does not converge, a fresh one is computed at each iterate.

    Args:
        field: the map f, rows to rows, each row by itself.
        known: the right side r, one row for each problem.
        weight: the number w, of either sign.
        start: first iterate, one row for each problem.
        scale: what counts as small, entry by entry, positive.
        jacobian: Jacobian of f near the solution, or None to compute it at ``start``.

    Returns:
        The solution, or None when there is no convergence; the number of evaluations of f; the
        number of Jacobians.

    Chapter: prop-stiffness-residual

    References: Hairer and Wanner (1996), section IV.8.

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import newton
    >>> one = torch.ones(1).double()
    >>> y, evaluations, jacobians = newton(lambda y: -(y**3), one, 1.0, 0.7 * one, 1e-6 * one)
    >>> f"{y.item():.4f}", jacobians  # y + y^3 = 1
    ('0.6823', 1)
    """
    eye = torch.eye(known.shape[-1], dtype=known.dtype, device=known.device)
    evaluations, jacobians = 0, 0
    for fresh, iterations in ((False, FROZEN_ITERATIONS), (True, FRESH_ITERATIONS)):
        y = start
        value = field(y)
        evaluations += 1
        for iteration in range(iterations):
            if jacobian is None or (fresh and (iteration or not jacobians)):
                jacobian = row_jacobian(field, y)
                jacobians += 1
            residual = y - weight * value - known
            matrix = eye - weight * jacobian
            step, info = torch.linalg.solve_ex(matrix, residual.unsqueeze(-1))
            if bool(info.any()):
                break
            step = step.squeeze(-1)
            y = y - step
            value = field(y)
            evaluations += 1
            residual = y - weight * value - known
            if not bool((residual.isfinite() & step.isfinite()).all()):
                break
            small_step = step.abs() <= scale
            small_residual = residual.abs() <= scale + _residual_floor(y, jacobian, weight)
            if bool((small_step & small_residual).all()):
                return y, evaluations, jacobians
    return None, evaluations, jacobians
