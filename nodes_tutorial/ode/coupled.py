"""Weights that obey a differential equation of their own, solved together with the state."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.ode.odeint import odeint


class ReactionDiffusionAdvection(nn.Module):
    r"""How a kernel on n periodic nodes changes: three numbers for all nodes and times.

    .. math:: \dot w_i = \tau\,(w_{i+1} - 2w_i + w_{i-1})
        + \tfrac{\upsilon}{2}\,(w_{i+1} - w_{i-1}) + \rho\,w_i

    Diffusion smooths the kernel, advection moves it toward smaller i, reaction scales it.
    :math:`\tau = \operatorname{softplus}(\tilde\tau)` is positive: diffusion backwards in time
    would amplify the roughest modes most.

    Args:
        tau: initial diffusion, positive.
        upsilon: initial velocity, in nodes per unit of time.
        rho: initial reaction rate.
        dtype: dtype of the three; None means PyTorch's default.
        device: device of the three; None means PyTorch's default.

    Raises:
        ValueError: ``tau`` not positive.

    Chapter: prop-coupled-modes

    References: Zhang et al. (2019).

    >>> import torch
    >>> from nodes_tutorial.ode.coupled import ReactionDiffusionAdvection
    >>> q = ReactionDiffusionAdvection(tau=1.0, upsilon=0.0, rho=0.0)
    >>> q(torch.tensor([0.0, 0.0, 1.0, 0.0])).round(decimals=4)
    tensor([ 0.,  1., -2.,  1.], grad_fn=<RoundBackward1>)
    """

    def __init__(
        self,
        tau: float = 0.1,
        upsilon: float = 0.0,
        rho: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        kind = {"dtype": dtype, "device": device}
        raw = torch.tensor(tau, **kind).expm1().log()  # the inverse of softplus
        self.raw_tau = nn.Parameter(raw)
        self.upsilon = nn.Parameter(torch.tensor(float(upsilon), **kind))
        self.rho = nn.Parameter(torch.tensor(float(rho), **kind))

    @property
    def tau(self) -> Tensor:
        """The diffusion coefficient."""
        return nn.functional.softplus(self.raw_tau)

    def forward(self, w: Float[Tensor, "*batch nodes"]) -> Float[Tensor, "*batch nodes"]:
        """The derivative dw/dt; the last axis is periodic."""
        right, left = w.roll(-1, -1), w.roll(1, -1)
        drift = self.upsilon / 2 * (right - left)
        return self.tau * (right - 2 * w + left) + drift + self.rho * w

    def exact(
        self, w0: Float[Tensor, "*batch nodes"], t: Float[Tensor, ""]
    ) -> Float[Tensor, "*batch nodes"]:
        r"""The solution at time t, mode by mode, without a solver.

        .. math:: \hat w_m(t) = e^{\lambda_mt}\,\hat w_m(0), \quad
            \lambda_m = 2\tau(\cos\theta_m - 1) + i\upsilon\sin\theta_m + \rho, \quad
            \theta_m = 2\pi m/n

        Args:
            w0: kernel at time 0.
            t: the time, a 0-d tensor.

        Returns:
            The kernel at time t, of the shape of ``w0``.

        Chapter: prop-coupled-modes
        """
        n = w0.shape[-1]
        theta = torch.arange(n // 2 + 1, dtype=w0.dtype, device=w0.device) * (torch.pi * 2 / n)
        real = 2 * self.tau * (theta.cos() - 1) + self.rho
        growth = torch.exp(torch.complex(real * t, self.upsilon * theta.sin() * t))
        return torch.fft.irfft(growth * torch.fft.rfft(w0), n)


class CoupledODE(nn.Module):
    r"""A neural ODE whose weights move: one joint initial value problem.

    .. math:: \dot z = f(z, w), \quad z(0) = x, \qquad \dot w = q(w), \quad w(0) = w_0

    Trained are :math:`w_0` and the parameters of q. With ``evolution=None`` the weights stand
    still, which is the plain neural ODE. The weights are one for the batch, and so are the steps.

    Args:
        field: f, called as ``field(z, w)``; a parameter of its own is trained too when it is a
            module.
        w0: initial value of the weights; copied into a parameter.
        evolution: q, called as ``evolution(w)``, or None.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``.
        gradient: ``"direct"``, ``"checkpoint"`` or ``"adjoint"``, for the joint state.
        options: as for ``odeint``.

    Chapter: thm-coupled-optimality

    References: Zhang et al. (2019); Gholami, Keutzer and Biros (2019).

    >>> import torch
    >>> from nodes_tutorial.ode.coupled import CoupledODE, ReactionDiffusionAdvection
    >>> def field(z, w):
    ...     return torch.tanh(w[:2] * z + w[2:])
    >>> net = CoupledODE(field, torch.ones(4), ReactionDiffusionAdvection())
    >>> net(torch.zeros(5, 2)).shape, net.weights(torch.linspace(0, 1, 3)).shape
    (torch.Size([5, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        w0: Float[Tensor, "*weights"],
        evolution: Callable[[Tensor], Tensor] | None = None,
        *,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str = "dopri5",
        gradient: str = "direct",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.field, self.evolution = field, evolution
        self.w0 = nn.Parameter(w0.detach().clone())
        self.solver: dict[str, Any] = dict(rtol=rtol, atol=atol, method=method, options=options)
        self.gradient = gradient

    def forward(self, x: Float[Tensor, "*batch_and_state"]) -> Float[Tensor, "*batch_and_state"]:
        """Solve from z(0) = x and return z(1)."""
        return self.states(x, torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device))[0][-1]

    def states(
        self, x: Float[Tensor, "*batch_and_state"], t: Float[Tensor, " times"]
    ) -> tuple[Float[Tensor, "times *batch_and_state"], Float[Tensor, "times *weights"]]:
        """States and weights at the times t, which begin with 0."""
        adjoint_params = None if self.gradient == "direct" else self._shared()
        return odeint(
            self._joint,
            (x, self.w0),
            t,
            gradient=self.gradient,
            adjoint_params=adjoint_params,
            **self.solver,
        )

    def weights(self, t: Float[Tensor, " times"]) -> Float[Tensor, "times *weights"]:
        """The weights alone at the times t; their equation does not see the state."""
        return odeint(lambda t, w: self._evolve(w), self.w0, t, **self.solver)

    def _joint(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, w = state
        return self.field(z, w), self._evolve(w)

    def _evolve(self, w: Tensor) -> Tensor:
        return torch.zeros_like(w) if self.evolution is None else self.evolution(w)

    def _shared(self) -> tuple[Tensor, ...]:
        """Parameters that are no part of the state."""
        return tuple(p for p in self.parameters() if p is not self.w0)
