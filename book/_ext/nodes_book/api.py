"""The API reference: a line `{modules} nodes_tutorial.ode` becomes the documentation of it.

First the names that the package exports, under the path by which a reader imports them; then the
packages of its chapters in the same way; at the end, module by module, the internals. Nothing has
to be listed by hand.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

from tools.project import ROOT, address

MARKER = re.compile(r"^\{modules\}((?: [\w.]+)+)$", re.M)
FEW = 40  # keys of a table that are shown


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("book/api/"):
        source[0] = MARKER.sub(lambda m: "\n".join(documented(m[1].split())), source[0])


def documented(roots: list[str]) -> Iterator[str]:
    shown: set[int] = set()
    internal: list[ModuleType] = []
    for root in roots:
        package = importlib.import_module(root)
        for module in (package, *submodules(package)):
            if not public(module, package):
                internal.append(module)
                continue
            names = [n for n in exported(module) if id(getattr(module, n)) not in shown]
            shown |= {id(getattr(module, name)) for name in names}
            if names:
                yield from section(module, names, "##")
    rest = [(m, [n for n in own_names(m) if id(getattr(m, n)) not in shown]) for m in internal]
    if any(names for _, names in rest):
        yield "## Internals\n\nWhat the functions above are made of. These names may change.\n"
    for module, names in rest:
        if names:
            yield from section(module, names, "###")


def public(module: ModuleType, root: ModuleType) -> bool:
    """Whether a reader imports from it: a package, or a module that the root exports."""
    return (
        hasattr(module, "__path__")
        or any(
            getattr(root, name) is module
            for name in (root.__name__, *getattr(root, "__all__", []))
            if hasattr(root, name)
        )
        or module is root
    )


def submodules(package: ModuleType) -> list[ModuleType]:
    if not hasattr(package, "__path__"):
        return []
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    public = [name for name in sorted(names) if not re.search(r"\._", name)]
    return [importlib.import_module(name) for name in public]


def exported(module: ModuleType) -> list[str]:
    """The names that a package exports, without modules; its own names where it lists none."""
    names = sorted(getattr(module, "__all__", [])) or own_names(module)
    return [name for name in names if not isinstance(getattr(module, name), ModuleType)]


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


def section(module: ModuleType, names: list[str], level: str) -> Iterator[str]:
    head = f"{level} `{module.__name__}`\n\n```{{eval-rst}}\n"
    yield f"{head}.. currentmodule:: {module.__name__}\n"
    yield from (inspect.getdoc(module) or "").split("\n")
    yield ""
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value):
            yield f".. autoclass:: {module.__name__}.{name}\n   :members:\n"
        elif callable(value):
            yield f".. autofunction:: {module.__name__}.{name}\n"
        else:
            yield f".. py:data:: {name}\n   :type: {type(value).__name__}\n"
            yield from (f"   {line}" for line in contents(value))
            yield ""
    yield "```\n"


def contents(value: Any) -> Iterator[str]:
    """What a table or a constant holds."""
    if isinstance(value, dict):
        keys = [f"``{key!r}``" for key in value]
        more = [f"and {len(keys) - FEW} more"] if len(keys) > FEW else []
        yield f"Keys: {', '.join([*keys[:FEW], *more])}."
    elif isinstance(value, str | int | float | tuple):
        yield f"``{value!r}``"


def source_of(domain: str, info: dict[str, str]) -> str | None:
    """The address of the lines that define an object, for `sphinx.ext.linkcode`."""
    found: Any = sys.modules.get(info["module"])
    for part in info["fullname"].split("."):
        found = getattr(found, part, None)
    found = inspect.unwrap(found.fget if isinstance(found, property) and found.fget else found)
    try:
        file = inspect.getsourcefile(found)
        lines, first = inspect.getsourcelines(found)
    except (TypeError, OSError):
        return None
    if file is None or not file.startswith(f"{ROOT}/nodes_tutorial"):
        return None
    path = file.removeprefix(f"{ROOT}/")
    return f"{address().source(path)}#L{first}-L{first + len(lines) - 1}"


def setup(app: Sphinx) -> None:
    app.config.linkcode_resolve = source_of
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("source-read", expand)
