"""Sequences with known equations: films of pendulums and signals of a circulation."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.known_unknowns.systems import (
    cardiovascular,
    cardiovascular_signals,
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)
from nodes_tutorial.ode.odeint import odeint

__all__ = ["Sequences", "cardiovascular_sequences", "pendulum_sequences"]


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
    _check(n, steps)
    if solver not in ("dopri5", "semi-implicit"):
        raise ValueError(f"solver must be 'dopri5' or 'semi-implicit', got {solver!r}")
    draw = _uniform(n, 3, generator, dtype)
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


def cardiovascular_sequences(
    n: int,
    generator: torch.Generator | None = None,
    *,
    steps: int = 400,
    dt: float = 1.0,
    burn_in: float | int = 50,
    noise: float = 0.05,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Three noisy signals of circulations, bleeding or not, with resistance lost or not.

    The inflow is 0 or -2, the lost resistance 0 or 0.5, each with probability one half.
    Pressures begin at 75 to 85 and 3 to 7 mmHg, the reflex at 0.15 to 0.25, the stroke volume at
    90 to 100 ml; the first ``burn_in`` seconds are not seen.

    Args:
        n: number of sequences.
        generator: source of the numbers; None means PyTorch's global one.
        steps: observations of a sequence.
        dt: seconds between them.
        burn_in: seconds before the first.
        noise: standard deviation of each signal in its scaled unit.
        dtype: dtype of all results.

    Returns:
        The sequences, with the states and the parameters that made them.

    Raises:
        ValueError: ``n`` below 1 or ``steps`` below 2.

    Chapter: prop-unknowns-volume

    References: Zenker, Rubin and Clermont (2007); Linial et al. (2021), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import cardiovascular_sequences
    >>> seen = cardiovascular_sequences(3, torch.Generator().manual_seed(0), steps=10)
    >>> seen.x.shape, seen.z.shape, seen.theta.shape
    (torch.Size([3, 10, 3]), torch.Size([3, 10, 4]), torch.Size([3, 2]))
    """
    _check(n, steps)
    draw = _uniform(n, 6, generator, dtype)
    low = draw.new_tensor([0.75, 0.3, 0.15, 0.9])
    z0 = low + draw[:, :4] * draw.new_tensor([0.1, 0.4, 0.1, 0.1])
    theta = (draw[:, 4:] < 0.5) * draw.new_tensor([-2.0, 0.5])
    t = dt * torch.arange(steps, dtype=dtype, device=draw.device)
    times = torch.cat([t.new_zeros(1), t + burn_in]) if burn_in > 0 else t

    def field(t: Tensor, z: Tensor) -> Tensor:
        return cardiovascular(t, z, theta)

    z = odeint(field, z0, times, rtol=1e-6, atol=1e-6)[-steps:].transpose(0, 1)
    clean = cardiovascular_signals(z)
    blur = torch.randn(clean.shape, generator=generator, dtype=dtype, device=clean.device)
    return Sequences(t, clean + noise * blur, z, theta)


def _check(n: int, steps: int) -> None:
    if n < 1 or steps < 2:
        raise ValueError(f"n must be at least 1 and steps at least 2, got {n} and {steps}")


def _uniform(
    n: int, count: int, generator: torch.Generator | None, dtype: torch.dtype
) -> Float[Tensor, "n count"]:
    device = None if generator is None else generator.device
    return torch.rand(n, count, generator=generator, dtype=dtype, device=device)
