"""The API reference: a line `{modules} nodes_tutorial.ode` becomes the documentation of it.

First the names that the package exports, under the path by which a reader imports them; then,
module by module, the public ones it does not export. Nothing has to be listed by hand.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

from sphinx.application import Sphinx

MARKER = re.compile(r"^\{modules\}((?: [\w.]+)+)$", re.M)


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("book/api/"):
        source[0] = MARKER.sub(lambda m: "\n".join(documented(m[1].split())), source[0])


def documented(roots: list[str]) -> Iterator[str]:
    for root in roots:
        package = importlib.import_module(root)
        yield from section(package, sorted(getattr(package, "__all__", [])) or own_names(package))
        exported = {id(getattr(package, name)) for name in getattr(package, "__all__", [])}
        for module in submodules(package):
            names = [n for n in own_names(module) if id(getattr(module, n)) not in exported]
            if names:
                yield from section(module, names)


def submodules(package: ModuleType) -> list[ModuleType]:
    if not hasattr(package, "__path__"):
        return []
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    public = [name for name in sorted(names) if not re.search(r"\._", name)]
    return [importlib.import_module(name) for name in public]


def own_names(module: ModuleType) -> list[str]:
    """Public functions and classes that are defined in the module, in the order of its source."""
    found = [
        (inspect.getsourcelines(value)[1], name)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]
    return [name for _, name in sorted(found)]


def section(module: ModuleType, names: list[str]) -> Iterator[str]:
    yield f"## `{module.__name__}`\n\n```{{eval-rst}}\n.. currentmodule:: {module.__name__}\n"
    yield from (inspect.getdoc(module) or "").split("\n")
    yield ""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            continue
        if inspect.isclass(value):
            yield f".. autoclass:: {module.__name__}.{name}\n   :members:\n"
        elif callable(value):
            yield f".. autofunction:: {module.__name__}.{name}\n"
        else:
            yield f".. py:data:: {name}\n   :type: {type(value).__name__}\n"
    yield "```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", expand)
