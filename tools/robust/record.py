"""`results/robust.json`: what each chapter did under each variant, and the spreads of findings."""

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tools import myst, store
from tools.project import ROOT, Chapter, chapters
from tools.robust.variants import VARIANTS

RECORD = ROOT / "results" / "robust.json"
TOOL = [Path(__file__).with_name(name) for name in ("prologue.py", "variants.py")]
LEAST = 10  # seeds behind a spread


def key(chapter: Chapter) -> str:
    """The digest of the cells, of what they reach, and of the tool."""
    digest = hashlib.sha256(store.code_key(chapter).encode())
    for path in TOOL:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def save(record: dict[str, Any]) -> None:
    """Write the whole record, chapters in reading order."""
    order = {chapter.slug: chapter.number for chapter in chapters()}
    kept = {slug: record[slug] for slug in sorted(record, key=lambda s: order[s]) if slug in order}
    partial = RECORD.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, RECORD)


def stale(chapter: Chapter, record: dict[str, Any]) -> list[str]:
    """Variants under which the chapter, as it is now, has not passed."""
    rows = record.get(chapter.slug, {}).get("variants", {})
    now = key(chapter)
    return [
        name
        for name in VARIANTS
        if rows.get(name, {}).get("key") != now or not rows[name].get("ok")
    ]


def assertions(chapter: Chapter) -> Iterator[tuple[str, ast.Compare, str]]:
    """The finding assertions of a page: label, comparison, and the source of the cell."""
    for cell in myst.cells(chapter.source):
        if cell.cell_type != "code" or '"obs-' not in cell.source:
            continue
        for node in ast.parse(store.closure.MAGIC.sub(r"\1pass", cell.source)).body:
            if isinstance(node, ast.Assert) and isinstance(node.msg, ast.Constant):
                if str(node.msg.value).startswith("obs-") and isinstance(node.test, ast.Compare):
                    yield node.msg.value, node.test, cell.source


def bounds(test: ast.Compare) -> tuple[str, list[tuple[float, float]]]:
    """The measured operand's source, and each bound with the sign +1 where it is a lower one."""
    operands = [test.left, *test.comparators]
    numbers = [_number(node) for node in operands]
    (place,) = [i for i, number in enumerate(numbers) if number is None]
    found = []
    for i, op in enumerate(test.ops):
        if place in (i, i + 1):
            other = numbers[i + 1 if place == i else i]
            above = isinstance(op, ast.Gt | ast.GtE) == (place == i)
            found.append((float(other), 1.0 if above else -1.0))
    return ast.unparse(operands[place])[:150], found


def unspread(chapter: Chapter, record: dict[str, Any]) -> bool:
    """Whether a finding of the page has not been measured with ten seeds."""
    findings = record.get(chapter.slug, {}).get("findings", {})
    return any(
        len(findings.get(label, {}).get(bounds(test)[0], [])) < LEAST
        for label, test, _ in assertions(chapter)
    )


def margins(chapter: Chapter, record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each finding: mean and spread of what is measured, and its distance in spreads."""
    findings = record.get(chapter.slug, {}).get("findings", {})
    found: dict[str, dict[str, float]] = {}
    for label, test, _ in assertions(chapter):
        side, limits = bounds(test)
        values = list(findings.get(label, {}).get(side, {}).values())
        if len(values) < LEAST:
            continue
        mean, spread = fmean(values), stdev(values)
        for bound, sign in limits:
            gap = sign * (mean - bound)
            margin = gap / spread if spread > 0 else float("inf") if gap > 0 else float("-inf")
            if label not in found or margin < found[label]["margin"]:
                found[label] = {
                    "mean": mean,
                    "spread": spread,
                    "bound": bound,
                    "margin": margin,
                    "seeds": len(values),
                }
    return found


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None
