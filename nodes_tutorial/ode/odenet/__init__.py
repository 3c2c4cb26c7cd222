"""Classifying images with an ODE block: the block, and the networks that are compared with it."""

from nodes_tutorial.ode.odenet.block import ODEBlock
from nodes_tutorial.ode.odenet.classifiers import Classifier, ODENet, ResNet, RKNet

__all__ = [
    "Classifier",
    "ODEBlock",
    "ODENet",
    "RKNet",
    "ResNet",
]
