"""`results/robust.json` is of today's chapters, and every chapter passed every variant."""

import ast
from statistics import fmean, stdev

import pytest

from tools.findings import in_cell
from tools.project import chapters
from tools.robust import record

RECORD = record.load()
CHAPTERS = chapters()
SPREADS = 3.0  # between the mean of what a finding measures and its bound
SEEDS = ("base", "seeds+1000", "seeds+2000", "seeds+3000")
FIFTH = 11.4  # of four draws: a fifth falls so many spreads off once in a thousand (Student's t)
THEOREMS = {  # true of every draw, so a small gap is no luck
    "flows/density": {"-other.log_prob(train).mean() > best"},
    "ode/augmented": {"lowest <= center + 0.01"},
    "ode/irregular": {"same < chooses.mean(1).min()", "true.min() <= kept"},
    "implicit/imaml": {"floor < history[-1] < history[0]"},
    "invariance/deep_sets": {"error.max() < bound"},
}
EIGHT_SPREADS = {  # enough, though four seeds alone cannot promise one in a thousand
    "ode/multilevel": {"score > 0.85"},
}
PENDING: dict[str, set[str]] = {}
WITHOUT_SPREADS: set[str] = set()


def ids(chapter):
    return chapter.slug


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_what_was_executed_passed_as_the_chapter_is_now(chapter):
    rows, now = RECORD[chapter.slug]["variants"], record.key(chapter)
    old = [name for name, row in rows.items() if row["key"] != now or not row["ok"]]
    assert old == [], f"make robust C={chapter.slug}"


def test_nothing_else_is_pending():
    """`make robust` executes what is pending; what it has executed is taken off the list."""
    pending = {chapter.slug: set(record.stale(chapter, RECORD)) for chapter in CHAPTERS}
    assert {slug: names for slug, names in pending.items() if names} == PENDING
    assert {c.slug for c in CHAPTERS if record.unspread(c, RECORD)} == WITHOUT_SPREADS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_findings_stand_spreads_away_from_their_bounds(chapter):
    found = RECORD[chapter.slug]["findings"]
    near = {label: f["margin"] for label, f in found.items() if f.get("margin", SPREADS) < SPREADS}
    assert near == {}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_no_other_assertion_hangs_on_luck(chapter):
    """The thinnest gaps of assertions that are no findings, over the seeds they were run with."""
    rows = [RECORD[chapter.slug]["variants"].get(name, {}) for name in SEEDS]
    gaps: dict[str, list[float]] = {}
    for row in rows:
        for text, gap in row.get("thinnest", {}).items():
            gaps.setdefault(text, []).append(gap)
    excused = THEOREMS.get(chapter.slug, set()) | EIGHT_SPREADS.get(chapter.slug, set())
    lucky = [
        text
        for text, found in gaps.items()
        if text.startswith("[") and len(found) == len(SEEDS)
        if fmean(found) < FIFTH * stdev(found)
        if text.split(": ", 1)[1] not in excused
    ]
    assert lucky == [], "a finding, a wider bound, or more draws"


@pytest.mark.parametrize(
    ("code", "side", "limits"),
    [
        ("assert gap > 0.1", "gap", [(0.1, 1.0)]),
        ("assert 0.1 < x.mean() < 0.5", "x.mean()", [(0.1, 1.0), (0.5, -1.0)]),
        ("assert -1 >= slope", "slope", [(-1.0, -1.0)]),
        ("assert wins == 6", "wins", []),
    ],
)
def test_bounds_have_a_side(code, side, limits):
    (check,) = in_cell(f'{code}, "obs-a-b"  # null: 0')
    assert record.bounds(check) == (side, limits)


def test_margins_are_in_spreads_over_the_seeds():
    chapter = CHAPTERS[0]
    label, side, limits = next(iter(record.checks(chapter)))
    (bound, sign), *_ = limits
    values = {f"seeds+{i}": bound + sign * (1 + (i % 2)) for i in range(record.LEAST)}
    kept = {chapter.slug: {"variants": {}, "findings": {label: {"values": {side: values}}}}}
    record.summarize(chapter, kept)
    found = kept[chapter.slug]["findings"][label]
    assert found["margin"] == pytest.approx(1.5 / found["spread"])
    assert ast.literal_eval(repr(found["values"])) == {side: values}
