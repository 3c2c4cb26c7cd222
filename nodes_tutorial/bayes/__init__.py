"""Bayesian inference: posteriors, evidence, and bounds on it.

The part is flat. Read the modules of a chapter in the order of its line:

generalized: ``generalized`` ``loss_scales``
evidence: ``evidence``
"""

from nodes_tutorial.bayes.evidence import (
    cumulative_cv,
    laplace_evidence,
    leave_p_out,
    leave_p_out_from_evidence,
    subset_masks,
)
from nodes_tutorial.bayes.generalized import (
    INVERSE_SLOPES,
    divergence_posterior,
    gibbs_objective,
    gibbs_posterior,
)
from nodes_tutorial.bayes.loss_scales import bootstrap, loss_scale, sandwich

__all__ = [
    "INVERSE_SLOPES",
    "bootstrap",
    "cumulative_cv",
    "divergence_posterior",
    "gibbs_objective",
    "gibbs_posterior",
    "laplace_evidence",
    "leave_p_out",
    "leave_p_out_from_evidence",
    "loss_scale",
    "sandwich",
    "subset_masks",
]
