"""Matrix-free linear algebra: matrices that are known by what they do to a vector.

``products`` multiplies by Jacobians and Hessians, ``traces`` estimates a trace by such products,
``krylov`` solves a linear system by them. Read ``products`` first.
"""

from nodes_tutorial.linalg.krylov import CGResult, cg
from nodes_tutorial.linalg.products import covector_products, hvp, jvp, vjp
from nodes_tutorial.linalg.traces import draw_probes, exact_trace, hutchinson_trace

__all__ = [
    "CGResult",
    "cg",
    "covector_products",
    "draw_probes",
    "exact_trace",
    "hutchinson_trace",
    "hvp",
    "jvp",
    "vjp",
]
