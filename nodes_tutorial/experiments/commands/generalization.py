"""Commands for the generalization of gradient descent: `penalty`, `exponential`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Out,
    Seeds,
    Threads,
    app,
    checkpoint_of,
    decimals,
    numbers,
    running,
)


@app.command()
def penalty(
    large: Annotated[float, typer.Option(help="the large step")] = 0.2,
    finer: Annotated[int, typer.Option(help="how many times smaller the small step is")] = 4,
    epochs: Annotated[int, typer.Option(help="of the large step")] = 3,
    batch: Annotated[int, typer.Option(help="images of a minibatch")] = 256,
    width: Annotated[int, typer.Option(help="of the hidden layer")] = 64,
    orders: Annotated[int, typer.Option(help="shuffles that are averaged")] = 4,
    ratios: Annotated[str, typer.Option(help="coefficients, in predicted ones")] = "0,0.5,1,2",
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    threads: Threads = 1,
    out: Out = Path("results/penalty.json"),
) -> None:
    """Compare large steps on MNIST with small steps and an explicit penalty of the gradient."""
    from nodes_tutorial.experiments.penalty import Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Run(
                large=large,
                finer=finer,
                epochs=epochs,
                batch=batch,
                width=width,
                orders=orders,
                ratios=tuple(decimals(ratios, "ratios")),
                seed=seed,
            )
            row = execute(run, checkpoint=checkpoint_of(checkpoint, seed))
            append(out, row, ("seed",))
            for one in row["contenders"]:
                near, far = one["squared_distance"], one["squared_travelled"]
                typer.echo(
                    f"seed {seed} {one['name']:10} squared distance {near:.4f} of {far:.2f}, "
                    f"test accuracy {one['test_accuracy']:.4f}"
                )


@app.command()
def exponential(
    steps: Annotated[int, typer.Option(help="minibatches")] = 468,
    batch: Annotated[int, typer.Option(help="images of a minibatch")] = 64,
    width: Annotated[int, typer.Option(help="channels of the first convolution")] = 8,
    rate: Annotated[float, typer.Option(help="step size with decay")] = 0.1,
    decay: Annotated[float, typer.Option(help="weight decay")] = 0.005,
    momentum: Annotated[float, typer.Option(help="of both runs")] = 0.9,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    threads: Threads = 1,
    out: Out = Path("results/exponential.json"),
) -> None:
    """Train a network on MNIST with weight decay, and with the growing step size in its place."""
    from nodes_tutorial.experiments.exponential import Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Run(
                steps=steps,
                batch=batch,
                width=width,
                rate=rate,
                decay=decay,
                momentum=momentum,
                seed=seed,
            )
            row = execute(run, checkpoint=checkpoint_of(checkpoint, seed))
            append(out, row, ("seed",))
            for one in row["contenders"]:
                typer.echo(
                    f"seed {seed} {one['name']:8} {one['dtype']} last losses "
                    f"{one['last_losses']:.4f}, distance to decay {one['largest']:.1e}, "
                    f"test accuracy {one['test_accuracy']:.4f}"
                )
