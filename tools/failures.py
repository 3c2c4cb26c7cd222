"""What failed while the book was made: `python -m tools.failures` lists it, and then fails.

`tools.prepare` writes the list before Sphinx starts, so that a page can show what failed on it.
"""

from __future__ import annotations

import json
import sys

from tools import store
from tools.project import BUILD, chapters

LIST = BUILD / "failures.json"
FAILED_CLAIMS = BUILD / "claims_failed.json"


def line(failure: dict) -> str:
    """One failure of a notebook, in a line."""
    parts = [f"code cell {failure['cell']}"] if failure["cell"] else []
    parts += [failure["check"]] if failure["check"] else []
    parts += [f"got {failure['got']}"] if failure["got"] else []
    return ": ".join([*parts, failure["error"]])


def collect() -> dict[str, dict]:
    """Failures by page, and failed claim tests by their name; kept for Sphinx and the end."""
    pages = {}
    for chapter in chapters():
        found = store.current(chapter)
        if found is None:
            missing = {"cell": 0, "check": "", "got": "", "error": "was not executed"}
            pages[chapter.docname] = [missing]
        elif found.get("failures"):
            pages[chapter.docname] = found["failures"]
    tests = {}
    if FAILED_CLAIMS.is_file():
        tests = json.loads(FAILED_CLAIMS.read_text(encoding="utf-8"))
    failed = {"pages": pages, "tests": tests}
    LIST.parent.mkdir(parents=True, exist_ok=True)
    LIST.write_text(json.dumps(failed, indent=1) + "\n", encoding="utf-8")
    return failed


def main() -> int:
    failed = json.loads(LIST.read_text(encoding="utf-8"))
    if not failed["pages"] and not failed["tests"]:
        return 0
    print("\nThe site is built, and these checks failed:")
    for page, found in failed["pages"].items():
        for failure in found:
            print(f"  {page}.md, {line(failure)}")
    for test, error in failed["tests"].items():
        print(f"  {test}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
