"""The command `maml`: meta-training through the inner steps."""

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
def maml(
    ways: Annotated[int, typer.Option(help="classes of a task")] = 5,
    shots: Annotated[int, typer.Option(help="images of a class to adapt to")] = 1,
    queries: Annotated[int, typer.Option(help="images of a class to be judged by")] = 5,
    order: Annotated[int, typer.Option(help="2, or 1 without second derivatives")] = 2,
    anil: Annotated[bool, typer.Option(help="adapt the head alone")] = False,
    steps: Annotated[int, typer.Option(help="updates of the initial weights")] = 100,
    rate: Annotated[float, typer.Option(help="learning rate of Adam")] = 2e-3,
    width: Annotated[int, typer.Option(help="channels of the four blocks")] = 32,
    tasks: Annotated[int, typer.Option(help="tasks an update")] = 8,
    inner_steps: Annotated[int, typer.Option(help="inner steps in training")] = 1,
    inner_lr: Annotated[float, typer.Option(help="their step size")] = 0.4,
    test_steps: Annotated[int, typer.Option(help="inner steps at test")] = 3,
    test_tasks: Annotated[int, typer.Option(help="tasks of the test")] = 100,
    looks: Annotated[int, typer.Option(help="tests, evenly over the updates")] = 5,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 50,
    threads: Threads = 1,
    out: Out = Path("results/maml.json"),
) -> None:
    """Meta-train a small network on Omniglot by MAML, and record what it names correctly."""
    from nodes_tutorial.experiments.maml import KEY, Run, execute
    from nodes_tutorial.experiments.processes import together
    from nodes_tutorial.experiments.record import append

    with running(threads), together(device) as process:
        for seed in numbers(seeds, "seeds"):
            run = Run(
                ways=ways,
                shots=shots,
                queries=queries,
                order=order,
                anil=anil,
                steps=steps,
                rate=rate,
                width=width,
                tasks=tasks,
                inner_steps=inner_steps,
                inner_lr=inner_lr,
                test_steps=test_steps,
                test_tasks=test_tasks,
                looks=looks,
                seed=seed,
                device=device,
            )
            path = checkpoint_of(checkpoint, f"{ways}w{shots}s", order, seed)
            row, _ = execute(run, checkpoint=path, every=every)
            if process:
                continue
            append(out, row, KEY)
            typer.echo(
                f"{ways}w{shots}s order {order} seed {seed}: {row['together']:.3f} together, "
                f"{row['by_class']:.3f} by class, {row['alone']:.3f} alone, "
                f"pixels {row['pixels']:.3f}, {row['cpu_seconds']:.0f} s"
            )
