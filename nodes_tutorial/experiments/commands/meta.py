"""Commands for meta-learning: `few_shot`, `hypermaml`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Device,
    Every,
    Out,
    Rate,
    Rates,
    Seeds,
    Steps,
    Threads,
    app,
    checkpoint_of,
    decimals,
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


@app.command()
def hypermaml(
    part: Annotated[str, typer.Option(help="no_latin or small: what to train on")] = "no_latin",
    heads: Annotated[str, typer.Option(help="names with commas; empty for all")] = "",
    steps: Steps = 1500,
    rates: Rates = "0.001,0.003,0.03",
    test_episodes: Annotated[int, typer.Option(help="episodes of a test")] = 600,
    encoder: Annotated[int, typer.Option(help="which training of the encoder")] = 0,
    seeds: Seeds = "0,1,2",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 500,
    threads: Threads = 1,
    out: Out = Path("results/hypermaml.json"),
) -> None:
    """Train heads on the features of a prototype network, and record accuracy and loss."""
    from nodes_tutorial.experiments.hypermaml import HEADS, KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for head in heads.split(",") if heads else HEADS:
            for seed in numbers(seeds, "seeds"):
                run = Run(
                    head=head,
                    part=part,
                    steps=steps,
                    rates=tuple(decimals(rates, "rates")),
                    test_episodes=test_episodes,
                    encoder=encoder,
                    seed=seed,
                    device=device,
                )
                place = checkpoint_of(checkpoint, part, head.replace(" ", "-"), seed)
                row = execute(run, checkpoint=place, every=every)
                append(out, row, KEY)
                told = ", ".join(f"{share:.3f}" for share in row["accuracy"])
                typer.echo(f"{part} {head} seed {seed}: {told}")
