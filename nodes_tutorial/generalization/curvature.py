"""A mean of squares of rows, known by what it does: products, diagonal, Gram matrix, steps."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, jvp, vjp

from nodes_tutorial.checks import check_number
from nodes_tutorial.generalization.rows import Rows, flat


class Curvature:
    r"""The matrix :math:`M=\frac1n\sum_{i=1}^n\sum_ka_{ik}a_{ik}^\top` of rows that are not formed.

    The rows are :math:`a_{ik}=J_i^\top s_{ik}` with covectors s of the outputs. Vectors have all
    trainable parameters of the module, in its order. ``fisher_matrix``, ``empirical_fisher`` and
    ``gauss_newton`` make it.

    Args:
        rows: the module at the inputs.
        s: covectors of the outputs.

    Attributes:
        route: "layers" where the module is made of ``nn.Linear`` layers and no row is formed for
            the diagonal and the Gram matrix, "examples" where each row is formed.
        size: number D of parameters.
        count: number n of examples.
    """

    def __init__(self, rows: Rows, s: Float[Tensor, "n out k"]) -> None:
        self._rows, self._s = rows, s.detach()
        self.route, self.size, self.count = rows.route, rows.size, len(s)
        self._weights = {
            name: p.detach() for name, p in zip(rows.names, rows.parameters, strict=True)
        }

    def _outputs(self, weights: dict[str, Tensor]) -> Tensor:
        return functional_call(self._rows.module, weights, (self._rows.x,))

    @torch.no_grad()
    def project(self, v: Float[Tensor, " size"]) -> Float[Tensor, "n k"]:
        r"""The products :math:`a_{ik}\cdot v`, by one forward sweep.

        Args:
            v: a vector of all parameters.
        """
        self._check("v", v)
        moved = jvp(self._outputs, (self._weights,), (self._rows.named(v),))[1]
        return torch.einsum("nok,no->nk", self._s, moved)

    @torch.no_grad()
    def combine(self, u: Float[Tensor, "n k"]) -> Float[Tensor, " size"]:
        r"""The vector :math:`\sum_{ik}u_{ik}a_{ik}`, by one backward sweep.

        Args:
            u: a number for each row.
        """
        pull = vjp(self._outputs, self._weights)[1]
        return flat(pull(torch.einsum("nok,nk->no", self._s, u))[0].values())

    def product(self, v: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """M v, which forms neither M nor a row.

        Args:
            v: a vector of all parameters.

        Raises:
            ValueError: another shape.
        """
        return self.combine(self.project(v)) / self.count

    @torch.no_grad()
    def diagonal(self) -> Float[Tensor, " size"]:
        r"""The diagonal of M: for a linear layer :math:`(\delta^2)^\top a^2/n`."""
        if self.route == "examples":
            return self.rows().square().sum(0) / self.count
        parts: dict[int, Tensor] = {}
        for layer, a, d in self._rows.layers(self._s):
            squares = d.square().sum(0)
            parts[id(layer.weight)] = squares.mT @ a.square()
            if layer.bias is not None:
                parts[id(layer.bias)] = squares.sum(0)
        return flat([parts[id(p)] for p in self._rows.parameters]) / self.count

    @torch.no_grad()
    def gram(self) -> Float[Tensor, "rows rows"]:
        r"""The products :math:`a_{ik}\cdot a_{jl}/n`; its eigenvalues are those of M but for zeros.

        For a linear layer it is :math:`(aa^\top+1)\circ\delta\delta^\top/n`. Rows are ordered by
        example, then by k.
        """
        if self.route == "examples":
            rows = self.rows()
            return rows @ rows.mT / self.count
        k = self._s.shape[2]
        total = self._s.new_zeros(self.count * k, self.count * k)
        trains = {id(p) for p in self._rows.parameters}
        for layer, a, d in self._rows.layers(self._s):
            inputs = a @ a.mT if id(layer.weight) in trains else a.new_zeros(len(a), len(a))
            if layer.bias is not None and id(layer.bias) in trains:
                inputs = inputs + 1
            d = d.movedim(0, 1).flatten(0, 1)
            inputs = inputs.repeat_interleave(k, 0).repeat_interleave(k, 1) if k > 1 else inputs
            total += (d @ d.mT).mul_(inputs)
        return total / self.count

    @torch.no_grad()
    def rows(self) -> Float[Tensor, "rows size"]:
        """All rows, ordered by example, then by k."""
        return self._rows.every(self._s).flatten(0, 1)

    def matrix(self) -> Float[Tensor, "size size"]:
        """M itself."""
        rows = self.rows()
        return rows.mT @ rows / self.count

    @torch.no_grad()
    def solve(self, g: Float[Tensor, " size"], *, damping: float | int = 0.0) -> Tensor:
        r"""The step :math:`(M+\lambda I)^{-1}g`, through the smaller of M and its Gram matrix.

        Args:
            g: a vector of all parameters.
            damping: :math:`\lambda`; 0 wants at least as many rows as parameters.

        Returns:
            The step, of shape (size,).

        Raises:
            ValueError: another shape, ``damping`` negative, or 0 where M has no inverse.
        """
        self._check("g", g)
        check_number("damping", damping, "a number >= 0", lambda x: 0 <= x < math.inf)
        rows = self._s.shape[0] * self._s.shape[2]
        if rows < self.size and damping > 0:
            gram = self.gram()
            gram.diagonal().add_(damping)
            inner = torch.linalg.solve(gram, self.project(g).flatten() / self.count)
            return (g - self.combine(inner.view(self.count, -1))) / damping
        matrix = self.matrix()
        matrix.diagonal().add_(damping)
        root, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            raise ValueError(
                f"damping must be positive for this matrix of {self.size} parameters and {rows} "
                f"rows, which has no inverse, got {damping:g}"
            )
        return torch.cholesky_solve(g.unsqueeze(1), root).squeeze(1)

    def _check(self, name: str, v: Tensor) -> None:
        if v.shape != (self.size,):
            raise ValueError(f"{name} must have shape ({self.size},), got {tuple(v.shape)}")
