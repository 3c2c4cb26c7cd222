"""A PDF of each chapter beside the built site: `python -m tools.pdf [CHAPTER ...]`.

Chromium prints the pages, the one that tests the site. Each page gets a link to its PDF.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from tools import browser
from tools.project import Chapter, address, chapters

FOLDER = browser.HTML / "_pdf"
LIMIT = 60  # seconds a page
PLACE = re.compile(r'(<div class="neighbours">)(?:<p class="pdf">.*?</p>)?')


def link(chapter: Chapter) -> None:
    """Put the link to the PDF at the end of the chapter's page, once."""
    page = browser.HTML / f"{chapter.docname}.html"
    up = "../" * chapter.docname.count("/")
    name = chapter.docname.replace("/", "-")
    line = f'<p class="pdf"><a href="{up}_pdf/{name}.pdf">This chapter as a PDF</a></p>'
    text, count = PLACE.subn(lambda m: m[1] + line, page.read_text(encoding="utf-8"))
    if count != 1:
        raise RuntimeError(f"{page} has no place for the link")
    page.write_text(text, encoding="utf-8")


def main(names: Sequence[str]) -> None:
    wanted = [chapter for chapter in chapters() if not names or chapter.slug in names]
    if unknown := set(names) - {chapter.slug for chapter in wanted}:
        sys.exit(f"no chapter {', '.join(sorted(unknown))}; _toc.yml has the names")
    pages = [f"{chapter.docname}.html" for chapter in wanted]
    seconds = LIMIT * len(pages)
    ran = browser.node("pdf.mjs", address().site, str(FOLDER), *pages, seconds=seconds)
    if ran.returncode:
        sys.exit(ran.stderr)
    for chapter in wanted:
        link(chapter)


if __name__ == "__main__":
    main(sys.argv[1:])
