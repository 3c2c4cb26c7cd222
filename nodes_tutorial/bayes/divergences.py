"""Divergences in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.bayes.gaussians import FullRankGaussian, MeanFieldGaussian
from nodes_tutorial.checks import check_points
from nodes_tutorial.flows.density import Gaussian

AnyGaussian = MeanFieldGaussian | FullRankGaussian | Gaussian


def gaussian_kl(q: AnyGaussian, p: AnyGaussian) -> Float[Tensor, ""]:
    r"""The divergence :math:`KL(q\,\|\,p)` of two Gaussians, with gradients to both.

    .. math:: \tfrac12\Bigl(\mathrm{tr}(\Sigma_p^{-1}\Sigma_q) + (\mu_p-\mu_q)^\top
        \Sigma_p^{-1}(\mu_p-\mu_q) - d + \log\frac{\det\Sigma_p}{\det\Sigma_q}\Bigr)

    Two mean-field Gaussians cost d numbers, no matrix.

    Args:
        q: the Gaussian that the mean is taken over.
        p: the Gaussian that it is compared with.

    Returns:
        The divergence in nats.

    Raises:
        TypeError: one of them is no Gaussian of this package, or their dtypes differ.
        ValueError: different dimensions.

    Chapter: prop-inference-meanfield

    References: Bishop (2006), exercise 2.13.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, gaussian_kl
    >>> q = MeanFieldGaussian(torch.ones(3))
    >>> round(gaussian_kl(q, MeanFieldGaussian(torch.zeros(3))).item(), 4)
    1.5
    """
    for name, law in (("q", q), ("p", p)):
        if not isinstance(law, AnyGaussian):
            raise TypeError(f"{name} must be a Gaussian of this package, got {type(law).__name__}")
    check_points("p.mean", p.mean, q.event_shape, q.mean)
    shift = p.mean - q.mean
    if isinstance(q, MeanFieldGaussian) and isinstance(p, MeanFieldGaussian):
        ratio = q.scale / p.scale
        square = ratio.square() + (shift / p.scale).square()
        return 0.5 * (square - 1).sum() - ratio.log().sum()
    both = torch.cat([_factor(q), shift[:, None]], -1)
    white = torch.linalg.solve_triangular(_factor(p), both, upper=False)
    logs = _factor(p).diagonal().log().sum() - _factor(q).diagonal().log().sum()
    return 0.5 * (white.square().sum() - len(shift)) + logs


def discrete_kl(q: Float[Tensor, "*batch k"], p: Float[Tensor, "*batch k"]) -> Tensor:
    r"""The divergence :math:`\sum_i q_i\log(q_i/p_i)` of laws on k values.

    A term with :math:`q_i=0` is 0. Where :math:`p_i=0<q_i` the divergence is infinite.

    Args:
        q: probabilities of the law that the mean is taken over; the last axis sums to 1.
        p: probabilities of the law that it is compared with.

    Returns:
        The divergences in nats, of shape (\*batch,).

    Raises:
        TypeError: ``q`` or ``p`` is not a floating-point tensor.
        ValueError: probabilities that are negative or do not sum to 1.

    Chapter: thm-inference-elbo

    References: Cover and Thomas (2006), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.bayes import discrete_kl
    >>> discrete_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    for name, law in (("q", q), ("p", p)):
        check_points(name, law)
        error = (law.sum(-1) - 1).abs()
        if not ((law >= 0).all() and (error < 8 * math.sqrt(torch.finfo(law.dtype).eps)).all()):
            raise ValueError(f"{name} must hold probabilities, at least 0, that sum to 1")
    return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1)


def _factor(law: AnyGaussian) -> Tensor:
    return law.scale.diag_embed() if isinstance(law, MeanFieldGaussian) else law.factor
