"""Contexts: what a density is conditioned on, how it is checked, and fields that hang on it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.nets import MLP, TimeMLP
from nodes_tutorial.nets.tangents import SLOPES, propagate
from nodes_tutorial.ode.solvers.problem import under_transform

_START = 0.1  # share of its usual size with which the last layer of a hypernetwork begins


def check_context(
    context: Tensor | None,
    size: int,
    batch: Sequence[int],
    like: Tensor | None = None,
    *,
    look: bool = False,
) -> Tensor:
    """Refuse a context that does not belong to the points.

    Args:
        context: one for all points, shape (c,), or one for each, shape (\\*batch, c).
        size: number c of its entries; 0 if none is wanted.
        batch: batch axes of the points.
        like: a tensor whose dtype and device the context must have.
        look: refuse numbers that are not finite too, where looking costs nothing: on the host,
            outside of ``torch.func`` transforms and compilers. Elsewhere they give NaN.

    Returns:
        The context.

    Raises:
        TypeError: no floating-point tensor, or another dtype or device than ``like``.
        ValueError: one is missing or too much, or has another size, or is for other points, or has
            numbers that are not finite.

    Chapter: def-conditional-flow

    >>> import torch
    >>> from nodes_tutorial.flows.conditional import check_context
    >>> check_context(torch.zeros(3), 3, (5,)).shape
    torch.Size([3])
    """
    if context is None:
        raise ValueError(f"context must have {size} entries for each point, got None")
    if not size:
        raise ValueError("context must be None, because nothing here takes one")
    check_points("context", context, (size,), like)
    pairs = zip(reversed(context.shape[:-1]), reversed(tuple(batch)), strict=False)
    if context.ndim - 1 > len(batch) or any(ours not in (1, theirs) for ours, theirs in pairs):
        raise ValueError(
            f"context must be one for all or one for each of the points, which have batch axes "
            f"{tuple(batch)}; got shape {tuple(context.shape)}"
        )
    if look and _at_hand(context) and not context.isfinite().all():
        raise ValueError("context must be finite, got NaN or infinite numbers")
    return context


def _at_hand(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at without waiting for them."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not under_transform()


def join_context(
    x: Float[Tensor, "*batch dim"], context: Float[Tensor, "..."] | None, size: int
) -> Float[Tensor, "*batch inputs"]:
    """Append the context to each point.

    Args:
        x: the points.
        context: as for ``check_context``.
        size: number of its entries; with 0 there is nothing to append.

    Returns:
        The joined points.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: as for ``check_context``.

    Chapter: def-conditional-flow

    >>> import torch
    >>> from nodes_tutorial.flows.conditional import join_context
    >>> join_context(torch.zeros(2, 1), torch.tensor([5.0, 6.0]), 2)
    tensor([[0., 5., 6.],
            [0., 5., 6.]])
    """
    if context is None and not size:
        return x
    context = check_context(context, size, x.shape[:-1])
    return torch.cat([x, context.expand(*x.shape[:-1], size)], -1)


class Given:
    r"""A perceptron field of (x, t) whose context is put in: its weights are those of the context.

    The weights have no batch axis if there is one context for all rows, or one row each.

    Args:
        activation: between the layers.
        affine: :math:`W_1, b_1, W_2, b_2, \dots`, each perhaps with an axis for the rows before it.
        slope: what the time adds to :math:`b_1`.

    Attributes:
        tensors: all that the field is made of; what needs a gradient under ``"adjoint"``.

    Chapter: def-conditional-flow

    References: Grathwohl et al. (2019), section 4.2.
    """

    def __init__(self, activation: nn.Module, affine: Sequence[Tensor], slope: Tensor) -> None:
        self.activation, self.affine, self.slope = activation, list(affine), slope
        self.tensors = (*affine, slope)

    def __call__(self, t: Tensor, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """The field alone."""
        for i, (weight, bias) in enumerate(self._layers(t, x)):
            x = x if i == 0 else self.activation(x)
            x = _times(weight, x) + bias
        return x

    def value_and_tangents(
        self, t: Tensor, x: Float[Tensor, "rows dim"], v: Float[Tensor, "k rows dim"] | None = None
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "tangents rows dim"]]:
        """The field and its derivatives in x; see ``field.HasTangents``."""
        layers = self._layers(t, x)
        if self.affine[0].ndim == 2:  # rows share their weights, but perhaps for the first bias
            flat = [part for pair in layers for part in pair]
            return propagate(self.activation, flat, x, v)
        (weight, bias), *rest = layers
        y = _times(weight, x) + bias
        p = weight if v is None else weight @ v.movedim(0, -1)
        for weight, bias in rest:
            h, y = y, self.activation(y)
            p = weight @ (SLOPES[type(self.activation)](h, y).unsqueeze(-1) * p)
            y = _times(weight, y) + bias
        return y, p.movedim(-1, 0)

    def _layers(self, t: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        affine = list(self.affine)
        affine[1] = affine[1] + t.to(x.dtype) * self.slope
        return list(zip(affine[::2], affine[1::2], strict=True))


def _times(weight: Tensor, x: Tensor) -> Tensor:
    """Matrix times vector in each row; a matrix of all rows is one product."""
    return x @ weight.mT if weight.ndim == 2 else (weight @ x.unsqueeze(-1)).squeeze(-1)


class _ConditionalField(nn.Module):
    """A field ``f(t, x, context)`` that is evaluated by putting the context in first."""

    context: int
    given: Callable[[Tensor], Given]

    def forward(
        self, t: Float[Tensor, ""], x: Float[Tensor, "rows dim"], context: Float[Tensor, "..."]
    ) -> Float[Tensor, "rows dim"]:
        """Evaluate the field.

        Args:
            t: the time.
            x: the points, one a row.
            context: one for all rows, shape (c,), or one for each.
        """
        return self.given(check_context(context, self.context, x.shape[:-1]))(t, x)


class ContextField(_ConditionalField):
    r"""A vector field :math:`f(t, x, c)`: an MLP of x with the time and the context appended.

    Args:
        dim: number of state features.
        context: entries of the context.
        hidden: width of each hidden layer, at least one.
        activation: a key of ``nets.ACTIVATIONS``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``nets.MLP``.
        ValueError: as for ``nets.MLP``; ``context`` below 1, or no hidden layer.

    Chapter: def-conditional-flow

    References: Grathwohl et al. (2019), section 4.2.

    >>> import torch
    >>> from nodes_tutorial.flows import CNF, ContextField, Flow, StandardNormal
    >>> flow = Flow(StandardNormal(2), [CNF(ContextField(2, 3, [8]))])
    >>> flow.sample(5, context=torch.zeros(3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        context: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("hidden layers", len(hidden), least=1)
        self.dim, self.context = dim, check_count("context", context, least=1)
        sizes = [dim + 1 + context, *hidden, dim]
        self.mlp = MLP(sizes, activation, generator, dtype=dtype, device=device)

    def given(self, context: Float[Tensor, "*rows c"]) -> Given:
        """The field of a context; what the context adds to the first bias is computed once."""
        weight, bias, *rest = self.mlp.parameters()
        shift = context @ weight[:, self.dim + 1 :].mT
        affine = [weight[:, : self.dim], bias + shift, *rest]
        return Given(self.mlp.layers[1], affine, weight[:, self.dim])


class HyperField(_ConditionalField):
    r"""A vector field whose weights a second network, the hypernetwork, makes of the context.

    .. math:: f(t, x, c) = \mathrm{MLP}\bigl(t, x;\ \theta + h(c)\bigr)

    Args:
        dim: number of state features.
        context: entries of the context.
        hidden: width of each hidden layer of the field, at least one.
        hyper: width of each hidden layer of the hypernetwork h.
        activation: a key of ``nets.ACTIVATIONS``, for both.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``nets.MLP``.
        ValueError: as for ``nets.MLP``; ``context`` below 1, or no hidden layer.

    Chapter: def-conditional-flow

    References: Ha, Dai and Le (2017), section 3.

    >>> import torch
    >>> from nodes_tutorial.flows import CNF, Flow, HyperField, StandardNormal
    >>> flow = Flow(StandardNormal(2), [CNF(HyperField(2, 3, [8]))])
    >>> flow.log_prob(torch.zeros(5, 2), torch.ones(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        dim: int,
        context: int,
        hidden: Sequence[int] = (32, 32),
        hyper: Sequence[int] = (64,),
        activation: str = "tanh",
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("hidden layers", len(hidden), least=1)
        like = {"dtype": dtype, "device": device}
        self.dim, self.context = dim, check_count("context", context, least=1)
        self.main = TimeMLP(dim, hidden, activation, generator, **like)
        count = sum(weight.numel() for weight in self.main.parameters())
        self.hyper = MLP([context, *hyper, count], activation, generator, **like)
        with torch.no_grad():
            for weight in self.hyper.layers[-1].parameters():
                weight.mul_(_START)

    def given(self, context: Float[Tensor, "*rows c"]) -> Given:
        """The field of a context; the hypernetwork runs once for each context."""
        common = list(self.main.parameters())
        changes = self.hyper(context).split([weight.numel() for weight in common], -1)
        affine = [w + d.unflatten(-1, w.shape) for w, d in zip(common, changes, strict=True)]
        first = affine[0]
        affine[0], slope = first[..., : self.dim], first[..., self.dim]
        return Given(self.main.mlp.layers[1], affine, slope)
