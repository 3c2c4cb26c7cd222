"""Latent ODEs and ODE-RNNs for irregularly sampled series.

``model`` is the latent ODE, ``odernn`` its encoder, ``likelihood`` the terms of the bound,
``training`` the loop that maximizes it, and ``rivals`` what needs no training.
"""

from nodes_tutorial.ode.latent.likelihood import (
    Posterior,
    gaussian_log_prob,
    iwae_bound,
    kl_weight,
    normal_kl,
    poisson_log_prob,
)
from nodes_tutorial.ode.latent.model import LatentODE
from nodes_tutorial.ode.latent.odernn import ODERNN
from nodes_tutorial.ode.latent.rivals import line, middle
from nodes_tutorial.ode.latent.training import train

__all__ = [
    "ODERNN",
    "LatentODE",
    "Posterior",
    "gaussian_log_prob",
    "iwae_bound",
    "kl_weight",
    "line",
    "middle",
    "normal_kl",
    "poisson_log_prob",
    "train",
]
