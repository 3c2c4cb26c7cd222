r"""Optima that are held near an anchor, and the envelope of their values.

Points are vectors with one row for each task. A loss is a function of one vector and of the data
of one task, and all tasks are computed at once by ``torch.func.vmap``.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from nodes_tutorial.checks import check_count, check_number
from nodes_tutorial.implicit.tasks import Loss, Product, hessian_of, rows_of
from nodes_tutorial.linalg import cg

METHODS = ("newton", "gradient")
ARMIJO = 1e-4  # share of the predicted decrease that a step must bring
HALVINGS = 25


class Proximal(NamedTuple):
    r"""What a solve towards the anchored optima reached, one entry for each task.

    Attributes:
        point: the points :math:`\varphi`.
        value: the sum of loss and penalty there.
        gradient_norm: norm of its gradient.
        start_norm: the same norm at the anchor, which is that of :math:`\nabla f(\theta)`.
        steps: steps that were taken.
        products: Hessian-vector products that were computed.
    """

    point: Float[Tensor, "..."]
    value: Float[Tensor, "..."]
    gradient_norm: Float[Tensor, "..."]
    start_norm: Float[Tensor, "..."]
    steps: Int[Tensor, "..."]
    products: Int[Tensor, "..."]

    @property
    def stationarity(self) -> Float[Tensor, "..."]:
        """Norm of the gradient relative to its start; 0 where the start was stationary."""
        moved = self.start_norm > 0
        return torch.where(moved, self.gradient_norm / self.start_norm, self.gradient_norm)


class _Anchored:
    """The sum of loss and penalty for all tasks, its gradient, and products with its Hessian."""

    def __init__(self, loss: Loss, anchor: Tensor, data: tuple[Any, ...], lam: float) -> None:
        self.loss, self.anchor, self.data, self.lam = loss, anchor, data, lam

    def value(self, point: Tensor) -> Tensor:
        loss = vmap(self.loss)(point, *self.data)
        if loss.shape != point.shape[:1]:
            raise ValueError(
                f"loss must return one number for each task, got shape {tuple(loss.shape[1:])}"
            )
        return loss + self.lam / 2 * (point - self.anchor).square().sum(-1)

    def gradient(self, point: Tensor) -> Tensor:
        return vmap(grad(self.loss))(point, *self.data) + self.lam * (point - self.anchor)

    def product(self, point: Tensor) -> Product:
        """v -> (H + lam I) v, one row of v for each task."""
        of_loss = hessian_of(self.loss, point, self.data)
        return lambda v: of_loss(v) + self.lam * v


@torch.no_grad()
def proximal_point(
    loss: Loss,
    anchor: Float[Tensor, "*tasks size"],
    *data: Any,
    lam: float | int,
    method: str = "newton",
    steps: int = 50,
    lr: float | int = 0.1,
    tol: float | int | None = 1e-6,
) -> Proximal:
    r"""Minimize a loss and the distance to an anchor, for many tasks at once.

    .. math:: \varphi^*(\theta)=\arg\min_\varphi\; f(\varphi)+\frac\lambda2\|\varphi-\theta\|^2

    Every solve starts at its anchor and descends. ``"gradient"`` takes
    steps :math:`\varphi\leftarrow\varphi-\eta\,(\nabla f(\varphi)+\lambda(\varphi-\theta))`.
    ``"newton"`` takes Newton steps by conjugate gradients with a line search, and leaves out the
    part of a step that lies beyond a direction of negative curvature. No graph is kept, so the
    memory does not grow with the steps.

    Args:
        loss: maps a vector of the size of an anchor, and the data of one task, to a number f.
        anchor: one vector for all tasks, or one for each.
        *data: tensors with the tasks along their first axis; each is handed to ``loss`` without it.
        lam: weight :math:`\lambda` of the penalty.
        method: ``"newton"`` or ``"gradient"``.
        steps: most steps.
        lr: step size :math:`\eta` of ``"gradient"``.
        tol: done when the norm of the gradient is at most this times its start, in every task;
            None takes all steps without a look, and a GPU is not waited for by ``"gradient"``.

    Returns:
        Points and how each was reached; see ``Proximal``. Without data and with one anchor there
        is one task, and its axis is left out. Nothing is raised for a task that is not done:
        look at ``stationarity``.

    Raises:
        TypeError: ``anchor`` is no floating-point tensor, ``steps`` no integer.
        ValueError: ``lam`` or ``lr`` not positive, ``tol`` negative, an unknown ``method``,
            ``anchor`` with more than two axes, other numbers of tasks, a loss that is no number.
        FloatingPointError: a gradient at a point that was reached is NaN or infinite.

    Chapter: def-imaml-anchored

    References: Rajeswaran, Finn, Kakade and Levine (2019), equation 3; Nocedal and Wright (2006),
        algorithm 7.1.

    >>> import torch
    >>> from nodes_tutorial.implicit import proximal_point
    >>> bowl = lambda x, center: 3 * (x - center).square().sum() / 2
    >>> centers = torch.tensor([[0.0, 4.0], [8.0, 4.0]])
    >>> proximal_point(bowl, torch.zeros(2), centers, lam=1.0).point
    tensor([[0., 3.],
            [6., 3.]])
    """
    anchor, single = rows_of(anchor, data)
    lam = check_number("lam", lam, "a positive number", lambda x: 0 < x < math.inf)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    check_count("steps", steps)
    lr = check_number("lr", lr, "a positive number", lambda x: 0 < x < math.inf)
    if tol is not None:
        tol = check_number("tol", tol, "a number >= 0 or None", lambda x: 0 <= x < math.inf)
    problem = _Anchored(loss, anchor, data, lam)
    value = problem.value(anchor)
    point, gradient = anchor.clone(), problem.gradient(anchor)
    norm = start = torch.linalg.vector_norm(gradient, dim=-1)
    active = torch.ones_like(start, dtype=torch.bool)
    taken = torch.zeros_like(start, dtype=torch.long)
    products = torch.zeros_like(taken)
    for _ in range(steps):
        if tol is not None:
            active = active & (norm > tol * start)
            if not active.any():
                break
        if method == "gradient":
            point = torch.where(active.unsqueeze(-1), point - lr * gradient, point)
            gradient = problem.gradient(point)
            norm = torch.linalg.vector_norm(gradient, dim=-1)
        else:
            step, used = _newton_step(problem, point, gradient, value, active)
            trial = point - step
            trial_value, trial_gradient = problem.value(trial), problem.gradient(trial)
            trial_norm = torch.linalg.vector_norm(trial_gradient, dim=-1)
            # where neither falls, rounding has the upper hand and the task is done
            active = active & ((trial_value < value) | (trial_norm < norm))
            point = torch.where(active.unsqueeze(-1), trial, point)
            gradient = torch.where(active.unsqueeze(-1), trial_gradient, gradient)
            value = torch.where(active, trial_value, value)
            norm = torch.where(active, trial_norm, norm)
            products += used
        taken += active
    if not norm.isfinite().all():
        raise FloatingPointError(
            f"loss must have finite gradients, got norms {norm.tolist()} after {steps} steps"
        )
    found = Proximal(point, problem.value(point), norm, start, taken, products)
    return Proximal(*(part[0] for part in found)) if single else found


def _newton_step(
    problem: _Anchored, point: Tensor, gradient: Tensor, value: Tensor, active: Tensor
) -> tuple[Tensor, Tensor]:
    """What to subtract from each point, and the products used; 0 where no step lowers the sum."""
    solved = cg(
        problem.product(point),
        torch.where(active.unsqueeze(-1), gradient, 0),
        rtol=1e-3,
        max_iterations=2 * point.shape[-1],
    )
    steepest = solved.iterations == 0  # negative curvature along the gradient itself
    step = torch.where(steepest.unsqueeze(-1), gradient, solved.x)
    slope = torch.linalg.vecdot(step, gradient)
    slack = 10 * torch.finfo(value.dtype).eps * value.abs()
    found, scale = ~active, torch.ones_like(value)
    for _ in range(HALVINGS):
        trial = problem.value(point - scale.unsqueeze(-1) * step)
        found = found | (trial <= value - ARMIJO * scale * slope + slack)
        if found.all():
            break
        scale = torch.where(found, scale, scale / 2)
    step = torch.where((found & active).unsqueeze(-1), scale.unsqueeze(-1) * step, 0)
    return step, solved.iterations + solved.negative_curvature


@torch.no_grad()
def moreau_envelope(
    loss: Loss,
    anchor: Float[Tensor, "*tasks size"],
    *data: Any,
    lam: float | int,
    **solve: Any,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    r"""Value of the anchored problem and its gradient in the anchor, which needs no Hessian.

    .. math:: e(\theta)=\min_\varphi f(\varphi)+\frac\lambda2\|\varphi-\theta\|^2,\qquad
        \nabla e(\theta)=\lambda\,(\theta-\varphi^*)

    The minimum is the local one that ``proximal_point`` finds; where the sum is convex it is the
    envelope of Moreau.

    Args:
        loss: as for ``proximal_point``.
        anchor: as for ``proximal_point``.
        *data: as for ``proximal_point``.
        lam: weight of the penalty.
        **solve: the other arguments of ``proximal_point``.

    Returns:
        Values, one for each task, and gradients of the shape of the points.

    Raises:
        TypeError: as for ``proximal_point``.
        ValueError: as for ``proximal_point``.

    Chapter: prop-imaml-envelope

    References: Moreau (1965), proposition 7d.

    >>> import torch
    >>> from nodes_tutorial.implicit import moreau_envelope
    >>> bowl = lambda x: 3 * x.square().sum() / 2
    >>> moreau_envelope(bowl, torch.tensor([2.0]), lam=1.0)
    (tensor(1.5000), tensor([1.5000]))
    """
    found = proximal_point(loss, anchor, *data, lam=lam, **solve)
    return found.value, lam * (anchor - found.point)
