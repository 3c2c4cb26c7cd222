"""Bayesian inference: posteriors, evidence, and bounds on it.

The part is flat. Read the modules of a chapter in the order of its line:

inference: ``conjugate`` ``gp`` ``weights`` ``bounds`` ``gaussians`` ``divergences`` ``gradients``
vcd: ``vcd`` ``linear_kernel`` ``hamiltonian`` ``step_size`` ``chains``
generalized: ``generalized`` ``loss_scales``
evidence: ``evidence``
"""

from nodes_tutorial.bayes.bounds import elbo, importance_weighted_bound
from nodes_tutorial.bayes.chains import effective_sample_size, r_hat
from nodes_tutorial.bayes.conjugate import BetaBernoulli, GaussianMean, LinearRegression
from nodes_tutorial.bayes.divergences import discrete_kl, gaussian_kl
from nodes_tutorial.bayes.evidence import (
    cumulative_cv,
    laplace_evidence,
    leave_p_out,
    leave_p_out_from_evidence,
    subset_masks,
)
from nodes_tutorial.bayes.gaussians import FullRankGaussian, MeanFieldGaussian
from nodes_tutorial.bayes.generalized import (
    INVERSE_SLOPES,
    divergence_posterior,
    gibbs_objective,
    gibbs_posterior,
)
from nodes_tutorial.bayes.gp import GaussianProcess, squared_exponential
from nodes_tutorial.bayes.gradients import path_gradients, score_gradients
from nodes_tutorial.bayes.hamiltonian import Chains, HMCKernel, hmc
from nodes_tutorial.bayes.linear_kernel import (
    isotropic_vcd,
    isotropic_vcd_scale,
    leapfrog_mixing,
)
from nodes_tutorial.bayes.loss_scales import bootstrap, loss_scale, sandwich
from nodes_tutorial.bayes.vcd import VCDGradient, vcd_gradient
from nodes_tutorial.bayes.weights import (
    PriorEvidence,
    evidence_prior_sampling,
    importance_mean,
)

__all__ = [
    "INVERSE_SLOPES",
    "BetaBernoulli",
    "Chains",
    "FullRankGaussian",
    "GaussianMean",
    "GaussianProcess",
    "HMCKernel",
    "LinearRegression",
    "MeanFieldGaussian",
    "PriorEvidence",
    "VCDGradient",
    "bootstrap",
    "cumulative_cv",
    "discrete_kl",
    "divergence_posterior",
    "effective_sample_size",
    "elbo",
    "evidence_prior_sampling",
    "gaussian_kl",
    "gibbs_objective",
    "gibbs_posterior",
    "hmc",
    "importance_mean",
    "importance_weighted_bound",
    "isotropic_vcd",
    "isotropic_vcd_scale",
    "laplace_evidence",
    "leapfrog_mixing",
    "leave_p_out",
    "leave_p_out_from_evidence",
    "loss_scale",
    "path_gradients",
    "r_hat",
    "sandwich",
    "score_gradients",
    "squared_exponential",
    "subset_masks",
    "vcd_gradient",
]
