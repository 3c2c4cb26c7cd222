"""What a page shows: folded cells, folded boxes and solutions do not count."""

import re
from collections.abc import Iterator

import pytest

from tools import myst
from tools.notebooks import FOLDED
from tools.project import chapters

GATE = re.compile(r"^`{3,}\{(solution-start|solution-end)\}", re.M)
ENDS = re.compile(r"(?<=[.!?])[)”]*\s+(?=[A-Z(“])")
ONE_WORD = {"math_inline", "math_inline_double", "myst_role", "code_inline"}
DISPLAYED = {"math_block", "math_block_label", "amsmath"}
WORD = "X"  # stands for a formula, a reference, or a piece of code


def shown(chapter) -> tuple[int, int]:
    """Lines of prose and of code that a reader meets without unfolding, empty lines aside."""
    texts, code = parts(chapter)
    prose = sum(len(lines(text)) - len(folded(text)) for text in texts)
    return prose, sum(len(lines(cell)) for cell in code)


def parts(chapter) -> tuple[list[str], list[str]]:
    """The texts and the open cells of code outside solutions."""
    texts, code = [], []
    solution = False
    for cell in myst.cells(chapter.source):
        if cell.cell_type == "code":
            closed = solution or FOLDED & set(cell.metadata.get("tags", []))
            code += [] if closed else [cell.source]
            continue
        for text in re.split(r"(?m)(?=^`{3,}\{solution-)", cell.source):
            found = GATE.match(text)
            solution = found[1] == "solution-start" if found else solution
            texts += [] if solution else [text]
    return texts, code


def open_paragraphs(chapter) -> list[str]:
    return [paragraph for text in parts(chapter)[0] for paragraph in paragraphs(text)]


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def folded(text: str) -> list[str]:
    """The lines of boxes that are closed at first."""
    boxes = [item for item in myst.walk(text) if isinstance(item, myst.Directive)]
    return [line for box in boxes if is_closed(box) for line in lines(box.body)]


def is_closed(box: myst.Directive) -> bool:
    return "dropdown" in box.options.get("class", "")


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, titles and cells of tables that are open; what is no word is one word."""
    for item in myst.parse(text):
        box = myst.directive(item)
        if box is None:
            if item.type == "inline":
                yield plain(item)
            elif item.type in DISPLAYED:
                yield WORD
        elif box.name == "math":
            yield WORD
        elif box.name not in myst.VERBATIM and not is_closed(box):
            yield from paragraphs(box.argument)
            yield from paragraphs(box.body)


def plain(inline) -> str:
    def of(token) -> str:
        if token.type in ONE_WORD:
            return WORD
        return " " if token.type in ("softbreak", "hardbreak") else token.content

    return "".join(of(token) for token in inline.children or [])


def words(text: str) -> int:
    """Words with a letter: the numbers of a table are none."""
    return sum(any(letter.isalpha() for letter in word) for word in text.split())


def long_sentences(chapter) -> list[str]:
    sentences = [s for text in open_paragraphs(chapter) for s in ENDS.split(text)]
    return [sentence for sentence in sentences if words(sentence) > 30]


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.slug)
def test_a_page_is_no_longer_than_a_reader_can_follow(chapter):
    prose, code = shown(chapter)
    assert prose + code <= 700, f"{prose} lines of prose and {code} of code: split it, or fold"
    assert code <= 300, f"{code} lines of code: fold what is bookkeeping"
    count = sum(map(words, open_paragraphs(chapter)))
    assert count <= 3500, f"{count} words: split it, or fold a detour"


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.slug)
def test_sentences_are_short(chapter):
    found = long_sentences(chapter)
    assert len(found) <= 5, "more than thirty words:\n" + "\n".join(found)


@pytest.fixture
def page(tmp_path):
    def write(text: str):
        path = tmp_path / "page.md"
        path.write_text("---\nkernelspec:\n  name: python3\n---\n" + text)
        return type("Page", (), {"source": path})

    return write


BOX = ":::{admonition} Aside\n:class: dropdown\n\nOne.\nTwo.\n:::\n"
GATED = "````{{solution-start}} ex\n````\n{}Told.\n\n````{{solution-end}}\n````\n"


def test_what_is_folded_does_not_count(page):
    cell = "```{code-cell} ipython3\n:tags: [hide-input]\nx = 1\n```\n"
    seen = "```{code-cell} ipython3\nx = 2\n```\n"
    prose, code = shown(page("Three words here.\n\n" + BOX + cell + seen + GATED.format(seen)))
    assert code == 1
    assert prose < 9


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Three words here.", 3),
        ("A *net* of $x^2 + y^2 = 1$, see {doc}`x y z` and `f(a, b)`.", 8),
        ("A sum\n\n$$\na + b\n$$ (eq-a-b)\n\nhere.", 4),
        ("| a | 1 |\n|---|---|\n| b c | 2.5 |", 3),
        (":::{prf:theorem} My title\n:label: thm-a-b\n\nAll is $x$.\n:::", 5),
        ("Open.\n\n" + BOX + "\n" + GATED.format("No word of this.\n\n"), 1),
        ("```{literalinclude} a/b.py\n:pyobject: C\n```\n\nCode.", 1),
    ],
)
def test_words(page, text, count):
    assert sum(map(words, open_paragraphs(page(text)))) == count


def test_a_long_sentence_is_found(page):
    thirty = " ".join(["word"] * 29)
    assert long_sentences(page(f"Go {thirty}. Go\n{thirty} $a$ (here).\n\n{BOX}")) == [
        f"Go {thirty} X (here)."
    ]
    assert long_sentences(page(f"Go {thirty}. X {thirty}.\n\n- Go {thirty}.")) == []
