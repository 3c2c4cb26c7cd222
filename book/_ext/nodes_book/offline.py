"""MathJax from this site: one bundle and its fonts, out of the wheel `sphinx-mathjax-offline`.

They are copied by hand because Jupyter Book turns every script under `html_static_path` into a
`<script>` on every page, and MathJax must not be loaded twice.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

BUNDLE = "tex-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    wheel = find_spec("sphinx-mathjax-offline")
    if wheel is None or wheel.origin is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed: pip install -e '.[book]'")
    source = Path(wheel.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / BUNDLE, target / BUNDLE)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    app.config.mathjax_path = f"mathjax/{BUNDLE}"
    app.connect("build-finished", copy_mathjax)
