"""Parameters after some steps of gradient descent, one set for each task."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from nodes_tutorial.checks import check_count
from nodes_tutorial.meta.batched import (
    Batch,
    BatchedModule,
    Loss,
    Weights,
    check_batch,
    default_loss,
)
from nodes_tutorial.meta.descent import Descent, Value, expanded, parts


class Adapted(NamedTuple):
    r"""Adapted parameters of tasks, and the losses on the way to them.

    Attributes:
        weights: all trainable parameters by name, with the tasks along the first axis.
        train_losses: loss on the support before each step and behind the last one.
    """

    weights: dict[str, Tensor]
    train_losses: Float[Tensor, "points tasks"]


def adapt(
    module: nn.Module,
    support: Batch,
    *,
    steps: int,
    lr: float | int | Tensor | Mapping[str, Tensor],
    loss: Loss | None = None,
    anil: bool | Sequence[str] = False,
    batches: int = 1,
    batching: str | None = None,
) -> Adapted:
    r"""Parameters after a few steps of gradient descent, one set for each task.

    .. math:: \theta_{j+1} = \theta_j - a\,\nabla f_i(\theta_j),\qquad \theta_0 = \theta

    Args:
        module: as for ``maml``.
        support: as for ``maml``.
        steps: number of steps; 0 leaves the parameters as they are.
        lr: as for ``maml``.
        loss: as for ``maml``.
        anil: as for ``maml``.
        batches: equal parts of the support's points, in their order, that the steps take in turn.
        batching: as for ``maml``.

    Returns:
        The parameters and the losses on the way, without a graph.

    Raises:
        TypeError: as for ``maml``.
        ValueError: as for ``maml``, or ``batches`` that do not divide the points of a support.

    Chapter: def-maml-adapted

    >>> import torch
    >>> from nodes_tutorial.meta import adapt, predict
    >>> net = torch.nn.Linear(1, 1)
    >>> x = torch.rand(5, 10, 1)
    >>> weights, losses = adapt(net, (x, 2 * x), steps=20, lr=0.5)
    >>> predict(net, weights, x).shape, bool((losses[-1] < losses[0]).all())
    (torch.Size([5, 10, 1]), True)
    """
    tasks = check_batch("support", support)
    points = support[0].shape[1]
    if points % check_count("batches", batches, least=1):
        raise ValueError(f"batches must divide the {points} points of a support, got {batches}")
    loss = default_loss(support[1]) if loss is None else loss
    descent = Descent(module, steps=steps, lr=lr, loss=loss, adapting=anil, batching=batching)
    start = {name: p.detach() for name, p in descent.flat.parameters.items()}
    if descent.flat.batching == "vmap":
        weights, seen = vmap(lambda x, y: _ended(descent, start, (x, y), batches))(*support)
        return Adapted(weights, seen.movedim(1, 0))
    if descent.flat.batching == "stack":
        weights, seen = _walk(descent, descent.losses, expanded(start, tasks), support, batches)
        return Adapted(weights, seen)
    found = [_walk(descent, descent.one, start, own, batches) for own in zip(*support, strict=True)]
    ends, losses = zip(*found, strict=True)
    together = {name: torch.stack([end[name] for end in ends]) for name in start}
    return Adapted(together, torch.stack(losses, 1))


@torch.no_grad()
def predict(
    module: nn.Module, weights: dict[str, Tensor], x: Tensor, *, batching: str | None = None
) -> Tensor:
    """Outputs of a module with other parameters for each task.

    Args:
        module: the network.
        weights: its trainable parameters by name, with the tasks along the first axis.
        x: inputs, with tasks and points as the first axes.
        batching: as for ``maml``.

    Returns:
        The outputs of shape (tasks, points, …), without a graph.

    Raises:
        TypeError: no module.
        ValueError: weights of another module, another number of tasks, or as for ``maml``.

    Chapter: def-maml-adapted

    >>> import torch
    >>> from nodes_tutorial.meta import predict
    >>> net = torch.nn.Linear(2, 3)
    >>> many = {name: p.expand(4, *p.shape) for name, p in net.named_parameters()}
    >>> predict(net, many, torch.zeros(4, 7, 2)).shape
    torch.Size([4, 7, 3])
    """
    flat = BatchedModule(module, batching)
    shapes = {name: (len(x), *p.shape) for name, p in flat.parameters.items()}
    if {name: tuple(part.shape) for name, part in weights.items()} != shapes:
        raise ValueError(
            "weights must be the trainable parameters of the module with one row for each of the "
            f"{len(x)} tasks, got {sorted(weights)}"
        )
    return flat.outputs(weights, x)


def _ended(
    descent: Descent, start: Weights, support: Batch, batches: int
) -> tuple[Weights, Tensor]:
    lr, own = descent.fixed_rate(), parts(support, batches, 0)
    weights, seen = descent.descend_mapped(start, own, lr, graph=False)
    weights = {name: part.detach() for name, part in weights.items()}
    return weights, torch.stack([*seen, descent.one(weights, *support).detach()])


def _walk(
    descent: Descent, value: Value, start: Weights, support: Batch, batches: int
) -> tuple[Weights, Tensor]:
    """The steps without a graph between them."""
    weights = {name: p.detach().requires_grad_() for name, p in start.items()}
    own = parts(support, batches, 1 if value == descent.losses else 0)
    with torch.enable_grad():
        weights, seen = descent.descend(value, weights, own, descent.fixed_rate(), graph=False)
    weights = {name: part.detach() for name, part in weights.items()}
    with torch.no_grad():
        return weights, torch.stack([*seen, value(weights, *support)])
