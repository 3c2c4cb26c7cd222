"""Commands on differential equations: `latent`, `goku`, `stability`, `odenet`."""

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
    Steps,
    Threads,
    app,
    checkpoint_of,
    numbers,
    running,
)


@app.command()
def latent(
    dataset: Annotated[
        str, typer.Option(help="periodic-code, periodic-paper or spirals")
    ] = "periodic-code",
    model: Annotated[
        str, typer.Option(help="latent-ode, latent-ode-rnn, ode-rnn, rnn-dt, rnn-vae or all")
    ] = "all",
    steps: Steps = 2000,
    batch: Annotated[int, typer.Option(help="series an update")] = 50,
    rate: Rate = 1e-2,
    noise: Annotated[float, typer.Option(help="standard deviation of an observation")] = 0.1,
    seeds: Seeds = "0,1,2",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 200,
    threads: Threads = 1,
    out: Out = Path("results/latent.json"),
) -> None:
    """Interpolate and extrapolate irregular series, with latent ODEs and recurrent networks."""
    from nodes_tutorial.experiments.latent import MODELS, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for name in MODELS if model == "all" else (model,):
            run = Run(
                dataset=dataset,
                model=name,
                steps=steps,
                batch=batch,
                rate=rate,
                noise=noise,
                device=device,
            )
            path = checkpoint_of(checkpoint, name)
            rows, _ = execute(run, numbers(seeds, "seeds"), checkpoint=path, every=every)
            for row in rows:
                append(out, row, ("dataset", "model", "seed"))
                errors = (row["interpolate 0.3"], row["extrapolate 0.3"])
                found = " and ".join(f"{error:.4f}" for error in errors)
                typer.echo(f"{dataset} {name} seed {row['seed']}: at 30 % observed {found}")


@app.command()
def goku(
    system: Annotated[str, typer.Option(help="pendulum, friction or cvs")] = "pendulum",
    model: Annotated[str, typer.Option(help="goku, goku-labels, latent-ode, lstm or all")] = "all",
    steps: Steps = 1000,
    batch: Annotated[int, typer.Option(help="sequences an update")] = 64,
    rate: Rate = 1e-2,
    hidden: Annotated[int, typer.Option(help="width of the recurrent networks")] = 32,
    side: Annotated[int, typer.Option(help="pixels along an edge of a film")] = 16,
    seeds: Seeds = "0,1,2",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 100,
    threads: Threads = 1,
    out: Out = Path("results/goku.json"),
) -> None:
    """Infer state and parameters of a known equation, and go on beyond what was seen."""
    from nodes_tutorial.experiments.goku import MODELS, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            for name in MODELS if model == "all" else (model,):
                run = Run(
                    system=system,
                    model=name,
                    steps=steps,
                    batch=batch,
                    rate=rate,
                    hidden=hidden,
                    side=side,
                    seed=seed,
                    device=device,
                )
                path = checkpoint_of(checkpoint, name, seed)
                row, _ = execute(run, checkpoint=path, every=every)
                append(out, row, ("system", "model", "seed"))
                known = [f"{k} {v:.3f}" for k, v in row.items() if k.startswith("corr")]
                found = ", ".join([f"later mse {row['mse_later']:.5f}", *known])
                typer.echo(f"{system} {name} seed {seed}: {found}")


@app.command()
def stability(
    dataset: Annotated[str, typer.Option(help="ellipses, swissroll or peaks")] = "ellipses",
    model: Annotated[
        str, typer.Option(help="plain, antisymmetric, leapfrog, verlet or all")
    ] = "all",
    first: Annotated[int, typer.Option(help="layers of the first level")] = 4,
    levels: Annotated[int, typer.Option(help="depths, each twice the one before")] = 9,
    iterations: Annotated[int, typer.Option(help="at most, at each level")] = 30,
    scale: Annotated[float, typer.Option(help="size of the first weights")] = 0.6,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    threads: Threads = 1,
    out: Out = Path("results/stability.json"),
) -> None:
    """Train deep stable networks level by level, by block coordinate descent."""
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.experiments.stability import MODELS, Run, execute

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            for name in MODELS if model == "all" else (model,):
                run = Run(
                    dataset=dataset,
                    model=name,
                    first=first,
                    levels=levels,
                    iterations=iterations,
                    scale=scale,
                    seed=seed,
                )
                path = checkpoint_of(checkpoint, name, seed)
                rows, _ = execute(run, checkpoint=path)
                for row in rows:
                    append(out, row, ("dataset", "model", "seed", "layers"))
                share, layers = row["valid_accuracy"], row["layers"]
                typer.echo(f"{dataset} {name} seed {seed}: {share:.3f} right with {layers} layers")


@app.command()
def odenet(
    dataset: Annotated[
        str, typer.Option("--dataset", "--data", help="mnist, or mnist10k: its test images alone")
    ] = "mnist",
    network: Annotated[
        str, typer.Option(help="ResNet, RK-Net, ODE-Net, one block, stem only, or all")
    ] = "all",
    epochs: Annotated[int, typer.Option(help="passes over the images")] = 4,
    batch: Annotated[int, typer.Option(help="images an update")] = 128,
    rate: Rate = 0.02,
    width: Annotated[int, typer.Option(help="channels; published: 64")] = 16,
    groups: Annotated[int, typer.Option(help="groups of a normalization; published: 32")] = 4,
    seeds: Seeds = "0,1,2",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 100,
    threads: Threads = 1,
    out: Out = Path("results/odenet_mnist.json"),
) -> None:
    """Classify MNIST with an ODE block, residual blocks or the stem alone."""
    from nodes_tutorial.experiments.odenet import KEY, NETWORKS, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            for name in NETWORKS if network == "all" else (network,):
                run = Run(
                    dataset=dataset,
                    network=name,
                    epochs=epochs,
                    batch=batch,
                    rate=rate,
                    width=width,
                    groups=groups,
                    seed=seed,
                    device=device,
                )
                path = checkpoint_of(checkpoint, dataset, name.replace(" ", "-"), epochs, seed)
                row, _ = execute(run, checkpoint=path, every=every)
                append(out, row, KEY)
                share = 100 * row["wrong"] / row["test_images"]
                typer.echo(f"{dataset} {name} seed {seed}: {share:.2f} % wrong")
