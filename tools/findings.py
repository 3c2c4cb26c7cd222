"""Findings: measured sentences in boxes, and the assertions that check them.

A finding is a `prf:observation` box with the label `obs-<chapter>-<name>`. A code cell of its page
checks it: `assert gap > 0.1, "obs-augmented-nfe"  # null: 0`. The null is the value that the one
operand which is no literal number would have if the sentence were false.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.myst import Directive, MarkupError, cells, walk
from tools.project import ROOT, Chapter

BOX = "prf:observation"
LABEL = re.compile(r"obs(-[a-z0-9]+){2,}")
NULL = re.compile(r"#\s*null:\s*([^\s,;]+)")
ORDER = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
EXACT = 1e6  # the margin of what no seed changes
RECORD = ROOT / "results" / "robust.json"


@dataclass(frozen=True)
class Assertion:
    """An assertion that bears the label of a finding."""

    label: str
    cell: int  # among all cells of the page
    line: int  # in the cell, from 1
    text: str  # the comparison
    null: str  # as it is written; empty if it is not
    top: bool  # whether it stands at the top level of its cell

    def holds_at_null(self) -> bool:
        """Whether the comparison is true when the measured operand has its null value.

        Raises:
            ValueError: it has another form than the module's docstring says.
        """
        where = f"{self.label}: assert {self.text}"
        if not LABEL.fullmatch(self.label):
            raise ValueError(f"{where}: the message is the label alone, obs-<chapter>-<name>")
        if not self.top:
            raise ValueError(f"{where}: must stand at the top level of its cell")
        try:
            null = float(self.null)
        except ValueError:
            raise ValueError(f"{where}: needs a comment `# null: NUMBER`") from None
        test = ast.parse(self.text, mode="eval").body
        if not isinstance(test, ast.Compare) or not all(type(op) in ORDER for op in test.ops):
            raise ValueError(f"{where}: must be one comparison, or one chain")
        operands = [number(operand) for operand in (test.left, *test.comparators)]
        if operands.count(None) != 1:
            raise ValueError(f"{where}: exactly one operand must be no literal number")
        values = [null if value is None else value for value in operands]
        return all(
            ORDER[type(op)](a, b) for op, a, b in zip(test.ops, values, values[1:], strict=False)
        )

    def fault(self) -> str:
        """What is wrong with the assertion; empty if nothing is."""
        try:
            holds = self.holds_at_null()
        except ValueError as error:
            return str(error)
        where = f"{self.label}: assert {self.text}"
        return f"{where}: is true at its null value {self.null}" if holds else ""


def number(node: ast.expr) -> float | None:
    """The value of a literal number, with its sign; None for anything else."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign = -1 if isinstance(node.op, ast.USub) else 1
        node = node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return sign * node.value
    return None


def boxes(path: Path) -> list[Directive]:
    """The findings of a page, in order."""
    found = []
    for cell in cells(path):
        if cell.cell_type == "markdown" and BOX in cell.source:
            items = walk(cell.source)
            found += [x for x in items if isinstance(x, Directive) and x.name == BOX]
    return found


def assertions(path: Path) -> list[Assertion]:
    """The assertions of a page that bear the label of a finding.

    Raises:
        MarkupError: a cell with a finding is no Python.
    """
    found: list[Assertion] = []
    for i, cell in enumerate(cells(path)):
        if cell.cell_type == "code" and "obs-" in cell.source:
            try:
                found += in_cell(cell.source, i)
            except SyntaxError as error:
                where = f"{path.name}, cell {i}, line {error.lineno}"
                raise MarkupError(f"{where}: {error.msg}: {error.text}") from error
    return found


def in_cell(source: str, cell: int = 0) -> list[Assertion]:
    """The assertions of one code cell that bear the label of a finding."""
    tree, lines = parsed(source), source.split("\n")
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        label = _message(node)
        if isinstance(node, ast.Assert) and label.startswith("obs-"):
            written = NULL.search("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            null = written[1] if written else ""
            text = ast.unparse(node.test)
            found.append(Assertion(label, cell, node.lineno, text, null, id(node) in top))
    return sorted(found, key=lambda assertion: assertion.line)


def _message(node: ast.AST) -> str:
    message = getattr(node, "msg", None)
    if isinstance(message, ast.JoinedStr) and message.values:
        message = message.values[0]
    return str(getattr(message, "value", ""))


def parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; IPython's own lines (`%pip`, `!ls`) count as `pass`."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M))


def label_fault(chapter: Chapter, label: str) -> str:
    """What is wrong with the label of a box; empty if nothing is."""
    words = chapter.slug.split("/")[-1].split("_")
    heads = [f"obs-{'-'.join(words[i:])}-" for i in range(len(words))]
    if LABEL.fullmatch(label) and label.startswith(tuple(heads)):
        return ""
    return f"{chapter.slug}: the label {label!r} of a finding is not {heads[0]}<name>"


def margins(path: Path = RECORD) -> dict[str, float]:
    """The worst margin of each finding in units of its spread, from the record of `make robust`."""
    if not path.is_file():
        return {}
    worst: dict[str, float] = {}
    for label, value in _recorded(json.loads(path.read_text(encoding="utf-8")), ""):
        worst[label] = min(value, worst.get(label, value))
    return worst


def _recorded(content: object, label: str) -> Iterator[tuple[str, float]]:
    """Every `margin` below a key that is a label."""
    if isinstance(content, list):
        for item in content:
            yield from _recorded(item, label)
    elif isinstance(content, dict):
        margin = content.get("margin")
        if label and isinstance(margin, int | float) and not isinstance(margin, bool):
            yield label, float(margin)
        for key, value in content.items():
            yield from _recorded(value, key if LABEL.fullmatch(key) else label)
