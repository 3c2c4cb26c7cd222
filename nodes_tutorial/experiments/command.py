"""What all commands share: the application, common options and how errors are told."""

from collections.abc import Iterator
from contextlib import contextmanager
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
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Checkpoint = Annotated[Path | None, typer.Option(help="to write and resume from")]
Every = Annotated[int, typer.Option(help="steps between checkpoints")]
Out = Annotated[Path, typer.Option(help="file that the rows are added to")]
Steps = Annotated[int, typer.Option(help="updates")]
Rate = Annotated[float, typer.Option(help="largest learning rate")]
Rates = Annotated[str, typer.Option(help="learning rates of Adam, with commas")]
Threads = Annotated[int, typer.Option(help="threads on the CPU; 0 keeps PyTorch's choice")]


@contextmanager
def running(threads: int) -> Iterator[None]:
    """Sets the threads; a wrong argument or missing data is told in one line, with exit code 1."""
    import torch

    from nodes_tutorial.data import DataError

    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    except (DataError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def numbers(text: str, name: str) -> list[int]:
    """The integers in an option such as ``"0,1,2"``.

    >>> from nodes_tutorial.experiments.command import numbers
    >>> numbers("0,1,2", "seeds")
    [0, 1, 2]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers and commas, got {text!r}") from None


def decimals(text: str, name: str) -> list[float]:
    """The numbers in an option such as ``"0.001,0.01"``.

    >>> from nodes_tutorial.experiments.command import decimals
    >>> decimals("0.001,0.01", "rates")
    [0.001, 0.01]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers and commas, got {text!r}") from None


def checkpoint_of(checkpoint: Path | None, *parts: object) -> str | None:
    """The file of one run among those that a command makes.

    >>> from pathlib import Path
    >>> from nodes_tutorial.experiments.command import checkpoint_of
    >>> checkpoint_of(Path("run.pt"), "goku", 0)
    'run.goku.0.pt'
    """
    if checkpoint is None:
        return None
    return str(checkpoint.with_suffix("".join(f".{part}" for part in (*parts, "pt"))))
