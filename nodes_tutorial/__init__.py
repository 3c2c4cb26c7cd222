"""From residual networks to implicit gradients: the algorithms of the book.

Submodules are imported when they are first used, so that ``import nodes_tutorial`` costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__all__ = [
    "bayes",
    "data",
    "flows",
    "generalization",
    "implicit",
    "invariance",
    "linalg",
    "meta",
    "nets",
    "ode",
    "plots",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"nodes_tutorial.{name}")
    if name == "__version__":
        return version("nodes-tutorial")
    raise AttributeError(f"module 'nodes_tutorial' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
