"""Pendulums that tests of two chapters share."""

import torch

from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.known_unknowns.systems import pendulum

TIGHT = {"rtol": 1e-11, "atol": 1e-12, "method": "dopri8"}
F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def films(n=6, steps=200, end=2.5, friction=0.0, seed=0):
    """Times, states and lengths of pendulums, solved tightly."""
    draw = torch.rand(n, 3, generator=rng(seed), dtype=F64)
    theta, t = 1 + draw[:, :1], torch.linspace(0, end, steps, dtype=F64)
    z0 = (2 * draw[:, 1:] - 1) * torch.tensor([0.5, 1.0], dtype=F64) + 0.1
    z = odeint(lambda t, z: pendulum(t, z, theta, friction=friction), z0, t, **TIGHT)
    return t, z.transpose(0, 1), theta
