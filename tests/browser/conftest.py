"""One look at the whole site in Chromium, shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HTML = ROOT / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM")
    return found


def install() -> None:
    if not (HERE / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
        npm = shutil.which("npm") or pytest.fail("no npm: install Node.js 20 or later, with npm")
        command = [npm, "ci", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., dict]:
    """Run one of the scripts of this folder, once for all workers, and parse what it prints."""
    if not (HTML / "index.html").is_file():
        pytest.fail("the site is not built: run `make book`")
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def run(script: str, *arguments: str) -> dict:
        kept = shared / f"{script}.json"
        with FileLock(shared / "browser.lock"):
            if not kept.is_file():
                install()
                command = ["node", script, str(HTML), chromium(), *arguments]
                ran = subprocess.run(
                    command, cwd=HERE, capture_output=True, text=True, timeout=1500, check=False
                )
                failure = json.dumps({"stderr": ran.stderr[-3000:]})
                kept.write_text(failure if ran.returncode else ran.stdout)
        result = json.loads(kept.read_text())
        assert "stderr" not in result, result["stderr"]
        return result

    return run
