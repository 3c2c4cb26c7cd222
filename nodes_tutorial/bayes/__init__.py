"""Bayesian inference: posteriors, evidence, and bounds on it.

The part is flat. Read the modules of a chapter in the order of its line:

"""

__all__: list[str] = []
