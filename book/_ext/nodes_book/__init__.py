"""The book's own Sphinx extension.

A site that asks nothing of another host (`offline`), passes an accessibility check and carries a
content-security policy (`finish`), whose numbered statements name the tests that check them
(`claims`), whose tables of long runs come from their records (`results`), and whose pages say what
they were made with (`provenance`).
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import api, bibliography, claims, docstrings, finish, launch, offline, provenance, results


def setup(app: Sphinx) -> dict[str, Any]:
    if "comments_config" not in app.config:  # Jupyter Book sets it; sphinx_comments is left out
        app.add_config_value("comments_config", {}, "html")
    for module in (
        api,
        bibliography,
        offline,
        claims,
        docstrings,
        launch,
        provenance,
        results,
        finish,
    ):
        module.setup(app)
    finish.setup(app)  # last, for it checks what the others made
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
