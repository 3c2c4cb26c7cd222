"""A pendulum, its picture, and a rule of another solver that makes films of it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["pendulum", "render_rod", "semi_implicit_pendulum"]

GRAVITY = 10.0


def pendulum(
    t: Float[Tensor, "*_"],
    z: Float[Tensor, "*batch 2"],
    theta: Float[Tensor, "*#batch parameters"],
    *,
    friction: float | int = 0.0,
) -> Float[Tensor, "*batch 2"]:
    r"""The pendulum :math:`\dot\phi = \omega,\ \dot\omega = -(g/l)\sin\phi - b\,\omega`.

    Args:
        t: ignored: the field is autonomous.
        z: angle from hanging down in radians, and angular velocity.
        theta: the length l in meters as first entry; g is 10 m/s².
        friction: the coefficient b, in 1/s.

    Returns:
        dz/dt.

    Chapter: thm-unknowns-identifiable

    References: Linial, Ravid, Eytan and Shalit (2021), section 5.

    >>> import math
    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import pendulum
    >>> pendulum(torch.tensor(0.0), torch.tensor([0.5 * math.pi, 1.0]), torch.tensor([2.0]))
    tensor([ 1., -5.])
    """
    angle, speed = z.unbind(-1)
    pull = -GRAVITY / theta[..., 0] * torch.sin(angle)
    return torch.stack([speed, pull - friction * speed if friction else pull], -1)


def semi_implicit_pendulum(
    z0: Float[Tensor, "n 2"],
    length: Float[Tensor, " n"],
    steps: int,
    dt: float,
    *,
    friction: float | int = 0.0,
    max_speed: float | int = math.inf,
) -> Float[Tensor, "n steps 2"]:
    r"""The pendulum with the steps of game simulators, first the velocity and then the angle.

    .. math:: \omega_{k+1} = \omega_k - h\bigl((g/l)\sin\phi_k + b\,\omega_k\bigr),\qquad
        \phi_{k+1} = \phi_k + h\,\omega_{k+1}

    Args:
        z0: angles and angular velocities at the start, in rad and rad/s.
        length: l of each pendulum.
        steps: number of states, the first included.
        dt: the step h in seconds.
        friction: the coefficient b, in 1/s.
        max_speed: the velocity is clipped to this size after each step.

    Returns:
        The states.

    Raises:
        ValueError: ``steps`` below 1.

    Chapter: prop-misspecified-mismatch

    References: OpenAI Gym, ``Pendulum-v0``; Linial et al. (2021), released data generator.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import semi_implicit_pendulum
    >>> semi_implicit_pendulum(torch.tensor([[0.1, 0.0]]), torch.ones(1), 3, 0.05).shape
    torch.Size([1, 3, 2])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    angle, speed = z0.unbind(-1)
    states = [z0]
    for _ in range(steps - 1):
        speed = speed - dt * (GRAVITY / length * torch.sin(angle) + friction * speed)
        angle = angle + dt * speed
        speed = speed.clamp(-max_speed, max_speed)
        states.append(torch.stack([angle, speed], -1))
    return torch.stack(states, 1)


def render_rod(
    angle: Float[Tensor, "*batch"], side: int = 16, *, width: float = 0.12
) -> Float[Tensor, "*batch pixels"]:
    r"""A soft picture of a rod that hangs from the center of the square :math:`[-1, 1]^2`.

    .. math:: x_{ij} = \exp\bigl(-\delta_{ij}(\phi)^2 / (2w^2)\bigr)

    with the distance :math:`\delta_{ij}` from pixel (i, j) to the segment from the center to
    :math:`0.8\,(\sin\phi, -\cos\phi)`. The picture shows the angle and nothing else: a pendulum
    of any length is drawn with the same rod.

    Args:
        angle: angle of the rod in radians; 0 is down.
        side: pixels along an edge.
        width: the length w over which the picture fades, in units of the square.

    Returns:
        Intensities in (0, 1], rows from the top, ``side * side`` of them.

    Raises:
        ValueError: ``side`` below 2 or ``width`` not positive.

    Chapter: prop-unknowns-symmetry

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import render_rod
    >>> picture = render_rod(torch.tensor([0.3, -0.3])).view(2, 16, 16)
    >>> torch.allclose(picture[0], picture[1].flip(1))
    True
    """
    if side < 2 or not width > 0:
        raise ValueError(f"side must be at least 2 and width positive, got {side} and {width}")
    place = torch.linspace(
        -1 + 1 / side, 1 - 1 / side, side, dtype=angle.dtype, device=angle.device
    )
    down, right = place.repeat_interleave(side), place.repeat(side)
    sin, cos = angle[..., None].sin(), angle[..., None].cos()
    along = (right * sin + down * cos).clamp(0, 0.8)
    square = (right - along * sin).square() + (down - along * cos).square()
    return torch.exp(-square / (2 * width**2))
