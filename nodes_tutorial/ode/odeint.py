"""``odeint``: solve an initial value problem and differentiate the solution."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.ode.adjoint import integrate_with_own_gradient
from nodes_tutorial.ode.solvers.measure import Tolerances
from nodes_tutorial.ode.solvers.prepare import prepare
from nodes_tutorial.ode.solvers.problem import Problem, State, carries_derivative
from nodes_tutorial.ode.solvers.run import integrate
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.solvers.times import move_start, moved_outputs


def odeint(
    func: Callable,
    y0: State,
    t: Float[Tensor, " times"],
    *,
    rtol: Tolerances = 1e-7,
    atol: Tolerances = 1e-9,
    method: str | Tableau | None = "dopri5",
    options: dict[str, Any] | None = None,
    event_fn: Callable | None = None,
    gradient: str = "direct",
    adjoint_params: Sequence[Tensor] | None = None,
) -> Any:
    r"""Solve :math:`\dot y = f(t, y),\; y(t_0) = y_0` and return y at the times t.

    The calling convention is torchdiffeq's; the table beside this reference says what differs. So
    ``rk4`` is the classical rule, and a tuple is measured by one root mean square over its entries.

    The field gets t and y in the dtype of ``y0`` on its device, so the weights of a module must
    have the same: ``net.double()`` for a ``y0`` in float64. The solver keeps time in float64.

    Args:
        func: the field, ``func(t, y)``, with t a 0-d tensor (with ``per_sample`` of shape
            ``(batch, 1, …)``) and y like ``y0``.
        y0: state at ``t[0]``, a real or complex tensor or a tuple of such.
        t: output times, shape ``(T,)``, strictly increasing or decreasing; with one time the
            result is ``y0``.
        rtol: relative tolerance of one step: a number; a tensor that goes with ``y0``, one for
            each entry; or for a tuple ``y0`` a tuple of such.
        atol: absolute tolerance of one step, in units of the state, likewise.
        method: a key of ``METHODS``, ``"heun2"`` for ``"heun"``, or a :class:`Tableau` of one's
            own; None is ``"dopri5"``. ``"explicit_adams"`` makes fixed steps at one evaluation
            each, with the slopes of the steps before, and begins anew where the length of the steps
            changes; it has no ``gradient="checkpoint"``.
        options: a dictionary with some of these keys.

            - ``step_size``: fixed steps; each interval between outputs is cut into equal steps no
              longer than this. Default: an adaptive method chooses its steps, and one without an
              error estimate makes one step for each interval.
            - ``first_step``: length of the first adaptive step. Default: by one more evaluation.
            - ``max_steps`` or ``max_num_steps``: largest number of attempted steps. Default:
              100,000.
            - ``min_step``, ``max_step``: limits of an adaptive step; one of the least length is
              taken whatever its error.
            - ``step_t``: times at which an adaptive step shall end, a tensor.
            - ``jump_t``: likewise, where the field is discontinuous in time: it is evaluated
              just before such a time to the end of a step, and just behind it to go on.
            - ``norm``: a function from errors, in units of the tolerance and in the form of
              ``y0``, to a number. Default: the root mean square.
            - ``max_order``: of ``"explicit_adams"``, which takes up to one slope less; 2 to 12. The
              longest stable step halves with each. Default: 12, which needs very short steps.
            - ``grid_constructor``: a function ``(func, y0, t)`` that returns the grid of fixed
              steps; outputs between its times come from the dense output.
            - ``perturb``: True moves the times of fixed steps by one rounding unit into the step.
            - ``interp``, ``dtype``: taken for the sake of the convention. Steps end at outputs,
              and time is kept in float64.
            - ``per_sample``: True gives each element of the batch its own steps and its own error
              norm; not with ``gradient="adjoint"``. Default: False.
            - ``compile``: True lets ``torch.compile`` compile the whole loop, or each step where a
              gradient is wanted. Default: False.
            - ``controlled``: number of leading parts of a tuple state that enter the error norm;
              the others do not influence the step size. Default: all parts.
            - ``adjoint_norm``: ``"seminorm"`` leaves the parameters' adjoint out of the error
              norm, ``"full"`` keeps it; a function gets the tuple (0, y, a, and the gradients).
              Default: ``"seminorm"``.

            A field with functions ``callback_step(t, y, h)``, ``callback_accept_step`` and
            ``callback_reject_step`` is told of the steps of a common solve; on the way back those
            with ``_adjoint`` behind get for y the tuple (0, y, a, and the gradients).
        event_fn: with it :func:`odeint_event` solves from ``t[0]`` in the direction of ``t[1]``
            until this function is zero, and its two results are returned.
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
    if event_fn is not None:
        arguments = {"rtol": rtol, "atol": atol, "method": method, "options": options}
        arguments |= {"gradient": gradient, "adjoint_params": adjoint_params}
        from nodes_tutorial.ode.convention import until_event

        return until_event(func, y0, t, event_fn, odeint, arguments)
    problem, settings = prepare(func, y0, t, method, rtol, atol, options, gradient)
    return states(problem, settings, gradient, t, adjoint_params)


def states(problem: Problem, settings: Settings, gradient: str, t: Tensor, given) -> State:
    """States at the times, with the derivatives that are wanted."""
    if len(problem.outputs) == 1:
        return problem.unpack(problem.y0[None])
    moving = carries_derivative(t)
    if moving:
        move_start(problem)
    if gradient == "direct":
        y = integrate(problem, settings)
    else:
        y = integrate_with_own_gradient(gradient, problem, settings, given)
    if moving:
        y = moved_outputs(problem, problem.t, y)
    return problem.unpack(y)
