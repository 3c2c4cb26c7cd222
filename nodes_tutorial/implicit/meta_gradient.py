r"""Meta-learning with implicit gradients (iMAML): the gradient of adapted losses in the anchor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from nodes_tutorial.checks import check_number
from nodes_tutorial.implicit.anchored import through_anchor
from nodes_tutorial.implicit.errors import StationarityError
from nodes_tutorial.implicit.proximal import Proximal, proximal_point
from nodes_tutorial.implicit.tasks import FlatModule

Batch = tuple[Tensor, Tensor]


class IMAMLReport(NamedTuple):
    r"""How a meta-gradient was reached; the first axis of every entry is that of the tasks.

    Attributes:
        points: adapted parameters of each task, flat, in the order of ``module.parameters()``.
        gradients: gradient of each task in the anchor, flat; their mean is the meta-gradient.
        train_loss: loss on the support at the adapted parameters, without the penalty.
        val_loss: loss on the query there.
        stationarity: norm of the inner gradient there, relative to that at the anchor.
        residual: norm of what is left of the linear system, relative to its right-hand side.
        inner_steps: steps of the inner solve.
        products: Hessian-vector products, of the inner solve and of the linear system.
        negative_curvature: whether the linear system met a direction of negative curvature.
    """

    points: Float[Tensor, "tasks size"]
    gradients: Float[Tensor, "tasks size"]
    train_loss: Float[Tensor, " tasks"]
    val_loss: Float[Tensor, " tasks"]
    stationarity: Float[Tensor, " tasks"]
    residual: Float[Tensor, " tasks"]
    inner_steps: Int[Tensor, " tasks"]
    products: Int[Tensor, " tasks"]
    negative_curvature: Bool[Tensor, " tasks"]


def imaml(
    module: nn.Module,
    support: Batch,
    query: Batch,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    lam: float | int,
    method: str = "newton",
    steps: int = 50,
    lr: float | int = 0.1,
    tol: float | int | None = 1e-6,
    stationary: float | int | None = 1e-4,
    rtol: float | int = 1e-6,
    max_products: int | None = None,
    damping: float | int = 0.0,
) -> tuple[dict[str, Tensor], IMAMLReport]:
    r"""Gradient of the adapted query losses in the initial weights, by implicit differentiation.

    .. math:: \frac1n\sum_i\Bigl(I+\frac1\lambda\nabla^2f_i(\varphi_i)\Bigr)^{-1}
        \nabla g_i(\varphi_i),\qquad
        \varphi_i=\arg\min_\varphi f_i(\varphi)+\frac\lambda2\|\varphi-\theta\|^2

    The weights :math:`\theta` of the module are the anchor. f is the loss on a support and g that
    on a query. The inner solve is not differentiated: neither memory nor the gradient knows how
    the optimum was found. Buffers and frozen parameters stay as they are.

    Args:
        module: a network; its outputs for one task must not depend on other tasks.
        support: inputs and targets to adapt to, with the tasks along the first axis.
        query: inputs and targets to be judged by, likewise.
        loss: maps outputs and targets of one task to a number.
        lam: weight :math:`\lambda` of the penalty.
        method: inner solver, ``"newton"`` or ``"gradient"``; see ``proximal_point``.
        steps: most inner steps.
        lr: step size of ``"gradient"``.
        tol: where the inner solve ends, as for ``proximal_point``.
        stationary: the largest norm of the inner gradient that still counts as an optimum,
            relative to its norm at the anchor. None takes any point, and also one of negative
            curvature, which the report tells.
        rtol: residual of the linear system to reach.
        max_products: most products for it; None means ten times the number of weights, and that
            a larger residual is an error.
        damping: as for ``through_anchor``.

    Returns:
        The gradient by names of parameters, and an ``IMAMLReport``.

    Raises:
        TypeError: an argument of another kind.
        ValueError: ``lam`` not positive, a module without trainable parameters, numbers of tasks
            that differ, or as for ``proximal_point``.
        StationarityError: an inner point is no optimum.
        IndefiniteError: the matrix of its linear system is not positive definite.
        ResidualError: the linear system was not solved.

    Chapter: thm-imaml-derivative

    References: Rajeswaran, Finn, Kakade and Levine (2019), algorithm 1.

    >>> import torch
    >>> from torch.nn.functional import mse_loss
    >>> from nodes_tutorial.data.sinusoids import Sinusoids
    >>> from nodes_tutorial.implicit import imaml
    >>> from nodes_tutorial.nets import MLP
    >>> tasks = Sinusoids(10, 10).sample(4, torch.Generator().manual_seed(0))
    >>> net = MLP([1, 8, 1], generator=torch.Generator().manual_seed(0))
    >>> gradient, report = imaml(net, tasks.support, tasks.query, loss=mse_loss, lam=1.0)
    >>> bool((report.stationarity < 1e-4).all()), len(gradient)
    (True, 4)
    """
    if stationary is not None:
        check_number("stationary", stationary, "a number >= 0 or None", lambda x: x >= 0)
    flat = FlatModule(module)
    train = flat.loss(loss)
    found = proximal_point(
        train, flat.vector(), *support, lam=lam, method=method, steps=steps, lr=lr, tol=tol
    )
    if len(query[0]) != len(support[0]):
        raise ValueError(
            f"query must have as many tasks as support, {len(support[0])}, got {len(query[0])}"
        )
    if stationary is not None and (found.stationarity > stationary).any():
        task = int(found.stationarity.argmax())
        raise StationarityError(
            f"the inner gradient must fall to stationary = {stationary:g} of its start, got "
            f"{float(found.stationarity[task]):.1e} in task {task} after "
            f"{int(found.steps[task])} steps; more steps, or stationary=None for any point"
        )
    slope, val_loss = vmap(grad_and_value(train))(found.point, *query)
    solved = through_anchor(
        train,
        found.point,
        slope,
        *support,
        lam=lam,
        rtol=rtol,
        max_products=max_products,
        damping=damping,
        check=stationary is not None,
    )
    size = torch.linalg.vector_norm(slope, dim=-1)
    report = IMAMLReport(
        points=found.point,
        gradients=solved.x,
        train_loss=vmap(train)(found.point, *support).detach(),
        val_loss=val_loss.detach(),
        stationarity=found.stationarity,
        residual=torch.where(size > 0, solved.residual / size, solved.residual),
        inner_steps=found.steps,
        products=found.products + solved.iterations,
        negative_curvature=solved.negative_curvature,
    )
    return flat.named(solved.x.mean(0)), report


def adapt(
    module: nn.Module,
    support: Batch,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    lam: float | int,
    **solve: Any,
) -> tuple[dict[str, Tensor], Proximal]:
    r"""Anchored optima of the weights of a module, one set for each task.

    Args:
        module: as for ``imaml``.
        support: as for ``imaml``.
        loss: as for ``imaml``.
        lam: weight of the penalty.
        **solve: the other arguments of ``proximal_point``.

    Returns:
        Parameters by name, with the tasks along the first axis, and how they were reached.

    Raises:
        TypeError: as for ``imaml``.
        ValueError: as for ``imaml``.

    Chapter: def-imaml-anchored

    >>> import torch
    >>> from torch.nn.functional import mse_loss
    >>> from nodes_tutorial.implicit import adapt
    >>> net = torch.nn.Linear(1, 1)
    >>> x = torch.rand(5, 10, 1)
    >>> weights, found = adapt(net, (x, 2 * x), loss=mse_loss, lam=1e-3)
    >>> predict = lambda weights, x: torch.func.functional_call(net, weights, x)
    >>> torch.func.vmap(predict)(weights, x).shape
    torch.Size([5, 10, 1])
    """
    flat = FlatModule(module)
    found = proximal_point(flat.loss(loss), flat.vector(), *support, lam=lam, **solve)
    return flat.named(found.point), found
