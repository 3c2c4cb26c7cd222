"""Small drawings as text: curves and points in an SVG that takes its ink from the page."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nodes_tutorial.plots.look import INK, PALETTE

_DASHES = ("", "8 4", "8 3 2 3", "2 3", "10 3 2 3 2 3", "2 6")
_TEXT = 'fill="currentColor" font-size="13" font-family="sans-serif"'
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 320, 62, 12, 14, 46


def picture(frame: Any, alt: str, axes: dict[str, Any]) -> str:
    """Return one frame as HTML.

    Args:
        frame: a figure, the bytes of a PNG, or curves, as for ``nodes_tutorial.plots.slider``.
        alt: what the picture shows, in words.
        axes: keyword arguments of ``draw``, for a frame of curves.
    """
    if isinstance(frame, Figure):
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png", dpi=110, transparent=True, metadata={"Software": None})
        frame = buffer.getvalue()
    if isinstance(frame, bytes):
        data = base64.b64encode(frame).decode()
        return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return draw(frame, alt, **axes)


def limits(frames: Sequence[Sequence[tuple]]) -> dict[str, tuple[float | int, float | int]]:
    """Ranges that hold all curves of all frames, with a little room.

    Args:
        frames: for each frame its curves.

    Returns:
        ``xlim`` and ``ylim``, as ``draw`` takes them.

    >>> from nodes_tutorial.plots.svg import limits
    >>> limits([[([0, 1], [2, 2])]])
    {'xlim': (-0.04, 1.04), 'ylim': (1.5, 2.5)}
    """
    found = {}
    for key, axis in (("xlim", 0), ("ylim", 1)):
        every = np.concatenate([_array(curve[axis]) for frame in frames for curve in frame])
        low, high = float(np.nanmin(every)), float(np.nanmax(every))
        room = 0.04 * (high - low) or 0.5
        found[key] = (low - room, high + room)
    return found


def draw(
    curves: Sequence[tuple],
    alt: str,
    xlim: tuple[float | int, float | int],
    ylim: tuple[float | int, float | int],
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draw axes with ticks, and curves.

    Args:
        curves: each ``(x, y)`` or ``(x, y, name)``; a name that begins with a dot means points.
        alt: what the drawing shows, in words.
        xlim: range of the first coordinate.
        ylim: range of the second coordinate.
        xlabel: label of the first axis.
        ylabel: label of the second axis.

    Returns:
        An ``<svg>`` element.

    >>> from nodes_tutorial.plots.svg import draw
    >>> draw([([0, 1], [0, 1])], "A line.", (0, 1), (0, 1)).startswith("<svg")
    True
    """
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<path d="M{_LEFT} {_TOP}V{base}H{right}" fill="none" stroke="{INK}"/>']
    for tick in _ticks(xlim):
        x = f"{_across(tick, xlim):.1f}"
        parts.append(f'<path d="M{x} {base}v4" stroke="{INK}"/>')
        parts.append(f'<text x="{x}" y="{base + 17}" text-anchor="middle" {_TEXT}>{tick:g}</text>')
    for tick in _ticks(ylim):
        y = _down(tick, ylim)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h-4" stroke="{INK}"/>')
        where = f'x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {where} {_TEXT}>{tick:g}</text>")
    where = f'x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle"'
    parts.append(f"<text {where} {_TEXT}>{html.escape(xlabel)}</text>")
    where = f'transform="translate(14 {(_TOP + base) / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {where} {_TEXT}>{html.escape(ylabel)}</text>")
    named = 0
    for i, (x, y, *name) in enumerate(curves):
        name = name[0] if name else ""
        color, points = PALETTE[i % len(PALETTE)], name.startswith(".")
        dash = "" if points else f' stroke-dasharray="{_DASHES[i % len(_DASHES)]}"'
        look = f'fill="none" stroke="{color}" stroke-linecap="round"'
        look += f' stroke-width="{5 if points else 2}"' + dash
        parts.append(f'<path d="{_trace(x, y, xlim, ylim, points)}" {look}/>')
        if name.strip("."):
            height = _TOP + 6 + 17 * named
            parts.append(f'<path d="M{right - 22} {height}h{0 if points else 20}" {look}/>')
            where = f'x="{right - 30}" y="{height + 4}" text-anchor="end"'
            parts.append(f"<text {where} {_TEXT}>{html.escape(name.strip('.'))}</text>")
            named += 1
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" style="max-width:{_WIDTH}px"'
    return f'<svg {size} role="img" aria-label="{alt}">{"".join(parts)}</svg>'


def _array(values: Any) -> np.ndarray:
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=float).ravel()


def _ticks(limits: tuple[float | int, float | int]) -> list[float]:
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*limits)
    return [float(tick) for tick in ticks if limits[0] <= tick <= limits[1]]


def _across(x: Any, xlim: tuple[float | int, float | int]) -> Any:
    return _LEFT + (x - xlim[0]) / (xlim[1] - xlim[0]) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Any, ylim: tuple[float | int, float | int]) -> Any:
    return _HEIGHT - _BOTTOM - (y - ylim[0]) / (ylim[1] - ylim[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _trace(x: Any, y: Any, xlim: tuple, ylim: tuple, points: bool) -> str:
    """Path data of one curve: what lies outside the axes is pulled to their edge."""
    x, y = _array(x).clip(*xlim), _array(y).clip(*ylim)
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = _across(x[keep], xlim), _down(y[keep], ylim)
    join = "h.01M" if points else "L"
    return "M" + join.join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)) + "h.01"
