"""Gradients of a solve: exact ones at bounded memory, and those of the adjoint equation."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nodes_tutorial.ode.backward import norm_of, parts_of, piece_of
from nodes_tutorial.ode.solvers.callbacks import told_by
from nodes_tutorial.ode.solvers.gather import Wanted
from nodes_tutorial.ode.solvers.problem import Problem, under_transform
from nodes_tutorial.ode.solvers.recall import Recall, relative_change
from nodes_tutorial.ode.solvers.run import integrate, run
from nodes_tutorial.ode.solvers.settings import Settings
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import Step, rk_step, stage_times


def integrate_with_own_gradient(
    gradient: str, problem: Problem, settings: Settings, given: Sequence[Tensor] | None
) -> Tensor:
    """States at the output times, whose backward pass is :class:`Checkpoint` or :class:`Adjoint`.

    Args:
        gradient: ``"checkpoint"`` or ``"adjoint"``.
        problem: the checked initial value problem.
        settings: the checked method, tolerances and options.
        given: the user's ``adjoint_params``, or None.

    Returns:
        The states of the problem, joined to one tensor, with the times first.

    Raises:
        TypeError: ``given`` holds something other than tensors.
        ValueError: the field uses a tensor that requires a gradient and is not listed; or the
            adjoint would need tolerances of its own.
        RuntimeError: forward-mode differentiation or a transform is under way.
    """
    parameters = listed_parameters(problem, given)
    if under_transform():
        raise RuntimeError(
            f"gradient={gradient!r} carries no forward-mode derivatives and no torch.func "
            "transforms; use gradient='direct'"
        )
    function = Checkpoint if gradient == "checkpoint" else Adjoint
    if function is Adjoint and (settings.backward or settings).tolerance.varies:
        raise ValueError(
            "tolerances for each entry do not say what the adjoint may err by; give "
            "odeint_adjoint the numbers adjoint_rtol and adjoint_atol"
        )
    return function.apply(problem, settings, problem.y0, *parameters)


def listed_parameters(problem: Problem, given: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The tensors a custom backward pass returns gradients for.

    Args:
        problem: the checked initial value problem.
        given: the user's ``adjoint_params``; by default the parameters of an ``nn.Module``.

    Returns:
        Those of the tensors that require a gradient.

    Raises:
        TypeError: ``given`` holds something other than tensors.
    """
    if given is None:
        given = problem.func.parameters() if isinstance(problem.func, nn.Module) else ()
    if not isinstance(given, Iterable):
        raise TypeError(f"adjoint_params must hold tensors, got {given!r}")
    given = (given,) if isinstance(given, Tensor) else tuple(given)
    for parameter in given:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"adjoint_params must hold tensors, got a {type(parameter).__name__}")
    return tuple(p for p in given if p.requires_grad)


def _refuse_second_derivatives(gradient: str) -> None:
    """A backward pass runs with gradients enabled only when a graph of it is asked for."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"gradient={gradient!r} gives first derivatives only, but create_graph=True asks for "
            "more; use gradient='direct'"
        )


class _Products:
    """Vector–Jacobian products with respect to the parameters, and a record of what was used."""

    def __init__(self, parameters: Sequence[Tensor], recall: Recall):
        self.parameters, self.recall = parameters, recall
        self.used = [False] * len(parameters)

    def __call__(self, outputs, y: Tensor, cotangents) -> list[Tensor]:
        """Products for y and the parameters, with zeros where an input has no influence."""
        inputs = (y, *self.parameters)
        live = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not live:
            return [torch.zeros_like(x) for x in inputs]
        outputs, cotangents = zip(*live, strict=True)
        self.recall.look_for_strangers(outputs, y)
        found = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
        for i, gradient in enumerate(found[1:]):
            if gradient is not None:
                self.used[i] = True
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


class Checkpoint(Function):
    """Exact gradient of the discrete map at bounded memory.

    The forward pass keeps one state a step. The backward pass rebuilds one step at a time and
    pulls the cotangent back through it.

    Chapter: thm-modes-discrete
    """

    @staticmethod
    def forward(ctx, problem: Problem, settings: Settings, y0: Tensor, *parameters: Tensor):
        ctx.problem, ctx.tableau = problem, settings.tableau
        problem.y0, problem.graph = y0.detach(), False
        alike = replace(settings, term_by_term=True)
        ctx.recall = Recall(problem, parameters, problem.outputs[0], y0)
        y, kept = run(problem, alike, lambda step, wanted: (step.without_slopes(), wanted))
        states = [step.y0 for step, _ in kept]
        ctx.save_for_backward(y0, kept[-1][0].y1.clone(), *states[1:], *parameters)
        for step, _ in kept:
            step.y0 = step.y1 = None  # they are among the saved tensors
        ctx.kept = kept
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        _refuse_second_derivatives("checkpoint")
        y0, y1, *rest = ctx.saved_tensors
        count = len(ctx.kept)
        states, parameters = [y0, *rest[: count - 1], y1], rest[count - 1 :]
        answered = {i for _, wanted in ctx.kept for part in wanted for i in part.indices}
        cotangents = grad[1:]
        a = cotangents[len(answered) :].sum(0)  # outputs at the end are none of a step's
        totals = [torch.zeros_like(p) for p in parameters]
        products = _Products(parameters, ctx.recall)
        changes = []
        ctx.field = ctx.problem.sides(ctx.problem.evaluator())
        with ctx.recall.as_it_was(), ctx.problem.arithmetic():
            for i in reversed(range(count)):
                step, wanted = ctx.kept[i]
                rebuilt, outputs, cotangent = _rebuild(ctx, step, wanted, states[i], a, cotangents)
                changes.append(relative_change(rebuilt.y1, states[i + 1]))
                a, *parts = products(outputs, rebuilt.y0, cotangent)
                if totals:
                    torch._foreach_add_(totals, parts)
        ctx.recall.confirm(torch.stack(changes).amax(), products.used)
        return None, None, a + grad[0], *totals


def _rebuild(
    ctx, step: Step, wanted: list[Wanted], y: Tensor, a: Tensor, cotangents: Tensor
) -> tuple[Step, list[Tensor], list[Tensor]]:
    """A step with its graph, what the solve took from it, and the cotangents of that."""
    tableau = ctx.tableau
    inner = [part for part in wanted if part.theta is not None]
    for part in wanted:
        if part.theta is None:
            a = a + cotangents[list(part.indices)].sum(0)
    at_begin, field = ctx.field
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        times = stage_times(step.t, step.t1 - step.t, tableau.c, y)
        stages = StageList(tableau, at_begin(times[0], y))
        y1 = rk_step(field, times, y, step.h, stages, last_stage=bool(inner))
        if step.accept is not None:
            y1 = torch.where(step.accept, y1, y)
        rebuilt = Step(step.t, step.t1, step.h, y, y1, stages, accept=step.accept)
        outputs = [y1] + [rebuilt.interpolate(field, part.theta) for part in inner]
    grads = [a]
    for part in inner:
        grad = cotangents[list(part.indices)]
        grads.append(grad if part.mask is None else grad * part.mask)
    return rebuilt, outputs, grads


class Adjoint(Function):
    r"""Gradient by the adjoint equation, solved backwards together with the state.

    .. math:: \dot a = -(\partial f/\partial y)^\top a, \qquad
        \frac{dL}{d\theta} = \int_{t_0}^{t_1} (\partial f/\partial\theta)^\top a \, dt

    Between two output times the state is re-solved from the later output; there ``a`` jumps by
    the cotangent of that output.

    Chapter: thm-adjoint-equation
    """

    @staticmethod
    def forward(ctx, problem: Problem, settings: Settings, y0: Tensor, *parameters: Tensor):
        ctx.problem, ctx.settings = problem, settings
        problem.y0, problem.graph = y0.detach(), False
        y = integrate(problem, settings)
        ctx.recall = Recall(problem, parameters, problem.outputs[-1], y[-1])
        ctx.save_for_backward(y, *parameters)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        _refuse_second_derivatives("adjoint")
        y, *parameters = ctx.saved_tensors
        problem, settings = ctx.problem, ctx.settings
        n, shape = y[0].numel(), y.shape[1:]
        sizes = [n, n, *(p.numel() for p in parameters)]
        products = _Products(parameters, ctx.recall)
        first_slopes = []
        field = problem.evaluator()

        def augmented(t: Tensor, state: Tensor) -> Tensor:
            z, a, *_ = state.split_with_sizes(sizes)
            with torch.enable_grad():
                z = z.view(shape).requires_grad_()
                slope = field(t, z)
                pulled = products([slope], z, [-a.view(shape)])
            if not first_slopes:
                first_slopes.append(slope.detach())
            return torch.cat([part.reshape(-1) for part in (slope, *pulled)])

        settings = settings.backward or settings
        parts = parts_of(problem, parameters, shape)
        norm = norm_of(settings.adjoint_norm, 2 * n, parts)
        tell = told_by(problem.func, parts, problem.t, "_adjoint")
        settings = replace(settings, norm=norm, compile=False)
        a, totals = grad[-1].reshape(-1), y.new_zeros(sum(sizes[2:]))
        with ctx.recall.as_it_was():
            for i in range(len(y) - 1, 0, -1):
                state = torch.cat([y[i].reshape(-1), a, totals])
                ends, own = piece_of(problem, settings, i)
                piece = Problem(augmented, state, ends)
                piece.stops, piece.jumps = problem.stops_back, problem.jumps_back
                piece.tell = tell
                state = integrate(piece, own)[-1]
                a = state[n : 2 * n] + grad[i - 1].reshape(-1)
                totals = state[2 * n :]
        ctx.recall.confirm(ctx.recall.change_of(first_slopes[0]), products.used)
        pieces = totals.split(sizes[2:]) if parameters else ()
        found = [g.view_as(p) for g, p in zip(pieces, parameters, strict=True)]
        return None, None, a.view(shape), *found
