"""Bayesian inference: posteriors, evidence, and bounds on it.

The part is flat. Read the modules of a chapter in the order of its line:

evidence: ``evidence``
"""

from nodes_tutorial.bayes.evidence import (
    cumulative_cv,
    laplace_evidence,
    leave_p_out,
    leave_p_out_from_evidence,
    subset_masks,
)

__all__ = [
    "cumulative_cv",
    "laplace_evidence",
    "leave_p_out",
    "leave_p_out_from_evidence",
    "subset_masks",
]
