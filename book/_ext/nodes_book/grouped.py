"""Tables of records whose rows are grouped by a few entries: means and spreads over the seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Row = list[str]


@dataclass(frozen=True)
class Column:
    """An entry of a record under a title, times ``scale``."""

    title: str
    entry: str
    digits: int = 3
    scale: float = 1.0


@dataclass(frozen=True)
class Grouped:
    """A table of one record: a line for each group of rows with the same ``keys``.

    Attributes:
        file: the record, in `results/`.
        keys: titles, and the entries that make a group.
        columns: what is averaged over the rows of a group.
        inside: entry that holds rows of its own; "" where the rows are the record's.
        only: an entry and the value that it has in the rows of the table; None for all rows.
    """

    file: str
    keys: dict[str, str]
    columns: Sequence[Column]
    inside: str = ""
    only: tuple[str, str] | None = None

    def __call__(self, root: Path) -> list[Row]:
        path = root / "results" / self.file
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        if self.only:
            rows = [row for row in rows if row[self.only[0]] == self.only[1]]
        if self.inside:
            rows = [part for row in rows for part in row[self.inside]]
        head = [*self.keys, "runs", *(column.title for column in self.columns)]
        table = [[*head, "CPU seconds a run"]]
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[entry] for entry in self.keys.values()), []).append(row)
        for key, same in sorted(groups.items()):
            line = [f"{part:g}" if isinstance(part, float) else str(part) for part in key]
            cells = [cell([row.get(c.entry) for row in same], c) for c in self.columns]
            seconds = fmean(row["cpu_seconds"] for row in same)
            table.append([*line, str(len(same)), *cells, f"{seconds:.0f}"])
        if not rows:
            table.append(["not run", *[""] * len(head)])
        return table


def cell(values: Sequence[float | None], column: Column) -> str:
    """Mean and standard deviation; empty where a row has no such entry."""
    found = [column.scale * value for value in values if value is not None]
    if len(found) < len(values):
        return ""
    mean = f"{fmean(found):.{column.digits}f}".replace("-", "−")
    if len(found) == 1:
        return mean
    return f"{mean} ±\N{NO-BREAK SPACE}{stdev(found):.{column.digits}f}"


GROUPED = {
    "uci": Grouped(
        "uci.json",
        {"data": "dataset", "method": "method"},
        [
            Column("RMSE", "rmse", 2),
            Column("log-likelihood", "log_lik", 2),
            Column("inside 50 %", "inside_50", 2),
            Column("inside 90 %", "inside_90", 2),
        ],
    ),
    "unsure": Grouped(
        "unsure.json",
        {"method": "method"},
        [
            Column("errors in %", "error", 2, 100),
            Column("log-loss", "nll", 4),
            Column("calibration error", "ece", 4),
            Column("AUROC, letters", "auroc", 4),
            Column("temperature", "temperature", 2),
        ],
    ),
    "beta_vae": Grouped(
        "beta_vae.json",
        {"β": "beta"},
        [
            Column("rate", "rate", 2),
            Column("distortion", "distortion", 2),
            Column("information", "information", 2),
            Column("active units", "active", 1),
            Column("MIG", "mig"),
        ],
    ),
    "logistic": Grouped(
        "logistic.json",
        {"method": "method", "updates": "steps"},
        [
            Column("log-likelihood of an image", "log_likelihood", 2),
            Column("bound", "elbo", 2),
            Column("effective share of the draws", "ess"),
        ],
    ),
    "penalty": Grouped(
        "penalty.json",
        {"descent": "name", "step": "step", "updates": "updates"},
        [
            Column("squared distance", "squared_distance", 4),
            Column("test accuracy in %", "test_accuracy", 2, 100),
            Column("squared gradient", "square_gradient", 4),
        ],
        inside="contenders",
    ),
    "exponential": Grouped(
        "exponential.json",
        {"run": "name", "precision": "dtype", "updates": "updates"},
        [
            Column("last losses", "last_losses", 4),
            Column("test accuracy in %", "test_accuracy", 2, 100),
        ],
        inside="contenders",
    ),
    "distill": Grouped(
        "distill.json",
        {"start": "start"},
        [
            Column("learned images in %", "learned", 1, 100),
            Column("class means", "means", 1, 100),
            Column("one image a class", "one", 1, 100),
            Column("nearest mean", "nearest_mean", 1, 100),
        ],
    ),
    "irm": Grouped(
        "irm.json",
        {"method": "method"},
        [Column("training, %", "train", 1, 100), Column("test, %", "test", 1, 100)],
        only=("study", "released"),
    ),
    "meta_heads": Grouped(
        "meta.json",
        {"row": "row", "shots": "shots", "gamma": "gamma"},
        (
            Column("accuracy in %", "accuracy", 1, 100),
            Column("NLL", "nll"),
            Column("ECE", "ece"),
            Column("NLL, scaled", "nll_scaled"),
            Column("by entropy", "auroc_entropy"),
            Column("by information", "auroc_information"),
            Column("by distance", "auroc_distance"),
        ),
    ),
    "end_to_end": Grouped(
        "end_to_end.json",
        {"method": "method", "shots": "shots", "updates": "updates"},
        (
            Column("accuracy in %", "accuracy", 1, 100),
            Column("NLL", "nll"),
            Column("ECE", "ece"),
            Column("NLL, scaled", "nll_scaled"),
            Column("by entropy", "auroc_entropy"),
        ),
    ),
    "maml": Grouped(
        "maml.json",
        {"ways": "ways", "shots": "shots", "updates": "steps"},
        (
            Column("accuracy in %", "together", 1, 100),
            Column("each query alone", "alone", 1, 100),
            Column("before the steps", "before", 1, 100),
            Column("pixels", "pixels", 1, 100),
        ),
    ),
}
