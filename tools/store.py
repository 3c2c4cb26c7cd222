"""Executed notebooks, kept under `_build/executed` with a key and what they cost.

The key covers what can change a result: the code cells, the modules of the package that they reach
by their imports, the pins, the interpreter, torch as installed, and the data that is at hand. A
notebook whose key is unchanged is never executed again, neither by `make book` nor by `make test`.
"""

import hashlib
import json
import os
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import nbformat

from tools import closure, myst
from tools.project import BUILD, ROOT, Chapter

STORE = BUILD / "executed"


def notebook_path(chapter: Chapter) -> Path:
    return STORE / f"{chapter.slug}.ipynb"


def record_path(chapter: Chapter) -> Path:
    return STORE / f"{chapter.slug}.json"


def key(chapter: Chapter) -> str:
    """The digest of everything that the outputs of a chapter depend on."""
    return hashlib.sha256(f"{_environment()} {code_key(chapter)}".encode()).hexdigest()[:20]


def code_key(chapter: Chapter) -> str:
    """The digest of the code cells and of the modules that they reach, on any machine the same."""
    cells = [cell.source for cell in myst.cells(chapter.source) if cell.cell_type == "code"]
    digest = hashlib.sha256(closure.digest(closure.closure(cells)).encode())
    for cell in cells:
        digest.update(cell.encode() + b"\0")
    return digest.hexdigest()[:20]


def same_code(chapter: Chapter) -> bool:
    """Whether the reader notebook has the code cells of its chapter."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    ours, theirs = (
        [cell.source for cell in cells if cell.cell_type == "code"]
        for cells in (myst.cells(chapter.source), notebook.cells)
    )
    return ours == theirs


@lru_cache(maxsize=1)
def _environment() -> str:
    digest = hashlib.sha256(f"{sys.version_info[:2]} torch {version('torch')}".encode())
    digest.update((ROOT / "constraints.txt").read_bytes())
    data = os.environ.get("NODES_TUTORIAL_DATA")
    if data:
        for path in sorted(Path(data).rglob("*")):
            if path.is_file():
                name = path.relative_to(data).as_posix()
                digest.update(f"{name} {path.stat().st_size}".encode())
    return digest.hexdigest()


def record(chapter: Chapter) -> dict | None:
    """What the last execution cost, whether or not it is stale."""
    path = record_path(chapter)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def current(chapter: Chapter) -> dict | None:
    """The record of the execution of today's code, whether or not a check failed in it."""
    found = record(chapter)
    if found and found["key"] == key(chapter) and notebook_path(chapter).is_file():
        return found
    return None


def fresh(chapter: Chapter) -> dict | None:
    """The record of an execution that is still valid: of today's code, and without a failure."""
    found = current(chapter)
    return None if found and found.get("failures") else found


def fail(chapter: Chapter, error: str) -> dict:
    """Add a failure to the record of an execution."""
    entry = current(chapter)
    failure = {"cell": 0, "check": "", "got": "", "error": error}
    entry["failures"] = [*entry.get("failures", []), failure]
    record_path(chapter).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    return entry


def save(
    chapter: Chapter,
    notebook: nbformat.NotebookNode,
    cost: dict,
    digest: str,
    failures: list[dict] | None = None,
) -> dict:
    """Keep an execution; the record is written last, so a broken one does not count."""
    path = notebook_path(chapter)
    path.parent.mkdir(parents=True, exist_ok=True)
    record_path(chapter).unlink(missing_ok=True)
    nbformat.write(notebook, path)
    entry = {"key": digest, **cost, "failures": failures or []}
    record_path(chapter).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    return entry
