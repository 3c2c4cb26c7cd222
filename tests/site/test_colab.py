"""A chapter's notebook as Colab runs it: fresh packages, `google.colab` there, our package not.

The cell's own `%pip install` runs. Git maps GitHub's address to a clone of this repository, so that
pip builds what is committed here. Colab's own IPython, renderer and GPU are not simulated.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.project import ROOT, address, chapters

PREINSTALLED = ["torch", "numpy", "matplotlib", "scikit-learn", "ipykernel", "nbclient"]
RUN = """
import json, sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1200, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
pytestmark = pytest.mark.colab


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with what Colab has, and a stub of its module."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["-c", str(ROOT / "constraints.txt")]
    if index := os.environ.get("TORCH_INDEX"):
        subprocess.run([*pip, "--no-deps", "--index-url", index, "torch"], check=True)
    subprocess.run([*pip, *PREINSTALLED], check=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    stub = Path(site) / "google" / "colab"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("")
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import google.colab\n")
    clone = folder / "github" / address().slug
    source = ["git", "clone", "-q", "--branch", address().branch, str(ROOT), str(clone)]
    if subprocess.run(source, check=False, capture_output=True).returncode:  # a detached checkout
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "checkout", "-q", "-B", address().branch], cwd=clone, check=True)
    return folder


def environment(folder: Path, stub: bool = True) -> dict[str, str]:
    dropped = ("PYTHON", "COV_", "PIP_CONSTRAINT", "VIRTUAL_ENV")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    mapping = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder / 'github'}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }
    return kept | mapping | ({"IPYTHONDIR": str(folder / "ipython")} if stub else {})


def execute(folder: Path, stub: bool) -> subprocess.CompletedProcess[str]:
    chapter = chapters()[0]
    content = folder / f"content-{stub}"
    content.mkdir(exist_ok=True)
    shutil.copy2(chapter.notebook, content / "chapter.ipynb")
    python = str(folder / "venv" / "bin" / "python")
    command = [python, "-c", RUN, "chapter.ipynb", "done.ipynb"]
    return subprocess.run(
        command, cwd=content, env=environment(folder, stub), capture_output=True, text=True
    )


def test_chapter_runs_as_in_colab(colab):
    """Alone it fails for want of the package; with the stub the first cell installs it."""
    without = execute(colab, stub=False)
    assert without.returncode and "No module named 'nodes_tutorial'" in without.stderr
    versions = [str(colab / "venv" / "bin" / "pip"), "freeze"]
    before = subprocess.run(versions, capture_output=True, text=True, check=True).stdout
    ran = execute(colab, stub=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    done = nbformat.read(colab / "content-True" / "done.ipynb", as_version=4)
    assert sum(bool(cell.get("outputs")) for cell in done.cells) > 3
    after = subprocess.run(versions, capture_output=True, text=True, check=True).stdout
    assert "nodes-tutorial @ git+https://github.com/" in after
    assert set(before.split("\n")) <= set(after.split("\n")), "what Colab has was replaced"
