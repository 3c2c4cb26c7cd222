"""Eigenvalues of a symmetric matrix that is known by its products: the Lanczos iteration."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.linalg.errors import SymmetryError
from nodes_tutorial.linalg.traces import draw_probes

Product = Callable[[Tensor], Tensor]


class Lanczos(NamedTuple):
    r"""What a Lanczos iteration saw of a symmetric matrix; one entry for each start.

    Attributes:
        values: Ritz values in ascending order. The largest is at most the largest eigenvalue, the
            least is at least the least one.
        weights: the share of each in the start, as :math:`v^\top f(A)v/\|v\|^2\approx\sum w f`.
        errors: within this distance of each value there is an eigenvalue.
    """

    values: Float[Tensor, "... steps"]
    weights: Float[Tensor, "... steps"]
    errors: Float[Tensor, "... steps"]


@torch.no_grad()
def lanczos(product: Product, start: Float[Tensor, "*batch size"], steps: int = 10) -> Lanczos:
    r"""Ritz values of a symmetric A in the space of :math:`v, Av, \dots, A^{k-1}v`.

    .. math:: \beta_jq_{j+1} = Aq_j - \alpha_jq_j - \beta_{j-1}q_{j-1}, \qquad
        \alpha_j = q_j^\top Aq_j

    The vectors q are kept and made orthogonal again at each step. That costs memory for k vectors,
    and shows whether A is symmetric: then :math:`q_i^\top Aq_j = 0` for i < j - 1.

    Args:
        product: v -> A v, on the shape of ``start``, each system by itself.
        start: the vectors v. In the space of a right-hand side its own system lives.
        steps: products to spend, k; at most the size are used.

    Returns:
        Ritz values with weights and errors. Where the space ends early, the values that are left
        have weight 0 and lie between the others.

    Raises:
        TypeError: ``start`` is not a floating-point tensor, ``steps`` no integer.
        ValueError: ``steps`` below 1, a number as ``start``, a product of another shape.
        SymmetryError: A is not symmetric; it takes two steps to see it.
        FloatingPointError: a product has NaN or infinite entries.

    Chapter: prop-hyperparameters-neumann

    References: Golub and Van Loan (2013), section 10.1; Golub and Meurant (2010), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import lanczos
    >>> scales = torch.tensor([1.0, 2.0, 5.0])
    >>> lanczos(lambda v: scales * v, torch.ones(3), 3).values.round(decimals=4)
    tensor([1., 2., 5.])
    """
    check_points("start", start)
    if start.ndim == 0:
        raise ValueError("start must be a vector or a batch of vectors, got a number")
    steps = min(check_count("steps", steps, least=1), start.shape[-1])
    eps = torch.finfo(start.dtype).eps
    norm = torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    q = start / torch.where(norm > 0, norm, 1)
    basis = q.unsqueeze(-2)
    alphas, betas = [], []
    scale = defect = torch.zeros_like(norm.squeeze(-1))
    for j in range(steps):
        w = product(q)
        if w.shape != start.shape:
            raise ValueError(
                f"product must have the shape of start, {tuple(start.shape)}, got {tuple(w.shape)}"
            )
        overlaps = (basis @ w.unsqueeze(-1)).squeeze(-1)
        alpha = overlaps[..., j]
        scale = torch.maximum(scale, torch.linalg.vector_norm(w, dim=-1))
        if j > 0:
            expected = torch.zeros_like(overlaps[..., :j])
            expected[..., -1] = betas[-1]
            defect = torch.maximum(defect, (overlaps[..., :j] - expected).abs().amax(-1))
        for _ in range(2):
            w = w - (basis.mT @ (basis @ w.unsqueeze(-1))).squeeze(-1)
        beta = torch.linalg.vector_norm(w, dim=-1)
        goes_on = beta > 10 * eps * start.shape[-1] ** 0.5 * scale
        alive = torch.linalg.vector_norm(q, dim=-1) > 0.5
        alphas.append(torch.where(alive, alpha, alphas[0] if alphas else alpha))
        betas.append(torch.where(goes_on, beta, 0))
        q = torch.where(goes_on.unsqueeze(-1), w / beta.unsqueeze(-1), 0)
        basis = torch.cat([basis, q.unsqueeze(-2)], -2)
    _check(scale, defect, eps)
    diagonal = torch.stack(alphas, -1)
    beside = torch.stack(betas, -1)
    tridiagonal = diagonal.diag_embed()
    if steps > 1:
        tridiagonal = tridiagonal + beside[..., :-1].diag_embed(1) + beside[..., :-1].diag_embed(-1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    errors = (beside[..., -1:] * vectors[..., -1, :]).abs()
    return Lanczos(values, vectors[..., 0, :].square(), errors)


def _check(scale: Tensor, defect: Tensor, eps: float) -> None:
    if not scale.isfinite().all():
        raise FloatingPointError("start and product must be finite, got NaN or infinite numbers")
    relative = torch.where(scale > 0, defect / scale, 0)
    if (relative > eps**0.5).any():
        raise SymmetryError(
            "product must be that of a symmetric matrix, got one with a defect of "
            f"{float(relative.max()):.2g} of its size"
        )


@torch.no_grad()
def spectral_sum(
    product: Product,
    fun: Callable[[Tensor], Tensor],
    like: Float[Tensor, "*batch size"],
    *,
    probes: int = 10,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Estimate :math:`\operatorname{tr}f(A)=\sum_i f(\lambda_i)`, by Lanczos on random signs.

    Hutchinson's mean of :math:`\epsilon^\top f(A)\epsilon`, each by the quadrature of its Ritz
    values. With f = log it is the log-determinant, with a step the number of eigenvalues below.

    Args:
        product: v -> A v for symmetric A, on the shape of ``like`` with one more axis before it.
        fun: f, entry by entry.
        like: gives shape, dtype and device of the vectors.
        probes: number of random vectors.
        steps: Lanczos steps for each.
        generator: source of the signs; None means PyTorch's global one.

    Returns:
        The estimates.

    Raises:
        TypeError: a count that is no integer, a ``generator`` that is none.
        ValueError: a count below 1.
        SymmetryError: A is not symmetric.
        FloatingPointError: a product has NaN or infinite entries.

    Chapter: prop-hyperparameters-neumann

    References: Golub and Meurant (2010), section 11.6; Ubaru, Chen and Saad (2017), section 3.

    >>> import torch
    >>> from nodes_tutorial.linalg import spectral_sum
    >>> scales = torch.tensor([1.0, 2.0, 4.0])
    >>> spectral_sum(lambda v: scales * v, torch.log2, scales).round(decimals=3)
    tensor(3.)
    """
    check_points("like", like)
    signs = draw_probes(probes, like, generator=generator)
    found = lanczos(product, signs, steps)
    return like.shape[-1] * (found.weights * fun(found.values)).sum(-1).mean(0)
