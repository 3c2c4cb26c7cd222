"""Chromium and Node.js, for what looks at the built site or prints it."""

from __future__ import annotations

import os
import shutil
import subprocess

from tools.project import BUILD, ROOT

SCRIPTS = ROOT / "tests" / "browser"
HTML = BUILD / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """The browser that `CHROMIUM` names, or the first that is installed."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise RuntimeError(
            "no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM"
        )
    return found


def install() -> None:
    """Install the scripts' packages, once."""
    if not (SCRIPTS / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
        npm = shutil.which("npm")
        if not npm:
            raise RuntimeError("no npm: install Node.js 20 or later, with npm")
        command = [npm, "ci", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True, timeout=300)


def node(script: str, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a script over the built site."""
    install()
    command = ["node", script, str(HTML), chromium(), *arguments]
    return subprocess.run(
        command, cwd=SCRIPTS, capture_output=True, text=True, timeout=seconds, check=False
    )
