"""Commands for posteriors and codes: `logistic`, `tables`, `unsure`, `beta-vae`."""

from pathlib import Path
from typing import Annotated

import typer

from nodes_tutorial.experiments.command import (
    Checkpoint,
    Device,
    Every,
    Out,
    Seeds,
    Steps,
    Threads,
    app,
    checkpoint_of,
    decimals,
    numbers,
    running,
)


@app.command()
def logistic(
    method: Annotated[str, typer.Option(help="vi, moved or vcd")] = "vcd",
    factors: Annotated[int, typer.Option(help="hidden numbers behind an image")] = 10,
    images: Annotated[int, typer.Option(help="training images, the first of MNIST's")] = 10_000,
    steps: Steps = 2000,
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


@app.command()
def tables(
    datasets: Annotated[str, typer.Option(help="tables, with commas")] = "yacht,energy,concrete",
    methods: Annotated[
        str, typer.Option(help="methods, with commas")
    ] = "linear,single,ensemble,dropout,bbb",
    splits: Annotated[int, typer.Option(help="random parts for training and test")] = 20,
    seeds: Seeds = "0",
    checkpoint: Checkpoint = None,
    every: Every = 500,
    threads: Threads = 1,
    out: Out = Path("results/uci.json"),
) -> None:
    """Train networks on small regression tables, and record error, likelihood and coverage."""
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.experiments.tables import KEY, Run, execute

    with running(threads):
        for dataset in datasets.split(","):
            for method in methods.split(","):
                for seed in numbers(seeds, "seeds"):
                    run = Run(dataset=dataset, method=method, splits=splits, seed=seed)
                    path = checkpoint_of(checkpoint, dataset, method, seed)
                    row = execute(run, checkpoint=path, every=every)
                    append(out, row, KEY)
                    typer.echo(
                        f"{dataset} {method}: rmse {row['rmse']:.2f}, log-likelihood "
                        f"{row['log_lik']:.3f} ± {row['log_lik_se']:.3f}, inside "
                        f"{row['inside_50']:.2f} {row['inside_90']:.2f}, rate {row['rate']}, "
                        f"{row['cpu_seconds']:.0f} s"
                    )


@app.command()
def unsure(
    methods: Annotated[
        str, typer.Option(help="methods, with commas")
    ] = "linear,map,laplace,dropout,sgld,bbb,ensemble",
    width: Annotated[int, typer.Option(help="hidden units")] = 100,
    epochs: Annotated[int, typer.Option(help="passes over the training images")] = 3,
    seeds: Seeds = "0,1,2",
    checkpoint: Checkpoint = None,
    every: Every = 500,
    threads: Threads = 1,
    out: Out = Path("results/unsure.json"),
) -> None:
    """Train networks on MNIST, and record how sure they are of digits and of letters."""
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.experiments.unsure import KEY, Run, execute

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            for method in methods.split(","):
                run = Run(method=method, width=width, epochs=epochs, seed=seed)
                path = checkpoint_of(checkpoint, method, seed)
                row = execute(run, checkpoint=path, every=every)
                append(out, row, KEY)
                typer.echo(
                    f"{method} seed {seed}: error {row['error']:.4f}, nll {row['nll']:.4f}, "
                    f"ece {row['ece']:.4f}, auroc {row['auroc']:.3f}, rate {row['rate']:g}, "
                    f"{row['cpu_seconds']:.0f} s"
                )


@app.command()
def beta_vae(
    betas: Annotated[str, typer.Option(help="weights of the rate, with commas")] = "1,2,4,8,16",
    steps: Steps = 3000,
    rate: Annotated[float, typer.Option(help="learning rate of Adam at the start")] = 3e-3,
    width: Annotated[int, typer.Option(help="units of each hidden layer")] = 128,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 500,
    threads: Threads = 1,
    out: Out = Path("results/beta_vae.json"),
) -> None:
    """Train autoencoders on ellipses, and record rate, distortion and what latents know."""
    from nodes_tutorial.experiments.beta_vae import KEY, Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for beta in decimals(betas, "betas"):
            together = tuple(numbers(seeds, "seeds"))
            run = Run(beta=beta, seeds=together, steps=steps, rate=rate, width=width, device=device)
            rows, _ = execute(run, checkpoint=checkpoint_of(checkpoint, f"{beta:g}"), every=every)
            for row in rows:
                append(out, row, KEY)
                typer.echo(
                    f"beta {beta:g} seed {row['seed']}: rate {row['rate']:.2f}, distortion "
                    f"{row['distortion']:.2f}, active {row['active']}, mig {row['mig']:.3f}"
                )
