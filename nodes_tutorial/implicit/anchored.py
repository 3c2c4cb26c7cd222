r"""From the optimum back to its anchor: one linear system for each task."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.implicit.tasks import Loss, Product, hessian_of, literal_hessian_of, rows_of
from nodes_tutorial.linalg import CGResult, IndefiniteError, ResidualError, cg


@torch.no_grad()
def through_anchor(
    loss: Loss,
    point: Float[Tensor, "*tasks size"],
    covector: Float[Tensor, "*tasks size"],
    *data: Any,
    lam: float | int,
    rtol: float | int = 1e-6,
    max_products: int | None = None,
    damping: float | int = 0.0,
    check: bool = True,
) -> CGResult:
    r"""Carry a gradient at the optimum back to the anchor, by conjugate gradients.

    .. math:: v=\Bigl(I+\frac1{(1+\gamma)\lambda}\nabla^2f(\varphi)\Bigr)^{-1}c

    Without damping this is the derivative of the anchored optimum, transposed, times c. Damping
    :math:`\gamma` takes the derivative that a stiffer anchor would have. It makes the system
    positive definite also at points that are no minimum, and its solution another vector.

    Args:
        loss: the loss f that the point is an anchored optimum of, as for ``proximal_point``.
        point: the optima :math:`\varphi`.
        covector: gradients c with respect to the optima.
        *data: as for ``proximal_point``.
        lam: weight of the penalty.
        rtol: the residual to reach, relative to c.
        max_products: most Hessian-vector products for a task; None means ten times the size, and
            that a residual above ``rtol`` is an error.
        damping: :math:`\gamma`, 0 or more.
        check: whether negative curvature is an error; if not, such a task keeps what was
            reached before it, or c itself where that is nothing.

    Returns:
        The gradients in ``x`` and how each was reached; see ``linalg.CGResult``.

    Raises:
        TypeError: ``point`` or ``covector`` is no floating-point tensor.
        ValueError: ``lam`` not positive, ``damping`` negative, ``covector`` of another shape than
            ``point``.
        IndefiniteError: the matrix is not positive definite.
        ResidualError: the residual stays above ``rtol``.

    Chapter: thm-imaml-derivative

    References: Rajeswaran, Finn, Kakade and Levine (2019), equation 6 and algorithm 2.

    >>> import torch
    >>> from nodes_tutorial.implicit import through_anchor
    >>> bowl = lambda x: (x * torch.tensor([0.0, 1.0, 9.0]) * x).sum() / 2
    >>> through_anchor(bowl, torch.zeros(3), torch.ones(3), lam=1.0).x
    tensor([1.0000, 0.5000, 0.1000])
    """
    rows, single = rows_of(point, data)
    check_points("covector", covector, like=point)
    lam = check_number("lam", lam, "a positive number", lambda x: 0 < x < math.inf)
    if covector.shape not in (rows.shape, rows.shape[1:]):
        raise ValueError(
            f"covector must have the shape of point, {tuple(point.shape)}, "
            f"got {tuple(covector.shape)}"
        )
    damping = check_number("damping", damping, "a number >= 0", lambda x: 0 <= x < math.inf)
    if max_products is not None:
        check_count("max_products", max_products, least=1)
    right = covector.detach().expand(rows.shape)
    product = _product(loss, rows, right, data)
    solved = cg(
        lambda v: v + product(v) / ((1 + damping) * lam),
        right,
        rtol=rtol,
        max_iterations=max_products,
    )
    if check and solved.negative_curvature.any():
        task = int(solved.negative_curvature.nonzero()[0])
        raise IndefiniteError(
            f"I + H / lam must be positive definite, and has a direction of negative curvature in "
            f"task {task}: the point is no minimum there, or lam = {lam:g} is too small"
        )
    if max_products is None and check and not solved.converged.all():
        size = torch.linalg.vector_norm(right, dim=-1)
        worst = solved.residual / size
        raise ResidualError(
            f"conjugate gradients must reach a residual of {rtol:g}, got {float(worst.max()):.1e} "
            f"in task {int(worst.argmax())} after {int(solved.iterations.max())} products"
        )
    stuck = (solved.iterations == 0) & solved.negative_curvature
    solved = solved._replace(x=torch.where(stuck.unsqueeze(-1), right, solved.x))
    return CGResult(*(part[0] for part in solved)) if single else solved


def _product(loss: Loss, point: Tensor, v: Tensor, data: tuple[Any, ...]) -> Product:
    """The fast product with the Hessians; the literal one, if they differ in the first task."""
    fast = hessian_of(loss, point, data)
    first = tuple(part[:1] for part in data)
    wanted = literal_hessian_of(loss, point[:1], first)(v[:1])
    defect = torch.linalg.vector_norm(fast(v)[:1] - wanted)
    rounding = torch.finfo(v.dtype).eps ** 0.5
    if defect <= rounding * torch.linalg.vector_norm(wanted):
        return fast
    return literal_hessian_of(loss, point, data)
