"""Block markup: directives, targets and display formulas, as plain Markdown."""

from __future__ import annotations

from types import SimpleNamespace

from markdown_it.token import Token
from sphinx.directives.code import LiteralIncludeReader

from tools.inline import Edits, edit_inline, image, relative
from tools.macros import expand
from tools.myst import Directive, MarkupError, directive, parse
from tools.numbering import COUNTED, Numbered, Sections, kind_of, labels
from tools.project import ROOT, Chapter, address

KEPT = {
    "paragraph_open",
    "paragraph_close",
    "heading_close",
    "bullet_list_open",
    "bullet_list_close",
    "ordered_list_open",
    "ordered_list_close",
    "list_item_open",
    "list_item_close",
    "blockquote_open",
    "blockquote_close",
    "table_open",
    "table_close",
    "thead_open",
    "thead_close",
    "tbody_open",
    "tbody_close",
    "tr_open",
    "tr_close",
    "th_open",
    "th_close",
    "td_open",
    "td_close",
    "hr",
    "code_block",
}
ADMONITIONS = {"note", "tip", "warning", "important", "seealso", "hint", "caution", "attention"}
GATES = {"solution-start", "solution-end", "exercise-start", "exercise-end"}


class Converter:
    """Converts the Markdown cells of one chapter, in order."""

    def __init__(self, chapter: Chapter) -> None:
        self.chapter = chapter
        self.sections = Sections(chapter.number)
        self.gate = ""  # the solution or exercise that is open

    def text(self, source: str, quoted: bool = False) -> str:
        edits = Edits(source)
        for token in parse(source):
            self._edit(token, edits, quoted)
        return edits.apply().strip("\n")

    def _edit(self, token: Token, edits: Edits, quoted: bool) -> None:
        found = directive(token)
        if found is not None:
            self._lines(token, edits, self.directive(found))
        elif token.type == "inline":
            edit_inline(token, edits, self.chapter)
        elif token.type == "heading_open":
            if quoted:
                raise MarkupError("a heading in a box")
            number = self.sections.enter(int(token.tag[1]))
            edits.enter(token.map[0])
            edits.replace(r"^#+\s|(?<=\n)#+\s", "#", f"{'#' * int(token.tag[1])} {number}. ")
        elif token.type in ("math_block", "math_block_label"):
            label = token.info if token.type == "math_block_label" else None
            self._lines(token, edits, self.display(token.content, label, quoted))
        elif token.type in ("myst_target", "myst_line_comment") or (
            token.type == "html_block" and token.content.startswith("<!--")
        ):
            self._lines(token, edits, "")
        elif token.type not in KEPT and token.type not in ("fence", "myst_block_break"):
            raise MarkupError(f"no plain form for {token.type}: {token.content[:60]!r}")

    def _lines(self, token: Token, edits: Edits, new: str) -> None:
        first, last = token.map
        lines = edits.text.split("\n")
        indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
        if lines[first].lstrip().startswith((">", "- ", "* ")):
            raise MarkupError(f"a block that opens on the line of a list or quote: {lines[first]}")
        while last > first + 1 and not lines[last - 1].strip():
            last -= 1
        edits.lines(first, last, "\n".join(f"{indent}{x}".rstrip() for x in new.split("\n")))

    def display(self, tex: str, label: str | None, quoted: bool) -> str:
        tex = expand(tex).strip("\n")
        tag = f"\\tag{{{labels()[label].number}}}" if label else ""
        if not quoted:
            return "\n".join(part for part in ("$$", tex, tag, "$$") if part)
        if "%" in tex.replace(r"\%", ""):
            raise MarkupError(f"a TeX comment in a box: {tex[:60]!r}")
        # on one line: viewers cut formulas out before they take quotes apart
        return f"$${' '.join(line.strip() for line in [*tex.split(chr(10)), tag] if line)}$$"

    def directive(self, item: Directive) -> str:
        name, label = item.name, item.options.get("label", "")
        if name in COUNTED or name == "exercise":
            return self._box(self._heading(item, label), item.body)
        if name == "prf:proof":
            return f"*Proof.* {self.text(item.body)} ∎"
        if name == "solution":
            title = f"Solution to {labels()[item.argument].name}"
            body = self.text(item.body, quoted=True)
            return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
        if name in GATES:
            return self._gate(item)
        if name in ADMONITIONS or name == "admonition":
            head = item.argument if name == "admonition" else name.capitalize()
            body = item.body
            if name != "admonition" and item.argument:  # the first line of the text
                body = f"{item.argument}\n{body}"
            head = {"Seealso": "See also"}.get(head, head)
            return self._box(f"**{self.text(head)}.**", body)
        if name in ("code-block", "code"):
            return f"```{item.argument}\n{item.body}\n```"
        if name == "math":
            return self.display(item.body, label or None, quoted=False)
        if name == "literalinclude":
            return self._listing(item)
        if name in ("figure", "image"):
            alt = item.options.get("alt", "")
            picture = f"![{alt}]({image(item.argument, self.chapter)})"
            if not item.body:
                return picture
            return f"{picture}\n\n{self.caption(item.options.get('name', ''), item.body)}"
        raise MarkupError(f"no plain form for the directive {name!r}")

    def caption(self, label: str, text: str) -> str:
        entry = labels().get(label)
        head = f"**{_link(entry, f'Fig. {entry.number}')}.** " if entry else ""
        return head + self.text(text)

    def _heading(self, item: Directive, label: str) -> str:
        if item.name == "prf:observation" and not label:
            raise MarkupError("a finding without a label")
        known = labels().get(label)
        head = _link(known, known.name) if known else kind_of(item.name)
        title = f" ({self.text(item.argument)})" if item.argument else ""
        return f"**{head}{title}.**"

    def _box(self, head: str, body: str) -> str:
        text = f"{head} {self.text(body, quoted=True)}"
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    def _gate(self, item: Directive) -> str:
        if item.name.endswith("-end"):
            if not self.gate:
                raise MarkupError(f"{item.name} without its start")
            end = "*End of the solution.*" if self.gate == "solution" else ""
            self.gate = ""
            return end
        self.gate = item.name.removesuffix("-start")
        if self.gate == "exercise":
            return f"{self._heading(item, item.options.get('label', ''))} {self.text(item.body)}"
        entry = labels()[item.argument]
        head = f"**Solution to {_link(entry, entry.name)}.**"
        return f"{head}\n\n{self.text(item.body)}".rstrip()

    def _listing(self, item: Directive) -> str:
        path = relative(item.argument, self.chapter)
        config = SimpleNamespace(source_encoding="utf-8-sig")
        options = {k: v for k, v in item.options.items() if k not in ("caption", "name")}
        if "dedent" in options:
            options["dedent"] = int(options["dedent"]) if options["dedent"] else None
        code, _ = LiteralIncludeReader(str(ROOT / path), options, config).read()
        what = f", `{options['pyobject']}`" if "pyobject" in options else ""
        source = f"From the package: [`{path}`]({address().source(path)}){what}."
        caption = self.text(item.options.get("caption", ""))
        language = item.options.get("language", "python")
        return f"{caption} {source}".strip() + f"\n\n```{language}\n{code.strip(chr(10))}\n```"


def _link(entry: Numbered, text: str) -> str:
    return f"[{text}]({address().page(entry.docname, entry.anchor)})"
