"""Gradients through an optimum, a root or a fixed point, by the implicit function theorem.

The part is flat. Read the modules of a chapter in the order of its line:

"""

__all__: list[str] = []
