"""Matrix-free linear algebra: matrices that are known by what they do to a vector.

``products`` multiplies by Jacobians and Hessians, ``curvature`` by a kept Hessian and the
Gauss-Newton matrix, ``traces`` estimates a trace by such products, ``spectrum`` eigenvalues,
``krylov`` and ``series`` solve a linear system by them. Read ``products`` first.
"""

from nodes_tutorial.linalg.curvature import ggn, hessian_operator
from nodes_tutorial.linalg.errors import (
    IndefiniteError,
    LinalgError,
    ResidualError,
    SeriesError,
    SymmetryError,
)
from nodes_tutorial.linalg.krylov import CGResult, cg
from nodes_tutorial.linalg.products import covector_products, hvp, jvp, vjp
from nodes_tutorial.linalg.series import NeumannResult, neumann
from nodes_tutorial.linalg.spectrum import Lanczos, lanczos, spectral_sum
from nodes_tutorial.linalg.traces import draw_probes, exact_trace, hutchinson_trace

__all__ = [
    "CGResult",
    "IndefiniteError",
    "Lanczos",
    "LinalgError",
    "NeumannResult",
    "ResidualError",
    "SeriesError",
    "SymmetryError",
    "cg",
    "covector_products",
    "draw_probes",
    "exact_trace",
    "ggn",
    "hessian_operator",
    "hutchinson_trace",
    "hvp",
    "jvp",
    "lanczos",
    "neumann",
    "spectral_sum",
    "vjp",
]
