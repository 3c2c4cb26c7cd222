"""What a page shows: folded cells, folded boxes and solutions do not count."""

import re

import pytest

from tools import myst
from tools.notebooks import FOLDED
from tools.project import chapters

GATE = re.compile(r"^`{3,}\{(solution-start|solution-end)\}", re.M)


def shown(chapter) -> tuple[int, int]:
    """Lines of prose and of code that a reader meets without unfolding, empty lines aside."""
    prose = code = 0
    solution = False
    for cell in myst.cells(chapter.source):
        if cell.cell_type == "code":
            if not (solution or FOLDED & set(cell.metadata.get("tags", []))):
                code += len(lines(cell.source))
            continue
        for part in re.split(r"(?m)(?=^`{3,}\{solution-)", cell.source):
            found = GATE.match(part)
            solution = found[1] == "solution-start" if found else solution
            prose += 0 if solution else len(lines(part)) - len(folded(part))
    return prose, code


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def folded(text: str) -> list[str]:
    """The lines of boxes that are closed at first."""
    boxes = [item for item in myst.walk(text) if isinstance(item, myst.Directive)]
    return [
        line
        for box in boxes
        if "dropdown" in box.options.get("class", "")
        for line in lines(box.body)
    ]


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.slug)
def test_a_page_is_no_longer_than_a_reader_can_follow(chapter):
    prose, code = shown(chapter)
    assert prose + code <= 700, f"{prose} lines of prose and {code} of code: split it, or fold"
    assert code <= 400, f"{code} lines of code: fold what is bookkeeping"


def test_what_is_folded_does_not_count(tmp_path):
    page = tmp_path / "page.md"
    box = ":::{admonition} Aside\n:class: dropdown\n\nOne.\nTwo.\n:::\n"
    cell = "```{code-cell} ipython3\n:tags: [hide-input]\nx = 1\n```\n"
    seen = "```{code-cell} ipython3\nx = 2\n```\n"
    gate = "````{solution-start} ex\n````\n" + seen + "Told.\n\n````{solution-end}\n````\n"
    head = "---\nkernelspec:\n  name: python3\n---\n"
    page.write_text(head + "Three words here.\n\n" + box + cell + seen + gate)
    prose, code = shown(type("Page", (), {"source": page}))
    assert code == 1
    assert prose < 9
