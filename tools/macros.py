r"""TeX macros of `_config.yml`, written out: a notebook viewer knows no `\norm{x}`."""

from __future__ import annotations

import re
from functools import lru_cache

import yaml

from tools.myst import MarkupError
from tools.project import ROOT

Macro = tuple[str, int]


@lru_cache(maxsize=1)
def macros() -> dict[str, Macro]:
    """Name -> body and number of arguments."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    defined = config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]
    return {
        name: (body, 0) if isinstance(body, str) else (body[0], body[1])
        for name, body in defined.items()
    }


def expand(tex: str) -> str:
    """`tex` with every macro replaced by its body, innermost last, until none is left."""
    names = "|".join(sorted(map(re.escape, macros()), key=len, reverse=True))
    pattern = re.compile(rf"\\({names})(?![A-Za-z])")
    for _ in range(1000):
        found = pattern.search(tex)
        if not found:
            return tex
        body, count = macros()[found[1]]
        end, arguments = found.end(), []
        for _ in range(count):
            argument, end = _argument(tex, end)
            arguments.append(argument)
        for i, argument in enumerate(arguments, start=1):
            body = body.replace(f"#{i}", argument)
        tex = tex[: found.start()] + _closed(body, tex[end : end + 1]) + tex[end:]
    raise MarkupError(f"a macro that contains itself: {tex[:60]!r}")


def _closed(body: str, following: str) -> str:
    r"""Keep `\alpha` and a letter apart."""
    return body + " " if re.search(r"\\[A-Za-z]+$", body) and following.isalpha() else body


def _argument(tex: str, start: int) -> tuple[str, int]:
    while start < len(tex) and tex[start].isspace():
        start += 1
    if start == len(tex):
        raise MarkupError(f"a macro without its argument: {tex!r}")
    if tex[start] != "{":
        found = re.compile(r"\\[A-Za-z]+|\\.|.", re.S).match(tex, start)
        return found[0], found.end()
    depth = 0
    for i in range(start, len(tex)):
        if tex[i] in "{}" and tex[i - 1] != "\\":
            depth += 1 if tex[i] == "{" else -1
            if depth == 0:
                return tex[start + 1 : i], i + 1
    raise MarkupError(f"unbalanced braces: {tex!r}")
