"""One node of the graph for an answer that is known by its equation and not by its computation."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from nodes_tutorial.checks import check_points


@runtime_checkable
class Problem(Protocol):
    """An equation F(x, \\*tensors) = 0, how to solve it, and how to invert its derivative."""

    def equation(self, x: Tensor, *tensors: Tensor) -> Tensor:
        """The left-hand side F, of the shape of x.

        Args:
            x: the unknown.
            tensors: what the answer depends on.
        """
        ...

    def solve(self, x0: Tensor, *tensors: Tensor) -> Tensor:
        """An answer, without a graph.

        Args:
            x0: the first approximation.
            tensors: what the answer depends on.
        """
        ...

    def invert(self, x: Tensor, tensors: Sequence[Tensor], b: Tensor, adjoint: bool) -> Tensor:
        """The solution of J u = b or its transpose, with a graph to x, tensors and b.

        Args:
            x: the answer.
            tensors: what it depends on.
            b: the right-hand side.
            adjoint: whether the transpose of J is meant.
        """
        ...

    def mapped(self, dims: Sequence[int | None]) -> "Problem":
        """The same problem with one more leading axis of independent problems.

        Args:
            dims: for each tensor the axis along which it has one entry for each problem.
        """
        ...


class ImplicitAnswer(torch.autograd.Function):
    """The answer x(t) of F(x, t) = 0 with its implicit derivative, in both modes and any order."""

    @staticmethod
    def forward(problem: Problem, x0: Tensor, *tensors: Tensor) -> Tensor:
        return problem.solve(x0, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.problem = inputs[0]
        ctx.save_for_backward(output, *inputs[2:])
        ctx.save_for_forward(output, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *tensors = ctx.saved_tensors
        v = ctx.problem.invert(x, tensors, g, adjoint=True)
        pull = torch.func.vjp(lambda *t: ctx.problem.equation(x, *t), *tensors)[1]
        return None, None, *(-part for part in pull(v))

    @staticmethod
    def jvp(ctx: Any, _problem: Any, _x0: Any, *tangents: Tensor | None) -> Tensor:  # type: ignore[override]
        x, *tensors = ctx.saved_tensors
        moved = [
            torch.zeros_like(t) if dt is None else dt
            for t, dt in zip(tensors, tangents, strict=True)
        ]

        def along(*t: Tensor) -> Tensor:
            return ctx.problem.equation(x, *t)

        moved = pushed(along, tensors, moved)
        return -ctx.problem.invert(x, tensors, moved, adjoint=False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, problem: Problem, x0: Tensor, *tensors: Tensor) -> Any:
        x0 = (
            x0.expand(info.batch_size, *x0.shape)
            if in_dims[1] is None
            else x0.movedim(in_dims[1], 0)
        )
        return ImplicitAnswer.apply(problem.mapped(in_dims[2:]), x0, *tensors), 0


def pushed(fun: Callable[..., Tensor], at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    """A Jacobian-vector product by two reverse sweeps, which forward mode itself may pass through.

    Args:
        fun: a function of tensors.
        at: where to differentiate.
        along: one direction for each tensor.

    Returns:
        The product, of the shape of what ``fun`` returns.
    """
    value, pull = torch.func.vjp(fun, *at)[:2]
    transposed = torch.func.vjp(pull, torch.zeros_like(value))[1]
    return transposed(tuple(along))[0]


def answer(
    name: str,
    fun: Callable[..., Tensor],
    x0: Float[Tensor, "..."],
    args: Sequence[Any],
    problem: Callable[[Callable[..., Tensor]], Problem],
    shape: Callable[[Tensor], Sequence[int]],
) -> Tensor:
    """Set up a problem whose arguments are trees, and solve it.

    Args:
        name: name of the function, for messages.
        fun: what the user gave, a function of x and args.
        x0: the first approximation.
        args: tensors, trees of tensors and other things.
        problem: makes the problem from a function of x and tensors.
        shape: the shape that ``fun`` must return for x0.

    Returns:
        The answer, with a graph to the tensors in ``args``.

    Raises:
        TypeError: x0 is not a floating-point tensor, ``fun`` returns none.
        ValueError: ``fun`` returns another shape, or closes over a tensor that has a gradient.
    """
    check_points("x0", x0)
    leaves, spec = pytree.tree_flatten(list(args))
    places = [i for i, it in enumerate(leaves) if isinstance(it, Tensor) and it.is_floating_point()]
    tensors = [leaves[i] for i in places]
    rest = [None if i in places else it for i, it in enumerate(leaves)]

    def of_tensors(x: Tensor, *tensors: Tensor) -> Tensor:
        filled = list(rest)
        for i, tensor in zip(places, tensors, strict=True):
            filled[i] = tensor
        return fun(x, *pytree.tree_unflatten(filled, spec))

    with torch.enable_grad():
        tried = of_tensors(x0.detach(), *(tensor.detach() for tensor in tensors))
    if not isinstance(tried, Tensor):
        raise TypeError(f"{name} must return a tensor, got a {type(tried).__name__}")
    wanted = tuple(shape(x0))
    if tuple(tried.shape) != wanted:
        raise ValueError(f"{name} must return the shape {wanted}, got {tuple(tried.shape)}")
    if tried.requires_grad:
        raise ValueError(
            f"{name} closes over a tensor that has a gradient, which would be lost; pass it "
            "as an argument after x0"
        )
    return ImplicitAnswer.apply(problem(of_tensors), x0.detach(), *tensors)
