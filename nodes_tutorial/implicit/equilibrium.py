"""Fixed points as differentiable functions, without a matrix: deep equilibrium layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.implicit.errors import RootError
from nodes_tutorial.implicit.function import ImplicitAnswer, answer, pushed
from nodes_tutorial.implicit.newton import Solver


@dataclass(frozen=True)
class Equilibrium:
    """x = g(x, \\*tensors) by iteration, for a map that contracts.

    Attributes:
        fun: the map g.
        solver: from a function of x alone and x0 to an answer; None means to iterate.
        rtol: largest change by one more application, relative to the size of x.
        steps: most applications.
    """

    fun: Callable[..., Tensor]
    solver: Solver | None
    rtol: float
    steps: int

    def equation(self, x: Tensor, *tensors: Tensor) -> Tensor:
        """The left-hand side x - g(x).

        Args:
            x: the unknown.
            tensors: what the answer depends on.
        """
        return x - self.fun(x, *tensors)

    @torch.no_grad()
    def solve(self, x0: Tensor, *tensors: Tensor) -> Tensor:
        """A fixed point, checked.

        Args:
            x0: the first approximation.
            tensors: what the answer depends on.

        Raises:
            RootError: the iteration does not settle, or ``solver`` returned no fixed point.
        """
        x, most = x0, self.steps
        if self.solver is not None:
            x = self.solver(lambda x: self.fun(x, *tensors), x0).detach()
            most = 1
        change = scale = x.new_tensor(torch.inf)
        eps = torch.finfo(x.dtype).eps
        previous = change
        for _ in range(most):
            after = self.fun(x, *tensors)
            previous, change = change, torch.linalg.vector_norm(after - x)
            scale = torch.maximum(torch.linalg.vector_norm(after), torch.linalg.vector_norm(x))
            if self.solver is None:
                x = after
            if change <= 4 * eps * scale or not scale.isfinite():
                break
            if change <= self.rtol * scale and change > 0.99 * previous:
                break
        if not (scale.isfinite() and change <= self.rtol * torch.where(scale > 0, scale, 1)):
            factor = float(change / previous)
            raise RootError(
                f"x = g(x) is not reached: one more application changes x by {float(change):.3g} "
                f"at a size of {float(scale):.3g}"
                + (f", {factor:.3g} of the change before" if factor > 0 else "")
                + f"; rtol={self.rtol:.3g}"
            )
        return x.clone()

    def invert(self, x: Tensor, tensors: Sequence[Tensor], b: Tensor, adjoint: bool) -> Tensor:
        """The solution of u = G u + b with the derivative G of the map, or its transpose.

        It is a fixed point as well, of a map that contracts where g does, and comes with the same
        kind of derivative.

        Args:
            x: the fixed point.
            tensors: what it depends on.
            b: the right-hand side.
            adjoint: whether the transpose is meant.
        """

        def linear(u: Tensor, x: Tensor, b: Tensor, *tensors: Tensor) -> Tensor:
            def of_x(x: Tensor) -> Tensor:
                return self.fun(x, *tensors)

            moved = torch.func.vjp(of_x, x)[1](u)[0] if adjoint else pushed(of_x, [x], [u])
            return moved + b

        problem = replace(self, fun=linear, solver=None)
        return ImplicitAnswer.apply(problem, torch.zeros_like(b), x, b, *tensors)

    def mapped(self, dims: Sequence[int | None]) -> "Equilibrium":
        """The same problem with one more leading axis.

        Args:
            dims: for each tensor the axis along which it has one entry for each problem.
        """
        return replace(self, fun=torch.func.vmap(self.fun, in_dims=(0, *dims)))


def fixed_point(
    g: Callable[..., Tensor],
    x0: Float[Tensor, "*shape"],
    *args: Any,
    solver: Solver | None = None,
    rtol: float | None = None,
    max_steps: int = 1000,
) -> Float[Tensor, "*shape"]:
    r"""Solve x = g(x, \*args) for a map that contracts; the result is differentiable in args.

    .. math:: \frac{\dd x}{\dd a} = (I-G)^{-1}\frac{\partial g}{\partial a}
        = \sum_{i\ge0}G^i\frac{\partial g}{\partial a}, \qquad G=\frac{\partial g}{\partial x}

    Forward and backward take about as many applications as the contraction needs, and the memory
    of one. Both modes, higher derivatives and ``torch.func`` work, as for ``root``.

    Args:
        g: from x and args to the shape of x.
        x0: the first approximation. There is no derivative with respect to it.
        args: what x depends on, as for ``root``; weights of a layer as a dict of tensors.
        solver: ``solver(g of x alone, x0)`` returns a fixed point that was found in another way;
            None means to iterate.
        rtol: largest change by one more application, relative to the size of x; None means
            the square root of the precision.
        max_steps: most applications, forward as well as backward.

    Returns:
        The fixed point.

    Raises:
        TypeError: x0 is not a floating-point tensor, g returns none, a number of another type.
        ValueError: g returns another shape or closes over a tensor with a gradient.
        RootError: the iteration does not settle, forward or backward.

    Chapter: cor-hyperparameters-equilibrium

    References: Bai, Kolter and Koltun (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.implicit import fixed_point
    >>> a = torch.tensor(1.0, requires_grad=True)
    >>> x = fixed_point(lambda x, a: 0.5 * x + a, torch.tensor(0.0), a)
    >>> x.backward()
    >>> x.detach().round(decimals=3), a.grad.round(decimals=3)
    (tensor(2.), tensor(2.))
    """
    check_points("x0", x0)
    given = torch.finfo(x0.dtype).eps ** 0.5 if rtol is None else rtol
    tolerance = check_number("rtol", given, "a number > 0 or None", lambda tol: tol > 0)
    steps = check_count("max_steps", max_steps, least=1)

    def problem(fun: Callable[..., Tensor]) -> Equilibrium:
        return Equilibrium(fun, solver, tolerance, steps)

    return answer("g", g, x0, args, problem, lambda x: x.shape)
