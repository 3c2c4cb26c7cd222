"""Commands for gradients through an optimum: `imaml`, `sinusoids`, `distill`."""

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


@app.command()
def imaml(
    method: Annotated[str, typer.Option(help="maml or imaml")] = "imaml",
    part: Annotated[str, typer.Option(help="full or small Omniglot")] = "full",
    steps: Annotated[int, typer.Option(help="updates of the initial weights")] = 100,
    rates: Rates = "0.001",
    width: Annotated[int, typer.Option(help="channels of the four blocks")] = 16,
    tasks: Annotated[int, typer.Option(help="tasks an update")] = 8,
    maml_steps: Annotated[int, typer.Option(help="inner steps of maml")] = 1,
    maml_lr: Annotated[float, typer.Option(help="step size of maml")] = 0.4,
    lam: Annotated[float, typer.Option(help="weight of imaml's penalty")] = 2.0,
    inner_steps: Annotated[int, typer.Option(help="inner steps of imaml")] = 16,
    inner_lr: Annotated[float, typer.Option(help="step size of imaml")] = 0.1,
    products: Annotated[int, typer.Option(help="most Hessian products of a system")] = 5,
    damping: Annotated[float, typer.Option(help="of that system")] = 11.0,
    test_tasks: Annotated[int, typer.Option(help="tasks of the test")] = 200,
    looks: Annotated[int, typer.Option(help="tests, evenly over the updates")] = 6,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 50,
    threads: Threads = 1,
    out: Out = Path("results/imaml.json"),
) -> None:
    """Meta-train a small network on Omniglot, and record its accuracy against the seconds."""
    from nodes_tutorial.experiments.imaml import KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        pairs = [(r, s) for r in decimals(rates, "rates") for s in numbers(seeds, "seeds")]
        for rate, seed in pairs:
            run = Run(
                method=method,
                part=part,
                steps=steps,
                rate=rate,
                width=width,
                tasks=tasks,
                maml_steps=maml_steps,
                maml_lr=maml_lr,
                lam=lam,
                inner_steps=inner_steps,
                inner_lr=inner_lr,
                products=products,
                damping=damping,
                test_tasks=test_tasks,
                looks=looks,
                seed=seed,
                device=device,
            )
            path = checkpoint_of(checkpoint, method, f"{rate:g}", seed)
            row, _ = execute(run, checkpoint=path, every=every)
            append(out, row, KEY)
            last = row["curve"][-1]
            typer.echo(
                f"{method} rate {rate:g} seed {seed}: {last['accuracy']:.3f} "
                f"after {last['seconds']:.0f} s, pixels {row['pixels']:.3f}"
            )


@app.command()
def sinusoids(
    method: Annotated[str, typer.Option(help="maml or imaml")] = "imaml",
    steps: Annotated[int, typer.Option(help="updates of the initial weights")] = 1000,
    rates: Rates = "0.01",
    tasks: Annotated[int, typer.Option(help="tasks an update")] = 25,
    lam: Annotated[float, typer.Option(help="weight of imaml's penalty")] = 2.0,
    inner_steps: Annotated[int, typer.Option(help="inner steps of imaml")] = 16,
    looks: Annotated[int, typer.Option(help="tests, evenly over the updates")] = 10,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    every: Every = 100,
    threads: Threads = 1,
    out: Out = Path("results/sinusoids.json"),
) -> None:
    """Meta-train a small network on sinusoids, all seeds as one batch, and record its errors."""
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.experiments.sinusoids import KEY, Run, execute

    with running(threads):
        for rate in decimals(rates, "rates"):
            run = Run(
                method=method,
                steps=steps,
                rate=rate,
                tasks=tasks,
                lam=lam,
                inner_steps=inner_steps,
                looks=looks,
            )
            path = checkpoint_of(checkpoint, method, f"{rate:g}", seeds)
            rows, _ = execute(run, list(numbers(seeds, "seeds")), checkpoint=path, every=every)
            for row in rows:
                append(out, row, KEY)
                last = row["curve"][-1]
                typer.echo(
                    f"{method} rate {rate:g} seed {row['seed']}: {last['before']:.3f} before, "
                    f"{last['adapted']:.3f} adapted after {last['seconds']:.0f} s"
                )


@app.command()
def distill(
    start: Annotated[str, typer.Option(help="means or noise")] = "means",
    steps: Annotated[int, typer.Option(help="updates of the images")] = 200,
    batch: Annotated[int, typer.Option(help="validation images an update")] = 2000,
    rate: Annotated[float, typer.Option(help="learning rate of the pixels")] = 0.02,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    every: Every = 50,
    threads: Threads = 1,
    out: Out = Path("results/distill.json"),
) -> None:
    """Learn one image a class of MNIST, and test the classifier that is trained on them."""
    from nodes_tutorial.experiments.distill import KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Run(start=start, steps=steps, batch=batch, rate=rate, seed=seed)
            path = checkpoint_of(checkpoint, start, seed)
            row, _ = execute(run, checkpoint=path, every=every)
            append(out, row, KEY)
