"""Errors of implicit derivatives, each with the numbers that were reached.

What the linear solve refuses is in ``nodes_tutorial.linalg``: ``IndefiniteError``,
``ResidualError``, ``SeriesError``.
"""


class ImplicitError(ArithmeticError):
    """The implicit function theorem does not apply at the point that was given or found."""


class StationarityError(ImplicitError):
    """The gradient does not vanish, so that the point is no optimum."""


class RootError(ImplicitError):
    """What was found is no root or no fixed point."""


class SingularError(ImplicitError):
    """The derivative of the equation cannot be inverted there."""
