"""The numbers of sections, equations, figures, statements and exercises.

Sphinx numbers them when it builds the site. Here they are counted from the text alone, so that a
reader notebook needs neither a build nor an execution; tests/site compares the two, label by label.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from markdown_it.token import Token

from tools.myst import Directive, MarkupError, cells, walk
from tools.project import Chapter, chapters

# the kinds that share one sequence, as `prf_realtyp_to_countertyp` of _config.yml has it
STATEMENTS = (
    "theorem",
    "proposition",
    "lemma",
    "corollary",
    "definition",
    "remark",
    "example",
    "observation",
)
NAMES = {"observation": "finding"}  # what a kind is called, where that is another word
COUNTED = {**{f"prf:{kind}": "theorem" for kind in STATEMENTS}, "prf:algorithm": "algorithm"}


@dataclass(frozen=True)
class Numbered:
    """Something with a label: what it is called, its number, and where it stands."""

    kind: str
    number: str
    docname: str
    anchor: str
    title: str = ""

    @property
    def name(self) -> str:
        return f"({self.number})" if self.kind == "Equation" else f"{self.kind} {self.number}"


@lru_cache(maxsize=1)
def labels() -> dict[str, Numbered]:
    """Every label of every chapter."""
    found: dict[str, Numbered] = {}
    for chapter in chapters():
        for label, entry in chapter_labels(chapter).items():
            if label in found:
                raise MarkupError(f"{chapter.docname}: the label {label} is also in {found[label]}")
            found[label] = entry
    return found


def chapter_labels(chapter: Chapter) -> dict[str, Numbered]:
    found: dict[str, Numbered] = {}
    counters: Counter[str] = Counter()
    sections = Sections(chapter.number)
    pending: list[str] = []  # targets `(label)=` wait for the heading after them

    def count(kind: str, counter: str, label: str | None, anchor: str = "") -> None:
        counters[counter] += 1
        if label:
            number = f"{chapter.number}.{counters[counter]}"
            found[label] = Numbered(kind, number, chapter.docname, anchor or label)

    for cell in cells(chapter.source):
        if cell.cell_type == "code":
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if "caption" in figure:
                count("Figure", "figure", figure.get("name"))
            continue
        heading = False
        for item in walk(cell.source):
            if isinstance(item, Directive):
                _count_directive(item, count)
            elif item.type == "myst_target":
                pending.append(item.content)
            elif item.type == "math_block_label":
                count("Equation", "equation", item.info, f"equation-{item.info}")
            elif item.type == "heading_open":
                heading, number = True, sections.enter(int(item.tag[1]))
            elif item.type == "inline" and heading:
                for label in pending:
                    title = _plain(item)
                    found[label] = Numbered("Section", number, chapter.docname, label, title)
                heading, pending = False, []
    if pending:
        raise MarkupError(f"{chapter.docname}: no heading follows the target {pending}")
    return found


class Sections:
    """Section numbers: `3`, `3.1`, `3.1.2`."""

    def __init__(self, chapter: int) -> None:
        self.stack = [chapter - 1]

    def enter(self, level: int) -> str:
        if level > len(self.stack) + 1:
            raise MarkupError(f"a heading of level {level} under level {len(self.stack)}")
        self.stack = self.stack[:level] + [0] * (level - len(self.stack))
        self.stack[-1] += 1
        return ".".join(map(str, self.stack))


def kind_of(directive: str) -> str:
    """What a numbered directive is called: `prf:theorem` -> `Theorem`."""
    kind = directive.removeprefix("prf:")
    return NAMES.get(kind, kind).capitalize()


def _count_directive(item: Directive, count) -> None:
    label, numbered = item.options.get("label"), "nonumber" not in item.options
    if item.name in COUNTED and numbered:
        count(kind_of(item.name), COUNTED[item.name], label)
    elif item.name == "exercise" and numbered:
        count("Exercise", "exercise", label)
    elif item.name == "figure" and item.body:
        count("Figure", "figure", item.options.get("name"))
    elif item.name == "math" and label:
        count("Equation", "equation", label, f"equation-{label}")
    elif item.name in ("literalinclude", "code-block") and "caption" in item.options:
        count("Listing", "listing", item.options.get("name"))


def _plain(inline: Token) -> str:
    return "".join(
        f"${child.content}$" if child.type == "math_inline" else child.content
        for child in inline.children or []
        if child.type in ("text", "code_inline", "math_inline", "softbreak")
    )
