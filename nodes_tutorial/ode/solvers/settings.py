"""What the loops need to know beside the problem."""

from collections.abc import Callable
from dataclasses import dataclass
from math import copysign, inf, isfinite

from nodes_tutorial.ode.solvers.measure import ErrorNorm, Tolerance
from nodes_tutorial.ode.solvers.tableau import Tableau

ROUNDING = 1e-9  # a longest step may exceed its limit by this much, so that no tiny one is left


@dataclass(frozen=True)
class Limits:
    """How short and how long an adaptive step may be.

    Attributes:
        least: a step of this length is taken whatever its error.
        most: the longest step.
    """

    least: float = 0.0
    most: float = inf

    def nearest(self, h: float) -> float:
        """A step with its length brought between the limits."""
        return copysign(min(max(abs(h), self.least), self.most), h)

    def allow(self, h: float) -> bool:
        """Whether a step is not longer than the limit."""
        return abs(h) <= self.most * (1 + ROUNDING)

    def forces(self, h: float, ratio: float) -> bool:
        """Whether a step must be taken although its error is too large."""
        return abs(h) <= self.least and isfinite(ratio)


@dataclass(frozen=True)
class Settings:
    """What a loop needs to know beside the problem; ``odeint`` says what most of it means."""

    tableau: Tableau
    tolerance: Tolerance
    norm: ErrorNorm  # in which errors are measured
    limits: Limits = Limits()
    grid: tuple[float, ...] | None = None  # of fixed steps, when the user makes it
    step_size: float | None = None
    first_step: float | None = None
    max_steps: int = 100_000
    max_order: int | None = None  # of a multistep method, which uses one slope less
    compile: bool = False
    perturb: bool = False  # fixed steps look just behind their begin and just before their end
    adjoint_norm: str | Callable = "seminorm"
    backward: "Settings | None" = None  # of the adjoint equation, where they are other ones
    term_by_term: bool = False  # combine stages as with a graph: the same steps to the last bit
