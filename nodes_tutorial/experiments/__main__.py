"""``python -m nodes_tutorial.experiments``: the runs behind the page of results."""

from nodes_tutorial.experiments.command import app
from nodes_tutorial.experiments.commands import (  # noqa: F401  they add commands
    bayes,
    flows,
    generalization,
    implicit,
    invariance,
    meta,
    meta_heads,
    meta_maml,
    meta_whole,
    ode,
)

if __name__ == "__main__":
    app()
