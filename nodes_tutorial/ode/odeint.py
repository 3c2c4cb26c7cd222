"""``odeint``: solve an initial value problem and differentiate the solution."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.adjoint import integrate_with_own_gradient
from nodes_tutorial.ode.solvers.options import prepare
from nodes_tutorial.ode.solvers.problem import State, carries_derivative
from nodes_tutorial.ode.solvers.run import integrate
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.times import move_start, moved_outputs


def odeint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
    options: dict[str, Any] | None = None,
    gradient: str = "direct",
    adjoint_params: Sequence[Tensor] | None = None,
) -> State:
    r"""Solve :math:`\dot y = f(t, y),\; y(t_0) = y_0` and return y at the times t.

    The calling convention is torchdiffeq's, but events are for ``odeint_event``; ``t`` has at
    least two times; ``y0`` is real, and the parts of a tuple share one dtype; tolerances are
    numbers; the options are those below (``max_steps`` is its ``max_num_steps``); ``rk4`` is not
    the 3/8 rule.

    The field gets t and y in the dtype of ``y0`` on its device, so the weights of a module must
    have the same: ``net.double()`` for a ``y0`` in float64. The solver keeps time in float64.

    Args:
        func: the field, ``func(t, y)``, with t a 0-d tensor (with ``per_sample`` of shape
            ``(batch, 1, …)``) and y like ``y0``.
        y0: state at ``t[0]``, a tensor or a tuple of tensors.
        t: output times, shape ``(T,)``, strictly increasing or decreasing.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``, or a :class:`Tableau` of one's own.
        options: a dictionary with some of these keys.

            - ``step_size``: fixed steps; each interval between outputs is cut into equal steps no
              longer than this. Default: an adaptive method chooses its steps, and one without an
              error estimate makes one step for each interval.
            - ``first_step``: length of the first adaptive step. Default: by one more evaluation.
            - ``max_steps``: largest number of attempted steps. Default: 100,000.
            - ``per_sample``: True gives each element of the batch its own steps and its own error
              norm; not with ``gradient="adjoint"``. Default: False.
            - ``compile``: True lets ``torch.compile`` compile the whole loop, or each step where a
              gradient is wanted. Default: False.
            - ``controlled``: number of leading parts of a tuple state that enter the error norm;
              the others do not influence the step size. Default: all parts.
            - ``adjoint_norm``: ``"seminorm"`` leaves the parameters' adjoint out of the error
              norm, ``"full"`` keeps it. Default: ``"seminorm"``.
        gradient: ``"direct"`` backpropagates through the steps; ``"checkpoint"`` gives the same
            gradient and keeps one state a step; ``"adjoint"`` solves the adjoint equation
            backwards in time. Second derivatives, forward mode and ``torch.func`` transforms need
            ``"direct"``. ``torch.func.vmap`` needs fixed steps as well: a batch dimension and
            ``per_sample`` serve adaptive ones. ``"checkpoint"`` and ``"adjoint"`` evaluate the
            field again in the backward pass, with the weights that a module held in the forward
            pass, also under ``torch.func.functional_call``.
        adjoint_params: tensors that get a gradient under ``"checkpoint"`` and ``"adjoint"``; by
            default the parameters of ``func`` when it is a module.

    Returns:
        States at the times, shape ``(T, *y0.shape)``, or a tuple of such tensors. The gradient
        with respect to ``t`` is the flow's: :math:`dL/dt_i = g_i^\top f(t_i, y_i)` and
        :math:`dL/dt_0 = -a(t_0)^\top f(t_0, y_0)`. With ``"direct"`` it can be differentiated
        again, up to the fourth derivative in t.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: an argument, an option or what the field returns does not fit.
        RuntimeError: the field changes y in place; or a derivative was asked of a gradient mode
            that does not carry it; or the backward pass finds other values of the field than the
            forward pass, because something in it was changed or is random.
        SolverError: NaN or Inf, step size underflow or ``max_steps`` exceeded, with the time, the
            step and the norm of the state reached.

    Chapter: def-runge-kutta

    References: Hairer, Nørsett and Wanner (1993), chapter II; Chen et al. (2018).

    >>> from nodes_tutorial.ode import odeint
    >>> import torch
    >>> y = odeint(lambda t, y: -y, torch.ones(1).double(), torch.tensor([0.0, 1.0]).double())
    >>> f"{y[-1].item():.6f}"
    '0.367879'
    """
    problem, settings = prepare(func, y0, t, method, rtol, atol, options, gradient)
    moving = carries_derivative(t)
    if moving:
        move_start(problem)
    if gradient == "direct":
        y = integrate(problem, settings)
    else:
        y = integrate_with_own_gradient(gradient, problem, settings, adjoint_params)
    if moving:
        y = moved_outputs(problem, problem.t, y)
    return problem.unpack(y)


def odeint_adjoint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
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
        method: a key of ``METHODS``, or a :class:`Tableau`.
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
