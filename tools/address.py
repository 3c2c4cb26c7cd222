"""Write the repository's address wherever it stands: `python -m tools.address [--check]`.

`[project.urls]` of pyproject.toml is the one place. A fork changes it there and runs
`make address`; a test runs `--check`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.project import ROOT, address, chapters

INSTALL = """\
# In Colab only: install the package that the chapters use.
import sys

if "google.colab" in sys.modules:
    %pip install -q "nodes-tutorial @ git+{repository}@{branch}"
"""
# what stands around the address: the group is replaced
PLACES = {
    "_config.yml": [
        (r"^  url: (\S+)$", "repository"),
        (r"^  branch: (\S+)$", "branch"),
        (r"^  baseurl: (\S+)$", "site"),
    ],
    "book/intro.md": [
        (r"git\+(https://github\.com/[\w.-]+/[\w-]+)@", "repository"),
        (r"git clone (\S+)", "repository"),
        (r"colab\.research\.google\.com/github/([\w.-]+/[\w-]+)/", "slug"),
    ],
    "README.md": [
        (r"git\+(https://github\.com/[\w.-]+/[\w-]+)@", "repository"),
        (r"\]\((https://[\w.-]+\.github\.io/[\w-]+)", "site"),
        (r"colab\.research\.google\.com/github/([\w.-]+/[\w-]+)/", "slug"),
    ],
}
CELL = [(r"git\+(https://github\.com/[\w.-]+/[\w-]+)@", "repository")]


def install_cell() -> str:
    """The first code cell of every chapter."""
    return INSTALL.format(repository=address().repository, branch=address().branch)


def places() -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    for name, patterns in PLACES.items():
        yield ROOT / name, patterns
    for chapter in chapters():
        yield chapter.source, CELL


def rewritten(text: str, patterns: list[tuple[str, str]]) -> str:
    for pattern, key in patterns:
        value = getattr(address(), key)
        text, count = re.subn(pattern, lambda m, v=value: m[0].replace(m[1], v), text, flags=re.M)
        if not count:
            raise ValueError(f"nothing matches {pattern!r}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail when they differ")
    check = parser.parse_args().check
    differing = []
    for path, patterns in places():
        old = path.read_text(encoding="utf-8")
        try:
            new = rewritten(old, patterns)
        except ValueError as error:
            print(f"{path.relative_to(ROOT)}: {error}", file=sys.stderr)
            return 1
        if new != old:
            differing.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in differing:
        print("differs:" if check else "wrote", path.relative_to(ROOT))
    return int(bool(check and differing))


if __name__ == "__main__":
    sys.exit(main())
