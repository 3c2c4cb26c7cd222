"""Make the reader notebooks: `python -m tools.notebooks [--check]`.

`book/<part>/<chapter>.md` becomes `notebooks/<part>/<chapter>.ipynb`: the same code cells, plain
Markdown, no outputs. Numbers are those of the site, references are links to it. Markup without a
plain form is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import sys

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import myst
from tools.address import install_cell
from tools.blocks import Converter
from tools.project import ROOT, Chapter, address, chapters

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
FOLDED = {"hide-input", "hide-cell", "remove-input"}


def make(chapter: Chapter) -> nbformat.NotebookNode:
    """The reader notebook of a chapter."""
    converter = Converter(chapter)
    source = chapter.source.relative_to(ROOT).as_posix()
    site = address().page(chapter.docname)
    made = [
        new_markdown_cell(
            f"*This notebook is made from [`{source}`]({address().source(source)}). "
            f"[The page of the book]({site}) has its figures and results.*"
        )
    ]
    failed = []
    for i, cell in enumerate(myst.cells(chapter.source)):
        try:
            made += _convert(cell, converter)
        except (ValueError, KeyError) as error:
            failed.append(f"{source}, cell {i} ({cell.source[:30]!r}...): {error}")
    if converter.gate:
        failed.append(f"{source}: the {converter.gate} is never ended")
    if failed:
        raise myst.MarkupError("\n".join(failed))
    for i, cell in enumerate(made):
        digest = hashlib.sha256(f"{chapter.slug}\0{i}\0{cell.source}".encode())
        cell.id = digest.hexdigest()[:8]
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook = new_notebook(cells=made, metadata=metadata)
    nbformat.validate(notebook)
    return notebook


def _convert(cell: nbformat.NotebookNode, converter: Converter) -> list[nbformat.NotebookNode]:
    if cell.cell_type == "markdown":
        text = converter.text(cell.source)
        return [new_markdown_cell(text)] if text else []
    tags = cell.metadata.get("tags", [])
    metadata = {"tags": list(tags)} if tags else {}
    if converter.gate == "solution" or FOLDED & set(tags):
        metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    made = [new_code_cell(cell.source, metadata=metadata)]
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if "caption" in figure:
        made.append(new_markdown_cell(converter.caption(figure.get("name", ""), figure["caption"])))
    return made


def written(notebook: nbformat.NotebookNode) -> str:
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT, ensure_ascii=False) + "\n"


def problems(chapter: Chapter) -> list[str]:
    """What keeps a chapter from being read as a notebook."""
    cells = myst.cells(chapter.source)
    first = next((cell.source for cell in cells if cell.cell_type == "code"), "")
    if first.strip() != install_cell().strip():
        return [f"{chapter.docname}: the first code cell is not that of tools/address.py"]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    check = parser.parse_args().check
    expected = {chapter.notebook: chapter for chapter in chapters()}
    stale, failed = [], []
    for path, chapter in expected.items():
        try:
            failed += problems(chapter)
            text = written(make(chapter))
        except myst.MarkupError as error:
            failed.append(str(error))
            continue
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if path not in expected and ".ipynb_checkpoints" not in path.parts:
            stale.append(path)
            if not check:
                path.unlink()
    for path in stale:
        verb = "stale:" if check else "wrote" if path in expected else "removed"
        print(verb, path.relative_to(ROOT))
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return int(bool(failed or (check and stale)))


if __name__ == "__main__":
    sys.exit(main())
