"""``odeint``: solve an initial value problem and differentiate the solution."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.adjoint import Adjoint, Checkpoint, find_parameters
from nodes_tutorial.ode.solvers.problem import Problem, State, make_settings
from nodes_tutorial.ode.solvers.solution import integrate


def odeint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str = "dopri5",
    options: dict[str, Any] | None = None,
    gradient: str = "direct",
    adjoint_params: Sequence[Tensor] | None = None,
) -> State:
    r"""Solve :math:`\dot y = f(t, y),\; y(t_0) = y_0` and return y at the times t.

    The calling convention is torchdiffeq's, so that one can be swapped for the other. Device and
    dtype are those of ``y0``; time is kept in float64.

    Args:
        func: the field, ``func(t, y)``, with t a 0-d tensor (with ``per_sample`` of shape
            ``(batch, 1, …)``) and y like ``y0``.
        y0: state at ``t[0]``, a tensor or a tuple of tensors.
        t: output times, shape ``(T,)``, strictly increasing or decreasing.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``. ``rk4`` is the classical rule.
        options: ``step_size`` (each interval between outputs is cut into equal steps no longer
            than this), ``first_step`` (by default chosen with one more evaluation), ``max_steps``
            (attempts in all, by default 100,000), ``per_sample=True`` (own steps and own
            error norm for each element of the batch; not with ``gradient="adjoint"``),
            ``compile=True`` (``torch.compile``: the whole loop, or each step where a gradient is
            wanted), ``controlled`` (how many leading parts of a tuple state the error norm looks
            at, all by default: what is only measured along the way need not shorten the steps),
            ``adjoint_norm`` (``"seminorm"``
            leaves the parameters' adjoint out of the error norm and is the default, ``"full"``
            keeps it).
        gradient: ``"direct"`` backpropagates through the steps; ``"checkpoint"`` gives the same
            gradient and keeps one state a step; ``"adjoint"`` solves the adjoint equation
            backwards in time.
        adjoint_params: tensors that get a gradient under ``"checkpoint"`` and ``"adjoint"``; by
            default the parameters of ``func`` when it is a module.

    Returns:
        States at the times, shape ``(T, *y0.shape)``, or a tuple of such tensors. The gradient
        with respect to ``t`` is the flow's: :math:`dL/dt_i = g_i^\top f(t_i, y_i)` and
        :math:`dL/dt_0 = -a(t_0)^\top f(t_0, y_0)`.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: an argument, an option or what the field returns does not fit.
        SolverError: NaN or Inf, step size underflow or ``max_steps`` exceeded, with the time, the
            step and the norm of the state reached.

    Example:
        >>> import torch
        >>> y = odeint(lambda t, y: -y, torch.ones(1).double(), torch.tensor([0.0, 1.0]).double())
        >>> f"{y[-1].item():.6f}"
        '0.367879'

    Chapter: def-runge-kutta
    References: Hairer, Nørsett and Wanner (1993), chapter II; Chen et al. (2018).
    """
    settings = make_settings(method, rtol, atol, options, gradient)
    problem = Problem(func, y0, t, settings.norm.per_sample)
    settings = problem.control(settings)
    moving = torch.is_grad_enabled() and t.requires_grad
    if moving:
        problem.y0 = _shift_start(problem)
    if gradient == "direct":
        y = integrate(problem, settings, {})
    else:
        parameters = find_parameters(problem, adjoint_params)
        function = Checkpoint if gradient == "checkpoint" else Adjoint
        y = function.apply(problem, settings, problem.y0, *parameters)
    return problem.unpack(_shift_outputs(problem, y) if moving else y)


def _zero(t: Tensor, y: Tensor) -> Tensor:
    """A zero that carries the gradient of t."""
    return (t - t.detach()).to(y.dtype)


def _shift_start(problem: Problem) -> Tensor:
    """y0 as a function of t0: starting later by dt is starting at ``y0 - f(t0, y0) dt``."""
    t0, y0 = problem.t[0], problem.y0
    with torch.no_grad():
        slope = problem.field(problem.field_time(t0), y0)
    return y0 - _zero(t0, y0) * slope


def _shift_outputs(problem: Problem, y: Tensor) -> Tensor:
    """Outputs as functions of their times: later by dt is on by ``f(t, y) dt``."""
    with torch.no_grad():
        slopes = [
            problem.field(problem.field_time(t), state)
            for t, state in zip(problem.t, y, strict=True)
        ]
    zero = _zero(problem.t, y).view(-1, *(1 for _ in y.shape[1:]))
    return y + zero * torch.stack(slopes)


def odeint_adjoint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str = "dopri5",
    options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
) -> State:
    """:func:`odeint` with ``gradient="adjoint"``, under the name that torchdiffeq gives it.

    Args:
        func: as for :func:`odeint`.
        y0: as for :func:`odeint`.
        t: as for :func:`odeint`.
        rtol: relative tolerance, forwards and backwards.
        atol: absolute tolerance, forwards and backwards.
        method: a key of ``METHODS``.
        options: as for :func:`odeint`.
        adjoint_params: as for :func:`odeint`.

    Returns:
        States at the times, shape ``(T, *y0.shape)``, or a tuple of such tensors.

    Raises:
        TypeError, ValueError, SolverError: as :func:`odeint`.

    Chapter: thm-adjoint-equation
    """
    return odeint(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        gradient="adjoint",
        adjoint_params=adjoint_params,
    )
