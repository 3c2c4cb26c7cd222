"""Series that tests of two chapters share."""

import torch

from nodes_tutorial.data.timeseries import observe, periodic

F64 = {"dtype": torch.float64}
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(n=4, points=12, fraction=0.4, seed=0):
    whole, _ = periodic(n, rng(seed), points=points, span=2.0, **F64)
    return whole, observe(whole, fraction, rng(seed + 1))
