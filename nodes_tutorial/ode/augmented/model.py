"""Neural ODEs with room: zeros are appended to the state before the equation is solved."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nodes_tutorial.nets.stack import Generators, Stack, sources
from nodes_tutorial.ode.odeint import odeint
from nodes_tutorial.ode.solvers.prepare import find_tableau
from nodes_tutorial.ode.solvers.solution import solve
from nodes_tutorial.ode.solvers.tableaus import Tableau

Field = Callable[[Tensor, Tensor], Tensor]


def pad(x: Float[Tensor, "*batch dim"], dims: int) -> Float[Tensor, "*batch augmented"]:
    r"""Append ``dims`` zeros to each point.

    Args:
        x: points, shape (\*batch, d).
        dims: number p of zeros.

    Returns:
        The padded points, shape (\*batch, d + p).

    Chapter: def-augmented-ode

    >>> import torch
    >>> from nodes_tutorial.ode.augmented import pad
    >>> pad(torch.ones(2, 1), 2)
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """
    return nn.functional.pad(x, (0, dims))


def lift(g: Callable[[Tensor], Tensor], dim: int) -> Field:
    r"""The field that writes g into one extra coordinate, :math:`\dot x = 0,\ \dot a = g(x)`.

    Its flow takes :math:`(x, 0)` to :math:`(x, g(x))` in time 1. The field is constant along each
    solution, so one step of any method is exact.

    Args:
        g: function to represent, from (batch, dim) to (batch, outputs).
        dim: dimension d of x; what is behind it in the state is a.

    Returns:
        A field on states (batch, dim + outputs).

    Chapter: thm-augmented-suffices

    >>> import torch
    >>> from nodes_tutorial.ode import odeint
    >>> from nodes_tutorial.ode.augmented import lift, pad
    >>> field = lift(lambda x: -x, 1)
    >>> odeint(field, pad(torch.tensor([[-1.0], [1.0]]), 1), torch.arange(2.0))[-1].round()
    tensor([[-1.,  1.],
            [ 1., -1.]])
    """

    def field(t: Tensor, y: Tensor) -> Tensor:
        x = y[..., :dim]
        return torch.cat([torch.zeros_like(x), g(x)], -1)

    return field


def shear(x: Float[Tensor, "n dim"], y: Float[Tensor, " n"]) -> Field:
    r"""A field without extra coordinates whose flow fits a finite sample exactly.

    .. math:: \dot x = c(x_1)\,e_2, \qquad c(x_{i,1}) = y_i - x_{i,2}

    with c linear between neighbours and constant beyond them. In time 1 the second coordinate of
    each point of the sample becomes its target. Nothing is said of other points.

    Args:
        x: points with distinct first coordinates, in two dimensions or more.
        y: one target for each point.

    Returns:
        A field on states (batch, dim).

    Raises:
        ValueError: one dimension, or two points with the same first coordinate.

    Chapter: prop-augmented-finite

    >>> import torch
    >>> from nodes_tutorial.ode import odeint
    >>> from nodes_tutorial.ode.augmented import shear
    >>> x = torch.tensor([[0.0, 3.0], [1.0, -2.0]])
    >>> odeint(shear(x, torch.tensor([7.0, 8.0])), x, torch.arange(2.0))[-1, :, 1].round()
    tensor([7., 8.])
    """
    nodes, order = x[:, 0].sort()
    if x.shape[1] < 2 or not bool((nodes.diff() > 0).all()):
        raise ValueError("x must have two or more columns and distinct entries in the first")
    values = (y - x[:, 1])[order]

    def field(t: Tensor, z: Tensor) -> Tensor:
        place = z[..., 0].contiguous()
        right = torch.searchsorted(nodes, place).clamp(1, len(nodes) - 1)
        low, high = nodes[right - 1], nodes[right]
        share = ((place - low) / (high - low)).clamp(0, 1)
        speed = torch.lerp(values[right - 1], values[right], share)
        return torch.cat(
            [torch.zeros_like(z[..., :1]), speed.unsqueeze(-1), torch.zeros_like(z[..., 2:])], -1
        )

    return field


class AugmentedODE(nn.Module):
    r"""A neural ODE with p extra coordinates and an affine read-out.

    .. math:: g(x) = A\,\varphi(x, 0) + b, \qquad
        \varphi(y_0) = y(1), \quad \dot y = f(t, y) \text{ on } \mathbb R^{d+p},\ y(0) = y_0

    The field f is an MLP of y with t appended. With a sequence of generators the module holds
    as many independent networks. They are solved as one batch, and each takes steps of its own, so
    that none sees the others.

    Args:
        dim: dimension d of the inputs.
        dims: number p of extra coordinates; 0 is the plain neural ODE.
        outputs: size of g(x).
        hidden: width of each hidden layer of the field.
        activation: a key of ``nodes_tutorial.nets.ACTIVATIONS``.
        generator: source of the initial weights, or one for each of several networks; None means
            PyTorch's global one.
        field: a field to use in place of the MLP; not with several generators.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``, or a ``Tableau``.
        options: as for ``odeint``.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: a size below 1, negative ``dims``, unknown ``activation``, or ``field`` together
            with several generators.

    Chapter: def-augmented-ode

    References: Dupont, Doucet and Teh (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.ode.augmented import AugmentedODE
    >>> net = AugmentedODE(2, 1, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 2)).shape, net.states(torch.zeros(5, 2), torch.linspace(0, 1, 4)).shape
    (torch.Size([5, 1]), torch.Size([4, 5, 3]))
    >>> five = AugmentedODE(2, 1, generator=[torch.Generator().manual_seed(s) for s in range(5)])
    >>> five(torch.zeros(7, 2)).shape, five.nfe(torch.zeros(7, 2)).shape
    (torch.Size([5, 7, 1]), torch.Size([5]))
    """

    def __init__(
        self,
        dim: int,
        dims: int,
        outputs: int = 1,
        *,
        hidden: Sequence[int] = (32, 32),
        activation: str = "relu",
        generator: Generators = None,
        field: Field | None = None,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str | Tableau = "dopri5",
        options: dict[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(dim, outputs) < 1:
            raise ValueError(f"dim and outputs must be at least 1, got {dim} and {outputs}")
        if dims < 0:
            raise ValueError(f"dims must be at least 0, got {dims}")
        generators, self.copies = sources(generator)
        if self.copies and field is not None:
            raise ValueError("generator may be a sequence only without field")
        self.dim, self.dims = dim, dims
        self.rtol, self.atol, self.method, self.options = rtol, atol, method, options
        kind = {"dtype": dtype, "device": device}
        size = dim + dims
        if field is None:
            sizes = [size + 1, *hidden, size]
            field = Stack(sizes, generators, activation, **kind)
        self.field = field
        self.readout = Stack([size, outputs], generators, **kind)

    def forward(self, x: Float[Tensor, "*_ batch dim"]) -> Float[Tensor, "*copies batch outputs"]:
        """The read-out of the final state; a leading axis for the networks when there are several.

        Args:
            x: inputs, the same for all networks, or of shape (copies, batch, dim).
        """
        return self.read(self.states(x, torch.tensor([0.0, 1.0], dtype=torch.float64))[-1])

    def states(
        self, x: Float[Tensor, "*_ batch dim"], t: Float[Tensor, " times"]
    ) -> Float[Tensor, "times *copies batch augmented"]:
        """The solution from (x, 0) at the times t, which begin with 0."""
        y = odeint(self._field, self._start(x), t, **self._settings())
        return y if self.copies else y.squeeze(1)

    def read(self, y: Float[Tensor, "*_ batch augmented"]) -> Float[Tensor, "*_ batch outputs"]:
        """The affine read-out of any states, the networks' axis third from behind."""
        return self.readout(y) if self.copies else self.readout(y.unsqueeze(-3)).squeeze(-3)

    def nfe(self, x: Float[Tensor, "*_ batch dim"]) -> Int64[Tensor, "*copies"]:
        """Evaluations of the field that a solve from x takes, for each network its own."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        with torch.no_grad():
            run = solve(self._field, self._start(x), ends, **self._settings())
        attempts = run.accepted + run.rejected
        if not isinstance(attempts, Tensor):  # fixed steps: all networks take the same
            return torch.full([self.copies] if self.copies else [], run.nfe)
        tableau = find_tableau(self.method)
        return run.nfe - (tableau.stages - tableau.fsal) * (attempts.max() - attempts)

    def _settings(self) -> dict[str, Any]:
        options = dict(self.options or {})
        if self.copies and "step_size" not in options:
            options["per_sample"] = True
        return dict(rtol=self.rtol, atol=self.atol, method=self.method, options=options)

    def _start(self, x: Tensor) -> Tensor:
        """The padded inputs with the networks' axis in front."""
        y = pad(x, self.dims)
        return y if self.copies and y.dim() == 3 else y.expand(self.copies or 1, *y.shape)

    def _field(self, t: Tensor, y: Tensor) -> Tensor:
        if not isinstance(self.field, Stack):
            return self.field(t, y)
        return self.field(y, t.to(y.dtype))
