"""One training in several processes: each takes a share of the tasks, gradients are averaged.

``torchrun --nproc-per-node 2 -m nodes_tutorial.experiments maml …`` starts them. All draw the same
tasks from the same seed, so the run is that of one process up to rounding. Without ``torchrun``
nothing here does anything.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed

from nodes_tutorial.data.tasks import Tasks


@contextmanager
def together(device: str = "cpu") -> Iterator[int]:
    """Join the processes that ``torchrun`` has started, by nccl on GPUs and gloo on CPUs.

    Args:
        device: what each process computes on; ``"cuda"`` is one GPU for each process.

    Yields:
        The number of this process; the first, 0, is the one that writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(tasks: Tasks) -> Tasks:
    """The tasks of this process.

    Args:
        tasks: those of all processes.

    Returns:
        Every n-th of them, with n processes.

    Raises:
        ValueError: a number of tasks that the processes do not divide.
    """
    n = count()
    if n == 1:
        return tasks
    if len(tasks.query_y) % n:
        raise ValueError(f"tasks must be a multiple of the {n} processes, got {len(tasks.query_y)}")
    return Tasks(*(part[distributed.get_rank() :: n] for part in tasks))


def mean_over_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes.

    Args:
        values: what this process has found, of the same shapes everywhere.

    Returns:
        The same in every process.
    """
    n = count()
    if n == 1:
        return values
    flat = torch.cat([value.flatten() for value in values.values()])
    distributed.all_reduce(flat)
    parts = (flat / n).split([value.numel() for value in values.values()])
    return {
        name: part.view(value.shape)
        for (name, value), part in zip(values.items(), parts, strict=True)
    }


def own_checkpoint(checkpoint: str | None) -> str | None:
    """The file that this process writes; all go on from that of the first.

    Args:
        checkpoint: file of the first process.

    Returns:
        That file, or in another process a copy of it with the number of the process as its ending.
    """
    if checkpoint is None or count() == 1 or distributed.get_rank() == 0:
        return checkpoint
    own = Path(f"{checkpoint}.{distributed.get_rank()}")
    own.unlink(missing_ok=True)
    if Path(checkpoint).is_file():
        shutil.copyfile(checkpoint, own)
    return str(own)
