"""A pytest plugin: notebooks are executed once and kept; claim tests leave their errors.

nbmake collects and executes the reader notebooks. Here each one is first looked up in
`tools.store`; what is found is not run again. All cells run, also after one that failed. In CI
the limits on time and memory hold either way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import MethodType

import nbformat
import pytest
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.pytest_items import NotebookFailedException, NotebookItem

from tools import execution, store
from tools.execution import budgets_hold
from tools.failures import FAILED_CLAIMS, line
from tools.meter import Meter
from tools.project import Chapter, chapters


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-claims", metavar="FILE", help="write the errors of claim tests")
    parser.addini("notebook_seconds", "limit of a notebook's execution", default="60")
    parser.addini("notebook_mib", "limit of a notebook's peak memory", default="2048")


def pytest_configure(config: pytest.Config) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the notebooks share the cores among themselves
    config.stash[ERRORS], config.stash[FAILED] = {}, {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = {chapter.notebook: chapter for chapter in chapters()}
    notebooks = {}
    for item in items:
        if isinstance(item, NotebookItem) and (chapter := known.get(Path(item.filename))):
            item.runtest = MethodType(_runtest, item)
            item.chapter = chapter
            notebooks[item] = (store.record(chapter) or {}).get("seconds", 60.0)

    def length(item: pytest.Item) -> float:
        """A guess in seconds: no core waits for a long item that comes late."""
        guess = 90.0 if item.get_closest_marker("colab") else 0.0
        return notebooks.get(item, guess)

    items.sort(key=length, reverse=True)


def _runtest(item: NotebookItem) -> None:
    chapter: Chapter = item.chapter
    found = store.fresh(chapter)
    verb = "stored" if found else "executed"
    if found is None:
        found = _execute(chapter, item.config.option.nbmake_timeout)
    text = f"{verb}, {found['seconds']:.0f} s, {found['peak_mib']:.0f} MiB"
    item.user_properties.append(("notebook", text))
    if budgets_hold() and (limit := _exceeded(found, item.config)):
        found = store.fail(chapter, f"{text}; {limit}")
    if found.get("failures"):
        lines = [f"{chapter.slug}: {line(failure)}" for failure in found["failures"]]
        trace = "\n".join([*lines, *_tracebacks(chapter)])
        error = NotebookError(lines[0], trace, found["failures"][0]["cell"])
        raise NotebookFailedException(NotebookResult(None, error))


def _exceeded(found: dict, config: pytest.Config) -> str:
    """The limit that an execution exceeds; empty if it keeps both."""
    seconds, mib = (float(config.getini(name)) for name in ("notebook_seconds", "notebook_mib"))
    # a busy machine stretches the clock, a slow one the yardstick, a slow notebook neither
    took = min(found["seconds"], found["cpu_seconds"]) / max(1.0, found["slowness"])
    if took > seconds:
        return f"{seconds:.0f} s are allowed"
    return f"{mib:.0f} MiB are allowed" if found["peak_mib"] > mib else ""


def _execute(chapter: Chapter, timeout: int) -> dict:
    if not store.same_code(chapter):
        pytest.fail(f"{chapter.notebook.name} is not what its chapter makes: run `make notebooks`")
    digest = store.key(chapter)  # before: what is edited meanwhile makes the result stale
    with Meter() as meter:
        notebook, failures = execution.run(chapter.notebook, timeout)
    return store.save(chapter, notebook, meter.cost, digest, failures)


def _tracebacks(chapter: Chapter) -> list[str]:
    notebook = nbformat.read(store.notebook_path(chapter), as_version=4)
    return [
        "\n".join(output.traceback)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def pytest_report_teststatus(
    report: pytest.TestReport | pytest.CollectReport,
) -> tuple[str, str, str] | None:
    if report.when != "call" or not report.passed:  # a failed collection has no properties
        return None
    properties = dict(report.user_properties)
    if "notebook" in properties:
        return "passed", ".", f"PASSED ({properties['notebook']})"
    return None


ERRORS = pytest.StashKey[dict[str, dict[str, float]]]()
FAILED = pytest.StashKey[dict[str, str]]()


class _Collector:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if "claim" not in properties:
            return
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            told = crash.message if crash else str(report.longrepr)
            self.config.stash[FAILED][report.nodeid] = told.strip().split("\n")[0]
        if report.when == "call":
            errors = self.config.stash[ERRORS].setdefault(report.nodeid, {})
            errors.update(properties.get("measured", {}))


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    session.config.pluginmanager.register(_Collector(session.config), "book-claims")
    return (yield)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    target = session.config.getoption("--record-claims")
    if target and not hasattr(session.config, "workerinput") and exitstatus in (0, 1):
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(session.config.stash[ERRORS], indent=1) + "\n")
        failed = path.with_name(FAILED_CLAIMS.name)
        failed.write_text(json.dumps(session.config.stash[FAILED], indent=1) + "\n")
