"""Evidence as a sum of cross-validation scores, and its Laplace approximation."""

import math
from collections.abc import Callable
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points

_MOST_POINTS = 20  # n 2^(n-1) terms: ten million at twenty points


def leave_p_out(
    log_predictive: Callable[[int, list[int]], float | Tensor], n: int
) -> Float[Tensor, "*batch n"]:
    r"""The leave-P-out scores of n points for P = 1, …, n, each over all test sets.

    .. math:: S_P = \binom nP^{-1}\sum_{|T|=P}\ \frac1P\sum_{i\in T}\log p(x_i\mid x_{-T})

    This is the slow and obvious sum: n 2ⁿ⁻¹ calls. Where evidences are at hand,
    ``leave_p_out_from_evidence`` needs one for each subset.

    Args:
        log_predictive: maps a point i and the list of the training points to
            :math:`\log p(x_i\mid x_{\text{train}})`, a number or a tensor with one entry a model.
            The list is empty where nothing is left to train on.
        n: number of points, at most 20.

    Returns:
        The scores :math:`S_1,\dots,S_n` along the last axis, in nats for one point.

    Raises:
        TypeError: ``n`` is no integer.
        ValueError: ``n`` below 1 or above 20, or a term that is not finite.

    Chapter: thm-evidence-cv

    References: Fong and Holmes (2020).

    >>> from nodes_tutorial.bayes.evidence import leave_p_out
    >>> leave_p_out(lambda i, train: -1.0 / (1 + len(train)), 3)
    tensor([-0.3333, -0.5000, -1.0000], dtype=torch.float64)
    """
    check_count("n", n, least=1)
    if n > _MOST_POINTS:
        raise ValueError(f"n must be at most {_MOST_POINTS}, because of n 2^(n-1) terms, got {n}")
    scores = []
    for size in range(n - 1, -1, -1):
        terms = [
            _finite(log_predictive(i, list(train)), i, train)
            for train in combinations(range(n), size)
            for i in sorted(set(range(n)) - set(train))
        ]
        scores.append(torch.stack(terms).mean(0))
    return torch.stack(scores, -1)


def cumulative_cv(
    log_predictive: Callable[[int, list[int]], float | Tensor], n: int, *, preparation: int = 0
) -> Float[Tensor, "*batch"]:
    r"""The log evidence of n points as the sum of all leave-P-out scores.

    .. math:: \log p(x_1,\dots,x_n) = \sum_{P=1}^n S_P

    With a preparation of m points the sum ends at P = n − m: only terms with at least m training
    points enter, and a prior that is too wide is paid for by the terms that are left out.

    Args:
        log_predictive: maps a point i and the list of the training points to
            :math:`\log p(x_i\mid x_{\text{train}})`, a number or a tensor with one entry a model.
        n: number of points, at most 20.
        preparation: the smallest number of training points of a term, below ``n``.

    Returns:
        The sum, in nats; one for each model.

    Raises:
        TypeError: ``n`` or ``preparation`` is no integer.
        ValueError: ``n`` below 1 or above 20, ``preparation`` outside 0, …, n − 1, or a term that
            is not finite.

    Chapter: thm-evidence-cv

    References: Fong and Holmes (2020).

    >>> from nodes_tutorial.bayes.evidence import cumulative_cv
    >>> cumulative_cv(lambda i, train: -1.0 / (1 + len(train)), 3)
    tensor(-1.8333, dtype=torch.float64)
    """
    _check_preparation(preparation, n)
    return leave_p_out(log_predictive, n)[..., : n - preparation].sum(-1)


def subset_masks(n: int, *, device: torch.device | str | None = None) -> Bool[Tensor, "subsets n"]:
    """All subsets of n points: row b holds point i where bit i of the number b is set.

    Args:
        n: number of points, at most 20.
        device: where the table lives; None means the default device.

    Returns:
        The table of 2ⁿ rows; row 0 is the empty set, the last row holds all points.

    Raises:
        TypeError: ``n`` is no integer.
        ValueError: ``n`` below 1 or above 20.

    Chapter: thm-evidence-cv

    >>> from nodes_tutorial.bayes.evidence import subset_masks
    >>> subset_masks(2).int().tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    check_count("n", n, least=1)
    if n > _MOST_POINTS:
        raise ValueError(f"n must be at most {_MOST_POINTS}, because of 2^n subsets, got {n}")
    bits = torch.arange(n, device=device)
    return ((torch.arange(2**n, device=device)[:, None] >> bits) & 1).bool()


def leave_p_out_from_evidence(
    log_evidence: Float[Tensor, "*batch subsets"],
) -> Float[Tensor, "*batch n"]:
    r"""The leave-P-out scores from the log evidences of all subsets.

    .. math:: S_P = A_{n-P+1} - A_{n-P},\qquad
        A_m = \binom nm^{-1}\sum_{|T|=m}\log p(x_T),\quad A_0 = 0

    Args:
        log_evidence: log evidences in nats, in the order of ``subset_masks(n)``: 2ⁿ along the last
            axis. The first belongs to the empty set and is 0.

    Returns:
        The scores :math:`S_1,\dots,S_n` along the last axis, in nats for one point.

    Raises:
        TypeError: ``log_evidence`` is not a floating-point tensor.
        ValueError: a number of subsets that is not 2ⁿ with n from 1 to 20.

    Chapter: thm-evidence-cv

    >>> import torch
    >>> from nodes_tutorial.bayes.evidence import leave_p_out_from_evidence
    >>> leave_p_out_from_evidence(torch.tensor([0.0, -1.0, -2.0, -2.5]))
    tensor([-1.0000, -1.5000])
    """
    check_points("log_evidence", log_evidence)
    subsets = log_evidence.shape[-1] if log_evidence.ndim else 0
    n = subsets.bit_length() - 1
    if n < 1 or n > _MOST_POINTS or subsets != 2**n:
        raise ValueError(
            f"log_evidence must end in 2^n subsets, n = 1, ..., {_MOST_POINTS}, "
            f"got shape {tuple(log_evidence.shape)}"
        )
    sizes = subset_masks(n, device=log_evidence.device).sum(-1)
    of_size = (sizes[:, None] == torch.arange(n + 1, device=sizes.device)).to(log_evidence.dtype)
    means = log_evidence @ (of_size / of_size.sum(0))
    return means.diff(dim=-1).flip(-1)


def laplace_evidence(
    log_joint: Callable[..., Tensor],
    mode: Float[Tensor, "*batch dim"],
    *data: Tensor,
    tolerance: float = 1e-3,
) -> Float[Tensor, "*batch"]:
    r"""Laplace's approximation of the log evidence around a mode.

    .. math:: \log\int e^{J(\theta)}\dd\theta \approx J(\hat\theta)
        + \tfrac d2\log2\pi - \tfrac12\log\det A,\qquad A = -\nabla^2J(\hat\theta)

    It counts the region of this one mode. Where K modes are images of each other, such as the
    2ᴴ H! of a tanh layer with H units, add log K.

    Args:
        log_joint: J, the log-likelihood plus the log-density of the prior with all constants, of
            one vector of parameters (dim,) and of ``data``; returns a scalar.
        mode: a maximum of J; with a leading axis several, one a problem.
        data: further arguments of J; with several modes, each has the same leading axis.
        tolerance: how many nats a Newton step from ``mode`` may still promise.

    Returns:
        The approximation, in nats; one a mode.

    Raises:
        TypeError: ``mode`` is not a floating-point tensor.
        ValueError: ``mode`` is no maximum, because A is not positive definite or the gradient
            promises more than ``tolerance``; more than one leading axis; a ``tolerance`` that is
            not positive.

    Chapter: prop-evidence-laplace

    References: MacKay (1992).

    >>> import torch
    >>> from nodes_tutorial.bayes.evidence import laplace_evidence
    >>> laplace_evidence(lambda theta: -0.5 * theta.square().sum(), torch.zeros(2))
    tensor(1.8379)
    """
    check_points("mode", mode)
    check_number("tolerance", tolerance, "a positive number", lambda nats: nats > 0)
    if mode.ndim not in (1, 2):
        raise ValueError(f"mode must have shape (dim,) or (batch, dim), got {tuple(mode.shape)}")
    single = mode.ndim == 1
    if single:
        mode, data = mode[None], tuple(x[None] for x in data)
    value = torch.func.vmap(log_joint)(mode, *data)
    slope = torch.func.vmap(torch.func.grad(log_joint))(mode, *data)
    curvature = -torch.func.vmap(torch.func.hessian(log_joint))(mode, *data)
    factor, failed = torch.linalg.cholesky_ex(curvature)
    gain = 0.5 * torch.linalg.solve_triangular(factor, slope[..., None], upper=False).square().sum(
        (-1, -2)
    )
    if bool(failed.any()) or not bool((gain <= tolerance).all()):
        raise ValueError(
            f"mode must be a maximum of log_joint: {int((failed > 0).sum())} of {len(mode)} have "
            f"a curvature that is not positive definite, and a Newton step promises up to "
            f"{float(gain.max()):.3g} nats"
        )
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    result = value + 0.5 * mode.shape[-1] * math.log(math.tau) - 0.5 * log_det
    return result[0] if single else result


def _finite(term: float | Tensor, i: int, train: tuple[int, ...]) -> Tensor:
    """The term as a tensor; a plain number becomes one of double precision."""
    value = term if isinstance(term, Tensor) else torch.tensor(float(term), dtype=torch.float64)
    if not bool(value.isfinite().all()):
        raise ValueError(f"log_predictive must be finite, got {value} for point {i} after {train}")
    return value


def _check_preparation(preparation: int, n: int) -> None:
    check_count("n", n, least=1)
    check_count("preparation", preparation)
    if preparation >= n:
        raise ValueError(f"preparation must be below n = {n}, got {preparation}")
