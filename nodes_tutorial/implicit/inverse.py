"""The Hessian of a training loss, and four ways to apply its inverse to a vector."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.implicit.trees import joined, split
from nodes_tutorial.linalg import IndefiniteError, ResidualError, cg, neumann

SOLVERS = ("cg", "neumann", "exact", "identity")


class Solution(NamedTuple):
    """An approximation of the inverse Hessian times a vector; one entry for each task.

    Attributes:
        x: the approximation.
        residual: norm of what is left of the equation, relative to its right-hand side.
        curvature: the least curvature that was met.
        alpha: the factor of a series; NaN for other solvers.
    """

    x: Float[Tensor, "... size"]
    residual: Float[Tensor, "..."]
    curvature: Float[Tensor, "..."]
    alpha: Float[Tensor, "..."]


class Hessian:
    """Products with the Hessian from a kept gradient; it counts them and notes the curvature.

    Args:
        gradient: gradients for each leaf, with their graph.
        leaves: the parameters.
        tasks: length of their leading axis; None for one task.
    """

    def __init__(
        self, gradient: Sequence[Tensor], leaves: Sequence[Tensor], tasks: int | None
    ) -> None:
        self.used = [i for i, g in enumerate(gradient) if g.requires_grad]
        self.gradient = [gradient[i] for i in self.used]
        self.leaves, self.tasks = leaves, tasks
        self.products = 0
        self.curvature = torch.full(() if tasks is None else (tasks,), torch.inf)

    def __call__(self, v: Float[Tensor, "*tasks size"]) -> Float[Tensor, "*tasks size"]:
        """The product H v, for each task by its own H.

        Args:
            v: one vector, or one for each task.
        """
        self.products += 1
        image = self._product(v)
        quotient = torch.linalg.vecdot(v, image) / torch.linalg.vecdot(v, v)
        quotient = quotient.nan_to_num(nan=torch.inf)
        self.curvature = torch.minimum(self.curvature.to(quotient), quotient)
        return image

    def _product(self, v: Tensor, many: bool = False) -> Tensor:
        if not self.gradient:
            return torch.zeros_like(v)
        if many:
            parts = [
                part.reshape(len(v), *leaf.shape)
                for part, leaf in zip(
                    v.split([leaf.numel() // (self.tasks or 1) for leaf in self.leaves], -1),
                    self.leaves,
                    strict=True,
                )
            ]
        else:
            parts = split(v, self.leaves, self.tasks)
        found = torch.autograd.grad(
            self.gradient,
            self.leaves,
            [parts[i] for i in self.used],
            retain_graph=True,
            materialize_grads=True,
            is_grads_batched=many,
        )
        if not many:
            return joined(found, self.tasks)
        lead = (len(v),) if self.tasks is None else (len(v), self.tasks)
        return torch.cat([part.reshape(*lead, -1) for part in found], -1)

    def dense(self, like: Float[Tensor, "*tasks size"]) -> Float[Tensor, "*tasks size size"]:
        """The matrix itself, from all unit vectors at once.

        Args:
            like: gives shape, dtype and device of a vector.
        """
        size = like.shape[-1]
        self.products += size
        units = torch.eye(size, dtype=like.dtype, device=like.device)
        if self.tasks is not None:
            units = units.unsqueeze(1).expand(size, self.tasks, size)
        return self._product(units, many=True).movedim(0, -1)


@torch.no_grad()
def solve(
    H: Hessian,
    b: Float[Tensor, "*tasks size"],
    solver: str,
    *,
    terms: int | None = None,
    alpha: float | None = None,
    rtol: float = 1e-8,
    bound: float | None = None,
) -> Solution:
    """Approximate the solution of H x = b.

    Args:
        H: the Hessian.
        b: the right-hand side.
        solver: one of ``SOLVERS``.
        terms: products of "cg", last power of "neumann"; None means what each has as default.
        alpha: factor of "neumann" and "identity"; None means Lanczos and 1.
        rtol: where "cg" stops.
        bound: residual above which "cg" has failed; None for no bound.

    Returns:
        The solution and how it was reached.

    Raises:
        IndefiniteError: H is not positive definite.
        ResidualError: "cg" stopped above ``bound``.
    """
    scale = torch.linalg.vector_norm(b, dim=-1)
    scale = torch.where(scale > 0, scale, 1)
    none = torch.full_like(scale, torch.nan)
    if solver == "exact":
        x, least = _exact(H.dense(b), b)
        residual = torch.linalg.vector_norm(b - H(x), dim=-1)
        return Solution(x, residual / scale, least, none)
    if solver == "cg":
        found = cg(H, b, rtol=min(rtol, bound or rtol), max_iterations=terms)
        _check_positive(found.negative_curvature, H.curvature)
        residual = found.residual / scale
        if bound is not None and (residual > bound).any():
            worst = int(residual.argmax())
            raise ResidualError(
                f"conjugate gradients{of_task(residual, worst)} stopped after "
                f"{int(found.iterations.flatten()[worst])} products at a relative residual of "
                f"{float(residual.flatten()[worst]):.3g}, above {bound:.3g}; raise terms, or pass "
                "stationary=None if a truncated solve is wanted"
            )
        return Solution(found.x, residual, H.curvature, none)
    if solver == "identity":
        terms, alpha = 0, 1.0 if alpha is None else alpha
        image = H(b)
        x = alpha * b
        residual = torch.linalg.vector_norm(b - alpha * image, dim=-1)
        return Solution(x, residual / scale, H.curvature, torch.full_like(scale, alpha))
    found = neumann(H, b, alpha=alpha, **({} if terms is None else {"terms": terms}))
    return Solution(found.x, found.residual / scale, found.curvature, found.alpha)


def _exact(matrix: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    least = values[..., 0]
    _check_positive(least <= 0, least)
    inner = (vectors.mT @ b.unsqueeze(-1)) / values.unsqueeze(-1)
    return (vectors @ inner).squeeze(-1), least


def _check_positive(bad: Tensor, curvature: Tensor) -> None:
    if bad.any():
        worst = int(torch.where(bad, curvature, torch.inf).argmin())
        raise IndefiniteError(
            f"the Hessian of train_loss{of_task(bad, worst)} must be positive definite, got a "
            f"curvature of {float(curvature.flatten()[worst]):.3g}: params are no minimum that "
            "moves smoothly with hyper"
        )


def of_task(of: Tensor, worst: int) -> str:
    """Return which task is meant, in words; nothing where there is one.

    Args:
        of: one entry for each task.
        worst: its place.
    """
    return f" of task {worst} of {of.numel()}" if of.ndim else ""
