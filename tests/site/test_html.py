"""The built site: offline, under a policy, with buttons and links that lead somewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from inspect import ismodule
from pathlib import Path

import pytest
from nodes_book.marks import claim_tests

from tools import findings
from tools.project import ROOT, address, chapters

CHAPTERS = chapters()
SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.S)
POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]+)"')


def ids(chapter):
    return chapter.slug


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[str, str]:
    found = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    return {p.relative_to(html).as_posix(): p.read_text(encoding="utf-8") for p in found}


def test_every_page_has_the_policy_with_its_own_hashes(pages):
    for name, page in pages.items():
        policy = POLICY.search(page)
        assert policy, name
        assert "default-src 'none'" in policy[1] and "script-src 'self'" in policy[1]
        assert "'unsafe-inline'" not in policy[1].split("script-src")[1].split(";")[0]
        for script in SCRIPT.finditer(page):
            digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[1], name


def test_nothing_is_loaded_from_another_host(pages, html):
    loaded = re.compile(r'<(?:script|img|iframe|video|source)\b[^>]*\bsrc="((?:https?:)?//[^"]+)"')
    for name, page in pages.items():
        assert not loaded.findall(page), name
    for path in (html / "_static").glob("*.css"):
        assert not re.findall(r"url\(\s*['\"]?https?:", path.read_text(encoding="utf-8")), path


def test_no_formula_is_left_as_text(pages):
    """A display formula without a blank line before it would show its dollar signs."""
    apart = r"<(pre|script|code|style)\b.*?</\1>|\\\(.*?\\\)|\\\[.*?\\\]"
    for name, page in pages.items():
        prose = re.sub(apart, "", page, flags=re.S)
        assert not re.findall(r">[^<]*\$[^<]*<", prose), name


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_colab_button_opens_a_tracked_notebook(chapter, pages, git):
    page = pages[f"{chapter.docname}.html"]
    links = re.findall(r'https://colab\.research\.google\.com/github/([^"]+)"', page)
    notebook = chapter.notebook.relative_to(ROOT).as_posix()
    assert links and set(links) == {f"{address().slug}/blob/{address().branch}/{notebook}"}
    assert notebook in git("ls-files", "notebooks").split("\n")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_foot_tells_commit_versions_and_cost(chapter, pages):
    foot = re.search(r'<p class="provenance">(.*?)</p>', pages[f"{chapter.docname}.html"], re.S)
    assert re.search(r"commit/[0-9a-f]{7,}", foot[1])
    assert re.search(r"Executed in \d+ s, peak memory \d+ MiB", foot[1])
    assert re.search(r"Python 3\.\d+.*torch \d", foot[1])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_no_cell_was_executed_by_sphinx(chapter, html):
    """Executing is done once, before; an error report would mean that Sphinx tried."""
    assert not (html / "reports" / f"{chapter.docname}.err.log").exists()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_pictures_have_alternative_text(chapter, pages):
    for image in re.findall(r"<img\b[^>]*>", pages[f"{chapter.docname}.html"]):
        alt = re.search(r'\balt="([^"]*)"', image)
        assert alt, image[:200]
        if "jupyter_execute" in image or "_images/" in image:
            assert len(alt[1]) > 10 and not alt[1].startswith("../"), image[:200]


def test_boxes_link_to_the_lines_of_their_tests(pages):
    tests = claim_tests(ROOT)
    assert tests
    everything = "\n".join(pages.values())
    for label, checks in tests.items():
        pattern = rf'<div class="proof [^"]*" id="{label}">(.*?)<p class="checked-by">(.*?)</p>'
        box = re.search(pattern, everything, re.S)
        assert box, label
        for check in checks:
            assert f"{address().source(check.path)}#L{check.line}" in unescape(box[2])
            line = (ROOT / check.path).read_text(encoding="utf-8").splitlines()[check.line - 1]
            assert f"def {check.name.split('::')[-1]}(" in line


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_findings_link_to_their_checks(chapter, pages):
    page = pages[f"{chapter.docname}.html"]
    asserted = {check.label for check in findings.assertions(chapter.source)}
    for box in findings.boxes(chapter.source):
        label = box.options["label"]
        pattern = (
            rf'<div class="proof observation[^"]*" id="{label}">(.*?)class="checked-by">(.*?)</p>'
        )
        shown = re.search(pattern, page, re.S)
        assert shown and "Finding" in shown[1], label
        anchors = re.findall(r'href="#(check-[\w-]+)"', shown[2])
        assert bool(anchors) == (label in asserted)
        assert all(f'id="{anchor}"' in page for anchor in anchors)
        assert f'#{label}"' in pages["book/verified.html"]


def test_no_page_tells_of_a_failed_check(pages):
    assert [name for name, page in pages.items() if "failed-check" in page] == []


def test_page_of_statements_lists_every_label_and_error(pages):
    page = pages["book/verified.html"]
    for label in claim_tests(ROOT):
        assert f'#{label}"' in page, label
    measured = json.loads((ROOT / "_build" / "claims.json").read_text(encoding="utf-8"))
    assert len(re.findall(r"\d\.\de[+-]\d\d \(", page)) > 0
    assert sum(bool(errors) for errors in measured.values()) > 0


def test_index_leads_to_the_front_page(pages):
    assert 'url=book/intro.html"' in pages["index.html"]


def test_every_public_name_is_in_the_reference(pages):
    import nodes_tutorial.ode

    public = nodes_tutorial.ode.__all__
    for name in (n for n in public if not ismodule(getattr(nodes_tutorial.ode, n))):
        assert f'id="nodes_tutorial.ode.{name}"' in pages["book/api/ode.html"], name
