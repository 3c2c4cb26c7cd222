"""The ODE block: a layer whose output is the solution of an initial value problem."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.ode.odeint import odeint
from nodes_tutorial.ode.solvers.tableau import Tableau


class ODEBlock(nn.Module):
    r"""The layer :math:`y(0) \mapsto y(1)` of :math:`\dot y = f(t, y)`, which counts evaluations.

    Args:
        field: a module with the calling convention of ``odeint``.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``, or a :class:`Tableau`.
        gradient: ``"direct"``, ``"checkpoint"`` or ``"adjoint"``.
        options: as for ``odeint``.

    Attributes:
        nfe_forward: evaluations of the field by the last call's solve. Beside it, ``"checkpoint"``
            and ``"adjoint"`` spend one more to see which tensors the field uses; it is not counted.
        nfe_backward: evaluations since then: those of the adjoint solve, or those that
            ``"checkpoint"`` repeats; 0 for ``"direct"``, which only walks the recorded graph.

    Raises:
        TypeError: ``field`` is not a module.

    Chapter: prop-odenet-nfe

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 3.

    >>> import torch
    >>> from nodes_tutorial.ode import ODEBlock
    >>> from nodes_tutorial.nets import TimeMLP
    >>> block = ODEBlock(TimeMLP(2, [8]), method="rk4", options={"step_size": 0.5})
    >>> block(torch.zeros(3, 2)).shape, block.nfe_forward, block.nfe_backward
    (torch.Size([3, 2]), 8, 0)
    """

    def __init__(
        self,
        field: nn.Module,
        *,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str | Tableau = "dopri5",
        gradient: str = "direct",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(field, nn.Module):
            raise TypeError(f"field must be an nn.Module, got {type(field).__name__}")
        self.field = field
        self.rtol, self.atol, self.method = rtol, atol, method
        self.gradient, self.options = gradient, options
        self.nfe_forward = self._calls = 0

    @property
    def nfe_backward(self) -> int:
        """Evaluations of the field since the last call's solve."""
        return self._calls - self.nfe_forward

    def forward(self, y0: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        """Integrate from t = 0 to t = 1.

        Raises:
            TypeError: ``y0`` is not a tensor.
        """
        if not isinstance(y0, Tensor):
            raise TypeError(f"y0 must be a tensor, got {type(y0).__name__}")
        beside_the_solve = 0 if self.gradient == "direct" else 1
        self._calls = -beside_the_solve
        y = odeint(
            self._counted,
            y0,
            torch.tensor([0.0, 1.0], dtype=torch.float64, device=y0.device),
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            options=self.options,
            gradient=self.gradient,
            adjoint_params=tuple(self.field.parameters()),
        )
        self.nfe_forward = self._calls
        return y[-1]

    def _counted(self, t: Tensor, y: Tensor) -> Tensor:
        self._calls += 1
        return self.field(t, y)
