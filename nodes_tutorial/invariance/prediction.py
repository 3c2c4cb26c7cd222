"""Invariant causal prediction: which features predict the target alike in every environment."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_number, check_points

MOST = 14  # features; 2 to the power of their number subsets are tested


class CausalPrediction(NamedTuple):
    """What ``icp`` found.

    Attributes:
        parents: features that all accepted subsets have in common. Empty also where nothing was
            accepted: look at ``accepted``.
        accepted: subsets whose residuals look alike in all environments. None of them means that
            no linear model of these features is invariant.
        p_values: of every subset, Bonferroni included, at most 1.
    """

    parents: tuple[int, ...]
    accepted: tuple[tuple[int, ...], ...]
    p_values: dict[tuple[int, ...], float]


def icp(
    x: Float[Tensor, "rows features"],
    y: Float[Tensor, " rows"],
    env: Int[Tensor, " rows"],
    *,
    level: float = 0.05,
) -> CausalPrediction:
    r"""Test every subset of the features for invariance, and intersect the accepted ones.

    The target is regressed on a subset, with an offset, on the rows of all environments. For each
    of E environments the residuals inside are compared with those outside: their means by
    Welch's t test, their variances by an F test. With the smallest of these 2E values, p, the
    subset is accepted where :math:`2Ep>\text{level}`.

    If the tests of the true parents reject with a probability of at most ``level``, the found set
    lies within the true parents with a probability of at least 1 − level. The tests hold for
    normal noise and many rows. How often a parent is found (the power) is not bounded: it
    depends on how much environments differ.

    Args:
        x: features; at most 14, since all subsets are tested.
        y: the target of each row.
        env: number of the environment of each row; at least two, each with three rows or more.
        level: probability that a wrong feature may be returned, in (0, 1).

    Returns:
        The intersection, the accepted subsets and all p-values.

    Raises:
        TypeError: ``x`` or ``y`` are no floating-point tensors, or ``env`` is not one of integers.
        ValueError: one environment, too few rows, too many features, features that are linear
            combinations of each other, or a level outside (0, 1).

    Chapter: invariance/irm, prop-irm-icp

    References: Peters, Bühlmann and Meinshausen (2016), section 3.1.2, approximate tests of
        residuals.

    >>> import torch
    >>> from nodes_tutorial.invariance import icp
    >>> env = torch.arange(2).repeat_interleave(500)
    >>> noise = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    >>> x = noise[0] * (1 + 2 * env)
    >>> y = x + noise[1]
    >>> z = y + noise[2] * (1 + env)
    >>> icp(torch.stack([x, z], 1), y, env).parents  # the cause, and not the effect
    (0,)
    """
    check_number("level", level, "a number in (0, 1)", lambda a: 0 < a < 1)
    groups = _check_rows(x, y, env)
    inside = env == groups[:, None]
    residuals = _Residuals(x, y, inside)
    subsets = [
        subset
        for size in range(x.shape[1] + 1)
        for subset in itertools.combinations(range(x.shape[1]), size)
    ]
    chosen = torch.zeros(len(subsets), x.shape[1], dtype=torch.bool)
    for row, subset in zip(chosen, subsets, strict=True):
        row[list(subset)] = True
    p_values = residuals.p_values(chosen).tolist()
    accepted = tuple(s for s, p in zip(subsets, p_values, strict=True) if p > level)
    common = set(accepted[0]).intersection(*accepted) if accepted else set()
    return CausalPrediction(
        tuple(sorted(common)), accepted, dict(zip(subsets, p_values, strict=True))
    )


class _Residuals:
    """Sums of products in each environment: all subsets are tested from these."""

    def __init__(self, x: Tensor, y: Tensor, inside: Bool[Tensor, "envs rows"]) -> None:
        columns = torch.cat([x, y[:, None]], 1).double().cpu()
        columns = columns - columns.mean(0)
        part = inside.double().cpu()
        self.counts = part.sum(1)
        self.sums = part @ columns
        self.products = torch.einsum("en,ni,nj->eij", part, columns, columns)
        self.whole = self.products.sum(0)
        scale = self.whole.diagonal()[:-1].clamp_min(1e-300).rsqrt()
        correlations = scale[:, None] * self.whole[:-1, :-1] * scale
        if scale.numel() and float(torch.linalg.eigvalsh(correlations)[0]) < 1e-10:
            raise ValueError(
                "x must have linearly independent columns besides the constant: "
                "drop constant and repeated ones"
            )

    def p_values(self, chosen: Bool[Tensor, "subsets features"]) -> Float[Tensor, " subsets"]:
        """Smallest p-value of each subset, times the number of tests."""
        from scipy import stats

        d, envs, total = chosen.shape[1], len(self.counts), self.counts.sum()
        keep = chosen.double()
        normal = keep[:, :, None] * self.whole[:d, :d] * keep[:, None] + torch.diag_embed(1 - keep)
        slopes = torch.linalg.solve(normal, keep * self.whole[:d, d])
        line = torch.cat([-slopes, torch.ones(len(chosen), 1, dtype=torch.float64)], 1)
        sums = line @ self.sums.T  # of the residuals, (subsets, envs)
        squares = torch.einsum("si,eij,sj->se", line, self.products, line)
        n, m = self.counts, total - self.counts
        mean, rest = sums / n, (sums.sum(1, keepdim=True) - sums) / m
        others = squares.sum(1, keepdim=True) - squares
        variance = (squares - n * mean.square()) / (n - 1)
        variance_rest = (others - m * rest.square()) / (m - 1)
        a, b = variance / n, variance_rest / m
        t = (mean - rest) / (a + b).sqrt()
        freedom = (a + b).square() / (a.square() / (n - 1) + b.square() / (m - 1))
        of_means = 2 * stats.t.sf(t.abs().numpy(), freedom.numpy())
        ratio = (variance / variance_rest).numpy()
        law = stats.f((n - 1).numpy(), (m - 1).numpy())
        of_variances = 2 * torch.minimum(*(torch.tensor(p(ratio)) for p in (law.cdf, law.sf)))
        smallest = torch.minimum(torch.tensor(of_means), of_variances).min(1).values
        return (2 * envs * smallest).clamp(max=1)


def _check_rows(x: Tensor, y: Tensor, env: Tensor) -> Tensor:
    """The numbers of the environments."""
    check_points("x", x)
    check_points("y", y)
    if not isinstance(env, Tensor) or env.is_floating_point():
        raise TypeError("env must be a tensor of integers, the environment of each row")
    if x.ndim != 2 or y.shape != x.shape[:1] or env.shape != x.shape[:1]:
        raise ValueError(
            f"x must be (rows, features), y and env must have its rows; got {tuple(x.shape)}, "
            f"{tuple(y.shape)} and {tuple(env.shape)}"
        )
    if x.shape[1] > MOST:
        raise ValueError(
            f"x must have at most {MOST} features, got {x.shape[1]}: all subsets are tested; "
            "choose some first"
        )
    groups, counts = env.unique(return_counts=True)
    if len(groups) < 2:
        raise ValueError(f"env must name at least two environments, got {len(groups)}")
    if int(counts.min()) < 3 or len(y) < x.shape[1] + 3:
        raise ValueError(
            "env must give each environment three rows or more, and all together three more than "
            f"features; got {counts.tolist()} rows and {x.shape[1]} features"
        )
    return groups
