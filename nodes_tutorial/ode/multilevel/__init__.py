"""From few layers to many: training of stable networks, level by level.

Read ``blocks`` first: it trains one network by block coordinate descent or by Adam, and many layers
from few. ``objective`` says what is minimized, ``newton`` fits the classifier. The networks, and
how their weights are prolonged, are in ``ode.stability``.
"""

from nodes_tutorial.ode.multilevel.blocks import train_adam, train_blocks, train_multilevel
from nodes_tutorial.ode.multilevel.newton import Classifier, fit_classifier
from nodes_tutorial.ode.multilevel.objective import Level, Objective

__all__ = [
    "Classifier",
    "Level",
    "Objective",
    "fit_classifier",
    "train_adam",
    "train_blocks",
    "train_multilevel",
]
