"""The gradient of a validation loss with respect to the hyperparameters of a training loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number
from nodes_tutorial.implicit.errors import StationarityError
from nodes_tutorial.implicit.inverse import SOLVERS, Hessian, Solution, of_task, solve
from nodes_tutorial.implicit.trees import Leaves, check_own_rows, joined, split, value_of

Loss = Callable[[Any, Any], Tensor]


class HypergradientReport(NamedTuple):
    r"""How a hypergradient was reached; one entry for each task, or numbers without axes.

    Attributes:
        residual: :math:`\|g-Hv\|/\|g\|` of the linear solve, with the gradient g of the validation.
        gradient_norm: :math:`\|\nabla_\theta L_T\|` at the parameters.
        relative_gradient: the same relative to its start; NaN with ``stationary=None``.
        curvature: the least curvature :math:`v^\top Hv/v^\top v` that was met.
        alpha: the factor of a series; NaN for "cg" and "exact".
        products: number of Hessian-vector products that were used.
        solver: the solver by its name.
    """

    residual: Float[Tensor, "..."]
    gradient_norm: Float[Tensor, "..."]
    relative_gradient: Float[Tensor, "..."]
    curvature: Float[Tensor, "..."]
    alpha: Float[Tensor, "..."]
    products: int
    solver: str


def hypergradient(
    train_loss: Loss,
    val_loss: Loss,
    params: Any,
    hyper: Any,
    *,
    solver: str = "cg",
    terms: int | None = None,
    stationary: float | None = 1e-4,
    start: Any = None,
    alpha: float | None = None,
    rtol: float = 1e-8,
) -> tuple[Any, HypergradientReport]:
    r"""Differentiate :math:`L_V(\theta^*(\lambda),\lambda)` where :math:`\theta^*` is a minimum.

    .. math:: \frac{\dd L_V}{\dd\lambda} = \partial_\lambda L_V
        - (\partial_\lambda\nabla_\theta L_T)^\top H^{-1}\nabla_\theta L_V, \qquad
        H = \nabla_\theta^2L_T

    Losses are functions of (params, hyper) that return a number, or one number for each task. With
    tasks every leaf of ``params`` has a row for each, a task's losses see its own row alone, and
    the sum of the validation losses is differentiated; ``hyper`` may be shared. The path by which
    ``params`` were found plays no role, and no memory is needed for it.

    A ``hyper`` that is broadcast within a loss, as one decay a column where one a weight was meant,
    makes another loss and cannot be seen here. Losses that become one for each task are checked.

    Args:
        train_loss: :math:`L_T`, of which ``params`` are a minimum.
        val_loss: :math:`L_V`, the loss whose derivative is wanted.
        params: :math:`\theta^*`, a tensor or a tree of tensors.
        hyper: :math:`\lambda`, a tensor or a tree as well.
        solver: "cg"; "neumann", a truncated series; "exact", by the dense Hessian; "identity",
            alpha times the vector.
        terms: most products of "cg" (None: ten times the size), last power of "neumann"
            (None: 20).
        stationary: bound of :math:`\|\nabla_\theta L_T\|` relative to its start, and of the
            residual of "cg". None switches both off, for truncated solves.
        start: parameters at which training started; None means zeros.
        alpha: factor of "neumann" (None: one over the largest Ritz value) and "identity" (None: 1).
        rtol: relative residual at which "cg" ends early.

    Returns:
        The gradient, built like ``hyper`` and without a graph, and a ``HypergradientReport``.

    Raises:
        TypeError: a leaf or a loss is no floating-point tensor, a number of another type.
        ValueError: an unknown solver; a loss or leaf of another shape; a task whose loss sees the
            row of another; ``params`` that do not enter both losses; a leaf of ``hyper`` that
            enters neither the training gradient nor the validation loss: no derivative is known.
        StationarityError: the training gradient is above its bound.
        IndefiniteError: H is not positive definite.
        ResidualError: "cg" stopped above ``stationary``.
        SeriesError: the terms of "neumann" grow.
        FloatingPointError: NaN or infinite numbers.

    Chapter: thm-hyperparameters-implicit

    References: Lorraine, Vicol and Duvenaud (2020), section 3; Pedregosa (2016), section 2.

    >>> import torch
    >>> from nodes_tutorial.implicit import hypergradient
    >>> def train(w, lam):
    ...     return 0.5 * (w - 1).square().sum() + 0.5 * lam * w.square().sum()
    >>> def val(w, lam):
    ...     return 0.5 * w.square().sum()
    >>> grad, report = hypergradient(train, val, torch.tensor([0.5]), torch.tensor(1.0))
    >>> grad, report.products
    (tensor(-0.1250), 1)
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
    if terms is not None:
        check_count("terms", terms)
    if stationary is not None:
        check_number("stationary", stationary, "a number > 0 or None", lambda bound: bound > 0)
    if alpha is not None:
        check_number("alpha", alpha, "a positive number or None", lambda factor: factor > 0)
    check_number("rtol", rtol, "a number >= 0", lambda tol: tol >= 0)
    theta, lam = Leaves("params", params), Leaves("hyper", hyper)
    with torch.enable_grad():
        value = value_of("train_loss", train_loss, theta.tree(), lam.tree())
        tasks = len(value) if value.ndim else None
        theta.check_tasks(tasks)
        slopes = _slopes("train_loss", value, theta)
        outer = value_of("val_loss", val_loss, theta.tree(), lam.tree())
        if outer.shape != value.shape:
            raise ValueError(
                f"val_loss must return the shape of train_loss, {tuple(value.shape)}, "
                f"got {tuple(outer.shape)}"
            )
        _check_tasks("train_loss", value, theta)
        _check_tasks("val_loss", outer, theta)
        direct = _parts(outer.sum(), [*theta.tensors, *lam.tensors])
    g, direct = direct[: len(theta.tensors)], direct[len(theta.tensors) :]
    if all(part is None for part in g):
        raise ValueError("val_loss must depend on params, got a loss without them")
    b = joined(_filled(g, theta.tensors), tasks)
    norm, relative = _check_stationary(train_loss, theta, lam, slopes, tasks, stationary, start)
    H = Hessian(slopes, theta.tensors, tasks)
    found = solve(H, b, solver, terms=terms, alpha=alpha, rtol=rtol, bound=stationary)
    mixed = _mixed(slopes, lam, split(found.x, theta.tensors, tasks))
    for name, first, second in zip(lam.names, direct, mixed, strict=True):
        if first is None and second is None:
            raise ValueError(
                f"{name} enters neither the gradient of train_loss nor val_loss, so that its "
                "derivative cannot be had this way; a learning rate or a number of steps needs "
                "the path of the training"
            )
    grad = [
        part - other
        for part, other in zip(
            _filled(direct, lam.tensors), _filled(mixed, lam.tensors), strict=True
        )
    ]
    return lam.tree(grad), _report(found, norm, relative, H.products, solver)


def _report(
    found: Solution, norm: Tensor, relative: Tensor, products: int, solver: str
) -> HypergradientReport:
    return HypergradientReport(
        found.residual, norm, relative, found.curvature, found.alpha, products, solver
    )


def _check_tasks(name: str, value: Tensor, theta: Leaves) -> None:
    if value.ndim == 0 or not value.requires_grad:
        return
    many = {"retain_graph": True, "allow_unused": True}
    check_own_rows(name, lambda c: torch.autograd.grad(value, theta.tensors, c, **many), value, 1)


def _slopes(name: str, value: Tensor, theta: Leaves) -> list[Tensor]:
    """Gradients of a loss for each leaf of the parameters, with their graph."""
    found = _parts(value.sum(), theta.tensors, graph=True)
    for leaf, slope in zip(theta.names, found, strict=True):
        if slope is None:
            raise ValueError(f"{leaf} does not enter {name}, so that no minimum determines it")
    return [slope for slope in found if slope is not None]


def _parts(value: Tensor, leaves: list[Tensor], graph: bool = False) -> list[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(value, leaves, create_graph=graph, allow_unused=True))


def _filled(parts: list[Tensor | None], leaves: list[Tensor]) -> list[Tensor]:
    return [
        torch.zeros_like(leaf) if part is None else part.detach()
        for part, leaf in zip(parts, leaves, strict=True)
    ]


def _mixed(slopes: list[Tensor], lam: Leaves, v: list[Tensor]) -> list[Tensor | None]:
    """The product of v with the mixed second derivative, for each leaf of the hyperparameters."""
    used = [(slope, part) for slope, part in zip(slopes, v, strict=True) if slope.requires_grad]
    if not used:
        return [None] * len(lam.tensors)
    outputs, covectors = zip(*used, strict=True)
    return list(
        torch.autograd.grad(outputs, lam.tensors, covectors, allow_unused=True, retain_graph=True)
    )


def _check_stationary(
    train_loss: Loss,
    theta: Leaves,
    lam: Leaves,
    slopes: list[Tensor],
    tasks: int | None,
    bound: float | None,
    start: Any,
) -> tuple[Tensor, Tensor]:
    """The norm of the training gradient, and the same relative to its start."""
    norm = torch.linalg.vector_norm(joined([s.detach() for s in slopes], tasks), dim=-1)
    if bound is None:
        return norm, torch.full_like(norm, torch.nan)
    if start is None:
        begun = Leaves("start", theta.tree([torch.zeros_like(leaf) for leaf in theta.tensors]))
    else:
        begun = Leaves("start", start)
        shapes = [[tuple(leaf.shape) for leaf in tree.tensors] for tree in (begun, theta)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"start must be built like params, {shapes[1]}, got {shapes[0]}")
    with torch.enable_grad():
        first = train_loss(begun.tree(), lam.tree())
        slope = _filled(_parts(first.sum(), begun.tensors), begun.tensors)
    scale = torch.linalg.vector_norm(joined(slope, tasks), dim=-1)
    usable = scale.isfinite() & (scale > 0)
    relative = torch.where(usable, norm / scale, torch.where(norm > 0, torch.inf, 0))
    if not (relative <= bound).all():
        worst = int(relative.nan_to_num(nan=torch.inf).argmax())
        known = bool(usable.flatten()[worst])
        raise StationarityError(
            f"params{of_task(norm, worst)} must be a minimum of train_loss, got a gradient of norm "
            f"{float(norm.flatten()[worst]):.3g}, "
            + (
                f"{float(relative.flatten()[worst]):.3g} of that at the start; the bound is "
                f"stationary={bound:.3g}"
                if known
                else "and none to compare it with at zero parameters: pass start="
            )
        )
    return norm, relative
