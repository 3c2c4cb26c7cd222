"""One figure style, and motion that works on a static page."""

from nodes_tutorial.plots.look import (
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
from nodes_tutorial.plots.motion import player, slider

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
