"""The planar transform: every point pushed along one direction, as far as one number decides."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from nodes_tutorial.checks import check_count, draw
from nodes_tutorial.flows.flow import Transform

_NEWTON_STEPS = 16  # 10 reach the rounding for every y and every gap up to 1e6


class PlanarTransform(Transform):
    r"""The map :math:`x = z + \hat u\tanh(w^\top z + b)`, invertible for all weights.

    .. math:: \hat u = u + \bigl(\gamma - 1 - w^\top u\bigr)\frac{w}{\|w\|^2}, \qquad
        \gamma = \log(1 + e^{w^\top u}) = 1 + w^\top\hat u > 0

    .. math:: \det\frac{\partial x}{\partial z} = \gamma\,(1-h^2) + h^2, \qquad
        h = \tanh(w^\top z + b)

    The direction is corrected inside ``forward``, so gradients see the correction. The determinant
    lies between 1 and :math:`\gamma` and is a sum of positive terms. The inverse has no closed
    form; it is one scalar equation for each point, solved to rounding by Newton's method, with
    implicit gradients to x and to all weights. The weight w must not be 0.

    Args:
        dim: number of features.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``dim`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``dim`` below 1.

    Chapter: prop-normalizing-planar

    References: Rezende and Mohamed (2015), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.flows import PlanarTransform
    >>> planar = PlanarTransform(2, generator=torch.Generator().manual_seed(0))
    >>> x, ladj = planar(torch.ones(5, 2))
    >>> torch.allclose(planar.inverse(x)[0], torch.ones(5, 2))
    True
    """

    def __init__(
        self,
        dim: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("dim", dim, least=1)
        draws = draw(torch.rand, (2 * dim + 1,), generator, dtype=dtype, device=device)
        u, w, b = ((2 * draws - 1) / math.sqrt(dim)).split([dim, dim, 1])
        self.u, self.w = nn.Parameter(u.clone()), nn.Parameter(w.clone())
        self.b = nn.Parameter(b[0].clone())

    def direction(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, ""]]:
        r"""The corrected direction :math:`\hat u`, and :math:`\gamma=1+w^\top\hat u`."""
        product = self.w @ self.u
        gap = softplus(product)
        return self.u + (gap - 1 - product) * self.w / self.w.square().sum(), gap

    def forward(
        self, z: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map noise to data and return x and the log-determinants."""
        direction, gap = self.direction()
        h = torch.tanh(z @ self.w + self.b)
        return z + h[..., None] * direction, _log_det(h, gap)

    def inverse(
        self, x: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """Map data to noise and return z and the log-determinants."""
        direction, gap = self.direction()
        level = x @ self.w + self.b
        h = torch.tanh(solve_argument(level, gap.expand_as(level)))
        return x - h[..., None] * direction, -_log_det(h, gap)


def _log_det(h: Tensor, gap: Tensor) -> Tensor:
    square = h.square()
    return torch.log(gap * (1 - square) + square)


def solve_argument(
    y: Float[Tensor, "*batch"], gap: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""Solve :math:`a + (\gamma - 1)\tanh a = y` for a.

    For y > 0 the left side is concave or convex according to the sign of :math:`\gamma-1`, and
    the start is on the side of the root from which Newton's method is monotone. So it converges
    from any y and :math:`\gamma>0`, without a bracket; y < 0 is the mirror image. The number of
    steps is fixed, so that nothing waits for the host. Derivatives are those of the implicit
    function, of any order.

    Args:
        y: right-hand sides.
        gap: the positive number :math:`\gamma`.

    Returns:
        The solutions a.

    Chapter: lem-normalizing-planar-root

    References: Ortega and Rheinboldt (1970), chapter 13, on monotone Newton iterations.

    >>> import torch
    >>> from nodes_tutorial.flows.planar import solve_argument
    >>> solve_argument(torch.tensor([1.0]), torch.tensor([1.0]))  # gap 1: a = y
    tensor([1.])
    """
    return _Root.apply(y, gap)


class _Root(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, gap: Tensor) -> Tensor:
        size, tiny = y.abs(), torch.finfo(y.dtype).tiny
        c = gap - 1
        line, shift = size / gap.clamp(min=tiny), size - c
        cube = torch.where(size < 0.2, (5 * size) ** (1 / 3), shift)
        a = torch.where(c > 0, torch.maximum(line, shift), line.minimum(shift).minimum(cube))
        for _ in range(_NEWTON_STEPS):
            h = torch.tanh(a)
            slope = (gap * (1 - h * h) + h * h).clamp(min=tiny)
            a = a - (a + c * h - size) / slope
        return a.copysign(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])
        ctx.save_for_forward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, gap = ctx.saved_tensors
        h = torch.tanh(a)
        dy = grad / (gap * (1 - h * h) + h * h)
        return dy, -dy * h

    @staticmethod
    def jvp(ctx: Any, dy: Tensor, dgap: Tensor) -> Tensor:
        a, gap = ctx.saved_tensors
        h = torch.tanh(a)
        return (dy - h * dgap) / (gap * (1 - h * h) + h * h)
