"""Commands for predictors that hold in several environments: `irm`."""

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
