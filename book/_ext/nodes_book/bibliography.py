"""The style of the bibliography: ordered by author and year, and no labels of its own."""

from __future__ import annotations

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.sorting.author_year_title import SortingStyle
from sphinx.application import Sphinx


class BookStyle(UnsrtStyle):
    """Entries as in `unsrt`, sorted; the text cites by author and year."""

    default_sorting_style = "author_year_title"


def setup(app: Sphinx) -> None:
    assert SortingStyle  # the plugin that the style names
    register_plugin("pybtex.style.formatting", "nodes_book", BookStyle)
