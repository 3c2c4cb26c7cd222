"""Latent ODEs and ODE-RNNs for irregularly sampled series.

``model`` is the latent ODE, ``odernn`` its encoder, ``likelihood`` the terms of the bound, and
``baselines`` the recurrent networks that it is compared with.
"""

from nodes_tutorial.ode.latent.baselines import RNNVAE, DeltaRNN
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

__all__ = [
    "ODERNN",
    "RNNVAE",
    "DeltaRNN",
    "LatentODE",
    "Posterior",
    "gaussian_log_prob",
    "iwae_bound",
    "kl_weight",
    "normal_kl",
    "poisson_log_prob",
]
