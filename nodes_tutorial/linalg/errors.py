"""Errors of the matrix-free solvers, each with the number at which it stopped."""


class LinalgError(ArithmeticError):
    """A matrix that is known by its products cannot be used as it was asked for."""


class IndefiniteError(LinalgError):
    """A symmetric matrix is not positive definite; the message has the curvature that was met."""


class SeriesError(LinalgError):
    """The terms of a series grow; the message has the factor."""


class SymmetryError(LinalgError):
    """A product is not that of a symmetric matrix; the message has the defect."""


class ResidualError(LinalgError):
    """A solve stopped above its residual; the message has the residual that was reached."""
