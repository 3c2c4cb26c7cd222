"""Interleaved timing: every contender runs once a round, so that all see the same machine."""

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

Work = dict[str, Callable[[], object]]


class Times:
    """Milliseconds of each contender in each round.

    The order turns by one from round to round, so that nobody always runs after the same other.
    With ``clock=time.process_time`` a machine that others use as well counts this process alone.
    """

    def __init__(
        self,
        work: Work,
        seconds: float = 6.0,
        least: int = 6,
        clock: Callable[[], float] = time.perf_counter,
    ):
        for run in work.values():
            run()
        names = list(work)
        self.rounds: dict[str, list[float]] = {name: [] for name in names}
        gc.collect()
        gc.disable()
        began, turn = time.perf_counter(), 0
        while turn < least or time.perf_counter() - began < seconds:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = clock()
                work[name]()
                self.rounds[name].append(1e3 * (clock() - start))
            turn += 1
        gc.enable()

    def ms(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, over: str, under: str) -> float:
        """Median over the rounds of the ratio of two contenders."""
        pairs = zip(self.rounds[over], self.rounds[under], strict=True)
        return statistics.median(a / b for a, b in pairs)


@dataclass
class Row:
    """One line of the table: a goal and what was measured. ``gate`` begins with its direction."""

    what: str
    measured: float
    gate: str
    stretch: str = ""

    @property
    def holds(self) -> bool:
        bound = float(self.gate[2:])
        return self.measured >= bound if self.gate[:2] == ">=" else self.measured <= bound


def show(rows: list[Row], errors: list[tuple[str, str, float, float]]) -> None:
    """Print the goals, then error beside time."""
    width = max(len(row.what) for row in rows)
    print(f"\n{'goal':{width}}  measured     gate  stretch")
    for row in rows:
        mark = "" if row.holds else "  MISSED"
        print(f"{row.what:{width}}  {row.measured:8.3g} {row.gate:>8} {row.stretch:>8}{mark}")
    print(f"\n{'problem':28} {'contender':26} {'ms':>9} {'error':>9}")
    for problem, contender, ms, error in errors:
        print(f"{problem:28} {contender:26} {ms:9.2f} {error:9.1e}")


def report(
    command: str,
    rows: list[Row],
    errors: list[tuple[str, str, float, float]],
    device: str = f"{platform.machine()} CPU, 1 thread",
) -> None:
    """Print the tables, and write them to the file named on the command line, if one is.

    Args:
        command: what makes the record, up to the name of its file.
        rows: goals and what was measured.
        errors: problem, contender, milliseconds and error of each line.
        device: what was measured on.
    """
    show(rows, errors)
    if len(sys.argv) < 2:
        return
    names = ("problem", "contender", "ms", "error")
    path = Path(sys.argv[1])
    found = {
        "command": f"{command}results/{path.name}",
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "device": device,
        "goals": [asdict(row) | {"holds": row.holds} for row in rows],
        "errors": [dict(zip(names, line, strict=True)) for line in errors],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
