"""Command for heads of few-shot tasks on frozen features: `meta`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Out,
    Seeds,
    Threads,
    app,
    decimals,
    numbers,
    running,
)


@app.command()
def meta(
    rows: Annotated[str, typer.Option(help="rows of the table, with commas")] = "prototypes",
    shots: Annotated[str, typer.Option(help="images of a class in a support, with commas")] = "1,5",
    gammas: Annotated[str, typer.Option(help="weights of the divergence, with commas")] = "0",
    further: Annotated[bool, typer.Option(help="also choose more steps on the support")] = False,
    updates: Annotated[int, typer.Option(help="updates of what is trained")] = 600,
    tasks: Annotated[int, typer.Option(help="tasks an update")] = 16,
    test_tasks: Annotated[int, typer.Option(help="tasks of the test")] = 300,
    encoder: Annotated[
        int | None, typer.Option(help="seed of the encoder; left out, each seed has its own")
    ] = None,
    seeds: Seeds = "0",
    threads: Threads = 1,
    out: Out = Path("results/meta.json"),
) -> None:
    """Train heads on frozen features of Omniglot, and test them on other handwriting.

    Rows that are in the file already, with the same settings, are not made again.
    """
    from nodes_tutorial.experiments.meta import KEY, Run, execute, made
    from nodes_tutorial.experiments.record import append

    with running(threads):
        wanted = [
            (seed, shot, row, gamma)
            for seed in numbers(seeds, "seeds")
            for shot in numbers(shots, "shots")
            for row in rows.split(",")
            for gamma in decimals(gammas, "gammas")
        ]
        for seed, shot, row, gamma in wanted:
            run = Run(
                row=row,
                shots=shot,
                gamma=gamma,
                further=further,
                updates=updates,
                tasks=tasks,
                test_tasks=test_tasks,
                encoder=encoder,
                seed=seed,
            )
            if made(out, run):
                continue
            for found in execute(run):
                append(out, found, KEY)
                typer.echo(
                    f"{found['row']} gamma {gamma:g}, {shot} shots, seed {seed}: "
                    f"{found['accuracy']:.3f}, {found['nll']:.3f} nats"
                )
