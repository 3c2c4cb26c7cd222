"""The field as it was in the forward pass, for a backward pass that evaluates it again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nodes_tutorial.ode.solvers.problem import Problem

CHANGED = (
    "the field gives other values in the backward pass than in the forward pass: something that it "
    "uses was changed in between, or it is random; use gradient='direct'"
)


class Recall:
    """What a solve remembers of its field.

    It evaluates the field once, at a point where the backward pass evaluates it too. That shows
    which tensors the field uses there, and gives a slope to compare with.

    Args:
        problem: the problem.
        parameters: the tensors that get a gradient.
        t: time of the point.
        y: state there.

    Raises:
        ValueError: the field uses a tensor that requires a gradient and is not in ``parameters``.
    """

    def __init__(self, problem: Problem, parameters: Sequence[Tensor], t: float, y: Tensor):
        self.known = {id(p): p for p in parameters}
        self.ends = {p.grad_fn for p in parameters if p.grad_fn is not None}
        self.places = [
            (store, name, tensor)
            for module in modules_behind(problem.func)
            for part in module.modules()
            for store in (part._parameters, part._buffers)
            for name, tensor in store.items()
        ]
        self.strangers: dict[int, Tensor] = {}
        time = torch.scalar_tensor(t, dtype=y.dtype, device=y.device)
        field = problem.evaluator()  # made where no graph is watched for
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            z = leaf.clone()  # as in a step, where the state is not a leaf
            time = problem.field_time(time)
            slope = field(time, z)
            nodes, leaves = behind([slope], self.ends)
            self.strangers = self._strangers(leaves, leaf)
            if self.strangers:  # tensors that the field makes anew in each evaluation are no fault
                self.look_for_strangers([field(time, z)], leaf)
        self.slope = slope.detach().clone()
        used = {id(x) for x in leaves.values()}
        self.used = [id(p) in used or p.grad_fn in nodes for p in parameters]

    def _strangers(self, leaves: dict[Any, Tensor], y: Tensor) -> dict[int, Tensor]:
        """The leaves that are neither parameters nor y; a later search ends at the parameters."""
        self.ends.update(node for node, x in leaves.items() if id(x) in self.known)
        return {id(x): x for x in leaves.values() if id(x) not in self.known and x is not y}

    def look_for_strangers(self, outputs: Sequence[Tensor], y: Tensor) -> None:
        """Raise if a tensor without a gradient was used in two evaluations."""
        found = self._strangers(behind(outputs, self.ends)[1], y)
        twice = [leaf for key, leaf in found.items() if key in self.strangers]
        self.strangers = found
        if twice:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in twice)
            raise ValueError(
                "func uses tensors that require gradients but are not in adjoint_params, of shapes "
                f"{shapes}; list them there, make func an nn.Module that holds them, or use "
                "gradient='direct'"
            )

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """The modules of the field with the tensors that they held in the forward pass."""
        swapped = []
        for store, name, tensor in self.places:
            if store.get(name) is not tensor:
                swapped.append((store, name, store.get(name)))
                store[name] = tensor
        try:
            yield
        finally:
            for store, name, tensor in swapped:
                store[name] = tensor

    def change_of(self, slope: Tensor) -> Tensor:
        """How far a slope at the point is from the one in the forward pass."""
        return relative_change(slope, self.slope)

    def confirm(self, change: Tensor, used: Sequence[bool]) -> None:
        """Raise unless the backward pass saw the field of the forward pass."""
        if any(then and not now for then, now in zip(self.used, used, strict=True)):
            raise RuntimeError(
                "a tensor of adjoint_params was used in the forward pass and not in the backward "
                "pass; was it swapped into a module that func does not hold? Make func an "
                "nn.Module, or use gradient='direct'"
            )
        if not bool(change <= torch.finfo(change.dtype).eps ** 0.5):
            raise RuntimeError(CHANGED)


def relative_change(x: Tensor, before: Tensor) -> Tensor:
    """Largest difference of two states, absolute where they are small, relative where large."""
    if x.numel() == 0:
        return x.new_zeros(())
    return (x - before).abs_().div_(before.abs().add_(1)).amax()


def behind(outputs: Sequence[Tensor], ends: set) -> tuple[set, dict[Any, Tensor]]:
    """Nodes of the graph behind some tensors, and the leaves; nothing is searched behind ``ends``.

    Returns:
        The nodes that were reached, and those of them that gather the gradient of a leaf, with it.
    """
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    reached = set(waiting)
    leaves: dict[Any, Tensor] = {}
    while waiting:
        node = waiting.pop()
        if node in ends:
            continue
        parents = node.next_functions
        leaf = None if parents else getattr(node, "variable", None)
        if leaf is not None:
            leaves[node] = leaf
        for parent, _ in parents:
            if parent is not None and parent not in reached:
                reached.add(parent)
                waiting.append(parent)
    return reached, leaves


def modules_behind(func: object, depth: int = 3) -> Iterator[nn.Module]:
    """The modules that a callable is, belongs to, or closes over."""
    if isinstance(func, nn.Module):
        yield func
        return
    if depth == 0:
        return
    held: list[object] = [getattr(func, "__self__", None), getattr(func, "__wrapped__", None)]
    if isinstance(func, partial):
        held += [func.func, *func.args, *func.keywords.values()]
    for cell in getattr(func, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a cell that is not filled yet
            continue
    if isinstance(func, list | tuple):
        held += func
    elif isinstance(func, dict):
        held += func.values()
    elif isinstance(func, Callable) and hasattr(func, "__dict__"):
        held += vars(func).values()
    for value in held:
        if value is not None and not isinstance(value, Tensor | type | str | int | float):
            yield from modules_behind(value, depth - 1)
