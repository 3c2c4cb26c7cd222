"""Colors that can be read on both pages, and widgets that pass a strict page policy."""

import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("agg")

from nodes_tutorial import plots


def contrast(one, other):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_every_color_stands_out(page):
    assert all(contrast(color, page) >= 3 for color in plots.PALETTE)
    assert contrast("#CC79A7", "#ffffff") < 3.1  # the usual pale purple is the borderline case


def test_figures_are_transparent_and_reproducible():
    files = []
    for _ in range(2):
        fig, ax = plots.figure()
        ax.plot([0, 1], [0, 1], label="line")
        ax.legend()
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
        files.append(buffer.getvalue())
        matplotlib.pyplot.close(fig)
    assert files[0] == files[1]
    assert "#ffffff" not in files[0]
    assert "#000000" not in files[0]
    assert plots.INK in files[0]


@pytest.mark.parametrize("kind", ["quiver", "stream"])
def test_vector_field_draws_the_field(kind):
    _, ax = plots.figure()
    calls = []

    def field(t, y):
        calls.append(y.shape)
        return torch.stack([-y[:, 1], y[:, 0]], -1) + t

    drawn = plots.vector_field(ax, field, xlim=(-1, 1), ylim=(-2, 2), t=3.0, count=5, kind=kind)
    assert calls == [(25, 2)]
    if kind == "quiver":
        np.testing.assert_allclose(drawn.U[:5], 2 + 3)  # y = -2 along the first row
        np.testing.assert_allclose(drawn.V[:5], np.linspace(-1, 1, 5) + 3)
    with pytest.raises(ValueError, match="kind"):
        plots.vector_field(ax, field, xlim=(0, 1), ylim=(0, 1), kind="arrows")
    matplotlib.pyplot.close("all")


def widgets():
    x = torch.linspace(0, 1, 20)
    curves = [[(x, x**p, "power"), ([0, 1], [0, 1], ".ends")] for p in (1, 2, 3)]
    fig, ax = plots.figure()
    ax.plot([0, 1])
    yield plots.slider(curves, [1, 2, 3], 'power "p"', "A curve & its ends.", xlabel="x").data
    yield plots.player(curves, "step", "A curve bends.", fps=5).data
    yield plots.player([fig, fig], "step", "A line.").data
    matplotlib.pyplot.close(fig)


def test_widgets_are_accessible_and_have_no_handlers():
    scripts, names = set(), []
    for page in widgets():
        root = ElementTree.fromstring(re.sub(r"(<(?:img|input)\b[^>]*)>", r"\1/>", hide(page)))
        frames = [e for e in root if e.get("class") == "nt-frame"]
        assert len(frames) >= 2
        assert [("hidden" in f.attrib) for f in frames] == [True] * (len(frames) - 1) + [False]
        for frame in frames:
            image = frame[0]
            assert image.get("alt") or (image.get("role") == "img" and image.get("aria-label"))
        label, knob = root.find(".//label"), root.find(".//input")
        assert label.get("for") == knob.get("id")
        assert not re.search(r"\son\w+=", page)
        assert "http" not in page.replace("http://www.w3.org", "")
        scripts.add(re.search(r"<script>(.*?)</script>", page, re.S)[1])
        names.append(root.get("id"))
    assert len(scripts) == 1  # one hash in the policy serves all
    assert len(set(names)) == 3
    assert names == [re.search(r'id="(nt-\w+)"', page)[1] for page in widgets()]


def hide(page):
    """The page as XML: the bare attribute spelled out, the script's text dropped."""
    page = re.sub(r"<script>.*?</script>", "<script/>", page, flags=re.S)
    return re.sub(r" hidden(?=[ >])", ' hidden="hidden"', page)


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="frames"):
        plots.slider([], [], "x", "y")
    with pytest.raises(ValueError, match="values"):
        plots.slider([[([0], [1])]], [1, 2], "x", "y")
    with pytest.raises(ValueError, match="fps"):
        plots.player([[([0], [1])]], "x", "y", fps=0)
