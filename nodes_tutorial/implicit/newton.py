"""Newton's method for a root or a minimum, and the inverse of the derivative there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nodes_tutorial.implicit.errors import RootError, SingularError
from nodes_tutorial.implicit.inverse import of_task
from nodes_tutorial.implicit.trees import check_own_rows
from nodes_tutorial.linalg import IndefiniteError

Solver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Newton:
    """F(x, \\*tensors) = 0 by Newton's method with the dense derivative of each problem.

    Attributes:
        fun: the left-hand side F, or for a minimum the function f whose gradient is F.
        batch: number of leading axes of independent problems.
        solver: from a function of x alone and x0 to an answer; None means Newton's method.
        rtol: bound of the distance to the root, relative to the size of x.
        steps: most steps of Newton's method.
        minimum: whether a minimum of ``fun`` is wanted.
    """

    fun: Callable[..., Tensor]
    batch: int
    solver: Solver | None
    rtol: float
    steps: int
    minimum: bool

    def equation(self, x: Tensor, *tensors: Tensor) -> Tensor:
        """The left-hand side F.

        Args:
            x: the unknown.
            tensors: what the answer depends on.
        """
        if not self.minimum:
            return self.fun(x, *tensors)
        return torch.func.grad(lambda x: self.fun(x, *tensors).sum())(x)

    def linear(self, x: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """F as one row for each problem, and its derivative with respect to x.

        Args:
            x: the unknown.
            tensors: what the answer depends on.
        """
        value, pull = torch.func.vjp(lambda x: self.equation(x, *tensors), x)[:2]
        value = self.rows(value)
        size = value.shape[-1]
        units = torch.eye(size, dtype=x.dtype, device=x.device)
        units = units.reshape(size, *(1,) * self.batch, size).expand(size, *value.shape)
        rows = torch.func.vmap(lambda e: self.rows(pull(e.reshape(x.shape))[0]))(units)
        return value, rows.movedim(0, -2)

    def rows(self, x: Tensor) -> Tensor:
        """One row for each problem.

        Args:
            x: in the shape of the unknown.
        """
        return x.reshape(*x.shape[: self.batch], -1)

    @torch.no_grad()
    def solve(self, x0: Tensor, *tensors: Tensor) -> Tensor:
        """A root, checked.

        Args:
            x0: the first approximation.
            tensors: what the answer depends on.

        Raises:
            RootError: no root was found, or the one that ``solver`` returned is none.
            SingularError: the derivative there cannot be inverted.
            IndefiniteError: it is a stationary point, and no minimum.
            ValueError: a problem of a batch depends on the row of another.
        """
        x = x0.clone()
        self._check_rows(x, tensors)
        most = self.steps
        if self.solver is not None:
            found = self.solver(lambda x: self.fun(x, *tensors), x)
            if not isinstance(found, Tensor) or found.shape != x0.shape:
                raise ValueError(f"solver must return a tensor of shape {tuple(x0.shape)}")
            x, most = found.detach(), 0
        eps = torch.finfo(x.dtype).eps
        value, J = self.linear(x, tensors)
        first, previous = J, None
        for k in range(most + 1):
            step = self._step(value, J)
            size = torch.linalg.vector_norm(step, dim=-1)
            scale = torch.maximum(
                torch.linalg.vector_norm(self.rows(x), dim=-1),
                torch.linalg.vector_norm(self.rows(x0), dim=-1),
            )
            settled = size <= 4 * eps * scale
            if previous is not None:
                settled = settled | ((size > 0.9 * previous) & (size <= self.rtol * scale))
            if settled.all() or k == most:
                break
            previous = size
            x = self._damped(x, step, value, tensors)
            value, J = self.linear(x, tensors)
        self._check(value, J, first, size, scale)
        return x

    def _check_rows(self, x: Tensor, tensors: Sequence[Tensor]) -> None:
        if self.batch:
            value, pull = torch.func.vjp(lambda x: self.fun(x, *tensors), x)[:2]
            check_own_rows("f" if self.minimum else "F", pull, value, self.batch)

    def _step(self, value: Tensor, J: Tensor) -> Tensor:
        if not (value.isfinite().all() and J.isfinite().all()):
            raise RootError("the equation must be finite on the way, got NaN or infinite numbers")
        if self.minimum:  # downhill also where the Hessian is not positive
            scales, vectors = torch.linalg.eigh((J + J.mT) / 2)
            floor = torch.finfo(J.dtype).eps * scales.abs().amax(-1, keepdim=True)
            inner = (vectors.mT @ value.unsqueeze(-1)).squeeze(-1)
            inner = torch.where(inner == 0, 0, inner / torch.maximum(scales.abs(), floor))
            return (vectors @ inner.unsqueeze(-1)).squeeze(-1)
        step, info = torch.linalg.solve_ex(J, value)
        if info.any() or not step.isfinite().all():
            worst = int(info.argmax())
            norm = torch.linalg.vector_norm(value, dim=-1).flatten()[worst]
            raise SingularError(
                f"the derivative of the equation{of_task(info, worst)} is singular where its norm "
                f"is {float(norm):.3g}"
            )
        return step

    def _damped(self, x: Tensor, step: Tensor, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The step, halved for each problem until the norm of F, or f itself, falls."""

        def height(x: Tensor) -> Tensor:
            found = self.fun(x, *tensors)
            return found if self.minimum else torch.linalg.vector_norm(self.rows(found), dim=-1)

        before = height(x)
        gain = 1e-4 * (step * value).sum(-1) if self.minimum else 0
        factor = torch.ones_like(step[..., :1])
        slack = 10 * torch.finfo(x.dtype).eps * before.abs()
        for _ in range(30):
            trial = x - (factor * step).reshape(x.shape)
            after = height(trial)
            falls = after <= before - factor.squeeze(-1) * gain + slack
            if falls.all():
                return trial
            factor = torch.where(falls.unsqueeze(-1), factor, factor / 2)
        return x - (factor * step).reshape(x.shape)

    def _check(self, value: Tensor, J: Tensor, first: Tensor, size: Tensor, scale: Tensor) -> None:
        eps = torch.finfo(J.dtype).eps
        far = ~(size <= self.rtol * torch.where(scale > 0, scale, 1))
        if far.any():
            worst = int(torch.where(far, size, 0).argmax())
            norm = torch.linalg.vector_norm(value, dim=-1).flatten()[worst]
            raise RootError(
                f"the equation{of_task(size, worst)} is not solved: its norm is {float(norm):.3g} "
                f"and the distance to a root about {float(size.flatten()[worst]):.3g}; "
                f"rtol={self.rtol:.3g} allows "
                f"{self.rtol * float(scale.flatten()[worst]):.3g}"
            )
        least = torch.linalg.eigvalsh(J)[..., 0] if self.minimum else None
        if least is not None and (least < 0).any():
            worst = int(least.argmin())
            raise IndefiniteError(
                f"the stationary point{of_task(least, worst)} is no minimum, it has a curvature of "
                f"{float(least.flatten()[worst]):.3g}"
            )
        values = torch.linalg.svdvals(J)
        top = torch.maximum(values[..., 0], torch.linalg.svdvals(first)[..., 0])
        flat = values[..., -1] <= eps**0.5 * top
        if flat.any():
            worst = int(torch.where(flat, values[..., -1], torch.inf).argmin())
            raise SingularError(
                f"the derivative at the root{of_task(flat, worst)} is singular: its least singular "
                f"value is {float(values[..., -1].flatten()[worst]):.3g} beside "
                f"{float(top.flatten()[worst]):.3g}"
            )

    def invert(self, x: Tensor, tensors: Sequence[Tensor], b: Tensor, adjoint: bool) -> Tensor:
        """The solution of J u = b, or with the transpose of J.

        Args:
            x: the root.
            tensors: what it depends on.
            b: the right-hand side.
            adjoint: whether the transpose is meant.
        """
        _, J = self.linear(x, tensors)
        return torch.linalg.solve(J.mT if adjoint else J, self.rows(b)).reshape(x.shape)

    def mapped(self, dims: Sequence[int | None]) -> "Newton":
        """The same problem with one more leading axis.

        Args:
            dims: for each tensor the axis along which it has one entry for each problem.
        """
        fun = torch.func.vmap(self.fun, in_dims=(0, *dims))
        return replace(self, fun=fun, batch=self.batch + 1)
