"""One training loop: progress when asked, checkpoints that survive a kill, exact resume."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

_FORMAT = 1


def fit(
    step: Callable[[int], Tensor | float | dict[str, Tensor | float]],
    *,
    steps: int,
    state: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    progress: bool | None = None,
) -> dict[str, Float64[Tensor, " steps"]]:
    """Call ``step(0)`` … ``step(steps - 1)`` and return what they reported.

    With ``checkpoint`` the run is written to that file every ``every`` steps and at its end. When
    the file is there already, everything in ``state`` and PyTorch's global random state is set
    from it and the loop goes on where it stopped: on the CPU, bit for bit as if it had never
    been interrupted. A file is replaced in one move, so a kill at any moment leaves the old
    checkpoint or the new one, never a half.

    Args:
        step: does one update, given its number, and returns a loss or a dict of metrics. It
            must draw its randomness from generators in ``state`` or from the global one, and
            its data by its number or by those generators.
        steps: length of the whole run, the resumed part included.
        state: by name, all that changes: modules, optimizers, schedulers (anything with
            ``state_dict`` and ``load_state_dict``), and generators.
        checkpoint: file to write and to resume from; its folder is made when missing.
        every: steps between checkpoints, and between checks that the metrics are finite.
        progress: show a bar; None shows one when stderr is a terminal.

    Returns:
        For each metric its values, one a step; a bare number is called ``"loss"``.

    Raises:
        TypeError: an entry of ``state`` can neither save nor load its state.
        ValueError: ``steps`` below 0, ``every`` below 1, or a checkpoint of another run.
        FloatingPointError: a metric is NaN or infinite; what was last written stays.

    >>> weight = torch.nn.Parameter(torch.tensor(1.0))
    >>> sgd = torch.optim.SGD([weight], lr=0.25)
    >>> def step(i):
    ...     sgd.zero_grad()
    ...     loss = weight**2
    ...     loss.backward()
    ...     sgd.step()
    ...     return loss
    >>> fit(step, steps=3, state={"sgd": sgd}, progress=False)["loss"]
    tensor([1.0000, 0.2500, 0.0625], dtype=torch.float64)
    """
    state = dict(state or {})
    _check(steps, every, state)
    path = None if checkpoint is None else Path(checkpoint)
    done, history = 0, {}
    if path is not None and path.is_file():
        done, history = _load(path, state, steps)
    waiting: list[dict[str, Tensor | float]] = []
    bar = _bar(progress, done, steps)
    try:
        for i in range(done, steps):
            report = step(i)
            report = report if isinstance(report, dict) else {"loss": report}
            waiting.append({name: _detach(value) for name, value in report.items()})
            if bar is not None:
                bar.update()
            if (i + 1) % every == 0 or i + 1 == steps:
                history = _collect(history, waiting, i + 1)
                waiting = []
                if bar is not None:
                    bar.set_postfix({k: f"{v[-1].item():.4g}" for k, v in history.items()})
                if path is not None:
                    _save(path, state, i + 1, history)
    finally:
        if bar is not None:
            bar.close()
    return history


def _check(steps: int, every: int, state: dict[str, Any]) -> None:
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    for name, thing in state.items():
        if not isinstance(thing, torch.Generator) and not (
            hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
        ):
            raise TypeError(
                f"state[{name!r}] must be a generator or have state_dict and load_state_dict, "
                f"got {type(thing).__name__}"
            )


def _detach(value: Tensor | float) -> Tensor | float:
    """Keep the number, not its graph; a copy, since the next step may write to the tensor."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _collect(history: dict, waiting: list[dict], done: int) -> dict[str, Tensor]:
    """Move the waiting numbers to the host at once and append them."""
    merged = dict(history)
    for name in waiting[0]:
        values = [torch.as_tensor(report[name], dtype=torch.float64) for report in waiting]
        new = torch.stack(values).cpu()
        if not new.isfinite().all():
            first = done - len(new) + int((~new.isfinite()).nonzero()[0])
            raise FloatingPointError(f"{name} is {new[~new.isfinite()][0]} at step {first}")
        merged[name] = torch.cat([history[name], new]) if name in history else new
    return merged


def _save(path: Path, state: dict[str, Any], done: int, history: dict[str, Tensor]) -> None:
    """Write beside the file, force to disk, then rename over it: atomic on POSIX file systems."""
    content = {
        "format": _FORMAT,
        "done": done,
        "history": history,
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "state": {
            name: thing.get_state() if isinstance(thing, torch.Generator) else thing.state_dict()
            for name, thing in state.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    with open(beside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _load(path: Path, state: dict[str, Any], steps: int) -> tuple[int, dict[str, Tensor]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path} was not written by this version of fit")
    if content["state"].keys() != state.keys():
        raise ValueError(
            f"checkpoint {path} holds the state of {sorted(content['state'])}, "
            f"the run has {sorted(state)}"
        )
    if content["done"] > steps:
        raise ValueError(f"checkpoint {path} is at step {content['done']}, beyond steps = {steps}")
    for name, thing in state.items():
        saved = content["state"][name]
        if isinstance(thing, torch.Generator):
            thing.set_state(saved)
        else:
            thing.load_state_dict(saved)
    torch.set_rng_state(content["rng"])
    if content["rng_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["rng_cuda"])
    return content["done"], content["history"]


def _bar(progress: bool | None, done: int, steps: int) -> Any:
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        return None
    from tqdm import tqdm

    return tqdm(total=steps, initial=done)
