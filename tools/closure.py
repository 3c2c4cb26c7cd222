"""The modules of the package that a piece of code may run, and a digest of them.

From `from nodes_tutorial.ode import odeint` the name is followed to the module that defines it, and
from there on through that module's own imports. The `__init__` files on the way count only where a
name is defined in them. Comments and docstrings do not change what a module does, so they are not
in the digest.
"""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from tools.project import ROOT

PACKAGE = "nodes_tutorial"
MAGIC = re.compile(r"^(\s*)[%!].*$", re.M)


def closure(cells: Iterable[str], root: Path = ROOT) -> list[Path]:
    """The files of the package that code cells reach by their imports, sorted."""
    finder = _Finder(root)
    for cell in cells:
        finder.follow(ast.parse(MAGIC.sub(r"\1pass", cell)))
    return sorted(finder.found)


def digest(paths: Iterable[Path], root: Path = ROOT) -> str:
    """A digest of what the code of these files does."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(_bare(path, path.stat().st_mtime_ns).encode() + b"\0")
    return total.hexdigest()


@lru_cache(maxsize=1024)
def _bare(path: Path, modified: int) -> str:
    """The source without comments, docstrings and empty lines."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                for row in range(first.lineno - 1, first.end_lineno):
                    lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


class _Finder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: set[Path] = set()

    def path(self, module: str) -> Path | None:
        """The file of a module or package; None where there is none."""
        base = self.root / module.replace(".", "/")
        candidates = (base.with_suffix(".py"), base / "__init__.py")
        return next((path for path in candidates if path.is_file()), None)

    def follow(self, tree: ast.AST) -> None:
        """Add what the imports of a piece of code reach."""
        for module, name in _imports(tree):
            if name is None:
                self.add(module)
            else:
                self.resolve(module, name)

    def add(self, module: str) -> None:
        """Add a module with all that it imports."""
        path = self.path(module)
        if path is None:
            raise ModuleNotFoundError(f"no module {module!r} below {self.root}")
        if path not in self.found:
            self.found.add(path)
            self.follow(ast.parse(path.read_text(encoding="utf-8")))

    def resolve(self, module: str, name: str) -> None:
        """Add the module that defines a name, which may itself be a module."""
        path = self.path(module)
        origin = None
        if path is not None and path.name == "__init__.py":
            origin = _origins(path, path.stat().st_mtime_ns).get(name)
        if origin is not None and origin != (module, name):
            self.resolve(*origin)
        elif self.path(f"{module}.{name}") is not None:
            self.add(f"{module}.{name}")
        else:
            self.add(module)


def _imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Modules of the package that a tree imports, with the name taken from each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name, None
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module.split(".")[0] == PACKAGE:
                for alias in node.names:
                    yield module, alias.name


@lru_cache(maxsize=128)
def _origins(path: Path, modified: int) -> dict[str, tuple[str, str]]:
    """Where the names that a package's `__init__` imports come from."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
    return found
