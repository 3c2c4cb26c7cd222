"""Normalizing flows: densities made of invertible maps, discrete and continuous."""

from nodes_tutorial.flows.density import Density, Gaussian, StandardNormal, fit_gaussian
from nodes_tutorial.flows.flow import Flow, Inverse, Transform

__all__ = [
    "Density",
    "Flow",
    "Gaussian",
    "Inverse",
    "StandardNormal",
    "Transform",
    "fit_gaussian",
]
