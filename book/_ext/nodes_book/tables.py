"""Tables of recorded runs, from `results/*.json`. What was not run says so."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nodes_book.episodes import few_shot
from nodes_book.grouped import GROUPED
from nodes_book.robustness import robust, thin
from tools.project import ROOT

Row = list[str]
PUBLISHED = json.loads((ROOT / "results" / "published.json").read_text(encoding="utf-8"))
TOYS = PUBLISHED["toys"]["names"]
MODELS = PUBLISHED["toys"]["models"]


def read(root: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a record; none where it is missing."""
    path = root / "results" / name
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean, standard deviation and number of runs."""
    found = [float(value) for value in values]
    if not found:
        return "not run"
    mean = f"{fmean(found):.{digits}f}".replace("-", "−")
    if len(found) == 1:
        return f"{mean} (1)"
    return f"{mean} ±\N{NO-BREAK SPACE}{stdev(found):.{digits}f} ({len(found)})"


def toys(root: Path) -> list[Row]:
    rows = read(root, "density.json")
    table = [["model", *TOYS, "CPU seconds a run"]]
    for model, title in MODELS.items():
        mine = [row for row in rows if row["model"] == model]
        cells = [spread(r["excess"] for r in mine if r["dataset"] == name) for name in TOYS]
        seconds = [row["cpu_seconds"] for row in mine if row["dataset"] in TOYS]
        low, high = (f"{pick(seconds):.0f}" if seconds else "" for pick in (min, max))
        table.append([title, *cells, low if low == high else f"{low} to {high}"])
    return table


def tabular(root: Path) -> list[Row]:
    rows = read(root, "density.json")
    table = [["model", "POWER, published", "here", "MINIBOONE, published", "here"]]
    for model, published in PUBLISHED["tabular"]["rows"].items():
        cells = []
        for name in ("power", "miniboone"):
            ours = [r["nll"] for r in rows if (r["dataset"], r["model"]) == (name, model)]
            cells += [published[name], spread(ours, 2)]
        table.append([MODELS[model], *cells])
    return table


def matching(root: Path) -> list[Row]:
    """One line a method; the seconds and the numbers of runs are columns of their own."""
    head = ["data", "method", "runs", "seconds", "updates", "above the floor", "NFE", "bend"]
    table = [[*head, "W2, 1 Euler step", "W2, dopri5", "W2, truth"]]
    rows = read(root, "matching.json")
    for name in dict.fromkeys(row["dataset"] for row in rows):
        for method in ("CFM", "OT-CFM", "FFJORD"):
            mine = [r for r in rows if (r["dataset"], r["model"]) == (name, method)]
            if not mine:
                table.append([name, method, "not run", *[""] * 8])
                continue
            seconds = ", ".join(sorted({f"{r['cpu_seconds']:g}" for r in mine}))
            mean = {key: fmean(r[key] for r in mine) for key in ("steps", "nfe", "w2_truth")}
            columns = [
                [r["straightness"] for r in mine],
                [r["w2_euler"]["1"] for r in mine],
                [r["w2"] for r in mine],
            ]
            above = spread((r["excess"] for r in mine), 3).rpartition(" (")[0]
            line = [name, method, str(len(mine)), seconds, f"{mean['steps']:,.0f}", above]
            line += [f"{mean['nfe']:.0f}", *(f"{fmean(values):.2f}" for values in columns)]
            table.append([*line, f"{mean['w2_truth']:.2f}"])
    return table if len(table) > 1 else [["data", "method"], ["", "not run"]]


def latent(root: Path) -> list[Row]:
    """Two lines for each model and task: what was published, where it was, and what we found."""
    shares = ("10 %", "20 %", "30 %", "50 %")
    table = [["data", "task", "model", *shares, "runs", "parameters", "CPU seconds a run"]]
    rows = read(root, "latent.json")
    for name in dict.fromkeys(["periodic-code", *(row["dataset"] for row in rows)]):
        for task in ("interpolate", "extrapolate"):
            for model, title in PUBLISHED["latent"]["models"].items():
                if name == "periodic-code":
                    published = PUBLISHED["latent"]["rows"][model][task].split()
                    table.append([name, task, f"{title}, published", *published, "", "", ""])
                mine = [r for r in rows if (r["dataset"], r["model"]) == (name, model)]
                if not mine:
                    table.append([name, task, title, "not run", *[""] * 6])
                    continue
                cells = [
                    spread((r[f"{task} {share:g}"] for r in mine), 4).rpartition(" (")[0]
                    for share in (0.1, 0.2, 0.3, 0.5)
                ]
                seconds = fmean(r["cpu_seconds"] for r in mine)
                size = f"{mine[0]['parameters']:,}"
                table.append([name, task, title, *cells, str(len(mine)), size, f"{seconds:.0f}"])
    return table


IMAGES = {"mnist": "MNIST", "mnist10k": "MNIST's test images", "digits": "digits, 8×8"}


def images(root: Path) -> list[Row]:
    """Bits per dimension: published for the whole of MNIST, and ours for what is at hand."""
    table = [["data", "images to train", "model", "bits per dimension", "on training images"]]
    table[0] += ["parameters", "CPU seconds a run"]
    for model, published in PUBLISHED["images"]["rows"].items():
        table.append(["MNIST", "60,000", f"{model}, published", published, "", "", ""])
    rows = read(root, "images.json")
    for name, title in IMAGES.items():
        mine = [row for row in rows if row["dataset"] == name]
        if not mine:
            table.append([title, "", "Glow", "not run", "", "", ""])
            continue
        bits = [spread(r[key] for r in mine) for key in ("bits_per_dim", "bits_training_images")]
        seconds = fmean(row["cpu_seconds"] for row in mine)
        size = f"{mine[0]['parameters']:,}"
        line = [title, f"{mine[0]['train_images']:,}", "Glow", *bits, size, f"{seconds:.0f}"]
        table.append(line)
    return table


def classifiers(root: Path) -> list[Row]:
    """Mistakes on test images: published for 160 epochs of MNIST, and ours for a few."""
    table = [["data", "network", "epochs", "parameters", "test errors in %", "CPU seconds a run"]]
    for model, (errors, size) in PUBLISHED["classifiers"]["rows"].items():
        table.append(["MNIST", f"{model}, published", "160", size, errors, ""])
    rows = read(root, "odenet_mnist.json")
    if not rows:
        table.append(["MNIST", "", "", "", "not run", ""])
    for key in dict.fromkeys((r["network"], r["epochs"], r["parameters"]) for r in rows):
        same = [r for r in rows if (r["network"], r["epochs"], r["parameters"]) == key]
        errors = spread((100 * r["wrong"] / r["test_images"] for r in same), 2)
        seconds = f"{fmean(r['cpu_seconds'] for r in same):.0f}"
        table.append(["MNIST", key[0], str(key[1]), f"{key[2]:,}", errors, seconds])
    return table


def meta_learning(root: Path) -> list[Row]:
    """Accuracy on five-way one-shot Omniglot: published end points, and ours after few updates."""
    table = [["method", "channels", "rate", "updates", "accuracy in %", "CPU seconds a run"]]
    for method, accuracy in PUBLISHED["meta_learning"]["rows"].items():
        table.append([f"{method}, published", "64", "", "", accuracy, ""])
    rows = read(root, "imaml.json")
    if not rows:
        table.append(["MAML and iMAML", "", "", "", "not run", ""])
    names = ("method", "width", "rate", "steps")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        same = [row for row in rows if tuple(row[name] for name in names) == key]
        accuracy = spread((100 * row["curve"][-1]["accuracy"] for row in same), 1)
        seconds = f"{fmean(row['cpu_seconds'] for row in same):.0f}"
        method, width, rate, steps = key
        name = {"maml": "MAML", "imaml": "iMAML"}[method]
        table.append([name, str(width), f"{rate:g}", str(steps), accuracy, seconds])
    return table


def known_unknowns(root: Path) -> list[Row]:
    """One line a system and model; parameters that are not inferred have an empty cell."""
    head = ["system", "model", "runs", "MSE seen", "MSE to come", "L1 to come"]
    table = [[*head, "correlation", "error", "right", "state", "CPU seconds a run"]]
    rows = read(root, "goku.json")
    for system in dict.fromkeys(["pendulum", "friction", "cvs", *(r["system"] for r in rows)]):
        for model, title in PUBLISHED["known_unknowns"]["models"].items():
            mine = [r for r in rows if (r["system"], r["model"]) == (system, model)]
            if not mine:
                table.append([system, title, "not run", *[""] * 8])
                continue
            line = [system, title, str(len(mine))]
            for key in ("mse_seen", "mse_later", "l1_later"):
                line.append(spread((r[key] for r in mine), 4).rpartition(" (")[0])
            for kind, digits in (("corr", 3), ("error", 3), ("right", 2)):
                names = [k for k in mine[0] if k.startswith(f"{kind}_") and k != "corr_state"]
                cells = (f"{k[-1]} {fmean(r[k] for r in mine):.{digits}f}" for k in names)
                line.append(", ".join(cells))
            state = [abs(r["corr_state"]) for r in mine if "corr_state" in r]
            line.append(f"{fmean(state):.3f}" if state else "")
            table.append([*line, f"{fmean(r['cpu_seconds'] for r in mine):.0f}"])
    return table


def stability(root: Path) -> list[Row]:
    """One line a data set and network: validation accuracy, and iterations, at each depth."""
    depths = [2**k for k in range(2, 11)]
    table = [["data", "network", "runs", *(f"{n} layers" for n in depths), "CPU seconds in all"]]
    rows = read(root, "stability.json")
    for name in ("ellipses", "swissroll", "peaks"):
        for model in ("plain", "antisymmetric", "leapfrog", "verlet"):
            mine = [r for r in rows if (r["dataset"], r["model"]) == (name, model)]
            if not mine:
                table.append([name, model, "not run", *[""] * (len(depths) + 1)])
                continue
            line = [name, model, str(len({r["seed"] for r in mine}))]
            for depth in depths:
                there = [r for r in mine if r["layers"] == depth]
                share, count = (
                    fmean(r[key] for r in there) if there else 0.0
                    for key in ("valid_accuracy", "iterations")
                )
                line.append(f"{share:.3f} ({count:.0f})" if there else "")
            seconds = sum(r["cpu_seconds"] for r in mine) / int(line[2])
            table.append([*line, f"{seconds:.0f}"])
    return table


def runs(root: Path) -> list[Row]:
    """Every record: where it is, what made it, and from which states of the code."""
    table = [["record", "made by", "date", "machine", "torch", "commit"]]
    for path in sorted((root / "results").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = record.get("rows", []) if "command" not in record else [record]
        made: dict[tuple[str, ...], dict[str, None]] = {}
        for entry in entries:
            key = tuple(str(entry.get(name, "")) for name in ("command", "date", "device", "torch"))
            commit = str(entry.get("commit") or "")[:7]
            commit += "*" if entry.get("package_changed_since") else ""
            made.setdefault(key, {})[commit] = None
        for (command, *where), commits in made.items():
            short = command.removeprefix("python -m nodes_tutorial.")
            table.append([path.stem, short, *where, ", ".join(commits)])
    return table


# `cuda` has a table of its own
SPEED = ("ode", "events", "flows", "spline", "latent", "implicit", "bayes", "pernet", "meta")


def speed(root: Path) -> list[Row]:
    """Goals of the benchmarks and what was measured, missed ones included."""
    table = [["work", "measured", "goal", "held"]]
    for part in SPEED:
        path = root / "results" / f"speed_{part}.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"goals": []}
        for goal in record["goals"]:
            bound = goal["gate"].replace(">=", "≥ ").replace("<=", "≤ ")
            held = "yes" if goal["holds"] else "no"
            table.append([goal["what"], f"{goal['measured']:.3g}", bound, held])
    return table if len(table) > 1 else [*table, ["", "not run", "", ""]]


def gpu(root: Path) -> list[Row]:
    """Milliseconds and errors of each contender on a GPU."""
    table = [["work", "contender", "milliseconds", "error"]]
    path = root / "results" / "speed_cuda.json"
    lines = json.loads(path.read_text(encoding="utf-8"))["errors"] if path.is_file() else []
    for line in lines:
        off = "" if line["error"] != line["error"] else f"{line['error']:.0e}"
        table.append([line["problem"], line["contender"], f"{line['ms']:.3g}", off])
    return table if lines else [*table, ["", "not run", "", ""]]


TABLES: dict[str, Callable[[Path], list[Row]]] = {
    "toys": toys,
    "tabular": tabular,
    "matching": matching,
    "images": images,
    "classifiers": classifiers,
    "latent": latent,
    "meta_learning": meta_learning,
    "few_shot": few_shot,
    "known_unknowns": known_unknowns,
    "stability": stability,
    **GROUPED,
    "speed": speed,
    "gpu": gpu,
    "robust": robust,
    "thin": thin,
    "runs": runs,
}
