"""`results/robust.json`: what each chapter did under each variant, and the spreads of findings."""

import ast
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tools import store
from tools.findings import EXACT, Assertion, assertions, number
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


def bounds(check: Assertion) -> tuple[str, list[tuple[float, float]]]:
    """The measured operand's source, and each bound with the sign +1 where it is a lower one."""
    test = ast.parse(check.text, mode="eval").body
    operands = [test.left, *test.comparators]
    numbers = [number(node) for node in operands]
    (place,) = [i for i, value in enumerate(numbers) if value is None]
    found = []
    for i, op in enumerate(test.ops):
        if place in (i, i + 1) and isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            other = numbers[i + 1 if place == i else i]
            lower = isinstance(op, ast.Gt | ast.GtE) == (place == i)
            found.append((other, 1.0 if lower else -1.0))
    return ast.unparse(operands[place])[:150], found


def checks(chapter: Chapter) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Label, measured operand and bounds of each finding assertion of a page."""
    for check in assertions(chapter.source):
        if not check.fault():
            yield check.label, *bounds(check)


def unspread(chapter: Chapter, record: dict[str, Any]) -> bool:
    """Whether a finding of the page has not been measured with ten seeds."""
    findings = record.get(chapter.slug, {}).get("findings", {})
    return any(
        len(findings.get(label, {}).get("values", {}).get(side, {})) < LEAST
        for label, side, limits in checks(chapter)
        if limits
    )


def summarize(chapter: Chapter, record: dict[str, Any]) -> None:
    """Drop what the page no longer asserts; give each finding its worst margin in spreads."""
    known = record.get(chapter.slug, {}).get("findings", {})
    fresh: dict[str, dict[str, Any]] = {}
    for label, side, limits in checks(chapter):
        values = known.get(label, {}).get("values", {}).get(side, {})
        if not values:
            continue
        entry = fresh.setdefault(label, {"values": {}})
        entry["values"][side] = values
        if len(values) < LEAST:
            continue
        mean, spread = fmean(values.values()), stdev(values.values())
        for bound, sign in limits:
            gap = sign * (mean - bound)
            margin = min(gap / spread, EXACT) if spread > 0 else math.copysign(EXACT, gap)
            if margin <= entry.get("margin", EXACT):
                entry |= {"mean": mean, "spread": spread, "bound": bound, "margin": margin}
    if chapter.slug in record:
        record[chapter.slug]["findings"] = fresh
