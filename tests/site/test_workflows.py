"""The workflows are well-formed and hold no logic: they call the make targets.

They are not run here; GitHub runs them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
STEP_KEYS = {"name", "id", "if", "uses", "with", "run", "env", "working-directory", "shell"}
JOB_KEYS = {
    "name",
    "runs-on",
    "needs",
    "if",
    "strategy",
    "container",
    "environment",
    "permissions",
    "steps",
    "timeout-minutes",
    "env",
    "defaults",
}


def load(path: Path) -> dict:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True)  # YAML 1.1 reads the key `on` as true
    return content


def test_there_are_three():
    assert [path.stem for path in WORKFLOWS] == ["ci", "pages", "weekly"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_shape(path):
    workflow = load(path)
    assert set(workflow) <= {"name", "on", "permissions", "concurrency", "jobs", "env"}
    assert workflow["permissions"]["contents"] == "read"
    for job in workflow["jobs"].values():
        assert set(job) <= JOB_KEYS
        assert job["timeout-minutes"] <= 90
        for needed in [job.get("needs", [])]:
            names = [needed] if isinstance(needed, str) else needed
            assert set(names) <= set(workflow["jobs"])
        for step in job["steps"]:
            assert set(step) <= STEP_KEYS
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step["uses"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_are_make_targets(path):
    for job in load(path)["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        made = [name for text in commands for name in re.findall(r"\bmake ([\w-]+)", text)]
        made += ["book", "test"] * sum(".ci/run" in text for text in commands)
        assert set(made) <= TARGETS
        if not any("deploy" in step.get("uses", "") for step in job["steps"]):
            assert made


def test_python_versions_are_the_lowest_and_the_newest():
    matrix = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.13"]
