"""How much a learned parameter knows of its data: exact values for small alphabets, and bounds."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points

_MOST = 10**6  # data sets that are listed, up to their order
_ROUNDING = 1e-6  # of probabilities that should sum to one

Rule = Callable[[Float[Tensor, "sets letters"]], Float[Tensor, "sets parameters"]]


class Generalization(NamedTuple):
    """Exact expectations over all data sets; information in nats."""

    gap: Tensor
    """Expected loss on a fresh point less the expected mean loss on the data."""
    information: Tensor
    """Mutual information of the data and the parameter."""
    individual: Tensor
    """Mutual information of one data point and the parameter."""


def mutual_information(joint: Float[Tensor, "*batch a b"]) -> Float[Tensor, "*batch"]:
    r"""The mutual information of two finite random variables, in nats.

    .. math:: I = \sum_{a,b} p(a, b)\,\log\frac{p(a, b)}{p(a)\,p(b)}

    Args:
        joint: their joint probabilities.

    Returns:
        The information of each table.

    Raises:
        TypeError: ``joint`` is no floating-point tensor.
        ValueError: fewer than two axes, or probabilities that are negative or do not sum to one.

    Chapter: thm-information-xr

    References: Cover and Thomas (2006), chapter 2.

    >>> import torch
    >>> from nodes_tutorial.generalization import mutual_information
    >>> mutual_information(torch.eye(2) / 2)
    tensor(0.6931)
    """
    _check_law("joint", joint, axes=(-2, -1))
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    inside = torch.where(joint > 0, joint / apart, torch.ones_like(joint))
    return torch.xlogy(joint, inside).sum((-2, -1))


def jensen_shannon(
    p: Float[Tensor, "*batch k"], q: Float[Tensor, "*batch k"]
) -> Float[Tensor, "*batch"]:
    r"""The Jensen–Shannon divergence of two laws, in nats; at most log 2.

    .. math:: \tfrac12\mathrm{KL}(p\,\|\,r)+\tfrac12\mathrm{KL}(q\,\|\,r),\qquad r=\tfrac12(p+q)

    It is the information between a fair coin and a draw from p for heads and from q for tails.

    Args:
        p: probabilities of the one law; of a density on a grid, its values times the spacing.
        q: probabilities of the other.

    Returns:
        The divergence of each pair.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: probabilities that are negative or do not sum to one.

    Chapter: prop-information-coin

    References: Lin (1991).

    >>> import torch
    >>> from nodes_tutorial.generalization import jensen_shannon
    >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(0.6931)
    """
    _check_law("p", p, axes=(-1,))
    _check_law("q", q, axes=(-1,))
    return mutual_information(torch.stack([p, q], -2) / 2)


def exact_generalization(
    law: Float[Tensor, " letters"],
    n: int,
    rule: Rule,
    loss: Float[Tensor, "parameters letters"],
) -> Generalization:
    r"""The generalization gap and the information, by listing all data sets of n letters.

    The rule sees how often each letter occurs, so it must not depend on the order of the data. A
    data set then counts with its multinomial probability.

    Args:
        law: probability of each letter.
        n: number of data points, independent draws from ``law``.
        rule: maps counts (sets, letters), which sum to n, to the probabilities of each parameter
            (sets, parameters): a learning algorithm that may be random.
        loss: loss of each parameter on each letter.

    Returns:
        The gap, the information of the data, and that of one point.

    Raises:
        TypeError: an argument is no floating-point tensor, or ``n`` is no integer.
        ValueError: ``n`` below 1 or too large to list, a law or a rule that gives no
            probabilities, or a loss of another shape.

    Chapter: def-information-gap

    References: Xu and Raginsky (2017), section 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import exact_generalization
    >>> coin, wrong = torch.ones(2) / 2, 1 - torch.eye(2)
    >>> majority = lambda counts: torch.nn.functional.one_hot(counts.argmax(-1), 2).float()
    >>> exact_generalization(coin, 3, majority, wrong).gap
    tensor(0.2500)
    """
    _check_law("law", law, axes=(-1,))
    check_count("n", n, least=1)
    check_points("loss", loss, like=law)
    counts, weights = _data_sets(law, n)
    chosen = _chosen(rule, counts)
    if loss.shape != (chosen.shape[1], len(law)):
        raise ValueError(
            f"loss must have shape {(chosen.shape[1], len(law))}, got {tuple(loss.shape)}"
        )
    joint = weights[:, None] * chosen
    shares = counts / n
    gap = torch.einsum("sw,sz,wz->", joint, law - shares, loss)
    one_point = torch.einsum("sz,sw->zw", shares, joint)
    return Generalization(gap, mutual_information(joint), mutual_information(one_point))


def conditional_information(
    law: Float[Tensor, " letters"], n: int, rule: Rule
) -> Float[Tensor, ""]:
    r"""The information of the selection, given n pairs of which the data take one each.

    .. math:: I(W; U \mid \tilde Z),\qquad S = (\tilde Z_{i, U_i})_{i\le n}

    At most n log 2, whatever the algorithm does.

    Args:
        law: probability of each letter.
        n: number of pairs, and of data points.
        rule: as in ``exact_generalization``.

    Returns:
        The information, in nats.

    Raises:
        TypeError: ``law`` is no floating-point tensor, or ``n`` is no integer.
        ValueError: ``n`` below 1 or too large to list, or a law or a rule that gives no
            probabilities.

    Chapter: thm-information-cmi

    References: Steinke and Zakynthinou (2020), definition 1.

    >>> import torch
    >>> from nodes_tutorial.generalization import conditional_information
    >>> conditional_information(torch.ones(2) / 2, 1, lambda counts: counts)
    tensor(0.3466)
    """
    _check_law("law", law, axes=(-1,))
    check_count("n", n, least=1)
    letters = range(len(law))
    kinds = list(itertools.combinations_with_replacement(letters, 2))
    of_kind = torch.stack([law[a] * law[b] * (1 if a == b else 2) for a, b in kinds])
    tables, weights = _data_sets(of_kind, n)
    every, chances = [], []
    for table in tables.long().tolist():
        counts, chance = law.new_zeros(1, len(law)), law.new_ones(1)
        for (a, b), times in zip(kinds, table, strict=True):
            first = torch.arange(times + 1, device=law.device) if a != b else law.new_zeros(1)
            more = law.new_zeros(len(first), len(law))
            more[:, a] += first
            more[:, b] += times - first
            counts = (counts[:, None] + more).flatten(0, 1)
            chance = (chance[:, None] * _binomial(times, first, a != b, law)).flatten()
        every.append(counts)
        chances.append(chance)
    chosen = _chosen(rule, torch.cat(every)).split([len(part) for part in every])
    known = [mutual_information(p[:, None] * q) for p, q in zip(chances, chosen, strict=True)]
    return weights @ torch.stack(known)


def _binomial(times: int, first: Tensor, mixed: bool, like: Tensor) -> Tensor:
    """Chances of the numbers of first letters among the pairs of a kind."""
    if not mixed:
        return like.new_ones(1)
    k = first.to(like)
    log = math.lgamma(times + 1) - torch.lgamma(k + 1) - torch.lgamma(times - k + 1)
    return (log - times * math.log(2)).exp()


def _data_sets(law: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """All counts of n letters (sets, letters), and their multinomial probabilities."""
    letters = len(law)
    if math.comb(n + letters - 1, letters - 1) > _MOST:
        raise ValueError(f"n must be small enough to list all data sets, got {n}")
    bars = itertools.combinations(range(n + letters - 1), letters - 1)
    table = torch.tensor([(-1, *places, n + letters - 1) for places in bars])
    counts = (table.diff(dim=1) - 1).to(law)
    log = math.lgamma(n + 1) - torch.lgamma(counts + 1).sum(1) + torch.xlogy(counts, law).sum(1)
    return counts, log.exp()


def _chosen(rule: Rule, counts: Tensor) -> Tensor:
    chosen = rule(counts)
    _check_law("rule(counts)", chosen, axes=(-1,))
    if chosen.ndim != 2 or len(chosen) != len(counts):
        raise ValueError(
            f"rule must return ({len(counts)}, parameters) probabilities, "
            f"got shape {tuple(chosen.shape)}"
        )
    return chosen


def _check_law(name: str, law: Tensor, axes: Sequence[int]) -> None:
    check_points(name, law)
    if law.ndim < len(axes) or law.numel() == 0:
        raise ValueError(f"{name} must have {len(axes)} axes or more, got {tuple(law.shape)}")
    total = law.sum(tuple(axes))
    if not bool((law >= 0).all() & ((total - 1).abs() < _ROUNDING).all()):
        raise ValueError(f"{name} must hold probabilities that sum to one")
