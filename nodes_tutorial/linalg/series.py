"""Linear systems by the Neumann series, which is gradient descent on a quadratic."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.linalg.errors import IndefiniteError, SeriesError
from nodes_tutorial.linalg.spectrum import lanczos

Product = Callable[[Tensor], Tensor]


class NeumannResult(NamedTuple):
    r"""What a Neumann series found; one entry for each system.

    Attributes:
        x: approximate solutions of the systems.
        residual: the norm of :math:`b - Ax`.
        alpha: the factor that was used.
        curvature: the least :math:`v^\top Av/v^\top v` that was met.
        products: number of products Av, those for alpha included.
    """

    x: Float[Tensor, "... size"]
    residual: Float[Tensor, "..."]
    alpha: Float[Tensor, "..."]
    curvature: Float[Tensor, "..."]
    products: int


@torch.no_grad()
def neumann(
    product: Product,
    b: Float[Tensor, "*batch size"],
    *,
    terms: int = 20,
    alpha: float | int | None = None,
    lanczos_steps: int = 10,
) -> NeumannResult:
    r"""Solve :math:`Ax = b` for symmetric positive A by the first terms of a series.

    .. math:: x_K = \alpha\sum_{i=0}^K(I-\alpha A)^ib, \qquad b - Ax_K = (I-\alpha A)^{K+1}b

    It converges for :math:`0<\alpha<2/\lambda_{\max}`. Conjugate gradients need fewer products.

    Args:
        product: v -> A v, on the shape of b, each system by itself.
        b: right-hand sides, one or a batch.
        terms: K, the last power; 0 gives alpha times b. One product more shows the residual.
        alpha: the factor; None takes :math:`1/\hat\lambda` for each system, with the largest Ritz
            value of a Lanczos iteration from b.
        lanczos_steps: products to spend on that.

    Returns:
        Solutions without a graph, and how each was reached; see ``NeumannResult``.

    Raises:
        TypeError: b is not a floating-point tensor, a count no integer, alpha no number.
        ValueError: a count or alpha below its least value, a product of another shape than b.
        IndefiniteError: Lanczos met a curvature that is not positive.
        SymmetryError: Lanczos saw that A is not symmetric.
        SeriesError: the terms grow, so that alpha is too large or A not positive.
        FloatingPointError: b or a product has NaN or infinite entries.

    Chapter: prop-hyperparameters-neumann

    References: Lorraine, Vicol and Duvenaud (2020), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import neumann
    >>> scales = torch.tensor([0.5, 1.0])
    >>> found = neumann(lambda v: scales * v, torch.ones(2), terms=2, alpha=1.0)
    >>> found.x, found.residual
    (tensor([1.7500, 1.0000]), tensor(0.1250))
    """
    check_points("b", b)
    if b.ndim == 0:
        raise ValueError("b must be a vector or a batch of vectors, got a number")
    check_count("terms", terms)
    zero = torch.zeros_like(b[..., 0])
    curvature, products = torch.full_like(zero, torch.inf), terms + 1
    if alpha is None:
        found = lanczos(product, b, lanczos_steps)
        least, top = found.values[..., 0], found.values[..., -1]
        empty = (b == 0).all(-1)
        _check_positive(torch.where(empty, 1, least), torch.where(empty, 1, top), b.dtype)
        curvature = torch.where(empty, curvature, least)
        products += min(lanczos_steps, b.shape[-1])
        factor = 1 / torch.where(empty, 1, top)
    else:
        factor = zero + check_number("alpha", alpha, "a positive number or None", lambda a: a > 0)
    x, term = torch.zeros_like(b), b
    size = torch.linalg.vector_norm(b, dim=-1)
    growth = zero
    for _ in range(terms + 1):
        x = x + term
        image = product(term)
        if image.shape != b.shape:
            raise ValueError(
                f"product must have the shape of b, {tuple(b.shape)}, got {tuple(image.shape)}"
            )
        quotient = torch.linalg.vecdot(term, image) / torch.linalg.vecdot(term, term)
        curvature = torch.where(quotient < curvature, quotient, curvature)
        term = term - factor.unsqueeze(-1) * image
        before, size = size, torch.linalg.vector_norm(term, dim=-1)
        growth = torch.maximum(growth, torch.where(before > 0, size / before, size))
    _check_growth(growth, factor, curvature, b.dtype)
    return NeumannResult(factor.unsqueeze(-1) * x, size, factor, curvature, products)


def _check_positive(least: Tensor, top: Tensor, dtype: torch.dtype) -> None:
    slack = 100 * torch.finfo(dtype).eps * top.abs()
    bad = (least < -slack) | (top <= 0)
    if bad.any():
        worst = int(torch.where(bad, least, torch.inf).argmin())
        raise IndefiniteError(
            f"the matrix{_which(least, worst)} must be positive definite, got a curvature of "
            f"{float(least.flatten()[worst]):.3g} beside {float(top.flatten()[worst]):.3g}"
        )


def _check_growth(growth: Tensor, factor: Tensor, curvature: Tensor, dtype: torch.dtype) -> None:
    if not growth.isfinite().all():
        raise FloatingPointError("b and product must be finite, got NaN or infinite numbers")
    if (growth > 1 + 100 * torch.finfo(dtype).eps).any():
        worst = int(growth.argmax())
        raise SeriesError(
            f"the terms of the series{_which(growth, worst)} grow by a factor of "
            f"{float(growth.flatten()[worst]):.4g} with alpha {float(factor.flatten()[worst]):.3g} "
            f"and a least curvature of {float(curvature.flatten()[worst]):.3g}; alpha must be "
            "below 2 over the largest eigenvalue of a positive matrix"
        )


def _which(of: Tensor, worst: int) -> str:
    return f" of system {worst} of {of.numel()}" if of.ndim else ""
