"""Vector fields of continuous flows: how their Jacobians are multiplied, and the planar one."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count
from nodes_tutorial.linalg import covector_products
from nodes_tutorial.nets import MLP

Field = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class HasTangents(Protocol):
    """A field ``f(t, x)`` that multiplies its Jacobian itself, such as ``nets.TimeMLP``.

    ``value_and_tangents(t, x, v)`` returns :math:`f(t, x)` and the products :math:`Jv` of the
    directions ``v`` of shape (k, \\*batch, dim); for ``v=None`` the columns of :math:`J`.

    Chapter: thm-continuous-change
    """

    def value_and_tangents(
        self, t: Tensor, x: Tensor, v: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


def value_and_products(
    field: Field,
    t: Float[Tensor, "*times"],
    x: Float[Tensor, "*batch dim"],
    v: Float[Tensor, "k *batch dim"] | None = None,
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "products *batch dim"]]:
    r"""The field and products of its Jacobian :math:`J=\partial f/\partial x` at each point.

    A field with a rule of its own returns :math:`Jv`, carried along with the value. Any other
    is served by reverse mode and gives :math:`v^\top J`. Contracted with v both are
    :math:`v^\top Jv`, and over all unit vectors, or in the mean over probes, both have the
    squared norm :math:`\|J\|_F^2`.

    Args:
        field: ``f(t, x)``, each row by itself.
        t: the time.
        x: points, one a row.
        v: k directions for each point; None means all unit vectors.

    Returns:
        The value and the products.

    Raises:
        ValueError: the field does not keep the shape.

    Chapter: thm-continuous-change

    References: Griewank and Walther (2008), sections 3.1 and 3.2.

    >>> import torch
    >>> from nodes_tutorial.flows.field import value_and_products
    >>> value, rows = value_and_products(lambda t, x: t * x, torch.tensor(3.0), torch.ones(2))
    >>> rows
    tensor([[3., 0.],
            [0., 3.]])
    """
    if isinstance(field, HasTangents):
        return field.value_and_tangents(t, x, v)
    return covector_products(lambda x: field(t, x), x, v)


class PlanarField(nn.Module):
    r"""The field of a planar continuous flow, M neurons wide, with weights that depend on time.

    .. math:: f(t, x) = \sum_{m=1}^M u_m(t)\tanh\bigl(w_m(t)^\top x + b_m(t)\bigr), \qquad
        \operatorname{tr}\frac{\partial f}{\partial x}
        = \sum_m (1 - \tanh^2)\, w_m^\top u_m

    One small network of t gives :math:`w_m, b_m, u_m`. No condition on :math:`w^\top u` is needed.

    Args:
        dim: number of state features.
        width: number M of neurons.
        hidden: widths of the hidden layers of the network of t.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: a size is not an integer, or ``generator`` is not a generator.
        ValueError: a size below 1.

    Chapter: prop-continuous-euler

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 4.

    >>> import torch
    >>> from nodes_tutorial.flows import PlanarField
    >>> field = PlanarField(2, 8, generator=torch.Generator().manual_seed(0))
    >>> field(torch.tensor(0.5), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        width: int,
        hidden: tuple[int, ...] = (32,),
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("dim", dim, least=1)
        check_count("width", width, least=1)
        self.dim, self.width = dim, width
        sizes = [1, *hidden, (2 * dim + 1) * width]
        self.weights = MLP(sizes, generator=generator, dtype=dtype, device=device)

    def weights_at(self, t: Float[Tensor, ""]) -> tuple[Tensor, Tensor, Tensor]:
        """The weights w (M, dim), b (M,) and u (M, dim) at a time."""
        like = self.weights.layers[0].weight
        w, u, b = self.weights(t.to(like.dtype).reshape(1)).split(
            [self.width * self.dim, self.width * self.dim, self.width]
        )
        return w.view(self.width, self.dim), b, u.view(self.width, self.dim)

    def forward(
        self, t: Float[Tensor, ""], x: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """Evaluate the field."""
        w, b, u = self.weights_at(t)
        return torch.tanh(x @ w.mT + b) @ u

    def value_and_tangents(
        self,
        t: Float[Tensor, ""],
        x: Float[Tensor, "*batch dim"],
        v: Float[Tensor, "k *batch dim"] | None = None,
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "tangents *batch dim"]]:
        """The field and its derivatives in x; see ``HasTangents``."""
        w, b, u = self.weights_at(t)
        y = torch.tanh(x @ w.mT + b)
        if v is None:
            p = w.mT.contiguous().view(-1, *(1 for _ in x.shape[:-1]), len(w))
        else:
            p = v @ w.mT
        return y @ u, ((1 - y * y) * p) @ u
