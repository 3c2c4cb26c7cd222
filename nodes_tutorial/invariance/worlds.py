"""Small partially observed worlds in tables: what is logged, and what acting would bring."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points

_ROUNDING = 1e-6  # of probabilities that should sum to one


class POMDP(NamedTuple):
    """A world with hidden states; an episode of T actions ends with the observation T.

    Attributes:
        start: probabilities of the first state, (states,).
        transition: of the next state, (actions, states, states).
        emission: of an observation, (states, symbols).
        reward: of the last observation, (symbols,).
    """

    start: Tensor
    transition: Tensor
    emission: Tensor
    reward: Tensor


def episode_law(
    world: POMDP,
    policy: Sequence[Float[Tensor, "..."]],
    actor: Float[Tensor, "intents actions"],
) -> Float[Tensor, "..."]:
    r"""Probabilities of all that an agent can log, with the hidden states summed out.

    The agent draws an intent from what it has seen, and an action from the intent alone:

    .. math:: z_t\sim\pi_t(z\mid y_0, a_0, \dots, y_t),\qquad a_t\sim m(a\mid z_t)

    Args:
        world: the environment.
        policy: π of each step; axes y₀, a₀, …, y_t, and z behind.
        actor: m, (intents, actions).

    Returns:
        The table with the axes y₀, z₀, a₀, y₁, z₁, a₁, …, y_T.

    Raises:
        ValueError: a table of other axes, or probabilities that do not sum to one.

    Chapter: invariance/partial_models, def-partial-episode

    References: Rezende et al. (2020), section 4.

    >>> import torch
    >>> from nodes_tutorial.invariance import bear_world, episode_law
    >>> world, policy, actor = bear_world(0.9, 0.1)
    >>> episode_law(world, policy, actor).shape
    torch.Size([5, 2, 2, 5, 2, 2, 5])
    """
    _check_world(world)
    _check_rows("actor", actor, (actor.shape[0], world.transition.shape[0]))
    symbols, actions = world.emission.shape[1], world.transition.shape[0]
    law = world.start
    for t, table in enumerate(policy):
        _check_rows("policy", table, (*(symbols, actions) * t, symbols, actor.shape[0]))
        law = law[..., None, :] * world.emission.T  # …, y_t, e
        for axis in range(t):  # the earlier intents are not looked at
            table = table.unsqueeze(3 * axis + 1)
        law = law[..., None, :] * table[..., None]  # …, y_t, z_t, e
        law = law[..., None, :] * actor[..., None]  # …, y_t, z_t, a_t, e
        law = torch.einsum("...ae,aef->...af", law, world.transition)
    return law @ world.emission


def do_values(world: POMDP, steps: int) -> Float[Tensor, "..."]:
    """The truth: expected reward of every sequence of actions, whatever is seen.

    Args:
        world: the environment.
        steps: number of actions, at least 1.

    Returns:
        A value for each sequence, with an axis of actions for each step.

    Raises:
        TypeError: ``steps`` is no integer.
        ValueError: ``steps`` below 1, or tables that are no probabilities.

    Chapter: invariance/partial_models, thm-partial-backdoor

    >>> from nodes_tutorial.invariance import bear_world, do_values
    >>> do_values(bear_world(0.9, 0.1)[0], 2)
    tensor([[0.6000, 0.6000],
            [0.0000, 0.2500]])
    """
    check_count("steps", steps, least=1)
    _check_world(world)
    state = world.start
    for _ in range(steps):
        state = torch.einsum("...e,aef->...af", state, world.transition)
    return state @ world.emission @ world.reward


def bear_world(
    hug_teddy: float, hug_grizzly: float, noise: float = 0.0
) -> tuple[POMDP, list[Tensor], Tensor]:
    """The example with one bear: home, or the forest, where a bear is hugged or not.

    States and observations: 0 the start, 1 home, 2 a teddy, 3 a grizzly, 4 away. The first action
    is home (0) or forest (1), the second run (0) or hug (1). Rewards are of the last observation:
    home 0.6, a hugged teddy 1, a hugged grizzly −0.5.

    Args:
        hug_teddy: probability of the intent to hug a teddy.
        hug_grizzly: the same for a grizzly.
        noise: probability that an action is drawn by a fair coin in place of the intent.

    Returns:
        The world, the policy that intends to go to the forest and to hug with these
        probabilities, and the actor.

    Raises:
        ValueError: a probability outside [0, 1].

    Chapter: invariance/partial_models

    References: Rezende et al. (2020), section 2.

    >>> from nodes_tutorial.invariance import bear_world
    >>> bear_world(0.9, 0.1)[0].reward
    tensor([ 0.0000,  0.6000,  1.0000, -0.5000,  0.0000])
    """
    for name, p in (("hug_teddy", hug_teddy), ("hug_grizzly", hug_grizzly), ("noise", noise)):
        if not 0 <= p <= 1:
            raise ValueError(f"{name} must be a probability in [0, 1], got {p}")
    eye = torch.eye(5)
    away, home = eye[4], eye[1]
    run = torch.stack([home, home, away, away, away])
    hug = torch.stack([(eye[2] + eye[3]) / 2, home, eye[2], eye[3], away])
    world = POMDP(eye[0], torch.stack([run, hug]), eye, torch.tensor([0, 0.6, 1, -0.5, 0]))
    second = torch.full((5, 2, 5, 2), 0.5)
    for seen, p in ((2, hug_teddy), (3, hug_grizzly)):
        second[:, :, seen] = torch.tensor([1 - p, p])
    first = torch.tensor([0.0, 1.0]).expand(5, 2).clone()
    actor = (1 - noise) * torch.eye(2) + noise / 2
    return world, [first, second], actor


def _check_world(world: POMDP) -> None:
    states, symbols = world.emission.shape
    _check_rows("start", world.start, (states,))
    _check_rows("transition", world.transition, (world.transition.shape[0], states, states))
    _check_rows("emission", world.emission, (states, symbols))


def _check_rows(name: str, table: Tensor, shape: Sequence[int]) -> None:
    check_points(name, table)
    if tuple(table.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(table.shape)}")
    if bool((table < 0).any()) or bool(((table.sum(-1) - 1).abs() > _ROUNDING).any()):
        raise ValueError(f"{name} must hold probabilities that sum to one on the last axis")
