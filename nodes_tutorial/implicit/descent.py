"""Minima of many smooth problems side by side: Newton's method on products with the Hessian."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.implicit.errors import StationarityError
from nodes_tutorial.implicit.inverse import of_task
from nodes_tutorial.implicit.trees import check_own_rows
from nodes_tutorial.linalg import cg, hessian_operator


def _rows(product: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: product(v.view_as(x)).view_as(v)


def _pulled(value: Tensor, leaf: Tensor, covector: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaf, covector, retain_graph=True)


@torch.no_grad()
def newton_cg(
    loss: Callable[[Tensor], Tensor],
    x0: Float[Tensor, "*shape"],
    *,
    tol: float | int = 1e-8,
    max_steps: int = 100,
    max_products: int = 200,
) -> Float[Tensor, "*shape"]:
    r"""Minimize a smooth loss, or one for each task, by :math:`x\leftarrow x-tH^{-1}\nabla L`.

    The step is solved for by conjugate gradients to a tenth of the gradient or better, and halved
    until the loss falls; where the first direction has no positive curvature, it is the gradient.
    Tasks take their steps together, each with its own t. From a start nearby, as the optimum of the
    update before, it takes few steps.

    Args:
        loss: returns a number, or one number for each entry of the first axis of x, which sees
            this entry alone.
        x0: the first approximation.
        tol: done when the norm of the gradient is at most this, for every task.
        max_steps: most Newton steps.
        max_products: most Hessian products in one step.

    Returns:
        The minimum, without a graph.

    Raises:
        TypeError: x0 is not a floating-point tensor, a number of another type.
        ValueError: a number below its least value, a loss of another shape, or one that sees the
            entries of other tasks.
        StationarityError: the gradient is above ``tol`` after ``max_steps``.

    Chapter: prop-hyperparameters-distance

    References: Nocedal and Wright (2006), algorithm 7.1.

    >>> import torch
    >>> from nodes_tutorial.implicit import newton_cg
    >>> newton_cg(lambda x: (x.cosh() - x).sum(1), torch.zeros(2, 1)).squeeze(1)
    tensor([0.8814, 0.8814])
    """
    check_points("x0", x0)
    check_number("tol", tol, "a number >= 0", lambda bound: bound >= 0)
    check_count("max_steps", max_steps)
    check_count("max_products", max_products, least=1)
    x = x0.detach()
    slack = 10 * torch.finfo(x.dtype).eps
    for k in range(max_steps + 1):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = loss(leaf)
            if value.ndim > 1 or (value.ndim == 1 and value.shape != x.shape[:1]):
                raise ValueError(
                    f"loss must return one number a task, got shape {tuple(value.shape)}"
                )
            if k == 0 and value.ndim:
                check_own_rows("loss", partial(_pulled, value, leaf), value, 1)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        value = value.detach()
        g = slope.flatten() if value.ndim == 0 else slope.flatten(1)
        norm = torch.linalg.vector_norm(g, dim=-1)
        if (norm <= tol).all():
            return x
        if k == max_steps:
            break
        step = cg(
            _rows(hessian_operator(loss, x), x),
            torch.where((norm > tol).unsqueeze(-1), g, 0),
            rtol=min(0.1, float(norm.max()) ** 0.5),
            max_iterations=max_products,
        ).x
        step = torch.where((step == 0).all(-1, keepdim=True), g, step)  # met negative curvature
        slope = (step * g).sum(-1)
        factor = torch.ones_like(value)
        for _ in range(30):
            moved = x - (factor.unsqueeze(-1) * step).view_as(x)
            falls = loss(moved) <= value - 1e-4 * factor * slope + slack * value.abs()
            if falls.all():
                break
            factor = torch.where(falls, factor, factor / 2)
        x = moved
    worst = int(norm.argmax())
    raise StationarityError(
        f"the minimum{of_task(norm, worst)} is not reached: after {max_steps} steps the gradient "
        f"has the norm {float(norm.flatten()[worst]):.3g}, above tol={tol:.3g}"
    )
