"""What a Runge–Kutta method does to y' = λy."""

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from nodes_tutorial.ode.solvers.tableau import Tableau
from nodes_tutorial.ode.stiffness.tableaus import DiagonallyImplicit

AnyTableau = Tableau | DiagonallyImplicit


def _matrix(method: AnyTableau) -> tuple[Float[Tensor, "s s"], Float[Tensor, " s"]]:
    """The square matrix of a, and b; the rows of a :class:`Tableau` lack the diagonal."""
    explicit = isinstance(method, Tableau)
    rows = ((), *method.a) if explicit else method.a
    square = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for place, row in enumerate(rows):
        square[place, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return square, torch.tensor(method.b, dtype=torch.float64)


def stability_function(
    method: AnyTableau, z: Shaped[Tensor, "*shape"]
) -> Complex[Tensor, "*shape"]:
    r"""The factor by which a step multiplies the solution of :math:`y' = \lambda y`.

    .. math:: R(z) = 1 + z\,b^\top (I - zA)^{-1} \mathbf 1, \qquad z = h\lambda

    Args:
        method: an explicit or a diagonally implicit tableau.
        z: points of the complex plane, of any shape.

    Returns:
        R at the points, complex128, of the shape of ``z``.

    Raises:
        TypeError: ``method`` is not a tableau.

    Chapter: prop-stiffness-function

    References: Hairer and Wanner (1996), section IV.3.

    >>> import torch
    >>> from nodes_tutorial.ode.stiffness import IMPLICIT, stability_function
    >>> stability_function(IMPLICIT["implicit_euler"], torch.tensor([-1.0, -9.0])).real
    tensor([0.5000, 0.1000], dtype=torch.float64)
    """
    if not isinstance(method, AnyTableau):
        raise TypeError(f"method must be a tableau, got {type(method).__name__}")
    a, b = _matrix(method)
    z = z.to(torch.complex128)[..., None]
    system = torch.eye(len(b), dtype=torch.complex128) - z[..., None] * a
    ones = torch.ones_like(z).expand(*z.shape[:-1], len(b))
    stages = torch.linalg.solve_triangular(system, ones[..., None], upper=False)[..., 0]
    return 1 + z[..., 0] * (stages * b).sum(-1)


def limit_at_infinity(method: AnyTableau) -> float:
    r"""The size of R far out in the left half-plane, :math:`\lim_{x \to -\infty} |R(x)|`.

    It is 0 for an L-stable method, 1 for the trapezoid, and infinite for explicit methods. With an
    explicit first stage it is the last entry of :math:`\hat A^{-1} \hat a`, where
    :math:`\hat a` is the first column of A below its first row and :math:`\hat A` stands right of
    it; without one it is 0, because b is the last row of A.

    Args:
        method: an explicit or a diagonally implicit tableau.

    Returns:
        The limit; 0.0 and infinity are exact.

    Chapter: prop-stiffness-infinity

    >>> from nodes_tutorial.ode.stiffness import IMPLICIT, limit_at_infinity
    >>> limit_at_infinity(IMPLICIT["tr_bdf2"]), limit_at_infinity(IMPLICIT["trapezoid"])
    (0.0, 1.0)
    """
    if isinstance(method, Tableau):
        return float("inf")
    square, _ = _matrix(method)
    if not method.explicit_first:
        return 0.0
    last = torch.linalg.solve_triangular(square[1:, 1:], square[1:, :1], upper=False)[-1]
    return float(last.abs())
