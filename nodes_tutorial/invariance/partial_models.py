"""Causal values from logs of which a part was kept: adjustment, and importance weights."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_generator, check_points

KEEPS = ("nothing", "observations", "intents")


class Moments(NamedTuple):
    """Mean and variance of one weighted episode.

    Attributes:
        mean: expected weighted reward, which is the value of the target.
        variance: of one episode; divide it by their number.
    """

    mean: Tensor
    variance: Tensor


def logged(law: Float[Tensor, "..."], keep: str) -> Float[Tensor, "..."]:
    """Sum out what a partial model does not model.

    Args:
        law: a table of ``episode_law``, or shares of episodes with its axes.
        keep: what is kept beside actions and the last observation: ``"nothing"``,
            ``"observations"`` or ``"intents"``.

    Returns:
        The table with the axes x₀, a₀, x₁, a₁, …, y_T, where x is what is kept; one entry where
        that is nothing.

    Raises:
        ValueError: unknown ``keep``, or a table of other axes.

    Chapter: invariance/partial_models

    >>> import torch
    >>> from nodes_tutorial.invariance import logged
    >>> logged(torch.ones(3, 2, 2, 3) / 36, "intents").shape
    torch.Size([2, 2, 3])
    """
    if keep not in KEEPS:
        raise ValueError(f"keep must be one of {', '.join(KEEPS)}, got {keep!r}")
    if law.ndim < 4 or law.ndim % 3 != 1:
        raise ValueError(f"law must have the axes y, z, a, …, y, got {law.ndim} of them")
    steps = law.ndim // 3
    seen, intents = (range(first, 3 * steps, 3) for first in (0, 1))
    if keep == "nothing":
        return law.sum(list(intents), keepdim=True).sum(list(seen))
    return law.sum(list(seen if keep == "intents" else intents))


def adjust(
    table: Float[Tensor, "..."],
    reward: Float[Tensor, " symbols"],
    *,
    unseen: float | None = None,
) -> Float[Tensor, "..."]:
    r"""Expected reward of every sequence of actions, by adjustment for what was kept.

    .. math:: \sum_{x_0,\dots,x_{T-1}}\prod_t p(x_t\mid x_{<t}, a_{<t})\;
       \E[r\mid x_0, a_0, \dots, x_{T-1}, a_{T-1}]

    It is the causal value :math:`\E[r\mid\mathrm{do}(a)]` where the action of each step depends
    on the past through x alone. With one x it is the conditional mean :math:`\E[r\mid a]`.

    Args:
        table: probabilities or counts with the axes x₀, a₀, …, x_{T−1}, a_{T−1}, y_T.
        reward: of the last observation.
        unseen: what is assumed where the table has no episode; None refuses such a table.

    Returns:
        A value for each sequence, with an axis of actions for each step.

    Raises:
        TypeError: the table holds no floating-point numbers.
        ValueError: other axes; or positivity fails: an action is never seen where it has to be.

    Chapter: invariance/partial_models, thm-partial-backdoor

    References: Rezende et al. (2020), equation (6); Robins (1986).

    >>> import torch
    >>> from nodes_tutorial.invariance import adjust
    >>> seen = torch.tensor([[[0.0, 9.0], [1.0, 0.0]], [[0.0, 1.0], [9.0, 0.0]]])
    >>> adjust(seen, torch.tensor([0.0, 1.0]))  # what was kept says nothing more
    tensor([1., 0.])
    """
    check_points("table", table)
    if table.ndim < 3 or table.ndim % 2 == 0 or table.shape[-1:] != reward.shape:
        raise ValueError(
            f"table must have the axes x, a, …, y with {len(reward)} symbols, "
            f"got shape {tuple(table.shape)}"
        )
    steps = table.ndim // 2
    weight = torch.ones_like(table[..., 0])
    missing = torch.zeros_like(weight, dtype=torch.bool)
    for t in range(steps):
        mass = table.sum(list(range(2 * t + 1, table.ndim)), keepdim=True)[..., 0]
        before = mass.sum(2 * t, keepdim=True)
        missing |= (weight > 0) & (before == 0)
        weight = weight * torch.where(before > 0, mass / before.where(before > 0, 1), 0)
    total = table.sum(-1)
    missing |= (weight > 0) & (total == 0)
    if unseen is None and bool(missing.any()):
        raise ValueError(
            f"table has no episode for {int(missing.sum())} of {missing.numel()} cells that are "
            "needed: an action has the probability 0 (positivity), or there are too few episodes"
        )
    known = total > 0
    weight = weight * known
    mean = table @ reward / total.where(known, 1)
    kept = list(range(0, 2 * steps, 2))
    value = (weight * mean).sum(kept)
    return value if unseen is None else value + unseen * (1 - weight.sum(kept))


def importance_moments(
    behaviour: Float[Tensor, "..."],
    target: Float[Tensor, "..."],
    reward: Float[Tensor, " symbols"],
) -> Moments:
    r"""Mean and variance of the reward weighted by target over behaviour, exactly.

    .. math:: \E_b[w r] = \E_\pi[r],\qquad \operatorname{Var}_b(w r) = \E_b[w^2 r^2] - \E_\pi[r]^2

    The world's own factors cancel in w: it is the product over the steps of the quotients of the
    two policies.

    Args:
        behaviour: probabilities of what is logged, the last observation on the last axis.
        target: the same of another policy in the same world.
        reward: of the last observation.

    Returns:
        Both numbers, of one episode.

    Raises:
        TypeError: a table holds no floating-point numbers.
        ValueError: other shapes, or the target does what the behaviour never does.

    Chapter: invariance/partial_models, prop-partial-importance

    References: Bottou et al. (2013), section 4.

    >>> import torch
    >>> from nodes_tutorial.invariance import importance_moments
    >>> half = torch.full((2, 1), 0.5)
    >>> importance_moments(half, torch.tensor([[1.0], [0.0]]), torch.ones(1))
    Moments(mean=tensor(1.), variance=tensor(1.))
    """
    check_points("behaviour", behaviour)
    check_points("target", target)
    if behaviour.shape != target.shape or behaviour.shape[-1:] != reward.shape:
        raise ValueError(
            f"behaviour, target and reward must fit, got shapes {tuple(behaviour.shape)}, "
            f"{tuple(target.shape)} and {tuple(reward.shape)}"
        )
    if bool(((behaviour == 0) & (target > 0)).any()):
        raise ValueError("target must do only what behaviour may do: a weight would be infinite")
    weighted = torch.where(behaviour > 0, target / behaviour.where(behaviour > 0, 1), 0)
    mean = (target @ reward).sum()
    return Moments(mean, ((weighted * target) @ reward.square()).sum() - mean.square())


def empirical(
    law: Float[Tensor, "..."], episodes: int, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Counts of drawn episodes, with the axes of their law.

    Args:
        law: a table of probabilities.
        episodes: number of draws, at least 1.
        generator: source of the draws.

    Returns:
        How often each cell was drawn.

    Raises:
        TypeError: ``episodes`` is no integer, or ``generator`` none.
        ValueError: ``episodes`` below 1.

    Chapter: invariance/partial_models

    >>> import torch
    >>> from nodes_tutorial.invariance import empirical
    >>> empirical(torch.tensor([1.0, 0.0]), 5)
    tensor([5., 0.])
    """
    check_count("episodes", episodes, least=1)
    check_generator(generator)
    cells = torch.multinomial(law.flatten(), episodes, replacement=True, generator=generator)
    return torch.bincount(cells, minlength=law.numel()).to(law.dtype).view(law.shape)
