"""Learning to learn from a few examples: prototypes, initial weights, hypernetworks, posteriors.

The part is flat. Read the modules of a chapter in the order of its line:

few_shot: ``prototypes``
hypermaml: ``heads`` ``hypernetworks`` ``warm_up`` ``hypermaml``
"""

from nodes_tutorial.meta.heads import head_gradient, head_logits
from nodes_tutorial.meta.hypermaml import HyperMAML, released_hypermaml
from nodes_tutorial.meta.hypernetworks import SupportRows, support_rows
from nodes_tutorial.meta.prototypes import ProtoNet, class_means, linear_head, prototype_logits
from nodes_tutorial.meta.warm_up import WarmUp

__all__ = [
    "HyperMAML",
    "ProtoNet",
    "SupportRows",
    "WarmUp",
    "class_means",
    "head_gradient",
    "head_logits",
    "linear_head",
    "prototype_logits",
    "released_hypermaml",
    "support_rows",
]
