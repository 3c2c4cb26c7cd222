"""Networks of each kind, for the tests of two chapters."""

import torch

from nodes_tutorial.ode.stability.networks import AntisymmetricNet, LeapfrogNet, PlainNet, VerletNet

f64 = torch.float64
KINDS = {
    "plain": lambda **how: PlainNet(3, 7, 2.0, **how),
    "antisymmetric": lambda **how: AntisymmetricNet(3, 7, 2.0, gamma=0.3, **how),
    "leapfrog": lambda **how: LeapfrogNet(3, 7, 2.0, **how),
    "verlet": lambda **how: VerletNet(3, 7, 2.0, hidden=5, **how),
}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=f64)
