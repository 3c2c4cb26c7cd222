"""Runs that are too long for a page: ``python -m nodes_tutorial.experiments --help``."""
