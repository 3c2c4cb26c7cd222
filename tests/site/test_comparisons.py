"""Sentences outside boxes that compare trained models: boxed, told of one run, or not written.

A sentence is one of them when it has a comparing word and speaks of something trained. It may stand
outside a box when it tells of what is seen here, refers to a finding or a theorem, cites whoever
measured it, or is in `comparisons.yml` with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools import findings, myst
from tools.project import Chapter, chapters

CHAPTERS = chapters()
ALLOWED = yaml.safe_load(Path(__file__).with_name("comparisons.yml").read_text(encoding="utf-8"))
# chapters without a finding, and chapters with such sentences: both shrink to nothing
WITHOUT_A_BOX: set[str] = set()
TO_BE_READ: set[str] = set()

COMPARING = re.compile(
    r"\b((?<!er is )better|worse|faster|slower|fewer|wins?|won|beats?|beaten|outperforms?|loses"
    r"|(?<!step )(?<!steps )ahead"
    r"|(is|are|stays?|falls?|far) (not )?behind|as good as|on par"
    r"|(less|more|lower|higher|smaller|larger|cheaper|shorter|longer)\b.*\bthan"
    r"|(in|on|for|with) (every|all|each) (\w+ )?(seeds?|runs?))\b",
    re.I,
)
TRAINED = re.compile(
    r"\b(trains?|trained|training|trainings|seeds?|runs?|accuracy|loss(es)?|nats?|networks?"
    r"|models?|learn(s|ed|t)?|test error|validation|baselines?|ensembles?|classifiers?"
    r"|flows?|CNFs?|FFJORD|RealNVP|MAF|Glow|GOKU(-net)?|LSTM|RNN|ODE-?nets?|ResNets?)\b",
    re.I,
)
HERE = re.compile(
    r"\b(here|this (run|network|model|page|table|figure|cell|flow|example|experiment)"
    r"|these (runs|networks|seeds)|in (this|one) run|our runs?)\b",
    re.I,
)
REFERENCE = re.compile(r"\{prf:ref\}`[^`]*\b(obs|thm|prop|lem|cor)-|\{cite:[tp]\}`")
SKIPPED = re.compile(r"references|further reading|exercises?$", re.I)
ENDS = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`$*{\[(])")


def sentences(chapter: Chapter) -> Iterator[str]:
    """The sentences of a chapter's prose and captions, without its numbered boxes."""
    for cell in myst.cells(chapter.source):
        if cell.cell_type == "markdown":
            yield from outside(cell.source)
        else:
            caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
            yield from split(caption)


def outside(text: str) -> Iterator[str]:
    heading, skipped = False, False
    for token in myst.parse(text):
        found = myst.directive(token)
        if found is not None:
            boxed = found.name.startswith("prf:") or found.name in myst.VERBATIM
            if not boxed and not skipped:
                yield from outside(found.body)
        elif token.type == "heading_open":
            heading = True
        elif token.type == "inline" and heading:
            heading, skipped = False, bool(SKIPPED.match(token.content))
        elif token.type == "inline" and not skipped:
            yield from split(token.content)


def split(text: str) -> list[str]:
    return [sentence for sentence in ENDS.split(" ".join(text.split())) if sentence]


def compares(sentence: str) -> bool:
    """Whether the sentence compares trained models without a ground that it names."""
    words = re.sub(r"`[^`]*`|\$[^$]*\$", "", sentence)
    return bool(
        COMPARING.search(words)
        and TRAINED.search(words)
        and not HERE.search(words)
        and not REFERENCE.search(sentence)
    )


def ids(chapter):
    return chapter.slug


@pytest.mark.parametrize(
    "sentence, found",
    [
        ("The augmented network trains faster than the plain one.", True),
        ("FFJORD beats RealNVP by 0.1 nats on all seeds.", True),
        ("In this run the network trains faster.", False),
        ("The augmented network trains faster: {prf:ref}`obs-augmented-nfe`.", False),
        ("{cite:t}`dupont2019augmented` report that the network trains faster.", False),
        ("A solver of higher order needs fewer steps.", False),
        ("The score of a network is in nats, and lower is better.", False),
        ("The network is trained one step ahead.", False),
        ("Train the network for 200 updates.", False),
    ],
)
def test_rule(sentence, found):
    assert compares(sentence) == found


def test_boxes_captions_and_references():
    boxed = ":::{prf:observation} T\n:label: x\n\nIn a box.\n:::\n\n"
    text = f"It won.\n\n{boxed}:::{{note}}\nAlso. Two.\n:::"
    assert list(outside(text)) == ["It won.", "Also.", "Two."]
    assert list(outside("## References\n\nA book.\n\n## More\n\nText.")) == ["Text."]


def left(chapter: Chapter) -> list[str]:
    """The comparisons of a chapter that have no ground and no reason."""
    allowed = ALLOWED.get(chapter.slug, {})
    found = [sentence for sentence in sentences(chapter) if compares(sentence)]
    return [s for s in found if not any(s.startswith(start) for start in allowed)]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_chapter_has_a_finding(chapter):
    assert findings.boxes(chapter.source) or chapter.slug in WITHOUT_A_BOX


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_comparisons_stand_in_boxes(chapter):
    if chapter.slug not in TO_BE_READ:
        assert not left(chapter), "\n".join(left(chapter))


def test_lists_name_no_finished_chapter():
    """What is done comes off the lists."""
    assert {c.slug for c in CHAPTERS if not findings.boxes(c.source)} == WITHOUT_A_BOX
    assert {c.slug for c in CHAPTERS if left(c)} == TO_BE_READ


def test_every_exception_is_needed():
    for chapter in CHAPTERS:
        found = [sentence for sentence in sentences(chapter) if compares(sentence)]
        for start in ALLOWED.get(chapter.slug, {}):
            assert any(s.startswith(start) for s in found), f"{chapter.slug}: {start}"


def test_every_exception_has_a_reason():
    assert set(ALLOWED) <= {chapter.slug for chapter in CHAPTERS}
    for reasons in ALLOWED.values():
        assert all(len(reason.split()) > 3 for reason in reasons.values())
