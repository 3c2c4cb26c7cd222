"""Figures in one style, legible on white and on near-black pages."""

import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

INK = "#808080"
BLUE, VERMILION, GREEN, PURPLE, OCHRE = "#2A7FC1", "#D55E00", "#00967A", "#B8659A", "#B07A00"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, INK)
DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))


def style() -> None:
    """Set the book's figure style for the process and, in a notebook, SVG output.

    >>> import matplotlib
    >>> from nodes_tutorial.plots import INK, style
    >>> style()
    >>> matplotlib.rcParams["axes.edgecolor"] == INK
    True
    """
    greys = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor")
    greys += ("xtick.color", "ytick.color", "grid.color", "legend.labelcolor")
    transparent = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    matplotlib.rcParams.update(dict.fromkeys(greys, INK))
    matplotlib.rcParams.update(dict.fromkeys(transparent, "none"))
    cycle = cycler(color=PALETTE) + cycler(linestyle=DASHES)
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": cycle,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "figure.figsize": (6.4, 3.6),
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "image.cmap": "viridis",
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "savefig.transparent": True,
            "svg.hashsalt": "nodes-tutorial",
        }
    )
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float | int, float | int] | None = None,
    **options: Any,
) -> tuple[Figure, Any]:
    """Figure and axes in the book's style, as ``matplotlib.pyplot.subplots`` returns them.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        size: width and height in inches; by default one row is 3.2 high and 7 wide.
        **options: keyword arguments of ``subplots``, such as ``sharey=True``.

    Returns:
        The figure, and one axes or an array of axes.

    >>> from nodes_tutorial.plots import figure
    >>> fig, axes = figure(1, 2)
    >>> axes.shape
    (2,)
    """
    import matplotlib.pyplot as plt

    style()
    size = size or (4.8 if rows == columns == 1 else 7.0, 3.2 * rows)
    return plt.subplots(rows, columns, figsize=size, **options)


def vector_field(
    ax: Any,
    field: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    xlim: tuple[float | int, float | int],
    ylim: tuple[float | int, float | int],
    t: float | int = 0.0,
    count: int = 18,
    kind: str = "quiver",
    dtype: torch.dtype = torch.float32,
    color: str = INK,
) -> Any:
    """Draw a planar field ``field(t, y)``, evaluated on the whole grid in one call.

    Args:
        ax: the matplotlib axes to draw on.
        field: maps a 0-d time and states of shape (points, 2) to velocities of that shape.
        xlim: range of the first coordinate.
        ylim: range of the second coordinate.
        t: time at which to look.
        count: number of grid points along each side.
        kind: ``"quiver"`` (arrows) or ``"stream"`` (streamlines).
        dtype: dtype of the grid.
        color: color of the arrows or lines.

    Returns:
        The quiver or the stream plot that matplotlib drew.

    Raises:
        ValueError: unknown ``kind``.

    >>> from nodes_tutorial.plots import figure, vector_field
    >>> _, ax = figure()
    >>> _ = vector_field(ax, lambda t, y: -y, xlim=(-1, 1), ylim=(-1, 1), count=5)
    """
    if kind not in ("quiver", "stream"):
        raise ValueError(f"kind must be 'quiver' or 'stream', got {kind!r}")
    x, y = np.linspace(*xlim, count), np.linspace(*ylim, count)
    points = torch.tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), dtype=dtype)
    with torch.no_grad():
        velocity = field(torch.tensor(t, dtype=dtype), points)
    u, v = velocity.cpu().double().numpy().reshape(count, count, 2).transpose(2, 0, 1)
    ax.set(xlim=xlim, ylim=ylim, aspect="equal")
    if kind == "stream":
        return ax.streamplot(x, y, u, v, color=color, linewidth=0.8, density=0.9, arrowsize=0.8)
    return ax.quiver(x, y, u, v, color=color, width=0.003)
