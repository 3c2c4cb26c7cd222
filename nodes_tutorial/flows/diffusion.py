"""From velocity to score: what flow matching has in common with diffusion models."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points, draw


def score_from_velocity(
    velocity: Float[Tensor, "*batch dim"],
    t: Float[Tensor, "*_"] | float,
    x: Float[Tensor, "*batch dim"],
) -> Float[Tensor, "*batch dim"]:
    r"""The score of the law of the walkers, from their mean velocity.

    .. math:: \nabla\log p_t(x) = \frac{t\,v^*(t, x) - x}{1 - t}

    It holds for independent pairs of standard normal noise and data on straight lines; the field
    that ``flow_matching_loss`` learns from other couplings has another score.

    Args:
        velocity: the values :math:`v^*(t, x)`.
        t: times, 0 or more and below 1: a number, or a tensor of a shape such as (n, 1) that goes
            with ``x``, whose entries are not looked at: 1 gives infinite or NaN entries.
        x: the points.

    Returns:
        The score at each point.

    Raises:
        TypeError: ``velocity`` or ``x`` is not a floating-point tensor, or their dtypes differ.
        ValueError: a number t outside [0, 1), or shapes that differ.

    Chapter: prop-diffusion-score

    References: Song et al. (2021); Albergo, Boffi and Vanden-Eijnden (2023).

    >>> import torch
    >>> from nodes_tutorial.flows import score_from_velocity
    >>> x = torch.tensor([[1.0, -2.0]])  # noise to noise: p_t is N(0, t² + (1 - t)²)
    >>> t = 0.25
    >>> v = (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
    >>> score_from_velocity(v, t, x) + x / (t**2 + (1 - t) ** 2)
    tensor([[0., 0.]])
    """
    check_points("x", x)
    check_points("velocity", velocity, like=x)
    if velocity.shape != x.shape:
        raise ValueError(
            f"velocity must have the shape of x, {tuple(x.shape)}, got {tuple(velocity.shape)}"
        )
    if not isinstance(t, Tensor):
        check_number("t", t, "at least 0 and below 1", lambda s: 0 <= s < 1)
    return (t * velocity - x) / (1 - t)


def stochastic_push(
    field: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "*batch dim"],
    noise: float | int,
    *,
    steps: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch dim"]:
    r"""Carry noise to data by a stochastic equation with the laws of the field's flow.

    .. math:: dX = \bigl(v(t, X) + \tfrac\eta2\,(t\,v(t, X) - X)\bigr)\,dt
        + \sqrt{\eta\,(1 - t)}\;dW, \qquad X_0 = x_0

    For the field of independent pairs with standard normal noise every :math:`\eta` gives the
    same law at each time; 0 is the flow. The steps are those of Euler and Maruyama.

    Args:
        field: ``f(t, x)`` with a time without axes.
        x0: draws of the standard normal law.
        noise: the strength :math:`\eta`.
        steps: how many, of equal length.
        generator: source of the noise; None means PyTorch's global one.

    Returns:
        The points at time 1.

    Raises:
        TypeError: ``steps`` is not an integer, ``noise`` is no number, ``x0`` is not a
            floating-point tensor.
        ValueError: ``steps`` below 1, ``noise`` negative or infinite.

    Chapter: thm-diffusion-noise

    References: Albergo, Boffi and Vanden-Eijnden (2023), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.flows import stochastic_push
    >>> g = torch.Generator().manual_seed(0)
    >>> x0 = torch.randn(10_000, 1, generator=g)
    >>> field = lambda t, x: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # noise to noise
    >>> x1 = stochastic_push(field, x0, 2.0, steps=100, generator=g)
    >>> abs(x1.std() - 1) < 0.03
    tensor(True)
    """
    check_points("x0", x0)
    check_count("steps", steps, least=1)
    check_number("noise", noise, "0 or more", lambda s: 0 <= s < math.inf)
    x, h = x0, 1 / steps
    for k in range(steps):
        t = torch.tensor(k * h, dtype=x.dtype, device=x.device)
        velocity = field(t, x)
        drift = velocity + noise / 2 * (t * velocity - x)
        kick = draw(torch.randn, x.shape, generator, dtype=x.dtype, device=x.device)
        x = x + h * drift + (noise * (1 - t) * h).sqrt() * kick
    return x
