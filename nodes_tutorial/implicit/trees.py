"""Parameters as one vector, or as one for each task."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nodes_tutorial.checks import check_points


class Leaves:
    """The tensors of a tree, apart from the graph that they came from.

    Args:
        name: name of the argument, for messages.
        tree: a tensor, or a tuple, list or dict of tensors.

    Raises:
        TypeError: a leaf is no tensor of floating-point numbers.
        ValueError: no leaf.
    """

    def __init__(self, name: str, tree: Any) -> None:
        paths, self.spec = pytree.tree_flatten_with_path(tree)
        self.names = [name + pytree.keystr(path) for path, _ in paths]
        if not paths:
            raise ValueError(f"{name} must hold at least one tensor, got {tree!r}")
        for each, (_, leaf) in zip(self.names, paths, strict=True):
            check_points(each, leaf)
        self.tensors = [leaf.detach().requires_grad_() for _, leaf in paths]

    def tree(self, tensors: Sequence[Tensor] | None = None) -> Any:
        """The tensors, built like the tree that they came from.

        Args:
            tensors: others of the same shapes; None means those that are held.
        """
        return pytree.tree_unflatten(list(self.tensors if tensors is None else tensors), self.spec)

    def check_tasks(self, tasks: int | None) -> None:
        """Refuse leaves without one row for each task.

        Args:
            tasks: number of rows; None where there is one task and no axis for it.

        Raises:
            ValueError: another leading axis.
        """
        for name, leaf in zip(self.names, self.tensors, strict=True):
            if tasks is not None and (leaf.ndim == 0 or len(leaf) != tasks):
                raise ValueError(
                    f"{name} must have one row for each of the {tasks} losses, "
                    f"got shape {tuple(leaf.shape)}"
                )


def joined(tensors: Sequence[Tensor], tasks: int | None) -> Tensor:
    """One vector of all entries, or one row for each task.

    Args:
        tensors: leaves of a tree.
        tasks: number of rows; None for one vector.

    Returns:
        A tensor of shape (size,) or (tasks, size).
    """
    flat = [leaf.flatten() if tasks is None else leaf.reshape(tasks, -1) for leaf in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


def split(vector: Tensor, tensors: Sequence[Tensor], tasks: int | None) -> list[Tensor]:
    """The inverse of ``joined``; axes before those of one vector stay in front.

    Args:
        vector: what ``joined`` made.
        tensors: leaves that give the shapes.
        tasks: as in ``joined``.

    Returns:
        Tensors of the shapes of the leaves.
    """
    sizes = [leaf.numel() // (tasks or 1) for leaf in tensors]
    parts = vector.split(sizes, -1)
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, tensors, strict=True)]


def value_of(name: str, loss: Callable[[Any, Any], Tensor], params: Any, hyper: Any) -> Tensor:
    """A loss, refused where it is neither a number nor one number for each task.

    Args:
        name: name of the loss, for messages.
        loss: the function of parameters and hyperparameters.
        params: the parameters.
        hyper: the hyperparameters.

    Returns:
        The value.

    Raises:
        TypeError: no tensor.
        ValueError: more than one axis.
    """
    value = loss(params, hyper)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must return a tensor, got a {type(value).__name__}")
    if value.ndim > 1:
        raise ValueError(
            f"{name} must return a number, or one for each task, got shape {tuple(value.shape)}; "
            "do the shapes of params and hyper match?"
        )
    return value


def check_own_rows(
    name: str, pull: Callable[[Tensor], Sequence[Tensor | None]], value: Tensor, lead: int
) -> None:
    """Refuse values of tasks that move with the rows of other tasks.

    Every second task is pulled back. No other row may then have a gradient, which it has where a
    shape was broadcast.

    Args:
        name: name of the function, for messages.
        pull: from a covector of ``value`` to one of each tensor that has the tasks in front.
        value: what the function returned, with ``lead`` axes of tasks in front.
        lead: number of these axes.

    Raises:
        ValueError: a task depends on the row of another.
    """
    shape = value.shape[:lead]
    rows = shape.numel()
    if rows < 2:
        return
    pulled = torch.arange(rows, device=value.device) % 2 == 0
    covector = pulled.to(value.dtype).reshape(*shape, *(1,) * (value.ndim - lead))
    for part in pull(covector.expand_as(value).contiguous()):
        if part is None:
            continue
        found = part.detach().reshape(rows, -1).abs()
        if found[~pulled].max() > torch.finfo(found.dtype).eps ** 0.5 * found.max():
            raise ValueError(
                f"{name} must see for each of its {rows} tasks the row of this task alone, got "
                f"{tuple(value.shape)} values that depend on the rows of others; was a shape "
                "broadcast?"
            )
