"""What the site needs before Sphinx starts: `python -m tools.prepare`.

Executes the notebooks that are stale, on all cores; measures the claim tests when they or the
package changed; and puts the results where Sphinx reads them.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

from tools import myst, store
from tools.project import BUILD, ROOT, Chapter, chapters

CACHE = BUILD / ".jupyter_cache"
CLAIMS = BUILD / "claims.json"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "logical"]
PYTEST += ["--dist", "worksteal"]


def execute() -> int:
    """Run nbmake over the notebooks that have no valid result."""
    stale = [str(chapter.notebook) for chapter in chapters() if not store.fresh(chapter)]
    print(f"notebooks: {len(stale)} of {len(chapters())} to execute", flush=True)
    if not stale:
        return 0
    command = [*PYTEST, "-v", "--no-header", "--nbmake", "--nbmake-timeout=120", *stale]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


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


def measure() -> int:
    """Run the claim tests and record the errors that they measure."""
    stamp, digest = CLAIMS.with_suffix(".key"), claims_key()
    if CLAIMS.is_file() and stamp.is_file() and stamp.read_text() == digest:
        print("claim tests: nothing changed", flush=True)
        return 0
    stamp.unlink(missing_ok=True)
    command = [*PYTEST, "-q", "-m", "claim", f"--record-claims={CLAIMS}", "tests"]
    print("claim tests:", flush=True)
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code == 5:  # none is there yet
        CLAIMS.parent.mkdir(parents=True, exist_ok=True)
        CLAIMS.write_text("{}\n")
        code = 0
    if code == 0:
        stamp.write_text(digest)
    return code


def merged(chapter: Chapter) -> nbformat.NotebookNode:
    """The chapter as the site reads it, with the outputs of its executed notebook."""
    notebook = myst.notebook(chapter.source)
    executed = nbformat.read(store.notebook_path(chapter), as_version=4)
    ours = [cell for cell in notebook.cells if cell.cell_type == "code"]
    theirs = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, ran in zip(ours, theirs, strict=True):
        if cell.source != ran.source:
            raise RuntimeError(f"{chapter.slug}: the notebook's code is not the chapter's")
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return notebook


def publish() -> None:
    """Fill the cache that Sphinx reads, with valid results and nothing else."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(str(CACHE))
    for chapter in chapters():
        found = store.fresh(chapter)
        if found is None:
            raise RuntimeError(f"{chapter.slug} has not been executed")
        bundle = CacheBundleIn(
            merged(chapter), str(chapter.source), data={"execution_seconds": found["seconds"]}
        )
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def main() -> int:
    if code := execute() or measure():
        return code
    publish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
