"""Plans in a learned table: chance draws the intent, then the best action is taken."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points


class Plan(NamedTuple):
    """What ``expectimax`` found, for every step, place and intent.

    Attributes:
        value: expected reward that is left, by the model, (steps + 1, places).
        action: the best action, (steps, places, intents).
    """

    value: Tensor
    action: Tensor


def expectimax(
    intents: Float[Tensor, "places intents"],
    reward: Float[Tensor, "places intents actions"],
    transition: Float[Tensor, "places intents actions places"],
    *,
    steps: int,
) -> Plan:
    r"""Plan backwards in a partial model with places s and intents z.

    .. math:: V_t(s) = \sum_z p(z\mid s)\,\max_a\Bigl(r(s, z, a)
       + \sum_{s'}p(s'\mid s, z, a)\,V_{t+1}(s')\Bigr),\qquad V_T = 0

    A model without intents has one of them.

    Args:
        intents: probabilities of the intents at each place.
        reward: expected reward of an action.
        transition: probabilities of the next place.
        steps: number of actions T, at least 1.

    Returns:
        Values and actions; the first of equally good actions is taken.

    Raises:
        TypeError: a table holds no floating-point numbers, or ``steps`` is no integer.
        ValueError: tables that do not fit, or ``steps`` below 1.

    Chapter: invariance/partial_models

    References: Rezende et al. (2020), section 5.

    >>> import torch
    >>> from nodes_tutorial.invariance import expectimax
    >>> one = torch.ones(1, 2) / 2
    >>> rewards = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> expectimax(one, rewards, torch.ones(1, 2, 2, 1), steps=1).value[0]
    tensor([2.])
    """
    check_count("steps", steps, least=1)
    for name, table in (("intents", intents), ("reward", reward), ("transition", transition)):
        check_points(name, table)
    places = len(intents)
    if reward.shape[:2] != intents.shape or transition.shape != (*reward.shape, places):
        raise ValueError(
            f"intents, reward and transition must fit, got shapes {tuple(intents.shape)}, "
            f"{tuple(reward.shape)} and {tuple(transition.shape)}"
        )
    values, actions = [torch.zeros_like(intents[:, 0])], []
    for _ in range(steps):
        best = (reward + transition @ values[-1]).max(-1)
        values.append((intents * best.values).sum(-1))
        actions.append(best.indices)
    return Plan(torch.stack(values[::-1]), torch.stack(actions[::-1]))


def count_model(
    before: Int[Tensor, " moves"],
    intent: Int[Tensor, " moves"],
    action: Int[Tensor, " moves"],
    reward: Float[Tensor, " moves"],
    after: Int[Tensor, " moves"],
    *,
    sizes: tuple[int, int, int],
    unseen: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the three tables of ``expectimax`` by counting logged moves.

    Args:
        before: place before each move.
        intent: intent of each move; zeros for a model without intents.
        action: what was done.
        reward: what it brought.
        after: place after the move.
        sizes: numbers of places, intents and actions.
        unseen: reward that is assumed where nothing was logged; one stays there.

    Returns:
        Probabilities of intents, expected rewards and transitions.

    Raises:
        ValueError: no move, or rows that differ in number.

    Chapter: invariance/partial_models

    >>> import torch
    >>> from nodes_tutorial.invariance import count_model
    >>> zero = torch.zeros(2, dtype=torch.long)
    >>> how = {"sizes": (1, 1, 2), "unseen": -1.0}
    >>> count_model(zero, zero, zero, torch.tensor([1.0, 2.0]), zero, **how)[1]
    tensor([[[ 1.5000, -1.0000]]])
    """
    rows = {len(column) for column in (before, intent, action, reward, after)}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"before and the other columns must have the same rows, got {rows}")
    places, intents, actions = sizes
    cell = (before * intents + intent) * actions + action
    cells = places * intents * actions
    zeros = reward.new_zeros(cells)
    count = zeros.index_add(0, cell, torch.ones_like(reward))
    total = zeros.index_add(0, cell, reward)
    moves = reward.new_zeros(cells * places)
    moves = moves.index_add(0, cell * places + after, torch.ones_like(reward)).view(cells, places)
    stay = torch.eye(places, dtype=reward.dtype, device=reward.device)
    stay = stay.repeat_interleave(intents * actions, 0)
    seen = count > 0
    mean = torch.where(seen, total / count.clamp_min(1), unseen)
    follow = torch.where(seen[:, None], moves / count.clamp_min(1)[:, None], stay)
    drawn = count.view(places, intents, actions).sum(2)
    here = drawn.sum(1, keepdim=True)
    share = torch.where(here > 0, drawn / here.clamp_min(1), 1 / intents)
    shape = (places, intents, actions)
    return share, mean.view(shape), follow.view(*shape, places)
