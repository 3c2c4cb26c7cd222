"""Which test checks which statement: the `claim` marks, read from the tests' syntax trees."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClaimTest:
    """A test that is marked with the label of a statement."""

    path: str
    line: int
    name: str

    @property
    def node(self) -> str:
        return f"{self.path}::{self.name}"


def claim_tests(root: Path) -> dict[str, list[ClaimTest]]:
    """Labels and their tests, under `root/tests`."""
    found: dict[str, list[ClaimTest]] = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        where = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), where)
        for labels, function, name in _marked(tree, _assigned(tree), ""):
            for label in labels:
                found[label].append(ClaimTest(where, function.lineno, name))
    return dict(found)


def _marked(
    parent: ast.Module | ast.ClassDef, inherited: list[str], prefix: str
) -> Iterator[tuple[list[str], ast.FunctionDef, str]]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef):
            labels = inherited + _decorated(node) + _assigned(node)
            yield from _marked(node, labels, f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield inherited + _decorated(node), node, prefix + node.name


def _decorated(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    return [label for decorator in node.decorator_list for label in _labels(decorator)]


def _assigned(tree: ast.Module | ast.ClassDef) -> list[str]:
    """Labels in `pytestmark = pytest.mark.claim(...)`, alone or in a list."""
    labels = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            value = node.value
            marks = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
            labels += [label for mark in marks for label in _labels(mark)]
    return labels


def _labels(mark: ast.expr) -> list[str]:
    if not (
        isinstance(mark, ast.Call)
        and isinstance(mark.func, ast.Attribute)
        and mark.func.attr == "claim"
    ):
        return []
    return [
        argument.value
        for argument in mark.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
