"""Learning to learn from a few examples: prototypes, initial weights, hypernetworks, posteriors.

The part is flat. Read the modules of a chapter in the order of its line:

few_shot: ``prototypes``
"""

from nodes_tutorial.meta.prototypes import ProtoNet, class_means, linear_head, prototype_logits

__all__ = [
    "ProtoNet",
    "class_means",
    "linear_head",
    "prototype_logits",
]
