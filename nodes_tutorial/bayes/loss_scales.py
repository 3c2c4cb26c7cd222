"""How uncertain an estimate is that minimizes a mean loss, and the weight that says so."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_filled, check_generator, check_points

_ROUNDING = 1e-5  # of a symmetric matrix, relative to its largest entry


def sandwich(
    gradients: Float[Tensor, "n dim"], hessian: Float[Tensor, "dim dim"]
) -> Float[Tensor, "dim dim"]:
    r"""The covariance of an estimate that minimizes a mean loss, whatever the law of the data.

    .. math:: \tfrac1n\,H^{-1}VH^{-1},\qquad V = \tfrac1n\sum_i g_ig_i^\top

    Args:
        gradients: gradient of the loss of each observation at the estimate, one a row.
        hessian: H, second derivative of the mean loss there, positive definite.

    Returns:
        The covariance for large n.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes that do not fit, no row, or a Hessian that is not positive definite.

    Chapter: prop-generalized-scale

    References: Huber (1967); White (1982).

    >>> import torch
    >>> from nodes_tutorial.bayes import sandwich
    >>> sandwich(torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0]]))
    tensor([[0.1250]])
    """
    factor = _factor(gradients, hessian)
    root = torch.cholesky_solve(gradients.mT, factor) / len(gradients)
    return root @ root.mT


def loss_scale(
    gradients: Float[Tensor, "n dim"], hessian: Float[Tensor, "dim dim"]
) -> Float[Tensor, ""]:
    r"""The weight with which a Gibbs posterior is as wide as the estimate is uncertain.

    .. math:: w = \frac{\tr(HV^{-1}H)}{\tr H},\qquad V = \tfrac1n\sum_i g_ig_i^\top

    The precisions n w H of the posterior and n H V⁻¹ H of the estimate then have the same trace.

    Args:
        gradients: gradient of the loss of each observation at the estimate, one a row; at least
            as many as dimensions, and spanning all of them.
        hessian: H, second derivative of the mean loss there, positive definite.

    Returns:
        The weight w.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes that do not fit, no row, a Hessian that is not positive definite, or
            gradients that do not span all dimensions.

    Chapter: prop-generalized-scale

    References: Lyddon, Holmes and Walker (2019).

    >>> import torch
    >>> from nodes_tutorial.bayes import loss_scale
    >>> loss_scale(torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0]]))
    tensor(2.)
    """
    _factor(gradients, hessian)
    spread = gradients.mT @ gradients / len(gradients)
    root, failed = torch.linalg.cholesky_ex(spread)
    if bool(failed):
        raise ValueError("gradients must span all dimensions: their mean square is singular")
    return (
        torch.linalg.solve_triangular(root, hessian, upper=False).square().sum() / hessian.trace()
    )


def bootstrap(
    estimator: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n ..."],
    draws: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "draws ..."]:
    """Estimates from data sets that are drawn with replacement from the data.

    Args:
        estimator: maps data sets (draws, n, …) to their estimates (draws, …), all at once.
        x: the observations, along the first axis.
        draws: number of data sets.
        generator: source of random numbers; None means PyTorch's global one.

    Returns:
        The estimates, one for each data set.

    Raises:
        TypeError: ``x`` is not a floating-point tensor, ``draws`` is no integer, or ``generator``
            is none.
        ValueError: no observation, fewer than one draw, or an estimator that does not return one
            estimate for each data set.

    Chapter: thm-generalized-median

    References: Efron (1979).

    >>> import torch
    >>> from nodes_tutorial.bayes import bootstrap
    >>> bootstrap(lambda sets: sets.mean(1), torch.ones(5), 3)
    tensor([1., 1., 1.])
    """
    check_points("x", x)
    check_filled("x", x)
    check_count("draws", draws, least=1)
    check_generator(generator)
    source = x.device if generator is None else generator.device
    rows = torch.randint(len(x), (draws, len(x)), generator=generator, device=source)
    found = estimator(x[rows.to(x.device)])
    if found.ndim == 0 or len(found) != draws:
        raise ValueError(
            f"estimator must return {draws} estimates, one a data set, got {tuple(found.shape)}"
        )
    return found


def _factor(gradients: Tensor, hessian: Tensor) -> Tensor:
    """The Cholesky factor of the Hessian, after the checks of both."""
    check_points("gradients", gradients)
    check_points("hessian", hessian, like=gradients)
    check_filled("gradients", gradients)
    dim = gradients.shape[-1]
    if gradients.ndim != 2 or hessian.shape != (dim, dim):
        raise ValueError(
            f"gradients (n, dim) and hessian (dim, dim) must fit, got {tuple(gradients.shape)} "
            f"and {tuple(hessian.shape)}"
        )
    factor, failed = torch.linalg.cholesky_ex(hessian)
    skew = (hessian - hessian.mT).abs().amax() > _ROUNDING * hessian.abs().amax()
    if bool(failed) or bool(skew):
        raise ValueError("hessian must be symmetric and positive definite")
    return factor
