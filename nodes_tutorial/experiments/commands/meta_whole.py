"""Command for few-shot learners with nothing frozen: `end_to_end`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Device,
    Every,
    Out,
    Rates,
    Seeds,
    Threads,
    app,
    checkpoint_of,
    decimals,
    numbers,
    running,
)


@app.command(name="end_to_end")
def end_to_end(
    methods: Annotated[
        str, typer.Option(help="prototypes, maml, hypermaml, transfer: with commas")
    ] = "prototypes,maml,hypermaml,transfer",
    shots: Annotated[str, typer.Option(help="images of a class in a support, with commas")] = "1,5",
    updates: Annotated[int, typer.Option(help="updates at each rate")] = 3000,
    tasks: Annotated[int, typer.Option(help="tasks an update")] = 16,
    rates: Rates = "0.001,0.003",
    test_tasks: Annotated[int, typer.Option(help="tasks of the test")] = 300,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 250,
    threads: Threads = 1,
    out: Out = Path("results/end_to_end.json"),
) -> None:
    """Train whole networks on Omniglot without Latin, and test them on other handwriting."""
    from nodes_tutorial.experiments.end_to_end import KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        wanted = [
            (seed, shot, method)
            for seed in numbers(seeds, "seeds")
            for shot in numbers(shots, "shots")
            for method in methods.split(",")
        ]
        for seed, shot, method in wanted:
            run = Run(
                method=method,
                shots=shot,
                updates=updates,
                tasks=tasks,
                rates=tuple(decimals(rates, "rates")),
                test_tasks=test_tasks,
                seed=seed,
                device=device,
            )
            place = checkpoint_of(checkpoint, method, f"{shot}s", seed)
            for row in execute(run, checkpoint=place, every=every):
                append(out, row, KEY)
                typer.echo(
                    f"{row['method']}, {shot} shots, seed {seed}: {row['accuracy']:.3f}, "
                    f"{row['nll']:.3f} nats, {row['wall_seconds']:.0f} s"
                )
