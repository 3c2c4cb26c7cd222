"""Gradient descent on the support of a task, with a graph or without: what MAML differentiates."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.functional import mse_loss

from nodes_tutorial.checks import check_count
from nodes_tutorial.meta.batched import Batch, BatchedModule, Loss, Weights

Rate = float | int | Tensor | Mapping[str, Tensor]
Value = Callable[[Weights, Tensor, Tensor], Tensor]


class Descent:
    r"""The map :math:`\theta\mapsto\theta_k` of a module: k steps of gradient descent.

    Args:
        module: the network.
        steps: number of steps.
        lr: step size: one number, or a tensor without axes, or by name of each parameter that
            adapts a tensor that multiplies its gradient.
        loss: maps outputs and targets of one task to a number.
        adapting: which parameters adapt, as ``anil`` of ``maml``.
        batching: as for ``BatchedModule``.

    Raises:
        TypeError: ``steps`` is no integer, ``lr`` no number or tensor, or as ``BatchedModule``.
        ValueError: ``steps`` below 0, ``lr`` negative or not finite, or of other shapes or names
            than the parameters that adapt; unknown parameters, or as ``BatchedModule``.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        steps: int,
        lr: Rate,
        loss: Loss,
        adapting: bool | Sequence[str] = False,
        batching: str | None = None,
    ) -> None:
        self.flat = BatchedModule(module, batching)
        self.steps = check_count("steps", steps)
        self.loss = loss
        self.names = _adapting(self.flat, adapting)
        self.lr = _check_rate(lr, {name: self.flat.parameters[name] for name in self.names})

    def losses(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Losses of all tasks, whose weights have one row for each."""
        outputs = self.flat.stacked(weights, x)
        if self.loss is mse_loss and outputs.shape == y.shape:  # the same without vmap's overhead
            return (outputs - y).square().flatten(1).mean(1)
        return self._number(vmap(self.loss)(outputs, y), 1)

    def one(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Loss of one task."""
        return self._number(self.loss(self.flat.call(weights, x), y), 0)

    @staticmethod
    def _number(value: Tensor, axes: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != axes:
            shape = tuple(value.shape[axes:]) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return one number for a task, got {shape}")
        return value

    def descend(
        self, value: Value, weights: Weights, batches: list[Batch], lr: Rate, *, graph: bool
    ) -> tuple[Weights, list[Tensor]]:
        """The steps by autograd, for one task or for rows of them.

        Args:
            value: ``losses`` for rows, ``one`` for one task.
            weights: where to begin; those that adapt require a gradient.
            batches: inputs and targets; the steps take them in turn.
            lr: the step sizes.
            graph: whether the gradients of the steps can be differentiated again.
        """
        seen = []
        for step in range(self.steps):
            losses = value(weights, *batches[step % len(batches)])
            own = [weights[name] for name in self.names]
            slopes = torch.autograd.grad(
                losses.sum(), own, create_graph=graph, allow_unused=True, materialize_grads=True
            )
            weights = self._step(weights, slopes, lr)
            seen.append(losses.detach())
        return weights, seen

    def descend_mapped(
        self, weights: Weights, batches: list[Batch], lr: Rate, *, graph: bool
    ) -> tuple[Weights, list[Tensor]]:
        """The same for one task by ``torch.func``, so that ``vmap`` can map it."""
        seen = []
        for step in range(self.steps):
            batch = batches[step % len(batches)]
            rest = {name: part for name, part in weights.items() if name not in self.names}
            own = {name: weights[name] for name in self.names}
            value_of = lambda own, rest=rest, batch=batch: self.one(rest | own, *batch)  # noqa: E731
            slopes, value = grad_and_value(value_of)(own)
            if not graph:
                slopes = {name: slope.detach() for name, slope in slopes.items()}
            weights = self._step(weights, [slopes[name] for name in self.names], lr)
            seen.append(value.detach())
        return weights, seen

    def rates(self) -> tuple[Rate, dict[str, Tensor]]:
        """Step sizes to descend with, and those of them that get a gradient, as leaves."""
        leaves = {name: part.requires_grad_() for name, part in self._tensors().items()}
        return self.rate_of(leaves, self.lr), leaves

    def fixed_rate(self) -> Rate:
        """Step sizes without a graph."""
        return self.rate_of(self._tensors(), self.lr)

    def _tensors(self) -> dict[str, Tensor]:
        if isinstance(self.lr, Mapping):
            return {name: part.detach() for name, part in self.lr.items()}
        return {"": self.lr.detach()} if isinstance(self.lr, Tensor) else {}

    @staticmethod
    def rate_of(leaves: dict[str, Tensor], lr: Rate) -> Rate:
        """Step sizes in the form of ``lr``, made of leaves."""
        if not leaves:
            return lr
        return leaves if isinstance(lr, Mapping) else leaves[""]

    def _step(self, weights: Weights, slopes: Sequence[Tensor], lr: Rate) -> Weights:
        moved = {}
        for name, slope in zip(self.names, slopes, strict=True):
            if isinstance(lr, float):
                moved[name] = torch.add(weights[name], slope, alpha=-lr)
            else:
                rate = lr[name] if isinstance(lr, Mapping) else lr
                moved[name] = weights[name] - rate * slope
        return weights | moved


def expanded(start: Mapping[str, Tensor], tasks: int) -> Weights:
    """Leaves of a graph: the same parameters for each task."""
    return {name: p.detach().expand(tasks, *p.shape).requires_grad_() for name, p in start.items()}


def parts(batch: Batch, count: int, axis: int) -> list[Batch]:
    """Equal parts of the points of inputs and targets."""
    x, y = (part.chunk(count, axis) for part in batch)
    return list(zip(x, y, strict=True))


def _adapting(flat: BatchedModule, adapting: bool | Sequence[str]) -> list[str]:
    """Names of the parameters that move: all, those of the last layer, or those that are named."""
    names = list(flat.parameters)
    if adapting is False:
        return names
    if adapting is True:
        last = names[-1].rpartition(".")[0]
        return [name for name in names if name.rpartition(".")[0] == last]
    if isinstance(adapting, str):
        adapting = [adapting]
    unknown = [name for name in adapting if name not in names]
    if unknown or not adapting:
        raise ValueError(
            f"anil must be True, False or names of trainable parameters, got {list(adapting)}; "
            f"there are {names}"
        )
    return [name for name in names if name in adapting]


def _check_rate(lr: Rate, moving: Weights) -> Rate:
    if isinstance(lr, Mapping):
        fits = lr.keys() == moving.keys() and all(
            isinstance(part, Tensor) and part.shape in (moving[name].shape, ())
            for name, part in lr.items()
        )
        if not fits:
            raise ValueError(
                "lr must have a tensor of the parameter's shape or without axes for each that "
                f"adapts, {list(moving)}, got {list(lr)}"
            )
        return dict(lr)
    if isinstance(lr, Tensor):
        if lr.ndim or not lr.is_floating_point():
            raise ValueError(
                "lr must be a floating-point tensor without axes, "
                f"got {lr.dtype} of shape {tuple(lr.shape)}"
            )
        return lr
    if isinstance(lr, bool) or not isinstance(lr, numbers.Real):
        raise TypeError(f"lr must be a number or a tensor, got {type(lr).__name__}")
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be a finite number >= 0, got {lr!r}")
    return float(lr)
