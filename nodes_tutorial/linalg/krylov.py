"""Linear systems with a symmetric matrix that is known by its products: conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points

Product = Callable[[Tensor], Tensor]


class CGResult(NamedTuple):
    r"""What conjugate gradients found; all but x have one entry for each system.

    Attributes:
        x: approximate solutions of the systems.
        residual: the norm of :math:`b - Ax`, as the iteration carries it along.
        iterations: number of steps that were taken.
        converged: whether the residual is below the tolerance.
        negative_curvature: whether a direction with :math:`p^\top Ap\le0` was met: A is not
            positive definite, or rounding has the upper hand. x is what was reached before it.
    """

    x: Float[Tensor, "... size"]
    residual: Float[Tensor, "..."]
    iterations: Int[Tensor, "..."]
    converged: Bool[Tensor, "..."]
    negative_curvature: Bool[Tensor, "..."]


@torch.no_grad()
def cg(
    product: Product,
    b: Float[Tensor, "*batch size"],
    x0: Float[Tensor, "..."] | None = None,
    *,
    rtol: float | int = 1e-6,
    atol: float | int = 0.0,
    max_iterations: int | None = None,
    preconditioner: Product | None = None,
    check_every: int = 1,
) -> CGResult:
    r"""Solve :math:`Ax = b` for symmetric positive A by products :math:`Av` alone.

    .. math:: x \leftarrow x + \alpha p,\quad r \leftarrow r - \alpha Ap,\quad
        \alpha = \frac{r^\top Mr}{p^\top Ap}, \qquad
        p \leftarrow Mr + \frac{r_{new}^\top Mr_{new}}{r^\top Mr}\,p

    Every iterate from x = 0 has :math:`b^\top x > 0`, so that a solve that is stopped early still
    gives a descent direction. A batch of systems takes its steps together; one that is done
    rests. The end is looked for every ``check_every`` iterations, for which a GPU is waited for.

    Args:
        product: v -> A v, on the shape of b, each system by itself.
        b: right-hand sides, one or a batch.
        x0: the first approximation; None means 0.
        rtol: done when :math:`\|r\|` is at most this times :math:`\|b\|`, where
            :math:`\|r\|^2 = r^\top Mr`.
        atol: done when :math:`\|r\|` is at most this.
        max_iterations: most steps; None means ten times the size.
        preconditioner: v -> M v, symmetric positive, near the inverse of A; None means M = I.
        check_every: iterations between looks at the end; steps of systems that are done do
            nothing, so that the result is the same.

    Returns:
        Solutions without a graph, and how each was reached; see ``CGResult``. Nothing is raised
        for a system that did not converge or is not positive: look at ``converged``.

    Raises:
        TypeError: b is not a floating-point tensor, x0 of another dtype, a count no integer.
        ValueError: a tolerance or a count below its least value, x0 or a product of another shape
            than b.
        FloatingPointError: a product, or b, has NaN or infinite entries.

    Chapter: prop-multilevel-descent

    References: Nocedal and Wright (2006), algorithms 5.3 and 7.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import cg
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> found = cg(lambda v: A @ v, torch.tensor([3.0, 4.0]))
    >>> found.x.round(decimals=4), int(found.iterations), bool(found.converged)
    (tensor([1., 1.]), 2, True)
    """
    check_points("b", b)
    check_number("rtol", rtol, "a number >= 0", lambda tol: tol >= 0)
    check_number("atol", atol, "a number >= 0", lambda tol: tol >= 0)
    check_count("check_every", check_every, least=1)
    if b.ndim == 0:
        raise ValueError("b must be a vector or a batch of vectors, got a number")
    most = 10 * b.shape[-1]
    if max_iterations is not None:
        most = check_count("max_iterations", max_iterations)

    def smooth(v: Tensor) -> Tensor:
        return v if preconditioner is None else _same("preconditioner", preconditioner(v), b)

    alone = b.ndim == 1 and check_every == 1  # then whatever is computed is of an active system

    def of_active(factor: Tensor, active: Tensor) -> Tensor:
        return factor if alone else torch.where(active, factor, 0).unsqueeze(-1)

    if x0 is None:
        x, r = torch.zeros_like(b), b
    else:
        check_points("x0", x0, like=b)
        x = _same("x0", x0, b)
        r = b - _same("product", product(x), b)
    z = smooth(r)
    size = torch.linalg.vecdot(r, z)
    scale = size if x0 is None else torch.linalg.vecdot(b, smooth(b))
    goal = (rtol**2 * scale).clamp(min=atol**2)
    p, active = z, size > goal
    negative = torch.zeros_like(active)
    iterations = torch.zeros_like(active, dtype=torch.long)
    for k in range(most):
        if k % check_every == 0 and not active.any():
            break
        Ap = _same("product", product(p), b)
        curvature = torch.linalg.vecdot(p, Ap)
        flat = curvature <= 0
        if not alone:
            negative |= active & flat
            active &= ~flat
        elif flat:
            negative = flat
            break
        iterations += active
        step = of_active(size / curvature, active)
        x, r = x + step * p, r - step * Ap
        z = smooth(r)
        old, size = size, torch.linalg.vecdot(r, z)
        active = active & (size > goal) if not alone else size > goal
        p = z + of_active(size / old, active) * p
    if not size.isfinite().all():
        raise FloatingPointError("b and product must be finite, got NaN or infinite numbers")
    residual = torch.linalg.vector_norm(r, dim=-1)
    return CGResult(x, residual, iterations, size <= goal, negative)


def _same(name: str, value: Tensor, b: Tensor) -> Tensor:
    if value.shape != b.shape:
        raise ValueError(
            f"{name} must have the shape of b, {tuple(b.shape)}, got {tuple(value.shape)}"
        )
    return value
