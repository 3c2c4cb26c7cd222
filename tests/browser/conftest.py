"""One look at the whole site in Chromium, shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HTML = ROOT / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM")
    return found


@pytest.fixture(scope="session")
def node():
    """Run one of the scripts of this folder and parse what it prints."""
    if not (HTML / "index.html").is_file():
        pytest.fail("the site is not built: run `make book`")
    browser = chromium()
    npm = shutil.which("npm") or pytest.fail("no npm: install Node.js 20 or later (nodejs, npm)")
    if not (HERE / "node_modules" / "axe-core").is_dir():
        command = [npm, "ci", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=300)

    def run(script: str, *arguments: str) -> dict:
        command = ["node", script, str(HTML), browser, *arguments]
        ran = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=1500)
        assert ran.returncode == 0, ran.stderr[-3000:]
        return json.loads(ran.stdout)

    return run
