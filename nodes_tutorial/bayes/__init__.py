"""Bayesian inference: posteriors, evidence, and bounds on it.

The part is flat. Read the modules of a chapter in the order of its line:

inference: ``conjugate`` ``gp`` ``weights`` ``bounds`` ``gaussians`` ``divergences`` ``gradients``
networks: ``flat`` ``priors`` ``networks`` ``sgld`` ``ensembles`` ``laplace`` ``calibration``
beta_vae: ``rates`` ``vae`` ``linear_vae`` ``disentangle``
vcd: ``vcd`` ``linear_kernel`` ``hamiltonian`` ``step_size`` ``chains``
generalized: ``generalized`` ``loss_scales``
evidence: ``evidence``
"""

from nodes_tutorial.bayes.bounds import elbo, importance_weighted_bound
from nodes_tutorial.bayes.calibration import (
    auroc,
    confidence_bins,
    coverage,
    ece,
    temperature_scale,
)
from nodes_tutorial.bayes.chains import effective_sample_size, r_hat
from nodes_tutorial.bayes.conjugate import BetaBernoulli, GaussianMean, LinearRegression
from nodes_tutorial.bayes.disentangle import (
    active_units,
    factor_information,
    mutual_information_gap,
)
from nodes_tutorial.bayes.divergences import discrete_kl, gaussian_kl
from nodes_tutorial.bayes.ensembles import DropoutMLP, Ensemble, mixture_moments
from nodes_tutorial.bayes.evidence import (
    cumulative_cv,
    laplace_evidence,
    leave_p_out,
    leave_p_out_from_evidence,
    subset_masks,
)
from nodes_tutorial.bayes.flat import FlatModule
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
from nodes_tutorial.bayes.laplace import LastLayerLaplace, softmax_curvature
from nodes_tutorial.bayes.linear_kernel import (
    isotropic_vcd,
    isotropic_vcd_scale,
    leapfrog_mixing,
)
from nodes_tutorial.bayes.linear_vae import LinearVAE, best_linear_vae
from nodes_tutorial.bayes.loss_scales import bootstrap, loss_scale, sandwich
from nodes_tutorial.bayes.networks import BayesianMLP, BayesianModule, bbb_loss, minibatch_loss
from nodes_tutorial.bayes.priors import NormalPrior, ScaleMixture
from nodes_tutorial.bayes.rates import RateParts, gaussian_rates, rate_parts
from nodes_tutorial.bayes.scores import brier, brier_parts, nll
from nodes_tutorial.bayes.sgld import minibatch_joint
from nodes_tutorial.bayes.vae import VAE
from nodes_tutorial.bayes.vcd import VCDGradient, vcd_gradient
from nodes_tutorial.bayes.weights import (
    PriorEvidence,
    evidence_prior_sampling,
    importance_mean,
)

__all__ = [
    "INVERSE_SLOPES",
    "VAE",
    "BayesianMLP",
    "BayesianModule",
    "BetaBernoulli",
    "Chains",
    "DropoutMLP",
    "Ensemble",
    "FlatModule",
    "FullRankGaussian",
    "GaussianMean",
    "GaussianProcess",
    "HMCKernel",
    "LastLayerLaplace",
    "LinearRegression",
    "LinearVAE",
    "MeanFieldGaussian",
    "NormalPrior",
    "PriorEvidence",
    "RateParts",
    "ScaleMixture",
    "VCDGradient",
    "active_units",
    "auroc",
    "bbb_loss",
    "best_linear_vae",
    "bootstrap",
    "brier",
    "brier_parts",
    "confidence_bins",
    "coverage",
    "cumulative_cv",
    "discrete_kl",
    "divergence_posterior",
    "ece",
    "effective_sample_size",
    "elbo",
    "evidence_prior_sampling",
    "factor_information",
    "gaussian_kl",
    "gaussian_rates",
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
    "minibatch_joint",
    "minibatch_loss",
    "mixture_moments",
    "mutual_information_gap",
    "nll",
    "path_gradients",
    "r_hat",
    "rate_parts",
    "sandwich",
    "score_gradients",
    "softmax_curvature",
    "squared_exponential",
    "subset_masks",
    "temperature_scale",
    "vcd_gradient",
]
