"""MyST text as blocks: what markdown-it-py and myst-parser make of it, with line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import nbformat
import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from tools.project import ROOT

DIRECTIVE = re.compile(r"^\{(?P<name>[\w:-]+)\}\s*(?P<argument>.*)$", re.S)
OPTION = re.compile(r"^:(?P<key>[\w-]+):\s*(?P<value>.*)$")


class MarkupError(ValueError):
    """Markup that has no plain Markdown form."""


@dataclass
class Directive:
    """A fenced directive, taken apart."""

    name: str
    argument: str
    options: dict[str, str] = field(default_factory=dict)
    body: str = ""


@lru_cache(maxsize=1)
def parser() -> MarkdownIt:
    """The parser of the site, with the extensions that _config.yml enables."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    extensions = set(config["parse"]["myst_enable_extensions"])
    return create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)


def parse(text: str) -> list[Token]:
    return parser().parse(text)


def directive(token: Token) -> Directive | None:
    """The directive that a fence opens, or None for a listing."""
    if token.type not in ("fence", "colon_fence"):
        return None
    found = DIRECTIVE.match(token.info.strip())
    if not found:
        if token.type == "colon_fence":
            raise MarkupError(f"a colon fence that is no directive: {token.info!r}")
        return None
    options, lines = {}, token.content.split("\n")
    if lines and lines[0].strip() == "---":
        raise MarkupError("write options as `:key: value`, not between `---`")
    while lines and (option := OPTION.match(lines[0])):
        options[option["key"]] = option["value"].strip()
        lines.pop(0)
    body = "\n".join(lines).strip("\n")
    return Directive(found["name"], found["argument"].strip(), options, body)


def cells(path: Path) -> list[nbformat.NotebookNode]:
    """The cells of a chapter, as the site's own reader takes them apart."""
    return notebook(path).cells


def notebook(path: Path) -> nbformat.NotebookNode:
    return read_myst_markdown_notebook(path.read_text(encoding="utf-8"), path=path)


def walk(text: str) -> Iterator[Token | Directive]:
    """All tokens in document order; a directive is given and then entered."""
    for token in parse(text):
        found = directive(token)
        if found is None:
            yield token
            continue
        yield found
        if found.name not in VERBATIM:
            yield from walk(found.body)


VERBATIM = {"literalinclude", "code-block", "code", "math", "image"}
