"""What a pair of Runge-Kutta formulas does to y' = λy, for the analysis of its step control.

The error ratio, the controller and the loop of a solve are in ``solvers.control`` and
``solvers.loops``; their names are repeated here.
"""

import numpy as np
from numpy.polynomial import Polynomial

from nodes_tutorial.ode.solvers.control import SolverError, error_ratio, initial_step, step_factor
from nodes_tutorial.ode.solvers.loops import adaptive_steps
from nodes_tutorial.ode.solvers.tableau import Tableau

__all__ = [
    "SolverError",
    "adaptive_steps",
    "error_ratio",
    "initial_step",
    "linear_polynomials",
    "stability_boundary",
    "step_factor",
]


def linear_polynomials(method: Tableau) -> tuple[Polynomial, Polynomial]:
    r"""On :math:`y' = \lambda y` a step gives R(z) y, and estimates its error as E(z) y.

    .. math:: R(z) = 1 + \sum_{m=1}^s z^m\, b^\top a^{m-1} \mathbf 1, \qquad
        E(z) = \sum_{m=1}^s z^m\, (b - \hat b)^\top a^{m-1} \mathbf 1, \qquad z = h\lambda

    Args:
        method: an explicit tableau with an embedded formula.

    Returns:
        R and E, as polynomials of numpy.

    Raises:
        ValueError: the method has no embedded formula.

    Chapter: prop-control-boundary

    References: Hairer and Wanner (1996), section IV.2.

    >>> from nodes_tutorial.ode import METHODS
    >>> from nodes_tutorial.ode.step_control import linear_polynomials
    >>> R, E = linear_polynomials(METHODS["bosh3"])
    >>> [round(6 * c) for c in R.coef], E.degree()
    ([6, 6, 3, 1, 0], 4)
    """
    if not method.b_error:
        raise ValueError(f"method must have an embedded formula, {method.name} has none")
    a = np.zeros((method.stages, method.stages))
    for i, row in enumerate(method.a, start=1):
        a[i, : len(row)] = row
    step, error, power = [1.0], [0.0], np.ones(method.stages)
    for _ in range(method.stages):
        step.append(float(np.dot(method.b, power)))
        error.append(float(np.dot(method.b_error, power)))
        power = a @ power
    return Polynomial(step), Polynomial(error)


def stability_boundary(method: Tableau) -> float:
    """The z < 0 nearest to zero where ``|R(z)| = 1``: beyond it a decaying solution grows.

    Args:
        method: an explicit tableau with an embedded formula.

    Returns:
        The point, a negative number.

    Raises:
        ValueError: the method has no embedded formula.

    Chapter: prop-control-boundary

    >>> from nodes_tutorial.ode import METHODS
    >>> from nodes_tutorial.ode.step_control import stability_boundary
    >>> print(f"{stability_boundary(METHODS['dopri5']):.4f}")
    -3.3066
    """
    R, _ = linear_polynomials(method)
    roots = np.concatenate([(R - 1).roots(), (R + 1).roots()])
    real = roots[(abs(roots.imag) < 1e-6) & (roots.real < -1e-3)].real
    return float(real.max())
