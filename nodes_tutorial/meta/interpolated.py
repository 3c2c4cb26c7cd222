"""Reptile: initial weights that move towards the adapted ones."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.meta.adapted import adapt
from nodes_tutorial.meta.batched import Batch, Loss


class ReptileReport(NamedTuple):
    r"""How a direction of Reptile was reached.

    Attributes:
        points: adapted parameters of each task, flat, in the order of ``module.parameters()``.
        gradients: initial minus adapted parameters of each task, flat.
        train_losses: as in ``Adapted``.
    """

    points: Float[Tensor, "tasks size"]
    gradients: Float[Tensor, "tasks size"]
    train_losses: Float[Tensor, "points tasks"]


def reptile(
    module: nn.Module,
    support: Batch,
    *,
    steps: int,
    lr: float | int | Tensor | Mapping[str, Tensor],
    anil: bool | Sequence[str] = False,
    loss: Loss | None = None,
    batches: int = 1,
    batching: str | None = None,
) -> tuple[dict[str, Tensor], ReptileReport]:
    r"""What the adapted weights differ by: :math:`\frac1n\sum_i(\theta-\theta_k^{(i)})`.

    It stands where a gradient would: plain descent with the step size :math:`\varepsilon` goes the
    share :math:`\varepsilon` of the way to the mean of the adapted weights. There is no query.

    Args:
        module: as for ``maml``.
        support: inputs and targets, with tasks and points as the first axes.
        steps: number k of inner steps.
        lr: as for ``maml``; it gets no gradient.
        anil: as for ``maml``; the other parameters do not move.
        loss: as for ``maml``.
        batches: as for ``adapt``; with as many as steps, each step has points of its own.
        batching: as for ``maml``.

    Returns:
        The direction by names of parameters, and a ``ReptileReport``.

    Raises:
        TypeError: as for ``maml``.
        ValueError: as for ``adapt``.

    Chapter: thm-maml-order

    References: Nichol, Achiam and Schulman (2018), algorithm 2.

    >>> import torch
    >>> from nodes_tutorial.data.sinusoids import Sinusoids
    >>> from nodes_tutorial.meta import reptile
    >>> from nodes_tutorial.nets import MLP
    >>> tasks = Sinusoids(10, 10).sample(4, torch.Generator().manual_seed(0))
    >>> net = MLP([1, 8, 1], generator=torch.Generator().manual_seed(0))
    >>> direction, report = reptile(net, tasks.support, steps=5, lr=0.02, batches=5)
    >>> sorted(direction) == sorted(dict(net.named_parameters()))
    True
    """
    found = adapt(
        module,
        support,
        steps=steps,
        lr=lr,
        loss=loss,
        anil=anil,
        batches=batches,
        batching=batching,
    )
    start = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    moved = {name: start[name] - part for name, part in found.weights.items()}
    points, gradients = (
        torch.cat([part.flatten(1) for part in many.values()], 1) for many in (found.weights, moved)
    )
    report = ReptileReport(points, gradients, found.train_losses)
    return {name: part.mean(0) for name, part in moved.items()}, report
