"""What a run leaves behind: a row of a JSON file that says how it was made."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

FILES = ("--out", "--checkpoint", "--picture")


def check(run: object, known: dict[str, Collection[str]], positive: Sequence[str]) -> None:
    """Refuse a run that cannot be made, before anything is computed.

    Args:
        run: what was asked for; its attributes are looked at.
        known: the values that an attribute may have.
        positive: attributes that are at least 1.

    Raises:
        ValueError: naming the attribute.
    """
    for name, values in known.items():
        if getattr(run, name) not in values:
            raise ValueError(
                f"{name} must be one of {', '.join(values)}; got {getattr(run, name)!r}"
            )
    for name in positive:
        if getattr(run, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(run, name)}")


class Clock:
    """CPU and wall seconds of a run over all its interruptions; an entry of ``fit``'s state.

    >>> from nodes_tutorial.experiments.record import Clock
    >>> Clock().state_dict().keys()
    dict_keys(['cpu', 'wall'])
    """

    def __init__(self) -> None:
        self._before = {"cpu": 0.0, "wall": 0.0}
        self._begin = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        return {"cpu": time.process_time(), "wall": time.perf_counter()}

    def state_dict(self) -> dict[str, float]:
        """Seconds up to now."""
        now = self._now()
        return {name: self._before[name] + now[name] - self._begin[name] for name in now}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from the seconds of an interrupted run."""
        self._before, self._begin = dict(state), self._now()


def provenance(device: str = "cpu") -> dict[str, Any]:
    """The command, the commit, the versions and the machine."""
    name = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    commit, changed = _commit()
    return {
        "command": _command(sys.argv[1:]),
        "commit": commit,
        "package_changed_since": changed,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "package": version("nodes-tutorial"),
        "device": name,
    }


def _command(arguments: Sequence[str]) -> str:
    """The command without the names of files, which say nothing about the run."""
    kept = ["python -m nodes_tutorial.experiments"]
    words = iter(arguments)
    for word in words:
        if word in FILES:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in FILES)):
            kept.append(word)
    return " ".join(kept)


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout the package is in, and whether its code differs; or None."""
    folder = Path(__file__).parents[1]
    answers = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."]):
        try:
            run = subprocess.run(
                ["git", *command], cwd=folder, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None, None
        answers.append(run.stdout.strip())
    return answers[0], bool(answers[1])


def append(path: str | Path, row: dict[str, Any], key: tuple[str, ...]) -> None:
    """Put a row into a JSON file in place of the one with the same key; atomic.

    Args:
        path: the file, ``{"rows": [...]}``; made when missing.
        row: what was measured.
        key: names of the entries that tell rows apart.
    """
    path = Path(path)
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [old for old in rows if any(old.get(name) != row.get(name) for name in key)]
    rows.append(row)
    rows.sort(key=lambda one: tuple(str(one.get(name)) for name in key))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    os.replace(beside, path)
