"""Tables of `results/robust.json`: chapter by variant, and the assertions with the least room."""

import json
from pathlib import Path
from typing import Any

Row = list[str]
SHOWN = 25


def robust(root: Path) -> list[Row]:
    """One line a chapter: whether it passed under each variant."""
    record = _read(root)
    names = list(dict.fromkeys(name for entry in record.values() for name in entry["variants"]))
    table = [["chapter", *names]]
    for slug, entry in record.items():
        table.append([slug, *(_state(entry["variants"].get(name)) for name in names)])
    return table if record else [["chapter", "variant"], ["", "not run"]]


def thin(root: Path) -> list[Row]:
    """The findings with the least margin, in spreads over ten seeds."""
    found = [
        (finding["margin"], label, finding)
        for entry in _read(root).values()
        for label, finding in entry["findings"].items()
        if "margin" in finding
    ]
    table = [["finding", "mean over ten seeds", "spread", "bound", "margin in spreads"]]
    for margin, label, finding in sorted(found, key=lambda item: item[:2])[:SHOWN]:
        numbers = [f"{finding[name]:.3g}" for name in ("mean", "spread", "bound")]
        table.append([label, *numbers, f"{margin:.1f}"])
    return table if found else [table[0], ["", "not run", "", "", ""]]


def _state(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row.get("same_as"):
        return f"as {row['same_as']}"
    return "passed" if row["ok"] else "failed"


def _read(root: Path) -> dict[str, dict[str, Any]]:
    path = root / "results" / "robust.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
