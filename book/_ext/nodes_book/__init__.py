"""The book's own Sphinx extension.

A site that asks nothing of another host (`offline`), passes an accessibility check and carries a
content-security policy (`finish`), whose numbered statements name the tests that check them
(`claims`) and whose findings name their assertions (`findings`), whose tables of long runs come
from their records (`results`), and whose pages say what they were made with (`provenance`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # Sphinx starts without it, and `tools` lies there

from . import (  # noqa: E402
    api,
    bibliography,
    claims,
    docstrings,
    dots,
    failures,
    findings,
    finish,
    front,
    launch,
    neighbours,
    offline,
    provenance,
    report,
    results,
)


def setup(app: Sphinx) -> dict[str, Any]:
    if "comments_config" not in app.config:  # Jupyter Book sets it; sphinx_comments is left out
        app.add_config_value("comments_config", {}, "html")
    for module in (
        api,
        bibliography,
        offline,
        findings,
        claims,
        failures,
        docstrings,
        launch,
        front,
        neighbours,
        report,
        provenance,
        results,
        dots,
        finish,  # last, for it checks what the others made
    ):
        module.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
