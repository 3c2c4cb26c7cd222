"""Newton's method without matrices: a linear classifier fitted with conjugate gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.linalg import cg

__all__ = ["Classifier", "fit_classifier"]


class Classifier(NamedTuple):
    """The weights of a linear classifier, :math:`z = yW + \\mu`.

    Args:
        W: one column for each class.
        mu: one number for each class.
    """

    W: Tensor
    mu: Tensor

    def logits(self, y: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """The scores of each class."""
        return torch.addmm(self.mu, y, self.W)


def curvature(p: Float[Tensor, "batch classes"], dz: Float[Tensor, "batch classes"]) -> Tensor:
    r"""The Hessian of cross-entropy in the logits, :math:`(\mathrm{diag}\,p - pp^\top)\,dz`.

    Args:
        p: probabilities of the classes, one row a point.
        dz: a change of the logits.

    Returns:
        The product, of the shape of ``dz``.
    """
    moved = p * dz
    return moved - p * moved.sum(-1, keepdim=True)


def fit_classifier(
    y: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    start: Classifier,
    *,
    alpha: float = 1e-3,
    tol: float = 1e-8,
    max_iter: int = 20,
) -> tuple[Classifier, Float[Tensor, ""]]:
    r"""Minimize cross-entropy plus :math:`\frac\alpha2(\|W\|_F^2 + \|\mu\|^2)` by Newton–CG.

    The problem is strictly convex, so there is one minimizer, and damped Newton finds it.

    Args:
        y: features, one row a point.
        labels: class of each point, an integer from 0.
        start: where to begin, of the right shapes.
        alpha: weight of the regularizer, positive.
        tol: stop when the gradient's norm is below it.
        max_iter: largest number of Newton steps.

    Returns:
        The classifier and the value of the objective.

    Raises:
        ValueError: ``alpha`` not positive.

    Chapter: prop-multilevel-descent

    References: Haber and Ruthotto (2018), section 5.1.

    >>> import torch
    >>> from nodes_tutorial.ode.multilevel.newton import Classifier, fit_classifier
    >>> y = torch.tensor([[-1.0], [1.0]])
    >>> start = Classifier(torch.zeros(1, 2), torch.zeros(2))
    >>> fitted, _ = fit_classifier(y, torch.tensor([0, 1]), start)
    >>> fitted.logits(y).argmax(1).tolist()
    [0, 1]
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    X = torch.cat([y, torch.ones_like(y[:, :1])], 1)
    one_hot = torch.nn.functional.one_hot(labels, start.W.shape[1]).to(y)
    v, shape = torch.cat([start.W, start.mu[None]]).flatten(), (X.shape[1], start.W.shape[1])

    def objective(v: Tensor) -> Tensor:
        z = X @ v.view(shape)
        gap = z.logsumexp(1) - (one_hot * z).sum(1)
        return gap.mean() + alpha / 2 * v.square().sum()

    value, zero = objective(v), torch.zeros_like(v)
    if value > objective(zero):  # a start that is worse than none
        v, value = zero, objective(zero)
    for _ in range(max_iter):
        p = (X @ v.view(shape)).softmax(1)
        gradient = (X.mT @ (p - one_hot) / len(X)).flatten() + alpha * v
        if gradient.norm() <= tol:
            break

        def hessian(u: Tensor, p: Tensor = p) -> Tensor:
            return (X.mT @ curvature(p, X @ u.view(shape)) / len(X)).flatten() + alpha * u

        step = cg(hessian, -gradient, rtol=1e-3, max_iterations=2 * len(v)).x
        v, value, moved = search(objective, v, value, step, torch.dot(gradient, step))
        if not moved:
            break
    W = v.view(shape)
    return Classifier(W[:-1].clone(), W[-1].clone()), value


def search(
    objective: Callable[[Tensor], Tensor],
    v: Tensor,
    value: Tensor,
    step: Tensor,
    slope: Tensor,
    *,
    halvings: int = 12,
) -> tuple[Tensor, Tensor, bool]:
    """Halve the step until the objective falls by 1e-4 of what its slope promises (Armijo).

    Args:
        objective: of a flat vector.
        v: where we are.
        value: the objective there.
        step: a descent direction.
        slope: the directional derivative, negative.
        halvings: give up after so many.

    Returns:
        The new place and value, and whether we moved.
    """
    for k in range(halvings):
        trial = v + step / 2**k
        new = objective(trial)
        if new <= value + 1e-4 / 2**k * slope:
            return trial, new, True
    return v, value, False
