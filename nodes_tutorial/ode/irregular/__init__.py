"""Models of irregular series, compared: rivals of a latent ODE, and how a comparison reports.

``baselines`` has the recurrent networks that a latent ODE is compared with, ``choice`` the error
that a choice among networks reports. Rivals without training and the density of observation times
belong to ``nodes_tutorial.ode.latent``. Read ``DeltaRNN`` first.
"""

from nodes_tutorial.ode.irregular.baselines import RNNVAE, DeltaRNN
from nodes_tutorial.ode.irregular.choice import reported

__all__ = ["RNNVAE", "DeltaRNN", "reported"]
