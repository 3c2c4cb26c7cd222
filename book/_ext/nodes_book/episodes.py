"""The table of prototype networks, from `results/few_shot.json`."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tools.project import ROOT

Row = list[str]
PUBLISHED = json.loads((ROOT / "results" / "published.json").read_text(encoding="utf-8"))
PARTS = {"full": "1,200 characters", "no_latin": "all but Latin", "small": "216 characters"}
TESTS = ((5, 1), (5, 5), (20, 1), (20, 5))


def few_shot(root: Path) -> list[Row]:
    """One line a training and a test: what was learned, pixels, and the published number."""
    known = PUBLISHED["few_shot"]["rows"]
    table = [
        [
            "trained on",
            "updates",
            "tested on",
            "ways, shots",
            "accuracy in %",
            "pixels",
            "published",
        ]
    ]
    path = root / "results" / "few_shot.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    for part, name in PARTS.items():
        mine = [row for row in rows if row["part"] == part]
        if not mine and part == "full":
            lines = [[f"{w}, {s}", "not run", "", known[f"{w}, {s}"]] for w, s in TESTS]
            table += [[name, "", "held out", *line] for line in lines]
        for updates in sorted({row["episodes"] for row in mine}):
            table += _lines(name, part, [r for r in mine if r["episodes"] == updates], known)
    return table


def _lines(name: str, part: str, rows: list[dict[str, Any]], known: dict[str, str]) -> list[Row]:
    found = []
    for k, test in enumerate(rows[0]["tests"]):
        shares = [100 * row["tests"][k]["accuracy"] for row in rows]
        spread = f" ±\N{NO-BREAK SPACE}{stdev(shares):.1f}" if len(shares) > 1 else ""
        shape = f"{test['ways']}, {test['shots']}"
        there = known[shape] if part == "full" else ""
        accuracy = f"{fmean(shares):.1f}{spread} ({len(shares)})"
        pixels = f"{100 * test['pixels']:.1f}"
        found.append(
            [name, f"{rows[0]['episodes']:,}", test["data"], shape, accuracy, pixels, there]
        )
    return found
