"""Commands for approximate posteriors: `logistic`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
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
def logistic(
    method: Annotated[str, typer.Option(help="vi, moved or vcd")] = "vcd",
    factors: Annotated[int, typer.Option(help="hidden numbers behind an image")] = 10,
    images: Annotated[int, typer.Option(help="training images, the first of MNIST's")] = 10_000,
    steps: Annotated[int, typer.Option(help="updates")] = 2000,
    batch: Annotated[int, typer.Option(help="images an update")] = 50,
    rate: Annotated[float, typer.Option(help="learning rate of Adam, which falls to 0")] = 3e-3,
    moves: Annotated[int, typer.Option(help="steps of the chain, of five leapfrogs each")] = 4,
    step_size: Annotated[float, typer.Option(help="step size of the chain")] = 0.1,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    every: Every = 200,
    threads: Threads = 1,
    out: Out = Path("results/logistic.json"),
) -> None:
    """Learn logistic factors of binary MNIST digits, and record the likelihood of test digits."""
    from nodes_tutorial.experiments.logistic import KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Run(
                method=method,
                factors=factors,
                images=images,
                steps=steps,
                batch=batch,
                rate=rate,
                moves=moves,
                step_size=step_size,
                seed=seed,
            )
            path = checkpoint_of(checkpoint, method, steps, seed)
            row, _ = execute(run, checkpoint=path, every=every)
            append(out, row, KEY)
            typer.echo(
                f"{method} {steps} steps seed {seed}: log-likelihood {row['log_likelihood']:.2f}, "
                f"bound {row['elbo']:.2f}, {row['cpu_seconds']:.0f} s"
            )
