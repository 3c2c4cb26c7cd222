"""How well a coin can be guessed from parameters: the information, estimated by a classifier."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from nodes_tutorial.checks import check_count, check_generator, check_number, check_points

_NEWTON = 40  # steps at most; laws that hardly overlap need about twenty
_HALVINGS = 10  # of one step
_SMALL = 1e-9  # slope at which the fit ends, in double precision


class InformationEstimate(NamedTuple):
    """What a classifier found on parameters that it was not trained on."""

    value: Tensor
    """Estimate in nats of log 2 less the cross-entropy, which is at most the information."""
    error: Tensor
    """Standard error of the estimate from the held-out parameters."""
    accuracy: Tensor
    """Share of the coins that are guessed, both sides weighted alike."""


def classifier_information(
    w: Float[Tensor, "*batch n dim"],
    coin: Int[Tensor, " n"],
    *,
    quadratic: bool = True,
    ridge: float = 1e-4,
    generator: torch.Generator | None = None,
) -> InformationEstimate:
    r"""The information between a fair coin and parameters, from below.

    .. math:: I(Y; W) \ge \log 2 - \E\bigl[-\log q(Y\mid W)\bigr]
        \quad\text{for every classifier } q

    A logistic classifier is fitted to one half of the parameters and scored on the other. Both
    sides of the coin have the weight one half. The expected value is below the information, by
    how far the classifier is from the true conditional law; it may be negative.

    Args:
        w: parameters, one row for each toss; batches are fitted side by side.
        coin: which data set each row was trained on, 0 or 1.
        quadratic: give squares and products of the parameters to the classifier.
        ridge: factor of the squared weights of the classifier, on standardized features.
        generator: source of the random halves; None means PyTorch's global one.

    Returns:
        Estimate, its standard error and the accuracy, for each batch.

    Raises:
        TypeError: ``w`` is no floating-point tensor, ``coin`` no integers, or ``generator`` none.
        ValueError: shapes that do not fit, another label than 0 and 1, fewer than four rows of
            one side: from one side alone nothing can be estimated.

    Chapter: prop-information-coin

    References: Barber and Agakov (2003), equation 3.

    >>> import torch
    >>> from nodes_tutorial.generalization import classifier_information
    >>> w, coin = torch.arange(40.0)[:, None], torch.arange(40) // 20
    >>> found = classifier_information(w, coin, generator=torch.Generator().manual_seed(0))
    >>> bool(0.4 < found.value < 0.7)
    True
    """
    check_points("w", w)
    check_generator(generator)
    check_number("ridge", ridge, "a positive number", lambda x: 0 < x < math.inf)
    if not isinstance(coin, Tensor) or coin.is_floating_point() or coin.is_complex():
        raise TypeError("coin must be a tensor of the integers 0 and 1")
    if w.ndim < 2 or coin.shape != w.shape[-2:-1]:
        raise ValueError(
            f"w (..., n, dim) and coin (n,) must fit, got {tuple(w.shape)} and {tuple(coin.shape)}"
        )
    sides = [(coin == side).nonzero().flatten() for side in (0, 1)]
    if sum(len(side) for side in sides) != len(coin):
        raise ValueError("coin must hold 0 and 1 only")
    for name, side in zip(("0", "1"), sides, strict=True):
        if len(side) < 4:
            raise ValueError(
                f"coin must have at least 4 rows of each side, got {len(side)} of {name}: "
                "from one side alone the information cannot be estimated"
            )
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for side in sides:
        order = torch.randperm(len(side), generator=generator).to(side.device)
        for half, rows in zip(halves, side[order].tensor_split(2), strict=True):
            half.append(rows)
    train, test = torch.cat(halves[0]), torch.cat(halves[1])
    x = _features(w, quadratic)
    mean, deviation = (
        x[..., train, :].mean(-2, keepdim=True),
        x[..., train, :].std(-2, keepdim=True),
    )
    x = (x - mean) / deviation.clamp(min=torch.finfo(x.dtype).tiny)
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    sign = (2 * coin - 1).to(x)
    beta = _fit(x[..., train, :], sign[train], _weights(sign[train]), ridge)
    margin = (x[..., test, :] @ beta[..., None])[..., 0] * sign[test]
    weights = _weights(sign[test])
    nats = softplus(-margin)
    value = math.log(2) - (weights * nats).sum(-1)
    spread = (weights * (nats - (weights * nats).sum(-1, keepdim=True))).square().sum(-1).sqrt()
    return InformationEstimate(value, spread, (weights * (margin > 0)).sum(-1))


def gaussian_jensen_shannon(
    means: Float[Tensor, "*#batch 2"], deviations: Float[Tensor, "*#batch 2"], *, points: int = 4001
) -> Float[Tensor, "*batch"]:
    """The Jensen–Shannon divergence of two normal laws on the line, by a fine sum.

    Args:
        means: of the two laws.
        deviations: their standard deviations.
        points: of the grid for each of the two integrals.

    Returns:
        The divergence of each pair, in nats.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes that do not fit, or a standard deviation that is not positive.

    Chapter: prop-information-coin

    References: Lin (1991).

    >>> import torch
    >>> from nodes_tutorial.generalization import gaussian_jensen_shannon
    >>> gaussian_jensen_shannon(torch.tensor([0.0, 2.0]), torch.ones(2))
    tensor(0.3368)
    """
    check_points("means", means, (2,))
    check_points("deviations", deviations, (2,), like=means)
    check_count("points", points, least=2)
    if not bool((deviations > 0).all()):
        raise ValueError("deviations must be positive")
    means, deviations = torch.broadcast_tensors(means, deviations)
    u = torch.linspace(-9, 9, points, dtype=means.dtype, device=means.device)
    mass = torch.softmax(-u.square() / 2, 0)
    total = torch.zeros_like(means[..., 0])
    for own, other in ((0, 1), (1, 0)):
        x = means[..., own, None] + deviations[..., own, None] * u
        far = (x - means[..., other, None]) / deviations[..., other, None]
        log_ratio = (u.square() - far.square()) / 2
        log_ratio = log_ratio + (deviations[..., own] / deviations[..., other]).log()[..., None]
        total = total + (mass * softplus(log_ratio)).sum(-1)
    return math.log(2) - total / 2


def _features(w: Tensor, quadratic: bool) -> Tensor:
    if not quadratic:
        return w
    w = w - w.mean(-2, keepdim=True)
    rows, columns = torch.triu_indices(w.shape[-1], w.shape[-1], device=w.device)
    return torch.cat([w, w[..., rows] * w[..., columns]], -1)


def _weights(sign: Tensor) -> Tensor:
    """One half for each side of the coin, shared by its rows."""
    heads = (sign > 0).to(sign)
    return heads / (2 * heads.sum()) + (1 - heads) / (2 * (1 - heads).sum())


def _fit(x: Tensor, sign: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """Logistic regression by Newton's method with halved steps, batched."""
    beta = torch.zeros_like(x[..., 0, :])
    identity = ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)

    def objective(b: Tensor) -> Tensor:
        margin = (x @ b[..., None])[..., 0] * sign
        return (weights * softplus(-margin)).sum(-1) + ridge / 2 * b.square().sum(-1)

    small = _SMALL * (torch.finfo(x.dtype).eps / torch.finfo(torch.float64).eps) ** 0.5
    for _ in range(_NEWTON):
        p = torch.sigmoid(-(x @ beta[..., None])[..., 0] * sign)
        slope = -((weights * sign * p)[..., None] * x).sum(-2) + ridge * beta
        if bool((slope.abs() < small).all()):
            break
        bend = x.mT @ ((weights * p * (1 - p))[..., None] * x) + identity
        step = torch.linalg.solve(bend, slope[..., None])[..., 0]
        before, size = objective(beta), torch.ones_like(beta[..., :1])
        for _ in range(_HALVINGS):
            worse = objective(beta - size * step) > before
            if not bool(worse.any()):
                break
            size = torch.where(worse[..., None], size / 2, size)
        beta = beta - size * step
    return beta
