"""Commands for meta-learning: `few_shot`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Device,
    Every,
    Out,
    Rate,
    Seeds,
    Threads,
    app,
    checkpoint_of,
    numbers,
    running,
)


@app.command(name="few_shot")
def few_shot(
    part: Annotated[str, typer.Option(help="full, no_latin or small: what to train on")] = "full",
    episodes: Annotated[int, typer.Option(help="updates, one episode each")] = 9000,
    ways: Annotated[int, typer.Option(help="classes of a training episode")] = 20,
    shots: Annotated[int, typer.Option(help="support images of a class in training")] = 1,
    rate: Rate = 1e-3,
    halve: Annotated[int, typer.Option(help="episodes until the rate is halved, again")] = 3000,
    width: Annotated[int, typer.Option(help="channels of the four blocks")] = 32,
    test_episodes: Annotated[int, typer.Option(help="episodes of a test")] = 600,
    seeds: Seeds = "0",
    device: Device = "cpu",
    weights: Annotated[
        Path | None, typer.Option(help="folder for the encoders, one file a seed")
    ] = None,
    checkpoint: Checkpoint = None,
    every: Every = 500,
    threads: Threads = 1,
    out: Out = Path("results/few_shot.json"),
) -> None:
    """Train prototype networks on Omniglot, and record their accuracy and that of pixels."""
    from nodes_tutorial.experiments.few_shot import KEY, Run, execute
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.meta.encoders import write_encoder

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Run(
                part=part,
                episodes=episodes,
                ways=ways,
                shots=shots,
                rate=rate,
                halve=halve,
                width=width,
                test_episodes=test_episodes,
                seed=seed,
                device=device,
            )
            row, encoder = execute(
                run, checkpoint=checkpoint_of(checkpoint, part, seed), every=every
            )
            if weights is not None:
                row["weights_sha256"] = write_encoder(weights / f"protonet-{seed}.npz", encoder)
            append(out, row, KEY)
            typer.echo(f"{part} seed {seed}: " + ", ".join(map(_told, row["tests"])))


def _told(test: dict) -> str:
    return f"{test['data']} {test['ways']}w{test['shots']}s {test['accuracy']:.3f}"
