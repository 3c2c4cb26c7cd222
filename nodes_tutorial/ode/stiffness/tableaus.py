"""Diagonally implicit Runge–Kutta methods as data."""

from dataclasses import dataclass
from math import sqrt

Row = tuple[float, ...]


@dataclass(frozen=True)
class DiagonallyImplicit:
    r"""A method whose stage i needs itself and earlier stages, with one number on the diagonal.

    .. math:: Y_i = y + h \sum_{j \le i} a_{ij} k_j, \quad k_i = f(t + c_i h, Y_i), \quad
        y_1 = y + h \sum_i b_i k_i, \quad a_{ii} \in \{0, \gamma\}

    Only the first stage may be explicit (:math:`a_{11} = 0`), and the last row of a is b, so that
    the last stage is the new state.

    Attributes:
        name: the key in ``IMPLICIT``.
        order: p, so that the error of one step is of order h^(p+1).
        a: rows of the lower triangular matrix; row i holds i numbers.
        b_error: b minus the weights of the embedded formula, or None for fixed steps only.
        error_order: q, so that the error estimate is of order h^(q+1).

    Raises:
        ValueError: rows of the wrong length, or a diagonal that is not as above.

    Chapter: def-stiffness-dirk

    References: Hairer and Wanner (1996), section IV.6.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b_error: Row | None = None
    error_order: int = 0

    def __post_init__(self):
        lengths = [len(row) for row in self.a]
        if not lengths or lengths != list(range(1, len(lengths) + 1)):
            raise ValueError(f"a of {self.name!r} must have rows of 1, 2, … numbers, got {lengths}")
        diagonal = [row[-1] for row in self.a]
        implicit = diagonal[1:] if self.explicit_first else diagonal
        if not implicit or implicit[0] <= 0 or any(g != implicit[0] for g in implicit):
            raise ValueError(
                f"a of {self.name!r} must have one positive number on the diagonal, but for a "
                f"first 0; got {diagonal}"
            )
        if self.b_error is not None and len(self.b_error) != len(self.a):
            raise ValueError(f"b_error of {self.name!r} must have {len(self.a)} numbers")

    @property
    def explicit_first(self) -> bool:
        """Whether the first stage is the old state."""
        return self.a[0][-1] == 0.0

    @property
    def gamma(self) -> float:
        """The number on the diagonal."""
        return self.a[-1][-1]

    @property
    def b(self) -> Row:
        """The weights of the step."""
        return self.a[-1]

    @property
    def c(self) -> Row:
        """The nodes, sums of the rows of a."""
        return tuple(sum(row) for row in self.a)


_GAMMA = 1 - 1 / sqrt(2)  # the smaller root of γ² - 2γ + 1/2
_W = sqrt(2) / 4  # (1 - γ) / 2
_TR_BDF2 = ((0.0,), (_GAMMA, _GAMMA), (_W, _W, _GAMMA))
# the weights of order 3 on the nodes 0, 2γ, 1
_EMBEDDED = ((1 - _W) / 3, (3 * _W + 1) / 3, _GAMMA / 3)

# The trapezoid is A-stable and not L-stable; the others are L-stable.
IMPLICIT: dict[str, DiagonallyImplicit] = {
    method.name: method
    for method in (
        DiagonallyImplicit("implicit_euler", 1, ((0.0,), (0.0, 1.0)), (-0.5, 0.5), 1),
        DiagonallyImplicit("trapezoid", 2, ((0.0,), (0.5, 0.5))),
        DiagonallyImplicit("sdirk2", 2, ((_GAMMA,), (1 - _GAMMA, _GAMMA))),
        DiagonallyImplicit(
            "tr_bdf2",
            2,
            _TR_BDF2,
            tuple(b - e for b, e in zip(_TR_BDF2[-1], _EMBEDDED, strict=True)),
            2,
        ),
    )
}
