"""Bounds on the expected generalization gap of a loss of bounded range, from information."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points


def xu_raginsky_bound(
    information: Float[Tensor, "*batch"], n: int, *, width: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""The bound from the information of the whole data set.

    .. math:: \sqrt{\frac{2\sigma^2}n\,I(S; W)},\qquad \sigma = \tfrac12\,\text{width}

    Args:
        information: mutual information of the data and the parameter, in nats.
        n: number of independent data points.
        width: length of an interval that holds the loss: 1 for [0, 1], 2 for [−1, 1].

    Returns:
        The bound on the absolute value of the gap.

    Raises:
        TypeError: ``information`` is no floating-point tensor, or a number is none.
        ValueError: negative information, ``n`` below 1, or a width that is not positive.

    Chapter: thm-information-xr

    References: Xu and Raginsky (2017), theorem 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import xu_raginsky_bound
    >>> xu_raginsky_bound(torch.tensor(2.0), 4)
    tensor(0.5000)
    """
    _check(information, n, width)
    return width * (information / (2 * n)).sqrt()


def individual_bound(
    individual: Float[Tensor, "*batch n"], *, width: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""The bound from the information of each data point alone.

    .. math:: \frac1n\sum_i\sqrt{2\sigma^2\,I(W; Z_i)},\qquad \sigma = \tfrac12\,\text{width}

    Args:
        individual: mutual information of the parameter and each data point, in nats.
        width: length of an interval that holds the loss.

    Returns:
        The bound; for independent points never larger than ``xu_raginsky_bound``.

    Raises:
        TypeError: ``individual`` is no floating-point tensor, or ``width`` no number.
        ValueError: negative information, no data point, or a width that is not positive.

    Chapter: thm-information-individual

    References: Bu, Zou and Veeravalli (2020), proposition 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import individual_bound
    >>> individual_bound(torch.tensor([0.5, 0.5]))
    tensor(0.5000)
    """
    if isinstance(individual, Tensor) and (individual.ndim == 0 or individual.shape[-1] == 0):
        raise ValueError("individual must hold the information of at least one point")
    _check(individual, 1, width)
    return width * (individual / 2).sqrt().mean(-1)


def conditional_bound(
    information: Float[Tensor, "*batch"], n: int, *, width: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""The bound from the information of the selection among n pairs.

    .. math:: \text{width}\cdot\sqrt{\frac2n\,I(W; U\mid\tilde Z)}

    Args:
        information: conditional mutual information, in nats; at most n log 2.
        n: number of pairs.
        width: length of an interval that holds the loss.

    Returns:
        The bound on the absolute value of the gap.

    Raises:
        TypeError: ``information`` is no floating-point tensor, or a number is none.
        ValueError: negative information, ``n`` below 1, or a width that is not positive.

    Chapter: thm-information-cmi

    References: Steinke and Zakynthinou (2020), theorem 2.

    >>> import torch
    >>> from nodes_tutorial.generalization import conditional_bound
    >>> conditional_bound(torch.tensor(2.0), 4)
    tensor(1.)
    """
    _check(information, n, width)
    return width * (2 * information / n).sqrt()


def sgld_information(
    step_sizes: Float[Tensor, " steps"],
    noise: Float[Tensor, " steps"],
    *,
    norm: float,
    dim: int,
) -> Float[Tensor, ""]:
    r"""What noisy gradient steps can know of their data at most, in nats.

    .. math:: I(S; W_T) \le \sum_t \frac d2\log\Bigl(1+\frac{\eta_t^2L^2}{d\,s_t^2}\Bigr)

    Args:
        step_sizes: η, the factor of each gradient.
        noise: s, standard deviation of each coordinate of the noise that each step adds.
        norm: L, no gradient is longer.
        dim: d, number of parameters.

    Returns:
        The bound on the information.

    Raises:
        TypeError: an argument is no floating-point tensor or no number.
        ValueError: tensors of different shapes, noise that is not positive, or a negative norm.

    Chapter: thm-information-sgld

    References: Pensia, Jog and Loh (2018), theorem 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import sgld_information
    >>> sgld_information(torch.ones(2), torch.ones(2), norm=1.0, dim=1)
    tensor(0.6931)
    """
    check_points("step_sizes", step_sizes)
    check_points("noise", noise, like=step_sizes)
    check_number("norm", norm, "a number not below zero", lambda x: 0 <= x < math.inf)
    check_count("dim", dim, least=1)
    if step_sizes.ndim != 1 or step_sizes.shape != noise.shape:
        raise ValueError(
            f"step_sizes and noise must be (steps,), got {tuple(step_sizes.shape)} "
            f"and {tuple(noise.shape)}"
        )
    if not bool((noise > 0).all()):
        raise ValueError("noise must be positive: without noise the information may be infinite")
    return dim / 2 * torch.log1p((step_sizes * norm / noise).square() / dim).sum()


def _check(information: Tensor, n: int, width: float) -> None:
    check_points("information", information)
    check_count("n", n, least=1)
    check_number("width", width, "a positive number", lambda x: 0 < x < math.inf)
    if not bool((information >= 0).all()):
        raise ValueError("information must not be negative")
