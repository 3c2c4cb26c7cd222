"""A link at each statement, equation and figure that reports an error in it.

It opens the form `.github/ISSUE_TEMPLATE/error-in-the-book.yml` of the repository, with the place
and the commit filled in. Statements get their permalink here, which their extension leaves out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from docutils import nodes
from sphinx.application import Sphinx

from .provenance import commit

FORM = "error-in-the-book.yml"
PERMALINK = re.compile(
    r'<a class="headerlink" href="#(?P<id>[^"]+)" title="Link to this (?:image|equation)">#</a>'
)
STATEMENT = re.compile(
    r'(<div class="proof \w+ admonition" id="(?P<id>[^"]+)">\s*'
    r'<p class="admonition-title">.*?)(</p>)',
    re.S,
)


def form(repository: str, page: str, anchor: str, short: str) -> str:
    """The address of the form, with its fields filled in."""
    place = f"{page}#{anchor}"
    fields = {"template": FORM, "title": f"Error in {anchor}", "place": place, "commit": short}
    return f"{repository}/issues/new?{urlencode(fields)}"


def with_links(body: str, repository: str, page: str, short: str) -> str:
    """The page's HTML with a link behind each permalink, and both behind each statement."""

    def report(anchor: str) -> str:
        address = form(repository, page, anchor, short).replace("&", "&amp;")
        name = f"Report an error in {anchor.removeprefix('equation-')}"
        flag = '<i class="fa-regular fa-flag" aria-hidden="true"></i>'
        names = f'title="{name}" aria-label="{name}"'
        return f'<a class="headerlink report" href="{address}" {names}>{flag}</a>'

    def permalink(anchor: str) -> str:
        return f'<a class="headerlink" href="#{anchor}" title="Link to this statement">#</a>'

    body = PERMALINK.sub(lambda m: m[0] + report(m["id"]), body)
    return STATEMENT.sub(lambda m: m[1] + permalink(m["id"]) + report(m["id"]) + m[3], body)


def add(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is not None and "body" in context:
        repository = app.config.html_theme_options["repository_url"]
        short, _ = commit(Path(app.srcdir))
        context["body"] = with_links(context["body"], repository, page, short)


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", add)
