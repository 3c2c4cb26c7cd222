"""Smooth residual networks, and their equation solved by another library."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.ode.residual.network import ResidualNet


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_net(seed=0, dim=2, width=8, modes=3, scale=1.0, depth=16):
    return ResidualNet(dim, width, depth, modes=modes, scale=scale, generator=gen(seed)).double()


def exact(net, y0, t=1.0):
    """The field's solutions at the times `t` by scipy's DOP853: an independent solver."""

    def rhs(s, y):
        with torch.no_grad():
            y = torch.from_numpy(y).reshape(y0.shape)
            return net.field(torch.tensor(s, dtype=y.dtype), y).flatten().numpy()

    t = np.atleast_1d(t)
    sol = solve_ivp(rhs, (0, t[-1]), y0.flatten().numpy(), "DOP853", t, rtol=1e-12, atol=1e-13)
    return torch.from_numpy(sol.y.T.copy()).reshape(-1, *y0.shape)
