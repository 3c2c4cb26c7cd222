"""Normalizing flows: densities made of invertible maps, discrete and continuous.

The part is flat. Read ``flow`` first, then the modules of a chapter:

density: ``density``, ``kde``, ``targets``
normalizing: ``flow``, ``planar``, ``natural``
coupling: ``coupling``, ``autoregressive``, ``made``, ``linear``, ``glow``, ``images``
continuous: ``continuous``, ``field``
ffjord: ``trace``, ``regularize``
conditional: ``conditional``, ``spline``, ``weights``
matching: ``matching``, ``transport``
diffusion: ``diffusion``
"""

from nodes_tutorial.flows.actnorm import ActNorm, data_init
from nodes_tutorial.flows.autoregressive import IAF, MAF, AutoregressiveAffine
from nodes_tutorial.flows.conditional import ContextField, HyperField
from nodes_tutorial.flows.continuous import CNF
from nodes_tutorial.flows.coupling import NICE, AffineCoupling, RealNVP
from nodes_tutorial.flows.density import Density, Gaussian, StandardNormal, fit_gaussian
from nodes_tutorial.flows.diffusion import score_from_velocity, stochastic_push
from nodes_tutorial.flows.field import PlanarField
from nodes_tutorial.flows.flow import Flow, Inverse, Transform
from nodes_tutorial.flows.glow import Chain, ConvNet, Glow, OnChannels, Squeezed
from nodes_tutorial.flows.images import Logit, bits_per_dim, dequantize, quantize
from nodes_tutorial.flows.kde import KernelDensity, loo_log_likelihood, select_bandwidth
from nodes_tutorial.flows.linear import Diagonal, InvertibleLinear
from nodes_tutorial.flows.made import MADE, made_masks
from nodes_tutorial.flows.masks import alternating_mask, checkerboard_mask, half_mask
from nodes_tutorial.flows.matching import PosteriorVelocity, flow_matching_loss
from nodes_tutorial.flows.planar import PlanarTransform
from nodes_tutorial.flows.regularize import penalized_nll
from nodes_tutorial.flows.spline import NSF, SplineCoupling, rational_quadratic
from nodes_tutorial.flows.targets import ENERGIES, BoxTarget, reverse_kl
from nodes_tutorial.flows.transport import optimal_pairs, straightness, wasserstein2
from nodes_tutorial.flows.weights import Evidence, Weighted, evidence, importance

__all__ = [
    "CNF",
    "ENERGIES",
    "IAF",
    "MADE",
    "MAF",
    "NICE",
    "NSF",
    "ActNorm",
    "AffineCoupling",
    "AutoregressiveAffine",
    "BoxTarget",
    "Chain",
    "ContextField",
    "ConvNet",
    "Density",
    "Diagonal",
    "Evidence",
    "Flow",
    "Gaussian",
    "Glow",
    "HyperField",
    "Inverse",
    "InvertibleLinear",
    "KernelDensity",
    "Logit",
    "OnChannels",
    "PlanarField",
    "PlanarTransform",
    "PosteriorVelocity",
    "RealNVP",
    "SplineCoupling",
    "Squeezed",
    "StandardNormal",
    "Transform",
    "Weighted",
    "alternating_mask",
    "bits_per_dim",
    "checkerboard_mask",
    "data_init",
    "dequantize",
    "evidence",
    "fit_gaussian",
    "flow_matching_loss",
    "half_mask",
    "importance",
    "loo_log_likelihood",
    "made_masks",
    "optimal_pairs",
    "penalized_nll",
    "quantize",
    "rational_quadratic",
    "reverse_kl",
    "score_from_velocity",
    "select_bandwidth",
    "stochastic_push",
    "straightness",
    "wasserstein2",
]
