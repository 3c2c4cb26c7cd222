"""Normalizing flows: densities made of invertible maps, discrete and continuous."""

from nodes_tutorial.flows.continuous import CNF
from nodes_tutorial.flows.density import Density, Gaussian, StandardNormal, fit_gaussian
from nodes_tutorial.flows.field import PlanarField
from nodes_tutorial.flows.flow import Flow, Inverse, Transform
from nodes_tutorial.flows.kde import KernelDensity, loo_log_likelihood, select_bandwidth
from nodes_tutorial.flows.matching import PosteriorVelocity, flow_matching_loss
from nodes_tutorial.flows.planar import PlanarTransform
from nodes_tutorial.flows.regularize import penalized_nll
from nodes_tutorial.flows.targets import ENERGIES, BoxTarget, reverse_kl
from nodes_tutorial.flows.transport import optimal_pairs, straightness, wasserstein2

__all__ = [
    "CNF",
    "ENERGIES",
    "BoxTarget",
    "Density",
    "Flow",
    "Gaussian",
    "Inverse",
    "KernelDensity",
    "PlanarField",
    "PlanarTransform",
    "PosteriorVelocity",
    "StandardNormal",
    "Transform",
    "fit_gaussian",
    "flow_matching_loss",
    "loo_log_likelihood",
    "optimal_pairs",
    "penalized_nll",
    "reverse_kl",
    "select_bandwidth",
    "straightness",
    "wasserstein2",
]
