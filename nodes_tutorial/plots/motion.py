"""Pictures that move: a slider and a player that need no library and no network.

Each is one piece of HTML: its frames, a range input and a constant script with no handler
attributes. A page whose content-security policy lists the script's hash runs it, and so does
Colab. Without scripts the reader sees one still frame.
"""

import hashlib
import html
from collections.abc import Sequence
from typing import Any

from nodes_tutorial.plots.svg import limits, picture

_SCRIPT = """(function(){document.querySelectorAll(".nt-frames").forEach(function(r){
if(r.dataset.on)return;r.dataset.on="1";
var f=r.querySelectorAll(".nt-frame"),s=r.querySelector("input"),o=r.querySelector("output"),
b=r.querySelector("button"),t=null;
function show(){f.forEach(function(e,i){e.hidden=i!==+s.value});
o.textContent=f[+s.value].dataset.value;s.setAttribute("aria-valuetext",o.textContent)}
function stop(){clearInterval(t);t=null;if(b)b.textContent="Play"}
s.addEventListener("input",function(){stop();show()});
if(b)b.addEventListener("click",function(){if(t)return stop();b.textContent="Stop";
t=setInterval(function(){s.value=(+s.value+1)%f.length;show()},+r.dataset.wait)});
r.querySelector(".nt-controls").hidden=false;show()})})()"""


def slider(
    frames: Sequence[Any], values: Sequence[object], label: str, alt: str, **axes: Any
) -> Any:
    """One of several pictures, chosen by a slider that works on a static page and in Colab.

    Args:
        frames: one picture for each value: a matplotlib figure, the bytes of a PNG, or a list of
            curves drawn as SVG. A curve is ``(x, y)`` or ``(x, y, name)``; a ``name`` that
            begins with ``"."`` draws points.
        values: values that the slider shows, one for each frame.
        label: name of what is varied.
        alt: description of the picture, for readers who do not see it.
        **axes: ``xlim``, ``ylim`` (default: range of all curves), ``xlabel``, ``ylabel``.

    Returns:
        An ``IPython.display.HTML``.

    Raises:
        ValueError: no frames, or not one value for each.

    >>> from nodes_tutorial.plots import slider
    >>> x, y = [0, 1, 2], [0, 1, 4]
    >>> page = slider([[(x, x)], [(x, y)]], [1, 2], "power", "A curve that bends.").data
    >>> page.count("<svg")
    2
    """
    return _widget(frames, values, label, alt, axes, wait=0)


def player(
    frames: Sequence[Any],
    label: str,
    alt: str,
    *,
    values: Sequence[object] | None = None,
    fps: float | int = 10,
    **axes: Any,
) -> Any:
    """An animation with Play and Stop, which stands still until the reader starts it.

    Where no script runs, the last frame is the still picture.

    Args:
        frames: as for ``slider``.
        label: name of what changes from frame to frame, such as ``"step"``.
        alt: description of the animation, for readers who do not see it.
        values: text to print at each frame; by default its number.
        fps: frames a second.
        **axes: as for ``slider``.

    Returns:
        An ``IPython.display.HTML``.

    Raises:
        ValueError: as for ``slider``; ``fps`` not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    values = range(len(frames)) if values is None else values
    return _widget(frames, values, label, alt, axes, wait=round(1000 / fps))


def _widget(frames, values, label, alt, axes, wait):
    from IPython.display import HTML

    if len(frames) == 0 or len(frames) != len(values):
        raise ValueError(
            f"frames must hold one picture for each of values, got {len(frames)} and {len(values)}"
        )
    if isinstance(frames[0], Sequence) and not isinstance(frames[0], bytes):
        axes = {**limits(frames), **axes}
    alt, label = html.escape(alt, quote=True), html.escape(label, quote=True)
    body, last = "", len(frames) - 1
    for i, (frame, value) in enumerate(zip(frames, values, strict=True)):
        value = html.escape(str(value), quote=True)
        shown = picture(frame, f"{alt} {label}: {value}", axes)
        hidden = "" if i == last else " hidden"
        body += f'<div class="nt-frame" data-value="{value}"{hidden}>{shown}</div>'
    name = "nt-" + hashlib.sha256(f"{body}{label}{wait}".encode()).hexdigest()[:12]
    play = '<button type="button">Play</button> ' if wait else ""
    start = last if wait else 0
    return HTML(
        f'<div class="nt-frames {"nt-player" if wait else "nt-slider"}" id="{name}" '
        f'data-wait="{wait}">{body}<div class="nt-controls" hidden>{play}'
        f'<label for="{name}-range">{label}</label> <input id="{name}-range" type="range" '
        f'min="0" max="{last}" value="{start}"> <output for="{name}-range"></output></div>'
        f"<script>{_SCRIPT}</script></div>"
    )
