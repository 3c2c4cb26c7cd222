"""Citations as links: the names and years of `book/references.bib`."""

from __future__ import annotations

from functools import lru_cache

from pybtex.database import BibliographyData, parse_file
from pybtex.richtext import Text

from tools.myst import MarkupError
from tools.project import ROOT, address


@lru_cache(maxsize=1)
def bibliography() -> BibliographyData:
    return parse_file(ROOT / "book" / "references.bib")


def cite(keys: str, style: str) -> str:
    """`Chen et al. (2018)` for the style `t`, `(Chen et al., 2018)` for `p`, linked."""
    links, wanted = [], [key.strip() for key in keys.split(",")]
    if unknown := [key for key in wanted if key not in bibliography().entries]:
        raise MarkupError(f"{', '.join(unknown)}: not in book/references.bib")
    for key in wanted:
        names, year = authors(key), bibliography().entries[key].fields["year"]
        text = f"{names} ({year})" if style == "t" else f"{names}, {year}"
        links.append(f"[{text}]({address().page('book/references', f'cite-{anchor(key)}')})")
    return ", ".join(links) if style == "t" else f"({'; '.join(links)})"


def anchor(key: str) -> str:
    return key.lower().replace("_", "-").replace(":", "-")


def authors(key: str) -> str:
    people = bibliography().entries[key].persons["author"]
    names = [str(Text.from_latex(" ".join(p.prelast_names + p.last_names))) for p in people]
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} et al."
