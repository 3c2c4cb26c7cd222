"""How a latent ODE is trained: the bound, with a divergence whose weight rises from 0 to 1."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from nodes_tutorial.data.series import Series
from nodes_tutorial.ode.latent.model import LatentODE
from nodes_tutorial.training import fit

Net = TypeVar("Net", bound=LatentODE)


def train(
    net: Net,
    batch: Callable[[int], tuple[Series, Series]],
    steps: int,
    *,
    rate: float = 0.01,
    generator: torch.Generator | None = None,
    watch: Callable[[int], None] | None = None,
) -> Net:
    r"""Maximize the bound by Adam, with a warm-up of the divergence in the first half.

    .. math:: \mathbb E_{q} \log p(\text{asked} \mid z_0) - \beta_i\,\mathrm{KL}(q \,\|\, N(0, I)),
        \qquad \beta_i = \min(1, 2i/\text{steps})

    Networks side by side share the batches and nothing else.

    Args:
        net: what is trained, in place.
        batch: from the number of the update to what is seen and what is explained.
        steps: number of updates.
        rate: the largest rate of the one-cycle schedule.
        generator: source of the draws of the start; None means PyTorch's global one.
        watch: called with the number of each update after it was made.

    Returns:
        The same network.

    Chapter: def-latent-ode

    >>> import torch
    >>> from nodes_tutorial.data.timeseries import observe, periodic
    >>> from nodes_tutorial.ode.latent import LatentODE, train
    >>> source = torch.Generator().manual_seed(0)
    >>> whole, _ = periodic(8, source, points=20)
    >>> net = LatentODE(1, 2, hidden=4, width=5, generator=source)
    >>> train(net, lambda i: (observe(whole, 0.3, source), whole), 2, generator=source) is net
    True
    """
    adam = torch.optim.Adam(net.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, rate, total_steps=steps, div_factor=3, pct_start=0.1
    )

    def step(i: int) -> Tensor:
        seen, asked = batch(i)
        beta = min(1.0, 2 * i / steps)  # the warm-up of the divergence
        bound = net.elbo(seen, asked, beta=beta, generator=generator)
        loss = -bound.mean(-1) / len(asked.times)
        adam.zero_grad()
        loss.sum().backward()  # the networks share nothing: each gets its own gradient
        clip_grad_norm_(net.parameters(), 10.0)
        adam.step()
        schedule.step()
        if watch is not None:
            watch(i)
        return loss.sum()

    fit(step, steps=steps, progress=False)
    return net
