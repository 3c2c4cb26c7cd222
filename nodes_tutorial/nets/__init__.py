"""Small networks: the fields and maps that the chapters train.

Read :class:`MLP` first; :class:`TimeMLP` adds the time, :class:`Stack` trains many copies at once
(:class:`FieldStack` those of a field, with its Jacobian), :class:`Conv4` sees images,
and ``tangents`` carries a derivative through a network beside its value.
"""

from nodes_tutorial.nets.conv import Conv4
from nodes_tutorial.nets.field_stack import FieldStack
from nodes_tutorial.nets.mlp import ACTIVATIONS, MLP, TimeMLP, count_parameters, reset_parameters
from nodes_tutorial.nets.stack import Generators, Stack, sources

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Conv4",
    "FieldStack",
    "Generators",
    "Stack",
    "TimeMLP",
    "count_parameters",
    "reset_parameters",
    "sources",
]
