"""``python -m nodes_tutorial.experiments``: the runs behind the page of results."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Runs that are too long for a page. Each adds its rows to a JSON file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Seeds = Annotated[str, typer.Option(help="seeds, separated by commas")]
Out = Annotated[Path, typer.Option(help="file that the rows are added to")]
Threads = Annotated[int, typer.Option(help="threads on the CPU; 0 keeps PyTorch's choice")]


@app.command()
def ffjord(
    dataset: Annotated[str, typer.Option(help="a toy, miniboone or power")] = "8gaussians",
    model: Annotated[str, typer.Option(help="cnf, fm, realnvp, maf, gaussian or kde")] = "cnf",
    steps: Annotated[int, typer.Option(help="updates")] = 2000,
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
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    checkpoint: Annotated[Path | None, typer.Option(help="to write and resume from")] = None,
    every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    data: Annotated[Path | None, typer.Option(help="your copy of a tabular set")] = None,
    sha256: Annotated[str | None, typer.Option(help="its checksum")] = None,
    threads: Threads = 1,
    out: Out = Path("results/density.json"),
) -> None:
    """Train a density model by maximum likelihood and report its likelihood."""
    from nodes_tutorial.data import DataError, tabular
    from nodes_tutorial.experiments.density import Run, execute
    from nodes_tutorial.experiments.record import append

    _threads(threads)
    try:
        splits = tabular.load(dataset, data, sha256) if dataset in tabular.SETS else None
        for seed in _numbers(seeds, "seeds"):
            widths = None if hidden is None else tuple(_numbers(hidden, "hidden"))
            run = Run(
                dataset, model, steps, batch, rate, widths, activation, layers, trace, kinetic,
                jacobian, method, step_size, tolerance, coupling, train_points, test_points, seed,
                device,
            )  # fmt: skip
            path = None if checkpoint is None else str(checkpoint.with_suffix(f".{seed}.pt"))
            row, _ = execute(run, checkpoint=path, every=every, splits=splits)
            append(out, row, ("dataset", "model", "coupling", "seed"))
            excess = f", {row['excess']:.4f} above the floor" if "excess" in row else ""
            typer.echo(f"{dataset} {model} seed {seed}: {row['nll']:.4f} nats{excess}")
    except (DataError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


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

    _threads(threads)
    try:
        for seed in _numbers(seeds, "seeds"):
            for name in METHODS if method == "all" else (method,):
                row = compare(dataset, name, seconds, seed, width)
                append(out, row, ("dataset", "model", "seed"))
                typer.echo(f"{dataset} {name} seed {seed}: {row['excess']:.4f} above the floor")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def latent(
    dataset: Annotated[
        str, typer.Option(help="periodic-code, periodic-paper or spirals")
    ] = "periodic-code",
    model: Annotated[
        str, typer.Option(help="latent-ode, latent-ode-rnn, ode-rnn, rnn-dt, rnn-vae or all")
    ] = "all",
    steps: Annotated[int, typer.Option(help="updates")] = 2000,
    batch: Annotated[int, typer.Option(help="series an update")] = 50,
    rate: Annotated[float, typer.Option(help="largest learning rate")] = 1e-2,
    noise: Annotated[float, typer.Option(help="standard deviation of an observation")] = 0.1,
    seeds: Seeds = "0,1,2",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    checkpoint: Annotated[Path | None, typer.Option(help="to write and resume from")] = None,
    every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    threads: Threads = 1,
    out: Out = Path("results/latent.json"),
) -> None:
    """Interpolate and extrapolate irregular series, with latent ODEs and recurrent networks."""
    from nodes_tutorial.experiments.latent import MODELS, Run, execute
    from nodes_tutorial.experiments.record import append

    _threads(threads)
    try:
        for name in MODELS if model == "all" else (model,):
            run = Run(dataset, name, steps, batch, rate, noise, device=device)
            path = None if checkpoint is None else str(checkpoint.with_suffix(f".{name}.pt"))
            rows, _ = execute(run, _numbers(seeds, "seeds"), checkpoint=path, every=every)
            for row in rows:
                append(out, row, ("dataset", "model", "seed"))
                errors = (row["interpolate 0.3"], row["extrapolate 0.3"])
                found = " and ".join(f"{error:.4f}" for error in errors)
                typer.echo(f"{dataset} {name} seed {row['seed']}: at 30 % observed {found}")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def images(
    dataset: Annotated[str, typer.Option(help="mnist10k or digits")] = "mnist10k",
    steps: Annotated[int, typer.Option(help="updates")] = 2000,
    batch: Annotated[int, typer.Option(help="images an update")] = 64,
    rate: Annotated[float, typer.Option(help="largest learning rate")] = 2e-3,
    levels: Annotated[int, typer.Option(help="scales of the flow")] = 2,
    depth: Annotated[int, typer.Option(help="steps of the flow on each scale")] = 4,
    width: Annotated[int, typer.Option(help="channels inside a coupling")] = 64,
    seeds: Seeds = "0",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    checkpoint: Annotated[Path | None, typer.Option(help="to write and resume from")] = None,
    every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    picture: Annotated[Path | None, typer.Option(help="PNG of a row of samples")] = None,
    threads: Threads = 1,
    out: Out = Path("results/images.json"),
) -> None:
    """Train a Glow on images of digits and report its bits per dimension."""
    from nodes_tutorial.data import DataError
    from nodes_tutorial.experiments.images import Images, execute, samples
    from nodes_tutorial.experiments.record import append

    _threads(threads)
    try:
        for seed in _numbers(seeds, "seeds"):
            run = Images(dataset, steps, batch, rate, levels, depth, width, seed, device)
            path = None if checkpoint is None else str(checkpoint.with_suffix(f".{seed}.pt"))
            row, flow = execute(run, checkpoint=path, every=every)
            append(out, row, ("dataset", "model", "seed"))
            typer.echo(f"{dataset} seed {seed}: {row['bits_per_dim']:.3f} bits per dimension")
            if picture is not None:
                from matplotlib.image import imsave

                imsave(picture, samples(flow, dataset).numpy(), cmap="gray", vmin=0, vmax=1)
    except (DataError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def goku(
    system: Annotated[str, typer.Option(help="pendulum, friction or cvs")] = "pendulum",
    model: Annotated[str, typer.Option(help="goku, goku-labels, latent-ode, lstm or all")] = "all",
    steps: Annotated[int, typer.Option(help="updates")] = 1000,
    batch: Annotated[int, typer.Option(help="sequences an update")] = 64,
    rate: Annotated[float, typer.Option(help="largest learning rate")] = 1e-2,
    hidden: Annotated[int, typer.Option(help="width of the recurrent networks")] = 32,
    side: Annotated[int, typer.Option(help="pixels along an edge of a film")] = 16,
    seeds: Seeds = "0,1,2",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    checkpoint: Annotated[Path | None, typer.Option(help="to write and resume from")] = None,
    every: Annotated[int, typer.Option(help="steps between checkpoints")] = 100,
    threads: Threads = 1,
    out: Out = Path("results/goku.json"),
) -> None:
    """Infer state and parameters of a known equation, and go on beyond what was seen."""
    from nodes_tutorial.experiments.goku import MODELS, Run, execute
    from nodes_tutorial.experiments.record import append

    _threads(threads)
    try:
        for seed in _numbers(seeds, "seeds"):
            for name in MODELS if model == "all" else (model,):
                run = Run(system, name, steps, batch, rate, hidden, side, seed, device)
                path = None
                if checkpoint is not None:
                    path = str(checkpoint.with_suffix(f".{name}.{seed}.pt"))
                row, _ = execute(run, checkpoint=path, every=every)
                append(out, row, ("system", "model", "seed"))
                known = [f"{k} {v:.3f}" for k, v in row.items() if k.startswith("corr")]
                found = ", ".join([f"later mse {row['mse_later']:.5f}", *known])
                typer.echo(f"{system} {name} seed {seed}: {found}")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


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
    checkpoint: Annotated[Path | None, typer.Option(help="to write and resume from")] = None,
    threads: Threads = 1,
    out: Out = Path("results/stability.json"),
) -> None:
    """Train deep stable networks level by level, by block coordinate descent."""
    from nodes_tutorial.experiments.record import append
    from nodes_tutorial.experiments.stability import MODELS, Run, execute

    _threads(threads)
    try:
        for seed in _numbers(seeds, "seeds"):
            for name in MODELS if model == "all" else (model,):
                run = Run(dataset, name, first, levels, iterations, scale, seed)
                path = None
                if checkpoint is not None:
                    path = str(checkpoint.with_suffix(f".{name}.{seed}.pt"))
                rows, _ = execute(run, checkpoint=path)
                for row in rows:
                    append(out, row, ("dataset", "model", "seed", "layers"))
                share, layers = row["valid_accuracy"], row["layers"]
                typer.echo(f"{dataset} {name} seed {seed}: {share:.3f} right with {layers} layers")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _numbers(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers and commas, got {text!r}") from None


def _threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    app()
