"""The front page, the ends of the chapters, and the links that report an error."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from nodes_book import dots, front, report
from pybtex.database import parse_string

from tools import pdf
from tools.needs import needed_by, needs
from tools.numbering import labels
from tools.project import ROOT, address, captions, chapters

CHAPTERS = chapters()
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def ids(chapter):
    return chapter.slug


@pytest.fixture(scope="module")
def intro(html):
    return (html / "book" / "intro.html").read_text(encoding="utf-8")


def test_a_chapter_needs_earlier_ones_only():
    order = [chapter.slug for chapter in CHAPTERS]
    assert list(needs()) == order
    for slug, direct in needs().items():
        assert all(order.index(other) < order.index(slug) for other in direct), slug
        assert all(slug in needed_by(other) for other in direct)


def test_needs_are_read_from_links_of_both_kinds():
    assert "ode/adjoint" in needs()["ode/coupled"]  # by its name
    assert "flows/normalizing" in needs()["flows/continuous"]  # by a label


def test_arcs_leave_out_what_others_bring():
    needed = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("a", "c")}
    assert front.reduced(needed) == {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_the_front_page_shows_a_figure_of_each_chapter(intro, html, chapter):
    name = chapter.slug
    found = re.search(rf'<a class="[^"]*" href="{re.escape(name)}\.html"><img[^>]*>', intro)
    assert found, "no card with a figure"
    image, alt = (re.search(rf'{key}="([^"]+)"', found[0]) for key in ("src", "alt"))
    assert alt, "a picture needs words"
    assert (html / "book" / image[1]).is_file()


def test_the_way_lists_every_chapter_and_draws_every_arc(intro):
    way = intro[intro.index('<div class="way">') :]
    assert len(re.findall(r"<li><a ", way)) == len(CHAPTERS)
    assert way.count("<path ") == sum(map(len, front.reduced(needs()).values()))
    for caption in captions().values():
        assert f">{caption}</li>" in unescape(way)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_statements_figures_and_equations_can_be_reported(html, chapter):
    page = (html / f"{chapter.docname}.html").read_text(encoding="utf-8")
    links = [unescape(m) for m in re.findall(r'class="headerlink report" href="([^"]+)"', page)]
    asked = [parse_qs(urlsplit(link).query) for link in links]
    places = [fields["place"][0] for fields in asked]
    wanted = {
        f"{chapter.docname}#{label}"
        for label, entry in labels().items()
        if entry.docname == chapter.docname and re.match(r"(thm|prop|lem|cor|def|obs|fig)-", label)
    }
    assert wanted <= set(places)
    assert all(fields["template"] == [report.FORM] for fields in asked)


def test_the_form_has_the_fields_that_are_filled_in():
    form = yaml.safe_load((FORMS / report.FORM).read_text(encoding="utf-8"))
    fields = {entry["id"] for entry in form["body"]}
    address = report.form("https://x.org/y", "book/a", "thm-a", "1234567")
    assert set(parse_qs(urlsplit(address).query)) - {"template", "title"} <= fields


@pytest.mark.parametrize("path", sorted(FORMS.glob("*.yml")), ids=lambda path: path.name)
def test_forms_are_read(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_a_chapter_can_be_cited(html, chapter):
    page = (html / f"{chapter.docname}.html").read_text(encoding="utf-8")
    entry = re.search(r"Cite this chapter</summary><pre>(.*?)</pre>", page, re.S)
    assert entry
    (key,) = (found := parse_string(unescape(entry[1]), "bibtex")).entries
    fields = found.entries[key].fields
    assert fields["chapter"] == str(chapter.number)
    assert fields["url"].endswith(f"{chapter.docname}.html")


def test_dots_tell_published_numbers_and_rows_of_one_name_apart():
    head = ["method", "rate", "error", "seconds"]
    body = [
        ["ours, published", "", "1.5 ± 0.5", ""],
        ["ours", "1", "2.0 ±\xa00.1 (3)", "7"],
        ["ours", "2", "−3", "8"],
        ["theirs", "1", "not run", ""],
    ]
    found = dots.dots(2, head, body)
    assert [(dot.name, dot.published) for dot in found] == [
        ("ours", True),
        ("ours, rate 1", False),
        ("ours, rate 2", False),
    ]
    assert [(dot.mean, dot.spread) for dot in found] == [(1.5, 0.5), (2.0, 0.1), (-3.0, 0.0)]


def test_the_thinnest_side_of_a_finding_is_drawn():
    values = {"a": {"base": 1.0, "seeds+1000": 3.0}, "b": {"base": 5.0, "seeds+1000": 6.0}}
    assert dots.thinnest({"values": values, "mean": 5.5}) == [5.0, 6.0]


def test_a_page_gets_one_link_to_its_pdf(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf.browser, "HTML", tmp_path)
    page = tmp_path / f"{CHAPTERS[0].docname}.html"
    page.parent.mkdir(parents=True)
    page.write_text('<p>x</p><div class="neighbours"><p>Needs nothing.</p></div>')
    pdf.link(CHAPTERS[0])
    once = page.read_text()
    pdf.link(CHAPTERS[0])
    assert page.read_text() == once
    assert 'href="../../_pdf/book-ode-residual.pdf"' in once
    page.write_text("<p>x</p>")
    with pytest.raises(RuntimeError, match="no place"):
        pdf.link(CHAPTERS[0])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_the_readme_lists_each_chapter(chapter):
    title = re.search(r"^# (.+)$", chapter.source.read_text(encoding="utf-8"), re.M)[1]
    line = f"{chapter.number}. [{title}]({address().page(chapter.docname)})"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines(), line
