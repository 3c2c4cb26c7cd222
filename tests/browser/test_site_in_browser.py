"""The built site in headless Chromium: each page in light, dark and phone; what a reader does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools.project import address

ROOT = Path(__file__).resolve().parents[2]
MODES = ("light", "dark", "phone")
pytestmark = pytest.mark.browser


def toc_pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    waiting = [{"file": toc["root"]}, *toc["parts"]]
    found = []
    while waiting:
        entry = waiting.pop(0)
        waiting += [*entry.get("chapters", []), *entry.get("sections", [])]
        found += [f"{entry['file']}.html"] if "file" in entry else []
    return [*found, "search.html", "genindex.html"]


PAGES = toc_pages()
CHAPTER = "book/ode/adjoint.html"


@pytest.fixture(scope="session")
def looks(node):
    return node("pages.mjs", *PAGES)


@pytest.fixture(scope="session")
def actions(node):
    return node("actions.mjs", CHAPTER, slider_page())


def slider_page() -> str:
    for page in PAGES:
        if 'type="range"' in (ROOT / "_build" / "html" / page).read_text(encoding="utf-8"):
            return page
    pytest.fail("no page has a slider")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("mode", MODES)
def test_page(looks, page, mode):
    look = looks[page][mode]
    assert "failed" not in look, look
    assert look["console"] == [], "errors on the console, or violations of the policy"
    assert look["external"] == [], "requests to another host"
    assert look["missing"] == [], "files that are not there"
    assert look["formulas"]["broken"] == [], "formulas with an error"
    assert look["formulas"]["raw"] == [], "formulas that were not rendered"
    assert look["overflow"] is None, "the page scrolls sideways"
    assert look["violations"] == [], "accessibility (axe)"


def test_chapters_hold_formulas(looks):
    """The checks above would pass on a page whose formulas were never found."""
    assert looks[CHAPTER]["light"]["formulas"]["count"] > 100


@pytest.fixture
def done(actions, request):
    result = actions[request.param]
    assert "failed" not in result, result
    assert result["console"] == [] and result["external"] == [], result
    return result["value"]


@pytest.mark.parametrize("done", ["theme"], indirect=True)
def test_theme_switch(done):
    assert set(done) == {"light", "dark"}, done


@pytest.mark.parametrize("done", ["search"], indirect=True)
def test_search_finds_adjoint(done):
    assert any("Gradients through a solver" in title for title in done), done


@pytest.mark.parametrize("done", ["search box"], indirect=True)
def test_search_box_leads_to_results(done):
    assert done > 0


@pytest.mark.parametrize("done", ["print"], indirect=True)
def test_print_button_is_bound(done):
    assert done == 1


@pytest.mark.parametrize("done", ["menu"], indirect=True)
def test_menu_opens_on_a_phone(done):
    assert done > 5


@pytest.mark.parametrize("done", ["slider"], indirect=True)
def test_slider_moves(done):
    assert done["before"] != done["after"]


@pytest.mark.parametrize("done", ["solution"], indirect=True)
def test_solution_unfolds(done):
    assert done["before"] != done["after"]


@pytest.mark.parametrize("done", ["tip here", "tip elsewhere"], indirect=True)
def test_a_reference_shows_its_statement(done):
    assert done["seen"].strip().startswith(done["text"]), done
    assert len(done["seen"]) > 80, "a title alone is no statement"
    assert done["left"] == 0, "Escape closes it"


def test_a_chapter_is_printed(node, tmp_path):
    name = CHAPTER.removesuffix(".html").replace("/", "-")
    written = node("pdf.mjs", address().site, str(tmp_path), CHAPTER)
    assert written[CHAPTER] > 100_000
    if (file := tmp_path / f"{name}.pdf").is_file():  # another worker may have printed it
        assert file.read_bytes().startswith(b"%PDF")
