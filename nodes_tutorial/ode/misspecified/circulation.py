"""A circulation whose equations are known: its field, its signals, and sequences of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.known_unknowns.sequences import Sequences
from nodes_tutorial.ode.odeint import odeint

__all__ = ["cardiovascular", "cardiovascular_sequences", "cardiovascular_signals"]

# Constants of the circulation; rates in beats a second, resistances in mmHg s/ml.
RATE_LOW, RATE_HIGH = 2 / 3, 3.0
RESISTANCE_LOW, RESISTANCE_HIGH = 0.5335, 2.134
ARTERIES, VEINS = 4.0, 111.0  # compliances, ml/mmHg
STEEPNESS, SETPOINT, DELAY = 0.1838, 70.0, 20.0


def cardiovascular(
    t: Float[Tensor, "*_"], z: Float[Tensor, "*batch 4"], theta: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*batch 4"]:
    r"""Blood between arteries and veins, with a reflex that holds the pressure.

    .. math:: C_a\dot P_a = -\frac{P_a - P_v}{R} + V f,\quad C_v\dot P_v = -C_a\dot P_a + i,\quad
        \tau\dot s = 1 - \frac1{1 + e^{-k(P_a - 70)}} - s,\quad \dot V = 10^{-2}\,i

    with heart rate :math:`f = \frac23 + (3 - \frac23)s` and resistance
    :math:`R = 0.5335 + (2.134 - 0.5335)s - r`; :math:`C_a = 4`, :math:`C_v = 111`,
    :math:`k = 0.1838`, :math:`\tau = 20` s.

    Args:
        t: ignored: the field is autonomous.
        z: :math:`(P_a/100, P_v/10, s, V/100)`: pressures in mmHg, the reflex, ml a beat.
        theta: :math:`(i, r)`: flow from outside in ml/s (a bleeding is negative), and
            the part of the resistance that is lost.

    Returns:
        dz/dt.

    Chapter: prop-misspecified-volume

    References: Zenker, Rubin and Clermont (2007); Linial et al. (2021), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.misspecified import cardiovascular
    >>> rest = cardiovascular(torch.tensor(0.0), torch.ones(4), torch.zeros(2))
    >>> bool((4 * 100 * rest[0] + 111 * 10 * rest[1]).abs() < 1e-4)  # volume
    True
    """
    arterial, venous, reflex, stroke = z.unbind(-1)
    inflow, lost = theta.unbind(-1)
    rate = RATE_LOW + (RATE_HIGH - RATE_LOW) * reflex
    resistance = RESISTANCE_LOW + (RESISTANCE_HIGH - RESISTANCE_LOW) * reflex - lost
    filling = 100 * stroke * rate - (100 * arterial - 10 * venous) / resistance
    relaxed = torch.sigmoid(STEEPNESS * (SETPOINT - 100 * arterial)) - reflex
    change = [filling / (100 * ARTERIES), (inflow - filling) / (10 * VEINS), relaxed / DELAY]
    return torch.stack([*change, 1e-4 * inflow.expand_as(stroke)], -1)


def cardiovascular_signals(z: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    r"""The three measured signals of states of the circulation.

    They are arterial pressure in units of 100 mmHg, venous pressure in units of 10 mmHg, and heart
    rate in Hz.

    Args:
        z: states of ``cardiovascular``, shape (\*batch, 4).

    Returns:
        The signals, shape (\*batch, 3).

    >>> import torch
    >>> from nodes_tutorial.ode.misspecified import cardiovascular_signals
    >>> cardiovascular_signals(torch.tensor([0.8, 0.5, 0.3, 0.9]))
    tensor([0.8000, 0.5000, 1.3667])
    """
    rate = RATE_LOW + (RATE_HIGH - RATE_LOW) * z[..., 2:3]
    return torch.cat([z[..., :2], rate], -1)


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

    Chapter: prop-misspecified-volume

    References: Zenker, Rubin and Clermont (2007); Linial et al. (2021), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.misspecified import cardiovascular_sequences
    >>> seen = cardiovascular_sequences(3, torch.Generator().manual_seed(0), steps=10)
    >>> seen.x.shape, seen.z.shape, seen.theta.shape
    (torch.Size([3, 10, 3]), torch.Size([3, 10, 4]), torch.Size([3, 2]))
    """
    if n < 1 or steps < 2:
        raise ValueError(f"n must be at least 1 and steps at least 2, got {n} and {steps}")
    device = None if generator is None else generator.device
    draw = torch.rand(n, 6, generator=generator, dtype=dtype, device=device)
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
