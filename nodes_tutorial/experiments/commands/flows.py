"""Commands that train densities: `ffjord`, `matching`, `images`."""

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
def ffjord(
    dataset: Annotated[str, typer.Option(help="a toy, miniboone or power")] = "8gaussians",
    model: Annotated[str, typer.Option(help="cnf, fm, realnvp, maf, gaussian or kde")] = "cnf",
    steps: Steps = 2000,
    batch: Annotated[int | None, typer.Option(help="points an update")] = None,
    rate: Annotated[float | None, typer.Option(help="largest learning rate")] = None,
    hidden: Annotated[str | None, typer.Option(help="widths, such as 64,64,64")] = None,
    activation: Annotated[str | None, typer.Option(help="tanh, softplus, silu, ...")] = None,
    layers: Annotated[int | None, typer.Option(help="couplings, or fields in a row")] = None,
    trace: Annotated[str, typer.Option(help="exact or hutchinson, in training")] = "exact",
    kinetic: Annotated[float, typer.Option(help="factor of the kinetic penalty")] = 0.0,
    jacobian: Annotated[float, typer.Option(help="factor of the Jacobian penalty")] = 0.0,
    method: Annotated[str, typer.Option(help="solver in training")] = "dopri5",
    step_size: Annotated[float | None, typer.Option(help="step of a fixed-step solver")] = None,
    tolerance: Annotated[float, typer.Option(help="of adaptive solvers")] = 1e-5,
    coupling: Annotated[str, typer.Option(help="independent or ot, for fm")] = "independent",
    train_points: Annotated[int, typer.Option(help="for gaussian and kde on a toy")] = 10_000,
    test_points: Annotated[int, typer.Option(help="of a toy")] = 10_000,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 200,
    data: Annotated[Path | None, typer.Option(help="your copy of a tabular set")] = None,
    sha256: Annotated[str | None, typer.Option(help="its checksum")] = None,
    threads: Threads = 1,
    out: Out = Path("results/density.json"),
) -> None:
    """Train a density model by maximum likelihood and report its likelihood."""
    from nodes_tutorial.data import tabular
    from nodes_tutorial.experiments.density import Run, execute
    from nodes_tutorial.experiments.record import append

    with running(threads):
        splits = tabular.load(dataset, data, sha256) if dataset in tabular.SETS else None
        for seed in numbers(seeds, "seeds"):
            widths = None if hidden is None else tuple(numbers(hidden, "hidden"))
            run = Run(
                dataset=dataset,
                model=model,
                steps=steps,
                batch=batch,
                rate=rate,
                hidden=widths,
                activation=activation,
                layers=layers,
                trace=trace,
                kinetic=kinetic,
                jacobian=jacobian,
                method=method,
                step_size=step_size,
                tolerance=tolerance,
                coupling=coupling,
                train_points=train_points,
                test_points=test_points,
                seed=seed,
                device=device,
            )
            path = checkpoint_of(checkpoint, seed)
            row, _ = execute(run, checkpoint=path, every=every, splits=splits)
            append(out, row, ("dataset", "model", "coupling", "seed"))
            excess = f", {row['excess']:.4f} above the floor" if "excess" in row else ""
            typer.echo(f"{dataset} {model} seed {seed}: {row['nll']:.4f} nats{excess}")


@app.command()
def matching(
    dataset: Annotated[str, typer.Option(help="a toy")] = "8gaussians",
    method: Annotated[str, typer.Option(help="CFM, OT-CFM, FFJORD or all")] = "all",
    seconds: Annotated[float, typer.Option(help="CPU time of each training")] = 60.0,
    width: Annotated[int, typer.Option(help="of the three hidden layers")] = 64,
    seeds: Seeds = "0,1,2",
    threads: Threads = 1,
    out: Out = Path("results/matching.json"),
) -> None:
    """Compare flow matching, OT-CFM and maximum likelihood at equal CPU time."""
    from nodes_tutorial.experiments.matching import METHODS, compare
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            for name in METHODS if method == "all" else (method,):
                row = compare(dataset, name, seconds=seconds, seed=seed, width=width)
                append(out, row, ("dataset", "model", "seed"))
                typer.echo(f"{dataset} {name} seed {seed}: {row['excess']:.4f} above the floor")


@app.command()
def images(
    dataset: Annotated[str, typer.Option(help="mnist, mnist10k or digits")] = "mnist10k",
    steps: Steps = 2000,
    batch: Annotated[int, typer.Option(help="images an update")] = 64,
    rate: Rate = 2e-3,
    levels: Annotated[int, typer.Option(help="scales of the flow")] = 2,
    depth: Annotated[int, typer.Option(help="steps of the flow on each scale")] = 4,
    width: Annotated[int, typer.Option(help="channels inside a coupling")] = 64,
    seeds: Seeds = "0",
    device: Device = "cpu",
    checkpoint: Checkpoint = None,
    every: Every = 200,
    picture: Annotated[Path | None, typer.Option(help="PNG of a row of samples")] = None,
    threads: Threads = 1,
    out: Out = Path("results/images.json"),
) -> None:
    """Train a Glow on images of digits and report its bits per dimension."""
    from nodes_tutorial.experiments.images import Images, execute, samples
    from nodes_tutorial.experiments.record import append

    with running(threads):
        for seed in numbers(seeds, "seeds"):
            run = Images(
                dataset=dataset,
                steps=steps,
                batch=batch,
                rate=rate,
                levels=levels,
                depth=depth,
                width=width,
                seed=seed,
                device=device,
            )
            path = checkpoint_of(checkpoint, seed)
            row, flow = execute(run, checkpoint=path, every=every)
            append(out, row, ("dataset", "model", "seed"))
            typer.echo(f"{dataset} seed {seed}: {row['bits_per_dim']:.3f} bits per dimension")
            if picture is not None:
                from matplotlib.image import imsave

                imsave(picture, samples(flow, dataset).numpy(), cmap="gray", vmin=0, vmax=1)
