"""Many tasks at once: losses of vectors, products with their Hessians, modules as vectors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from nodes_tutorial.checks import check_points

Loss = Callable[..., Tensor]
Product = Callable[[Tensor], Tensor]


def rows_of(anchor: Tensor, data: tuple[Any, ...]) -> tuple[Tensor, bool]:
    """The anchor with one row for each task, and whether there is one task without an axis.

    Raises:
        TypeError: the anchor is no floating-point tensor, or data are no tensors.
        ValueError: an anchor of other axes, or numbers of tasks that differ.
    """
    check_points("anchor", anchor)
    if anchor.ndim not in (1, 2) or anchor.numel() == 0:
        raise ValueError(
            f"anchor must have the shape (size,) or (tasks, size), got {tuple(anchor.shape)}"
        )
    for part in data:
        if not isinstance(part, Tensor):
            raise TypeError(f"data must be tensors, got {type(part).__name__}")
    counts = [len(part) if part.ndim else 0 for part in data]
    counts += [len(anchor)] if anchor.ndim == 2 else []
    if counts and (min(counts) != max(counts) or min(counts) == 0):
        raise ValueError(
            "anchor and data must have the same number of tasks along their first axis, got "
            f"{counts}"
        )
    if anchor.ndim == 2:
        return anchor.detach(), False
    tasks = counts[0] if counts else 1
    return anchor.detach().expand(tasks, -1), not counts


def hessian_of(loss: Loss, point: Tensor, data: tuple[Any, ...]) -> Product:
    """v -> H v for each task, reverse over reverse.

    The gradients are computed once for all products: no row's gradient depends on another row,
    so one sweep back through them multiplies each row of v by its own symmetric Hessian. Some
    functions of PyTorch are wrong then, such as ``batch_norm`` in version 2.13.
    """
    with torch.enable_grad():
        pull = vjp(lambda point: vmap(grad(loss))(point, *data), point)[1]
    return lambda v: pull(v)[0]


def literal_hessian_of(loss: Loss, point: Tensor, data: tuple[Any, ...]) -> Product:
    """The same, one task after the other: slower, and right for all functions."""

    def pull_of(row: Tensor, *own: Any) -> Callable[[Tensor], tuple[Tensor]]:
        return vjp(lambda row: grad(loss)(row, *own), row)[1]

    with torch.enable_grad():
        pulls = [pull_of(row, *own) for row, *own in zip(point, *data, strict=True)]
    return lambda v: torch.stack([pull(u)[0] for pull, u in zip(pulls, v, strict=True)])


class FlatModule:
    """A module as a function of one vector of all its trainable parameters.

    Raises:
        TypeError: no module.
        ValueError: no trainable parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        self.module = module
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError("module must have trainable parameters, got none")

    def vector(self) -> Tensor:
        """The parameters as they are now."""
        return torch.cat([p.detach().flatten() for p in self.parameters.values()])

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Parts of a vector, or of rows of them, in the shapes of the parameters."""
        parts = vector.split([p.numel() for p in self.parameters.values()], dim=-1)
        pairs = zip(self.parameters.items(), parts, strict=True)
        return {
            name: part.unflatten(-1, p.shape) if p.ndim else part[..., 0]
            for (name, p), part in pairs
        }

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
        """The loss of a vector of parameters on inputs and targets."""
        return lambda vector, x, y: loss(functional_call(self.module, self.named(vector), x), y)
