"""What the site needs before Sphinx starts: `python -m tools.prepare [CHAPTER ...]`.

Executes the notebooks that are stale, on all cores; measures the claim tests when they or the
package changed; and puts the results where Sphinx reads them. A check that fails stops nothing
here: the page shows it, and `python -m tools.failures` lists it at the end. With names of chapters,
such as `ode/stability`, those alone are executed, and no claim test is run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

from tools import execution, failures, myst, store
from tools.project import BUILD, ROOT, Chapter, chapters

CACHE = BUILD / ".jupyter_cache"
CLAIMS = BUILD / "claims.json"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "logical"]
PYTEST += ["--dist", "worksteal"]


def execute(wanted: Sequence[Chapter]) -> None:
    """Run nbmake over the notebooks that have no valid result."""
    stale = [str(chapter.notebook) for chapter in wanted if not store.fresh(chapter)]
    print(f"notebooks: {len(stale)} of {len(wanted)} to execute", flush=True)
    if not stale:
        return
    timeout = f"--nbmake-timeout={execution.cell_timeout()}"
    command = [*PYTEST, "-v", "--no-header", "--nbmake", timeout, *stale]
    stop_unless(subprocess.run(command, cwd=ROOT, check=False).returncode, {0, 1})


def stop_unless(code: int, expected: set[int]) -> None:
    """End here when pytest itself failed, or was interrupted."""
    if code not in expected:
        sys.exit(code)


def claims_key() -> str:
    digest = hashlib.sha256()
    files = [
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "nodes_tutorial").rglob("*.py"),
        ROOT / "constraints.txt",
    ]
    for path in sorted(files):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure() -> None:
    """Run the claim tests and record the errors that they measure."""
    stamp, digest = CLAIMS.with_suffix(".key"), claims_key()
    if CLAIMS.is_file() and stamp.is_file() and stamp.read_text() == digest:
        print("claim tests: nothing changed", flush=True)
        return
    stamp.unlink(missing_ok=True)
    command = [*PYTEST, "-q", "-m", "claim", f"--record-claims={CLAIMS}", "tests"]
    print("claim tests:", flush=True)
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    stop_unless(code, {0, 1, 5})
    if code == 5:  # none is there yet
        CLAIMS.parent.mkdir(parents=True, exist_ok=True)
        CLAIMS.write_text("{}\n")
    if code != 1:
        stamp.write_text(digest)


def merged(chapter: Chapter) -> nbformat.NotebookNode:
    """The chapter as the site reads it, with the outputs of its executed notebook."""
    notebook = myst.notebook(chapter.source)
    if store.current(chapter) is None:
        return notebook
    executed = nbformat.read(store.notebook_path(chapter), as_version=4)
    ours = [cell for cell in notebook.cells if cell.cell_type == "code"]
    theirs = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, ran in zip(ours, theirs, strict=True):
        if cell.source != ran.source:
            raise RuntimeError(f"{chapter.slug}: the notebook's code is not the chapter's")
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return notebook


def publish() -> None:
    """Fill the cache that Sphinx reads: each page needs an entry, for Sphinx executes nothing."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(str(CACHE))
    for chapter in chapters():
        seconds = (store.current(chapter) or {"seconds": 0.0})["seconds"]
        bundle = CacheBundleIn(
            merged(chapter), str(chapter.source), data={"execution_seconds": seconds}
        )
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def main(names: Sequence[str]) -> None:
    wanted = [chapter for chapter in chapters() if not names or chapter.slug in names]
    if unknown := set(names) - {chapter.slug for chapter in wanted}:
        sys.exit(f"no chapter {', '.join(sorted(unknown))}; _toc.yml has the names")
    execute(wanted)
    if not names:
        measure()
    publish()
    failures.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
