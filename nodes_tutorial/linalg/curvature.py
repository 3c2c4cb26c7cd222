"""Products with the curvature of a loss: the Hessian, kept, and the Gauss-Newton matrix."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_points

Tree = Tensor | tuple | list | dict


def ggn(fun: Callable[[Any], Tensor], loss: Callable[[Tensor], Tensor], x: Tree, v: Tree) -> Tree:
    r"""Product with the generalized Gauss-Newton matrix, :math:`J^\top\nabla^2\ell(f(x))\,Jv`.

    It is the Hessian of :math:`\ell(f(x))` without the curvature of f. For a convex loss it is
    positive semidefinite, whatever f is; for a linear f it is the Hessian.

    Args:
        fun: f, from x to outputs.
        loss: returns a number from the outputs, or one number for each row of a batch.
        x: a tensor, or a tuple, list or dict of tensors.
        v: the direction, built like ``x``.

    Returns:
        The product, built like ``x``.

    Chapter: prop-hyperparameters-gauss

    References: Schraudolph (2002), section 3.

    >>> import torch
    >>> from nodes_tutorial.linalg import ggn
    >>> x, v = torch.tensor([1.0, 2.0]), torch.ones(2)
    >>> ggn(lambda x: x**2, lambda y: 0.5 * (y**2).sum(), x, v)
    tensor([ 4., 16.])
    """
    outputs, pull = torch.func.vjp(fun, x)[:2]
    moved = torch.func.jvp(fun, (x,), (v,))[1]
    slope = torch.func.grad(lambda y: loss(y).sum())
    return pull(torch.func.jvp(slope, (outputs,), (moved,))[1])[0]


def hessian_operator(
    fun: Callable[[Tensor], Tensor], x: Float[Tensor, "*shape"]
) -> Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]:
    r"""Products :math:`v\mapsto\nabla^2f(x)\,v` that share one gradient.

    The graph of the gradient is kept, and every product is one reverse sweep through it.
    ``hvp`` traces the function again at each call; where the same x is used many times, as in
    conjugate gradients, this takes a fraction of its time.

    Args:
        fun: returns a number, or one number for each row of a batch, where every row of ``x``
            has its own Hessian.
        x: point at which to differentiate.

    Returns:
        A function from v to the product, without a graph.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: ``fun`` does not depend on x.

    References: Pearlmutter (1994), section 3; Christianson (1992).

    >>> import torch
    >>> from nodes_tutorial.linalg import hessian_operator
    >>> product = hessian_operator(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    >>> product(torch.tensor([1.0, 0.0])), product(torch.tensor([0.0, 1.0]))
    (tensor([6., 0.]), tensor([ 0., 12.]))
    """
    check_points("x", x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = fun(leaf).sum()
        if not value.requires_grad:
            raise ValueError("fun must depend on x, got a value without a gradient")
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)

    def product(v: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(v)
        return torch.autograd.grad(gradient, leaf, v, retain_graph=True, materialize_grads=True)[0]

    return product
