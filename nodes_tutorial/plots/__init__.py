"""One figure style, and motion that works on a static page."""

from nodes_tutorial.plots.motion import player, slider
from nodes_tutorial.plots.style import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    OCHRE,
    PALETTE,
    PURPLE,
    VERMILION,
    figure,
    style,
    vector_field,
)

__all__ = [
    "BLUE",
    "DASHES",
    "GREEN",
    "INK",
    "OCHRE",
    "PALETTE",
    "PURPLE",
    "VERMILION",
    "figure",
    "player",
    "slider",
    "style",
    "vector_field",
]
