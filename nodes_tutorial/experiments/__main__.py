"""``python -m nodes_tutorial.experiments``: the runs behind the page of results."""

from nodes_tutorial.experiments import on_flows, on_ode  # noqa: F401  they add their commands
from nodes_tutorial.experiments.command import app

if __name__ == "__main__":
    app()
