"""`python -m tools.robust [WORD ...]`: execute stale pairs of chapter and variant.

A WORD limits the chapters to those whose path contains it. What is executed is recorded at once in
`results/robust.json`, so a run that was stopped goes on where it was. The exit status is 1 when
something failed.
"""

import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from tools import store
from tools.project import Chapter, chapters
from tools.robust import record
from tools.robust.variants import MORE_SEEDS, VARIANTS, environment, fingerprint, same_as_base

PROLOGUE = Path(__file__).with_name("prologue.py").read_text(encoding="utf-8")
EPILOGUE = "import json as _json\nprint('ROBUST ' + _json.dumps(_ROBUST))"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SECONDS = 1200  # for a cell: a busy machine is no failure
THINNEST = 3  # assertions of a run that are kept, by the share of the gap
LOCK = threading.Lock()


def execute(chapter: Chapter, variant: str) -> dict[str, Any]:
    """Run the reader notebook; cells after a failure still run."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    new = nbformat.v4.new_code_cell
    notebook.cells = [new(PROLOGUE), *notebook.cells, new(EPILOGUE)]
    where = {"metadata": {"path": str(chapter.notebook.parent)}}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        allow_errors=True,
        resources=where,
        extra_arguments=["--log-level=40"],
    )
    began, errors, found = time.monotonic(), [], {}
    try:
        client.execute(env=environment(variant))
    except (CellTimeoutError, DeadKernelError) as error:
        errors.append(f"{type(error).__name__}: {error}"[-600:])
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = COLOUR.sub("", "\n".join(output.traceback))
                errors.append(f"cell {number - 1}: {trace[-600:]}")
    last = notebook.cells[-1].get("outputs", [])
    text = "".join(output.text for output in last if output.output_type == "stream")
    if text.startswith("ROBUST {"):  # one text may come in several pieces
        found = json.loads(text[7:])
    if not found:
        errors.append("the last cell was not reached")
    row = {"ok": not errors, "seconds": round(time.monotonic() - began), "errors": errors}
    return row | found


def run(chapter: Chapter, variant: str, kept: dict[str, Any]) -> bool:
    """Execute one pair and record it; true when it passed."""
    with LOCK:  # Python 3.11 does not parse in two threads at a time
        key = record.key(chapter)
    row = execute(chapter, variant)
    values = row.pop("findings", {})
    gaps = sorted(row.pop("gaps", {}).items(), key=lambda item: item[1])[:THINNEST]
    row["thinnest"] = {text: float(f"{share:.3g}") for text, share in gaps}
    entry = {"key": key, "machine": fingerprint(), **row}
    with LOCK:
        mine = kept.setdefault(chapter.slug, {"variants": {}, "findings": {}})
        if variant in VARIANTS:
            mine["variants"][variant] = entry
        if variant == "base" or variant.startswith("seeds"):
            for label, sides in values.items():
                known = mine["findings"].setdefault(label, {}).setdefault("values", {})
                for side, (value, _) in sides.items():
                    known.setdefault(side, {})[variant] = value
        record.summarize(chapter, kept)
        record.save(kept)
    thin = gaps[0] if gaps else ("no assertion", float("nan"))
    state = "ok" if row["ok"] else "FAILED"
    print(f"{variant:11} {chapter.slug:22} {state:7} {row['seconds']:4} s", end="  ")
    print(f"thinnest {thin[1]:.3g} {thin[0][:90]}", flush=True)
    for error in row["errors"]:
        print("    " + error.strip().splitlines()[-1][:160], flush=True)
    return row["ok"]


def skip(chapter: Chapter, variant: str, kept: dict[str, Any]) -> None:
    """Record that the variant is the base variant on this machine."""
    entry = {"key": record.key(chapter), "machine": fingerprint(), "ok": True, "same_as": "base"}
    kept.setdefault(chapter.slug, {"variants": {}, "findings": {}})["variants"][variant] = entry


def main(words: list[str]) -> int:
    kept = record.load()
    wanted = [c for c in chapters() if not words or any(word in c.slug for word in words)]
    pairs = []
    for chapter in wanted:
        if not store.same_code(chapter):
            print(f"{chapter.slug}: the notebook is not what its chapter makes: make notebooks")
            return 1
        record.summarize(chapter, kept)
        names = record.stale(chapter, kept)
        pairs += [(chapter, name) for name in names if not same_as_base(name)]
        for name in filter(same_as_base, names):
            skip(chapter, name, kept)
        if record.unspread(chapter, kept):
            pairs += [(chapter, name) for name in MORE_SEEDS]
    order = [*VARIANTS, *MORE_SEEDS]
    pairs.sort(key=lambda pair: order.index(pair[1]))  # a chapter that fails shows it early
    record.save(kept)
    print(f"{len(pairs)} pairs of chapter and variant to execute", flush=True)
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        passed = list(pool.map(lambda pair: run(*pair, kept), pairs))
    for chapter in wanted:
        for label, found in kept.get(chapter.slug, {}).get("findings", {}).items():
            if found.get("margin", 0) < 3:
                print(f"thin: {label} {found}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
