"""Rivals that need no training: straight lines between observations, and their mean."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.data.series import Series, compact


def line(series: Series, times: Float[Tensor, " targets"]) -> Float[Tensor, "n targets dim"]:
    """What a ruler does: straight lines between a series' observations, constant beyond them.

    Args:
        series: what is seen; at each of its times a series has all its features or none.
        times: when to predict.

    Returns:
        One value for each series, time and feature; 0 for a series without observations.

    Chapter: obs-irregular-ruler

    >>> import torch
    >>> from nodes_tutorial.data.timeseries import collate
    >>> from nodes_tutorial.ode.latent import line
    >>> seen = collate([torch.tensor([1.0, 3.0])], [torch.tensor([[0.0], [4.0]])])
    >>> line(seen, torch.tensor([0.0, 1.5, 5.0]))[0, :, 0]
    tensor([0., 1., 4.])
    """
    own, values, mask = compact(series)
    own = own.masked_fill(~mask.any(-1), math.inf)
    last = (mask.any(-1).sum(1, keepdim=True) - 1).clamp(min=0)
    right = torch.searchsorted(own, times.expand(len(own), -1).contiguous())
    low, high = (right - 1).clamp(min=0).minimum(last), right.minimum(last)
    t0, t1 = own.gather(1, low), own.gather(1, high)
    share = ((times - t0) / (t1 - t0)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)[..., None]
    x0, x1 = (values.gather(1, i[..., None].expand(-1, -1, values.shape[-1])) for i in (low, high))
    return torch.lerp(x0, x1, share)


def middle(series: Series, times: Float[Tensor, " targets"]) -> Float[Tensor, "n targets dim"]:
    """The mean of a series' observations, at all times.

    Args:
        series: what is seen.
        times: when to predict.

    Returns:
        One value for each series, time and feature; 0 for a feature without observations.

    Chapter: obs-latent-continue

    >>> import torch
    >>> from nodes_tutorial.data.timeseries import collate
    >>> from nodes_tutorial.ode.latent import middle
    >>> seen = collate([torch.tensor([1.0, 3.0])], [torch.tensor([[0.0], [4.0]])])
    >>> middle(seen, torch.tensor([0.0, 1.5]))[0, :, 0]
    tensor([2., 2.])
    """
    total = (series.values * series.mask).sum(1, keepdim=True)
    return (total / series.mask.sum(1, keepdim=True).clamp(min=1)).expand(-1, len(times), -1)
