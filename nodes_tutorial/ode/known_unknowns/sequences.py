"""Films of pendulums, each with a length of its own."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.known_unknowns.systems import (
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)
from nodes_tutorial.ode.odeint import odeint

__all__ = ["Sequences", "pendulum_sequences"]


class Sequences(NamedTuple):
    """Observed sequences and what they were made from.

    Args:
        t: times in seconds, shape (times,), the same for all sequences.
        x: observations, shape (n, times, observed).
        z: the states that were observed, shape (n, times, state).
        theta: the parameters of each sequence, shape (n, parameters).
    """

    t: Float[Tensor, " times"]
    x: Float[Tensor, "n times observed"]
    z: Float[Tensor, "n times state"]
    theta: Float[Tensor, "n parameters"]


def pendulum_sequences(
    n: int,
    generator: torch.Generator | None = None,
    *,
    steps: int = 100,
    dt: float = 0.05,
    friction: float | int = 0.0,
    side: int = 16,
    solver: str = "dopri5",
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    r"""Films of pendulums, each with a length of its own.

    Lengths are uniform on [1, 2], first angles on :math:`\pm\pi/6`, first velocities on
    :math:`\pm1`, all independent.

    Args:
        n: number of films.
        generator: source of the numbers; None means PyTorch's global one.
        steps: frames of a film.
        dt: seconds between frames.
        friction: b, the same for all.
        side: pixels along an edge.
        solver: ``"dopri5"`` (tolerance 1e-6), or ``"semi-implicit"``: one step of
            ``semi_implicit_pendulum`` from frame to frame.
        dtype: dtype of all results.

    Returns:
        The sequences, with the states and the parameters that made them.

    Raises:
        ValueError: ``n`` below 1, ``steps`` below 2, or an unknown ``solver``.

    Chapter: thm-unknowns-identifiable

    References: Linial, Ravid, Eytan and Shalit (2021), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import pendulum_sequences
    >>> films = pendulum_sequences(3, torch.Generator().manual_seed(0), steps=10)
    >>> films.x.shape, films.z.shape, films.theta.shape
    (torch.Size([3, 10, 256]), torch.Size([3, 10, 2]), torch.Size([3, 1]))
    """
    if n < 1 or steps < 2:
        raise ValueError(f"n must be at least 1 and steps at least 2, got {n} and {steps}")
    if solver not in ("dopri5", "semi-implicit"):
        raise ValueError(f"solver must be 'dopri5' or 'semi-implicit', got {solver!r}")
    device = None if generator is None else generator.device
    draw = torch.rand(n, 3, generator=generator, dtype=dtype, device=device)
    theta = 1 + draw[:, :1]
    z0 = (2 * draw[:, 1:] - 1) * draw.new_tensor([math.pi / 6, 1.0])
    t = dt * torch.arange(steps, dtype=dtype, device=draw.device)
    if solver == "dopri5":

        def field(t: Tensor, z: Tensor) -> Tensor:
            return pendulum(t, z, theta, friction=friction)

        z = odeint(field, z0, t, rtol=1e-6, atol=1e-6).transpose(0, 1)
    else:
        z = semi_implicit_pendulum(z0, theta[:, 0], steps, dt, friction=friction)
    return Sequences(t, render_rod(z[..., 0], side), z, theta)
