"""The project's own files agree with each other and with what the package imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn"}
NOTEBOOK = {"IPython", "matplotlib_inline"}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: str) -> set[str]:
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"nodes_tutorial"} - NOTEBOOK


def test_dependencies_are_what_the_package_imports():
    """What displays in a notebook is imported only there, where it is at hand."""
    declared = {IMPORT_NAMES.get(n, n) for n in map(name_of, PROJECT["dependencies"])}
    assert declared == imported("nodes_tutorial")


def test_dependencies_have_lower_bounds_only():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement
    assert PROJECT["requires-python"] == ">=3.11"


def test_jupyter_book_stays_below_two():
    assert "jupyter-book>=1.0.4,<2" in EXTRAS["book"]


def test_constraints_pin_exactly_and_only_public_versions():
    assert PINS["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[\d.]+(\.?(post|rc|a|b)\d+)?", version) for version in PINS.values())
    pinned = {normal(name) for name in PINS}
    for group in (PROJECT["dependencies"], *EXTRAS.values()):
        assert {normal(name_of(requirement)) for requirement in group} <= pinned


def test_every_installed_package_is_pinned():
    if os.environ.get("CONSTRAINTS") == "":
        pytest.skip("installed without the pins on purpose: make ... CONSTRAINTS=")
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    installed = dict(line.split("==") for line in run.stdout.splitlines() if "==" in line)
    pins = {normal(name): version for name, version in PINS.items()}
    ignored = {"pip", "setuptools", "wheel", "nodes-tutorial"}
    for name, version in installed.items():
        if normal(name) not in ignored:
            assert pins.get(normal(name)) == version.split("+")[0], name


def test_environment_leans_on_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert conda == ["python=3.11", "pip"]
    assert pip == ["-c constraints.txt", "-e .[book,test]"]
    assert {"book", "test"} <= set(EXTRAS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from what git would hand out."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "nodes_tutorial", "pyproject.toml", "README.md", "LICENSE*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_is_small_and_pure(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    files = zipfile.ZipFile(wheel).infolist()
    names = [file.filename for file in files]
    modules = [file for file in files if file.filename.endswith(".py")]
    assert max(module.compress_size for module in modules) < 8_000, "a module that is not small"
    assert wheel.stat().st_size < 2_400 * len(modules)  # about 2.2 kB each, packed, with its entry
    assert all(re.search(r"\.(py|typed|txt)$|dist-info/", name) for name in names), names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"nodes_tutorial"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(name):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([\w-]+)", (ROOT / name).read_text(encoding="utf-8")))
    assert named and named <= targets
