"""After the pages are written: mend the theme's markup, forbid other hosts, add the CSP.

The repairs are regular expressions on the theme's HTML. They are held by the pinned version of
the theme and by the axe run of `tests/browser`, which fails when one stops matching.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'"
)
CHARSET = re.compile(r'(<meta charset="utf-8" ?/>)', re.I)
META = re.compile(r'\n?<meta http-equiv="Content-Security-Policy"[^>]*>')
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.S)
HANDLER = re.compile(r'<[a-z]+\b[^>]*\son[a-z]+="')
EXTERNAL = re.compile(
    r"<(?:script|img|iframe|video|source|audio|object|embed)\b[^>]*?"
    r'\b(?:src|data)="(?:https?:)?//[^"]+"[^>]*>|'
    r'<link\b(?=[^>]*\brel="(?:stylesheet|preload|icon|shortcut icon)")[^>]*?'
    r'\bhref="(?:https?:)?//[^"]+"[^>]*>',
    re.S,
)
# the toc extension's own redirect names neither its encoding nor its language
INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta http-equiv="refresh" content="0; url={page}" />
<link rel="canonical" href="{page}" />
<title>{title}</title>
</head>
<body><main><h1>{title}</h1><p><a href="{page}">To the book</a></p></main></body>
</html>
"""
REPAIRS = [
    # the visible text is the name; an aria-label that differs hides it from speech control
    (re.compile(r'(<summary) aria-label="Toggle hidden content"'), r"\1"),
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    (re.compile(r'(<button[^>]*theme-switch-button[^>]*?) aria-label="Color mode"'), r"\1"),
    (re.compile(r'(<summary)(><span class="toctree-toggle")'), r'\1 aria-label="Subpages"\2'),
    # roles that need a parent or children which are not there
    (re.compile(r'(<div class="citation"[^>]*?) role="doc-biblioentry"'), r"\1"),
    (re.compile(r'<div role="list" (class="citation-list")'), r"<div \1"),
    # a header cell says something
    (re.compile(r'<th class="head([^"]*)">\s*(?:<p></p>)?\s*</th>'), r'<td class="head\1"></td>'),
    # handlers in attributes are not allowed by the policy; book/_static/site.js binds these
    (re.compile(r'onclick="(window\.print|toggleFullScreen)\(\)"'), r'data-do="\1"'),
    # all content lies in a landmark
    (re.compile(r'(<div id="pst-primary-sidebar")'), r'\1 role="complementary" aria-label="Book"'),
]


def policy(page: str) -> str:
    """The meta element that allows this page's own inline scripts, by hash, and nothing else."""
    digests = {hashlib.sha256(m[1].encode()).digest() for m in INLINE_SCRIPT.finditer(page)}
    hashes = " ".join(sorted(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests))
    return f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(hashes=hashes)}">'


def finished(page: str) -> str:
    for pattern, replacement in REPAIRS:
        page = pattern.sub(replacement, page)
    page = META.sub("", page)
    return CHARSET.sub(lambda m: f"{m[1]}\n{policy(page)}", page, count=1)


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    index = Path(app.outdir) / "index.html"
    root = app.config.root_doc
    index.write_text(INDEX.format(title=escape(app.config.html_title), page=f"{root}.html"))
    for path in sorted(Path(app.outdir).rglob("*.html")):
        where = path.relative_to(app.outdir).as_posix()
        if where.startswith("_static/"):  # templates of the theme
            continue
        page = finished(path.read_text(encoding="utf-8"))
        for found in EXTERNAL.finditer(page):
            log.warning("%s asks another host: %s", where, found[0][:160])
        for found in HANDLER.finditer(page):
            log.warning("%s has an inline handler: %s", where, found[0][:160])
        if not META.search(page):
            log.warning("%s got no content-security policy", where)
        path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", finish, priority=900)
