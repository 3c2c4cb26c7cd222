r"""MAML: the gradient of adapted query losses in the initial weights, through the steps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.functional import mse_loss

from nodes_tutorial.meta.batched import Batch, Loss, NoBatchNorm, Weights, check_batch, default_loss
from nodes_tutorial.meta.descent import Descent, Rate, expanded

ORDERS = (1, 2)


class MAMLReport(NamedTuple):
    r"""How a meta-gradient was reached.

    Attributes:
        points: adapted parameters of each task, flat, in the order of ``module.parameters()``.
        gradients: gradient of each task in the initial parameters, flat; their mean is the
            meta-gradient.
        train_losses: loss on the support before each step.
        val_loss: loss on the query at the adapted parameters.
        lr: gradient of the mean query loss in the step sizes, in the form of ``lr``; None where
            ``lr`` is a number.
    """

    points: Float[Tensor, "tasks size"]
    gradients: Float[Tensor, "tasks size"]
    train_losses: Float[Tensor, "steps tasks"]
    val_loss: Float[Tensor, " tasks"]
    lr: Tensor | dict[str, Tensor] | None


Answer = tuple[dict[str, Tensor], MAMLReport]


def maml(
    module: nn.Module,
    support: Batch,
    query: Batch,
    *,
    steps: int,
    lr: float | int | Tensor | Mapping[str, Tensor],
    order: int,
    anil: bool | Sequence[str] = False,
    loss: Loss | None = None,
    batching: str | None = None,
) -> tuple[dict[str, Tensor], MAMLReport]:
    r"""Gradient of the adapted query losses in the initial weights, through the inner steps.

    .. math:: \frac1n\sum_i(I-aH_0)\cdots(I-aH_{k-1})\nabla g_i(\theta_k),\qquad
        \theta_{j+1}=\theta_j-a\nabla f_i(\theta_j),\quad H_j=\nabla^2f_i(\theta_j)

    The weights of the module are :math:`\theta_0`; f is the loss on a support and g that on a
    query. With ``order=1`` the matrices are left out. The module itself does not change.

    Tasks are computed together, in one of three ways with the same result. On one core of a CPU
    the stack is the fastest for perceptrons, and the loop for convolutions: with four blocks of 32
    channels ``"vmap"`` takes about twice its time. ``benchmarks/meta.py`` has the measurement.

    Args:
        module: a network; its outputs for one task must not depend on other tasks.
        support: inputs and targets to adapt to, with tasks and points as the first axes.
        query: inputs and targets to be judged by, likewise.
        steps: number k of inner steps; 0 gives the gradient of joint training.
        lr: step size a. A tensor without axes, or a dictionary with a tensor for each parameter
            that adapts (of its shape or without axes), gets a gradient in the report.
        order: 2 for the gradient, 1 to leave out the second derivatives.
        anil: True adapts the last layer alone, a list of names the parameters that it names; all
            parameters have a gradient.
        loss: maps outputs and targets of one task to a number; None means the mean squared error
            for floating-point targets, and cross-entropy for others.
        batching: ``"stack"``, ``"vmap"``, ``"loop"``, or None to choose by the module.

    Returns:
        The gradient by names of parameters, and a ``MAMLReport``.

    Raises:
        TypeError: an argument of another kind.
        ValueError: ``steps`` below 0, ``lr`` negative or not finite, another ``order``, unknown
            names or ``batching``; a module without trainable parameters, or with running
            statistics in training mode; numbers of tasks that differ; a loss of more than one
            number; built-in batch normalization under ``"vmap"`` with ``order=2``, which
            PyTorch 2.13 differentiates wrongly.

    Chapter: thm-maml-gradient

    References: Finn, Abbeel and Levine (2017), algorithm 1; Raghu, Raghu, Bengio and Vinyals
        (2020) for ``anil``; Li, Zhou, Chen and Li (2017) for learned step sizes.

    >>> import torch
    >>> from nodes_tutorial.data.sinusoids import Sinusoids
    >>> from nodes_tutorial.meta import maml
    >>> from nodes_tutorial.nets import MLP
    >>> tasks = Sinusoids(10, 10).sample(4, torch.Generator().manual_seed(0))
    >>> net = MLP([1, 8, 1], generator=torch.Generator().manual_seed(0))
    >>> gradient, report = maml(net, tasks.support, tasks.query, steps=1, lr=0.01, order=2)
    >>> len(gradient), report.gradients.shape
    (4, torch.Size([4, 25]))
    """
    second = _check_order(order)
    tasks = check_batch("support", support)
    check_batch("query", query, tasks)
    loss = default_loss(query[1]) if loss is None else loss
    descent = Descent(module, steps=steps, lr=lr, loss=loss, adapting=anil, batching=batching)
    run = {"stack": _stacked, "vmap": _mapped, "loop": _looped}[descent.flat.batching]
    return run(descent, support, query, second)


def unrolled_loss(
    module: nn.Module,
    *,
    steps: int,
    order: int,
    anil: bool | Sequence[str] = False,
    loss: Loss = mse_loss,
) -> Callable[..., Tensor]:
    r"""The mean query loss after the inner steps, as a pure function for ``torch.func``.

    ``maml`` is for training in PyTorch's usual way. This function is for ``torch.compile``, for
    further transforms, and for rows of initial weights, such as those of several seeds.

    Args:
        module: as for ``maml``; its tasks are mapped by ``vmap``.
        steps: as for ``maml``.
        order: as for ``maml``.
        anil: as for ``maml``.
        loss: as for ``maml``.

    Returns:
        A function of ``(weights, lr, support, query)``, with the weights by name.

    Raises:
        TypeError: as for ``maml``.
        ValueError: as for ``maml``; the function, where a module of second order normalizes by
            ``torch.nn.functional.batch_norm``.

    Chapter: thm-maml-gradient

    >>> import torch
    >>> from nodes_tutorial.data.sinusoids import Sinusoids
    >>> from nodes_tutorial.meta import unrolled_loss
    >>> from nodes_tutorial.nets import MLP
    >>> tasks = Sinusoids(10, 10).sample(4, torch.Generator().manual_seed(0))
    >>> net = MLP([1, 8, 1], generator=torch.Generator().manual_seed(0))
    >>> weights = {name: p.detach() for name, p in net.named_parameters()}
    >>> gradient_of = torch.func.grad(unrolled_loss(net, steps=1, order=2))
    >>> gradient_of(weights, 0.01, tasks.support, tasks.query).keys() == weights.keys()
    True
    """
    second = _check_order(order)
    descent = Descent(module, steps=steps, lr=0.0, loss=loss, adapting=anil, batching="vmap")

    def mean_loss(weights: Weights, lr: Rate, support: Batch, query: Batch) -> Tensor:
        def of_task(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
            end, _ = descent.descend_mapped(weights, [(sx, sy)], lr, graph=second)
            return descent.one(end, qx, qy)

        with NoBatchNorm() if second else nullcontext():
            return vmap(of_task)(*support, *query).mean()

    return mean_loss


def _check_order(order: int) -> bool:
    if order not in ORDERS or isinstance(order, bool):
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    return order == 2


def _stacked(descent: Descent, support: Batch, query: Batch, graph: bool) -> Answer:
    start = expanded(descent.flat.parameters, len(support[0]))
    lr, leaves = descent.rates()
    with torch.enable_grad():
        end, seen = descent.descend(descent.losses, start, [support], lr, graph=graph)
        value = descent.losses(end, *query)
        found = _slopes(value.sum(), [*start.values(), *leaves.values()])
    gradients = dict(zip(start, found, strict=False))
    slopes = dict(zip(leaves, found[len(start) :], strict=True))
    return _told(descent, gradients, slopes, end, seen, value)


def _looped(descent: Descent, support: Batch, query: Batch, graph: bool) -> Answer:
    start = {name: p.detach().requires_grad_() for name, p in descent.flat.parameters.items()}
    lr, leaves = descent.rates()
    found, ends, seen, values = [], [], [], []
    for x, y, query_x, query_y in zip(*support, *query, strict=True):
        with torch.enable_grad():
            end, losses = descent.descend(descent.one, start, [(x, y)], lr, graph=graph)
            value = descent.one(end, query_x, query_y)
        found.append(_slopes(value, [*start.values(), *leaves.values()]))
        ends.append({name: part.detach() for name, part in end.items()})
        seen.append(losses)
        values.append(value.detach())
    parts = [torch.stack(same) for same in zip(*found, strict=True)]
    gradients = dict(zip(start, parts, strict=False))
    slopes = {n: p.sum(0) for n, p in zip(leaves, parts[len(start) :], strict=True)}
    points = {name: torch.stack([end[name] for end in ends]) for name in start}
    steps = [torch.stack(losses) for losses in zip(*seen, strict=True)]
    return _told(descent, gradients, slopes, points, steps, torch.stack(values))


def _mapped(descent: Descent, support: Batch, query: Batch, graph: bool) -> Answer:
    start = {name: p.detach() for name, p in descent.flat.parameters.items()}
    lr, leaves = descent.rates()

    def of_task(
        start: Weights, leaves: Weights, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor
    ) -> tuple[Tensor, tuple[Weights, list[Tensor]]]:
        own = descent.rate_of(leaves, lr)
        end, seen = descent.descend_mapped(start, [(sx, sy)], own, graph=graph)
        return descent.one(end, qx, qy), (end, seen)

    with NoBatchNorm() if graph else nullcontext():
        differentiated = grad_and_value(of_task, argnums=(0, 1), has_aux=True)
        axes = (None, None, *(0,) * 4)
        mapped = vmap(differentiated, axes)(start, leaves, *support, *query)
    (gradients, slopes), (value, (end, seen)) = mapped
    slopes = {name: part.sum(0) for name, part in slopes.items()}
    return _told(descent, gradients, slopes, end, seen, value)


def _slopes(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)


def _told(
    descent: Descent,
    gradients: Weights,
    slopes: Weights,
    points: Weights,
    seen: list[Tensor],
    value: Tensor,
) -> Answer:
    """The answer from parts with the tasks along the first axis."""
    tasks = len(value)
    slopes = {name: part / tasks for name, part in slopes.items()}
    report = MAMLReport(
        points=_joined(points),
        gradients=_joined(gradients),
        train_losses=torch.stack(seen) if len(seen) else value.new_zeros(0, tasks).detach(),
        val_loss=value.detach(),
        lr=slopes if isinstance(descent.lr, Mapping) else slopes.get(""),
    )
    return {name: part.mean(0) for name, part in gradients.items()}, report


def _joined(parts: Weights) -> Tensor:
    return torch.cat([part.detach().flatten(1) for part in parts.values()], 1)
