"""Gradients of a solve: exact ones at bounded memory, and those of the adjoint equation."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nodes_tutorial.ode.solvers.control import ErrorNorm
from nodes_tutorial.ode.solvers.gather import Gather, Wanted
from nodes_tutorial.ode.solvers.loops import Settings
from nodes_tutorial.ode.solvers.problem import Problem
from nodes_tutorial.ode.solvers.solution import integrate, iterate
from nodes_tutorial.ode.solvers.stages import StageList
from nodes_tutorial.ode.solvers.step import Step, rk_step, stage_times


def find_parameters(problem: Problem, given: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The tensors a custom backward pass must return gradients for, checked to be all of them.

    Args:
        problem: the problem; its field is evaluated once, with a graph.
        given: the user's ``adjoint_params``; by default the parameters of an ``nn.Module``.

    Raises:
        ValueError: the field uses a tensor that requires a gradient and is not listed.
    """
    if given is None:
        given = problem.func.parameters() if isinstance(problem.func, nn.Module) else ()
    parameters = tuple(p for p in given if p.requires_grad)
    with torch.enable_grad():
        y = problem.y0.detach().requires_grad_()
        slope = problem.field(problem.field_time(problem.t[0]), y)
    known = {id(p) for p in parameters} | {id(p.grad_fn) for p in parameters if p.grad_fn}
    missing = [leaf for leaf in _leaves(slope, known) if leaf is not y]
    if missing:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in missing)
        raise ValueError(
            "func uses tensors that require gradients but are not in adjoint_params, of shapes "
            f"{shapes}; list them there, make func an nn.Module that holds them, or use "
            "gradient='direct'"
        )
    return parameters


def _leaves(output: Tensor, known: set[int]) -> list[Tensor]:
    """Leaves of the graph behind ``output``, not searched beyond what is known."""
    stack, seen, found = [output.grad_fn], set(), []
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen or id(node) in known:
            continue
        seen.add(id(node))
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found.append(leaf)
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def _vjp(outputs, inputs, cotangents) -> list[Tensor]:
    """Vector–Jacobian product, with zeros where an input has no influence."""
    live = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not live:
        return [torch.zeros_like(x) for x in inputs]
    outs, grads = zip(*live, strict=True)
    found = torch.autograd.grad(outs, inputs, grads, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


class Checkpoint(Function):
    """Exact gradient of the discrete map at bounded memory.

    The forward pass keeps one state a step. The backward pass rebuilds one step at a time and
    pulls the cotangent back through it.

    Chapter: thm-adjoint-discrete
    """

    @staticmethod
    def forward(ctx, problem: Problem, settings: Settings, y0: Tensor, *parameters: Tensor):
        ctx.problem, ctx.tableau = problem, settings.tableau
        ctx.save_for_backward(*parameters)
        gather, ctx.record = Gather(problem, problem.outputs[1:]), []
        for step in iterate(problem, replace(settings, term_by_term=True), {}):
            wanted = gather.add(step)
            step.ks = None
            ctx.record.append((step, wanted))
        ctx.at_end = gather.at_end
        return gather.result()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        cotangents = grad[1:]
        a = cotangents[len(cotangents) - ctx.at_end :].sum(0)
        parameters = ctx.saved_tensors
        totals = [torch.zeros_like(p) for p in parameters]
        for step, wanted in reversed(ctx.record):
            a, *parts = _pull_back(ctx, parameters, step, wanted, a, cotangents)
            if totals:
                torch._foreach_add_(totals, parts)
        return None, None, a + grad[0], *totals


def _pull_back(
    ctx, parameters, step: Step, wanted: list[Wanted], a: Tensor, cotangents: Tensor
) -> list[Tensor]:
    """Cotangents of a step's initial state and of the parameters."""
    field = ctx.problem.field
    inner = [part for part in wanted if part.theta is not None]
    for part in wanted:
        if part.theta is None:
            a = a + cotangents[list(part.indices)].sum(0)
    with torch.enable_grad():
        y = step.y0.detach().requires_grad_()
        times = stage_times(step.t, step.t1 - step.t, ctx.tableau.c, y)
        ks = StageList(ctx.tableau, field(times[0], y))
        y1 = rk_step(field, times, y, step.h, ks, last_stage=bool(inner))
        if step.accept is not None:
            y1 = torch.where(step.accept, y1, y)
        rebuilt = Step(step.t, step.t1, step.h, y, y1, ks, step.accept)
        outputs = [y1] + [rebuilt.interpolate(field, part.theta) for part in inner]
    grads = [a]
    for part in inner:
        grad = cotangents[list(part.indices)]
        grads.append(grad if part.mask is None else grad * part.mask)
    return _vjp(outputs, (y, *parameters), grads)


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
        y = integrate(problem, settings, {})
        ctx.save_for_backward(y, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        y, *parameters = ctx.saved_tensors
        problem, settings = ctx.problem, ctx.settings
        n, shape = y[0].numel(), y.shape[1:]
        sizes = [n, n, *(p.numel() for p in parameters)]

        def augmented(t: Tensor, state: Tensor) -> Tensor:
            z, a, *_ = state.split(sizes)
            with torch.enable_grad():
                z = z.view(shape).requires_grad_()
                slope = problem.field(t, z)
                products = _vjp([slope], (z, *parameters), [-a.view(shape)])
            return torch.cat([part.detach().reshape(-1) for part in (slope, *products)])

        size = None if settings.adjoint_norm == "full" else 2 * n
        settings = replace(settings, norm=ErrorNorm(size=size), compile=False)
        a, totals = grad[-1].reshape(-1), y.new_zeros(sum(sizes[2:]))
        for i in range(len(y) - 1, 0, -1):
            state = torch.cat([y[i].reshape(-1), a, totals])
            back = Problem(augmented, state, problem.t[[i, i - 1]].detach())
            state = integrate(back, settings, {})[-1]
            a = state[n : 2 * n] + grad[i - 1].reshape(-1)
            totals = state[2 * n :]
        pieces = totals.split(sizes[2:]) if parameters else ()
        found = [g.view_as(p) for g, p in zip(pieces, parameters, strict=True)]
        return None, None, a.view(shape), *found
