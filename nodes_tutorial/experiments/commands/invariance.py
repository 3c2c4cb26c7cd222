"""Commands for predictions that keep what they should: `irm`, `sets`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Device,
    Every,
    Out,
    Seeds,
    Threads,
    app,
    checkpoint_of,
    numbers,
    running,
)


@app.command()
def irm(
    study: Annotated[str, typer.Option(help="released or selection")] = "released",
    methods: Annotated[str, typer.Option(help="of erm, irm, rex, gray, with commas")] = "",
    seeds: Seeds = "0,1,2",
    steps: Annotated[int, typer.Option(help="0 keeps the number of the study")] = 0,
    images: Annotated[int, typer.Option(help="of the selection study; 0 keeps all")] = 0,
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 100,
    threads: Threads = 1,
    out: Out = Path("results/irm.json"),
) -> None:
    """Colored MNIST with the released settings, or three rules that choose a setting."""
    from nodes_tutorial.experiments import irm as released
    from nodes_tutorial.experiments import selection
    from nodes_tutorial.experiments.record import append

    with running(threads):
        if study not in ("released", "selection"):
            raise ValueError(f"study must be released or selection, got {study!r}")
        whole = released.RELEASED if study == "released" else selection.METHODS
        for method in methods.split(",") if methods else whole:
            for seed in numbers(seeds, "seeds"):
                place = checkpoint_of(checkpoint, study, method, seed)
                how = {"checkpoint": place, "every": every}
                if study == "released":
                    run = released.Run(method=method, seed=seed, steps=steps, device=device)
                    row = released.execute(run, **how)
                    told = f"train {row['train']:.4f}, test {row['test']:.4f}"
                else:
                    sizes = {"steps": steps, "images": images}
                    asked = {name: size for name, size in sizes.items() if size}
                    choice = selection.Run(method=method, seed=seed, device=device, **asked)
                    row = selection.execute(choice, **how)
                    best = max(one["validation"][2] for one in row["settings_tried"])
                    told = f"best of the settings in the test environment {best:.4f}"
                append(out, row, released.KEY)
                typer.echo(f"{study} {method} seed {seed}: {told}, {row['wall_seconds']} s")


@app.command()
def sets(
    task: Annotated[str, typer.Option(help="median or digits")] = "median",
    elements: Annotated[int, typer.Option(help="numbers of which the median is learned")] = 3,
    activation: Annotated[str | None, typer.Option(help="silu or relu, tanh for digits")] = None,
    steps: Annotated[int | None, typer.Option(help="updates; None for the task's own")] = None,
    batch: Annotated[int | None, typer.Option(help="sets of an update")] = None,
    test_sets: Annotated[int | None, typer.Option(help="sets of a test")] = None,
    seeds: Seeds = "0,1,2",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 1000,
    threads: Threads = 1,
    out: Out = Path("results/sets.json"),
) -> None:
    """Learn medians for all latent widths at once, or sums of MNIST's digits for three pools."""
    from nodes_tutorial.experiments import set_digits, set_medians
    from nodes_tutorial.experiments.record import append

    with running(threads):
        given = {"activation": activation, "steps": steps, "batch": batch, "test_sets": test_sets}
        how = {name: value for name, value in given.items() if value is not None}
        how |= {"seeds": tuple(numbers(seeds, "seeds")), "device": device}
        told = {"checkpoint": checkpoint_of(checkpoint, task, elements), "every": every}
        if task == "median":
            row = set_medians.execute(set_medians.Run(elements=elements, **how), **told)
            append(out, row, ("task", "elements", "activation"))
            for width, errors in zip(row["widths"], row["rmse"], strict=True):
                typer.echo(f"{elements} numbers, width {width}: RMSE {errors}")
        elif task == "digits":
            for row in set_digits.execute(set_digits.Run(**how), **told):
                append(out, row, ("task", "pool", "activation"))
                typer.echo(f"{row['pool']}: MAE {row['mae']} at {row['lengths']}")
        else:
            raise ValueError(f"task must be median or digits, got {task!r}")
