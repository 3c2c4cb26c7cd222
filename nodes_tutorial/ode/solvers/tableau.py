"""A Runge–Kutta method as data."""

from dataclasses import dataclass, field

import numpy as np

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    r"""An explicit Runge–Kutta method.

    Stage i is :math:`k_i = f(t + c_i h,\; y + h \sum_{j<i} a_{ij} k_j)`, the step
    :math:`y_1 = y + h \sum_i b_i k_i`, and inside the step
    :math:`y(t + \theta h) \approx y + h \sum_i b_i(\theta) k_i`.

    Attributes:
        name: the key in ``METHODS``.
        order: p, so that the error of one step is of order h^(p+1).
        a: rows 2, 3, … of the strictly lower triangular matrix; row i holds i - 1 numbers.
        b: weights of the step.
        c: nodes, as fractions of the step.
        b_error: b minus the weights of the embedded formula, or None for a fixed-step method.
        error_order: q, so that the error estimate is of order h^(q+1).
        dense: row i holds the coefficients of θ, θ², … in b_i(θ); it has one row for each stage
            and one for each extra stage.
        dense_order: the interpolant's error inside one step is of order h^(dense_order + 1).
        b_error_low: used by ``dopri8`` alone, whose ``b_error`` is of order h^6 and ``b_error_low``
            of order h^4; :func:`error_ratio` joins them to an estimate of order h^8.
        extra_a: rows of stages that only the dense output needs.
        extra_c: the nodes of these stages.
        stages: number of stages of a step, without the extra ones.
        dense_matrix: ``dense`` as an array.
        error_rows: ``b_error`` and ``b_error_low``, as far as the method has them.
        terms: the nonzero weights of each stage, the step and the extra stages, with places.
        fsal: whether the last stage is the first of the next step (first same as last).
        distinct_c: the different nodes of the stages from the second on.
        c_index: position in ``distinct_c`` of the node of each stage; 0 for the first stage.

    Raises:
        ValueError: rows that are too long or too short, b that does not sum to 1, or c that are not
            the sums of the rows of a.

    Chapter: def-runge-kutta

    References: Hairer, Nørsett and Wanner (1993), section II.1.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    c: Row
    dense: tuple[Row, ...]
    dense_order: int
    b_error: Row | None = None
    error_order: int = 0
    b_error_low: Row | None = None
    extra_a: tuple[Row, ...] = ()
    extra_c: Row = ()

    stages: int = field(init=False)
    fsal: bool = field(init=False)
    dense_matrix: np.ndarray = field(init=False, repr=False, compare=False)
    error_rows: tuple[Row, ...] = field(init=False, repr=False, compare=False)
    terms: tuple = field(init=False, repr=False, compare=False)
    distinct_c: Row = field(init=False, repr=False, compare=False)
    c_index: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        self._check()
        fsal = bool(self.a) and self.a[-1] == self.b[:-1] and self.b[-1] == 0.0
        rows = ((), *self.a, self.b, *self.extra_a)
        distinct = tuple(dict.fromkeys(self.c[1:]))
        derived = {
            "stages": len(self.b),
            "fsal": fsal,
            "dense_matrix": np.array(self.dense),
            "error_rows": tuple(filter(None, (self.b_error, self.b_error_low))),
            "terms": tuple(tuple((j, w) for j, w in enumerate(row) if w) for row in rows),
            "distinct_c": distinct,
            "c_index": (0, *map(distinct.index, self.c[1:])),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _check(self) -> None:
        """Lengths and sums; :func:`order_of` tells the order."""
        stages = len(self.b)
        nodes = (*self.c, *self.extra_c)
        rows = ((), *self.a, *self.extra_a)
        lengths = [*range(stages), *range(stages, stages + len(self.extra_a))]
        if stages < 1 or len(self.a) != stages - 1 or list(map(len, rows)) != lengths:
            raise ValueError(
                f"the tableau {self.name!r} must have a row of a for each stage but the first, of "
                f"1, 2, … numbers, and as many weights b as stages; got rows of "
                f"{[len(row) for row in self.a]} and {stages} weights"
            )
        if len(self.c) != stages or len(self.extra_c) != len(self.extra_a):
            raise ValueError(f"the tableau {self.name!r} must have one node c for each stage")
        for name, row in (("b_error", self.b_error), ("b_error_low", self.b_error_low)):
            if row is not None and (len(row) != stages or abs(sum(row)) > 1e-9):
                raise ValueError(
                    f"the tableau {self.name!r} must have {stages} numbers {name} with sum 0"
                )
        if abs(sum(self.b) - 1) > 1e-9:
            total = float(sum(self.b))
            raise ValueError(f"the weights b of {self.name!r} must sum to 1, got {total}")
        for node, row in zip(nodes, rows, strict=True):
            if abs(node - sum(row)) > 1e-9:
                raise ValueError(
                    f"each node c of the tableau {self.name!r} must be the sum of its row of a, "
                    f"got {float(node)} for {float(sum(row))}"
                )
        widths = {len(row) for row in self.dense}
        if self.dense and (len(self.dense) != len(nodes) or len(widths) != 1):
            raise ValueError(
                f"the tableau {self.name!r} must have {len(nodes)} rows of dense, of one length"
            )
