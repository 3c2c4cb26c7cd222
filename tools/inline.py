"""Inline markup: roles, links and formulas, as plain Markdown with links to the site."""

from __future__ import annotations

import itertools
import os.path
import re

from markdown_it.token import Token

from tools import citations
from tools.macros import expand
from tools.myst import MarkupError, cells, parse
from tools.numbering import _plain, labels
from tools.project import ROOT, Chapter, address

PLAIN = {
    "text",
    "text_special",
    "softbreak",
    "hardbreak",
    "em_open",
    "em_close",
    "strong_open",
    "strong_close",
    "link_close",
}
EXPLICIT = re.compile(r"^(?P<text>.*?)\s*<(?P<target>[^<>]+)>$", re.S)
PYTHON = {"py:func", "py:class", "py:meth", "py:mod", "py:attr", "py:data", "py:obj", "py:exc"}


class Edits:
    """Replacements in a text, found in document order."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0]
        for line in text.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.cursor = 0
        self.changes: list[tuple[int, int, str]] = []

    def enter(self, line: int) -> None:
        self.cursor = max(self.cursor, self.starts[line])

    def find(self, pattern: str, what: str) -> re.Match[str]:
        found = re.compile(pattern, re.S).search(self.text, self.cursor)
        if not found:
            raise MarkupError(f"cannot find {what!r} in {self.text[self.cursor :][:80]!r}")
        self.cursor = found.end()
        return found

    def replace(self, pattern: str, what: str, new: str) -> None:
        found = self.find(pattern, what)
        self.changes.append((found.start(), found.end(), new))

    def lines(self, first: int, last: int, new: str) -> None:
        """Replace the lines from `first` up to, and without, `last`."""
        end = min(self.starts[last] - 1, len(self.text))
        self.changes.append((self.starts[first], max(end, self.starts[first]), new))
        self.cursor = max(self.cursor, end)

    def apply(self) -> str:
        text = self.text
        for start, end, new in sorted(self.changes, reverse=True):
            text = text[:start] + new + text[end:]
        return text


def edit_inline(token: Token, edits: Edits, chapter: Chapter) -> None:
    """Record what changes in one inline token."""
    edits.enter(token.map[0])
    for i, child in enumerate(token.children or []):
        if child.type in PLAIN:
            continue
        if child.type == "code_inline":
            edits.find(loose(child.content), child.content)
        elif child.type in ("math_inline", "math_inline_double"):
            tex = " ".join(expand(child.content).split("\n"))
            fence = re.escape("$" if child.type == "math_inline" else "$$")
            dollars = fence.replace("\\", "")
            in_table = dollars + tex + dollars
            if "|" in child.content and _is_row(edits):
                in_table = in_table.replace("|", r"\|")
            edits.replace(fence + loose(child.content) + fence, child.content, in_table)
        elif child.type == "myst_role":
            name = child.meta["name"]
            pattern = rf"\{{{re.escape(name)}\}}(`+)\s*{loose(child.content.strip())}\s*\1"
            edits.replace(pattern, child.content, role(name, child.content.strip(), chapter))
        elif child.type == "link_open":
            href = str(child.attrGet("href"))
            if token.children[i + 1].type == "link_close":
                raise MarkupError(f"a link without text: {href!r}")
            edits.replace(rf"\]\(<?{re.escape(href)}>?", href, "](" + link(href, chapter))
        elif child.type == "image":
            href = str(child.attrGet("src"))
            edits.replace(rf"\]\({re.escape(href)}", href, "](" + image(href, chapter))
        elif child.type == "html_inline" and child.content.startswith("<!--"):
            edits.replace(re.escape(child.content), child.content, "")
        else:
            raise MarkupError(f"no plain form for {child.type} {child.content!r}")


def _is_row(edits: Edits) -> bool:
    start = edits.text.rfind("\n", 0, edits.cursor) + 1
    return edits.text[start:].lstrip().startswith("|")


def loose(content: str) -> str:
    """A pattern for `content` in the source, where a line may break or a bar be escaped."""
    words = [re.escape(word) for word in re.split(r"\s+", content)]
    return r"\s+(?:>\s*)?".join(words).replace(r"\|", r"\\?\|")


def role(name: str, content: str, chapter: Chapter) -> str:
    found = EXPLICIT.match(content)
    text, target = (found["text"], found["target"]) if found else ("", content)
    if name in ("eq", "prf:ref", "numref", "ref"):
        return reference(name, text, target)
    if name in ("cite:t", "cite:p", "cite"):
        return citations.cite(target, name[-1] if name[-1] in "tp" else "p")
    if name == "doc":
        docname = resolve(target, chapter)
        return f"[{text or title(docname)}]({address().page(docname)})"
    if name in PYTHON:
        full = target.lstrip("~")
        shown = text or (full.split(".")[-1] if target.startswith("~") else full)
        return f"[`{shown}`]({address().page(api_page(full), full)})"
    if name == "math":
        return f"${expand(content)}$"
    raise MarkupError(f"no plain form for the role {name!r}")


def reference(role_name: str, text: str, target: str) -> str:
    if target not in labels():
        raise MarkupError(f"no chapter has the label {target!r}")
    entry = labels()[target]
    shown = entry.name
    if role_name == "numref" and text:
        shown = text.replace("%s", entry.number).replace("{number}", entry.number)
    elif text:
        shown = text
    elif entry.kind == "Section" and role_name == "ref":
        shown = re.sub(r"\$(.*?)\$", lambda m: f"${expand(m[1])}$", entry.title)
    elif entry.kind == "Figure":
        shown = f"Fig. {entry.number}"
    return f"[{shown}]({address().page(entry.docname, entry.anchor)})"


def link(href: str, chapter: Chapter) -> str:
    if re.match(r"[a-z]+://|mailto:", href):
        return href
    path, _, anchor = href.partition("#")
    if not path:
        if anchor in labels():
            entry = labels()[anchor]
            return address().page(entry.docname, entry.anchor)
        raise MarkupError(f"no chapter has the label {anchor!r}")
    if path.endswith(".md"):
        return address().page(resolve(path.removesuffix(".md"), chapter), anchor)
    return address().source(relative(path, chapter))


def image(href: str, chapter: Chapter) -> str:
    return href if "://" in href else address().raw(relative(href, chapter))


def relative(path: str, chapter: Chapter) -> str:
    """A path written in the chapter, from the repository's root; it must exist."""
    folder = os.path.dirname(chapter.docname)
    joined = path.lstrip("/") if path.startswith("/") else os.path.join(folder, path)
    found = os.path.normpath(joined)
    if not (ROOT / found).exists():
        raise MarkupError(f"there is no {found}")
    return found


def resolve(target: str, chapter: Chapter) -> str:
    return relative(f"{target.removesuffix('.md')}.md", chapter).removesuffix(".md")


def title(docname: str) -> str:
    for cell in cells(ROOT / f"{docname}.md"):
        tokens = parse(cell.source) if cell.cell_type == "markdown" else []
        for before, token in itertools.pairwise(tokens):
            if before.type == "heading_open" and before.tag == "h1":
                return _plain(token)
    raise MarkupError(f"{docname} has no title")


def api_page(full: str) -> str:
    """The page of the API reference that holds an object of the package."""
    second = full.split(".")[1] if "." in full else ""
    page = f"book/api/{second}"
    return page if (ROOT / f"{page}.md").is_file() else "book/api/shared"
