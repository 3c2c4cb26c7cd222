"""One look at the whole site in Chromium, shared by the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from filelock import FileLock

from tools import browser


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., dict]:
    """Run one of the scripts of this folder, once for all workers, and parse what it prints."""
    if not (browser.HTML / "index.html").is_file():
        pytest.fail("the site is not built: run `make book`")
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def run(script: str, *arguments: str) -> dict:
        kept = shared / f"{script}.json"
        with FileLock(shared / "browser.lock"):
            if not kept.is_file():
                seconds = 300 + 60 * len(arguments)  # a busy machine is no failure
                ran = browser.node(script, *arguments, seconds=seconds)
                failure = json.dumps({"stderr": ran.stderr[-3000:]})
                kept.write_text(failure if ran.returncode else ran.stdout)
        result = json.loads(kept.read_text())
        assert "stderr" not in result, result["stderr"]
        return result

    return run
