"""One training loop: progress when asked, checkpoints that survive a kill, exact resume."""

import copy
import hashlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from nodes_tutorial.checks import check_count

_MAGIC = b"nodes_tutorial checkpoint 2 sha256"
_KEYS = {"done", "history", "rng", "rng_cuda", "state"}


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
    checkpoint or the new one, never a half. A sha256 in it shows damage that came later:
    a damaged file, or one that does not fit, is refused before anything of ``state`` changes.

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
        TypeError: an entry of ``state`` can neither save nor load its state; ``steps`` or
            ``every`` is not an integer.
        ValueError: ``steps`` below 0, ``every`` below 1; ``checkpoint`` is a folder, damaged, of
            another run or version; a step that reports other metrics than the steps before it.
        FloatingPointError: a metric is NaN or infinite; what was last written stays.

    >>> import torch
    >>> from nodes_tutorial.training import fit
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
    check_count("steps", steps)
    check_count("every", every, least=1)
    _check(state)
    path = None if checkpoint is None else _place(checkpoint)
    done, history = 0, {}
    if path is not None and path.exists():
        done, history = _load(path, state, steps)
    names = history.keys() if done else None
    waiting: list[dict[str, Tensor | float]] = []
    bar = _bar(progress, done, steps)
    try:
        for i in range(done, steps):
            report = step(i)
            report = report if isinstance(report, dict) else {"loss": report}
            names = report.keys() if names is None else names
            if report.keys() != names:
                raise ValueError(
                    f"step must report the same metrics each time, {sorted(names)}; "
                    f"at step {i} it reports {sorted(report)}"
                )
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


def _check(state: dict[str, Any]) -> None:
    for name, thing in state.items():
        if not isinstance(thing, torch.Generator) and not (
            hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
        ):
            raise TypeError(
                f"state[{name!r}] must be a generator or have state_dict and load_state_dict, "
                f"got {type(thing).__name__}"
            )


def _place(checkpoint: str | os.PathLike) -> Path:
    """The file itself where a link names it, with its folder made: before the first step."""
    path = Path(checkpoint).resolve()
    if path.exists() and not path.is_file():
        raise ValueError(
            f"checkpoint must be a file, got {checkpoint}, which is a folder or device"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """What a checkpoint of ``fit`` holds, after a check that the file is whole.

    Its first line has the sha256 of all that follows, which is what ``torch.save`` wrote.

    Args:
        path: path of the file.

    Returns:
        ``done``, ``history``, ``state`` and the states of the global generators.

    Raises:
        ValueError: the file was not written by this version of ``fit``, or is damaged.
    """
    head, _, payload = Path(path).read_bytes().partition(b"\n")
    magic, _, digest = head.rpartition(b" ")
    if magic != _MAGIC:
        raise ValueError(
            f"checkpoint {path} was not written by this version of fit: it does not begin with "
            "a checksum. Delete it to begin again"
        )
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError(f"checkpoint {path} is damaged: its content has another sha256 than noted")
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds, by where the bytes stop making sense
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.keys() != _KEYS:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"checkpoint {path} must hold {sorted(_KEYS)}, got {got}")
    done, history = content["done"], content["history"]
    if not isinstance(done, int) or done < 0:
        raise ValueError(f"checkpoint {path} must be at a step from 0 on, got {done!r}")
    for name, values in history.items():
        if values.dtype != torch.float64 or values.ndim < 1 or len(values) != done:
            raise ValueError(
                f"checkpoint {path} must hold {done} values of {name!r}, got {tuple(values.shape)}"
            )
    return content


def _save(path: Path, state: dict[str, Any], done: int, history: dict[str, Tensor]) -> None:
    """Write beside the file, force to disk, then rename over it: atomic on POSIX file systems."""
    content = {
        "done": done,
        "history": history,
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "state": {name: _state_of(thing) for name, thing in state.items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    beside = path.with_name(f".{path.name}.partial")
    with open(beside, "wb") as file:
        file.write(_MAGIC + b" " + hashlib.sha256(payload).hexdigest().encode() + b"\n")
        file.write(payload)
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
    content = read_checkpoint(path)
    done, saved = content["done"], content["state"]
    if saved.keys() != state.keys():
        raise ValueError(
            f"checkpoint {path} holds the state of {sorted(saved)}, the run has {sorted(state)}"
        )
    if done > steps:
        raise ValueError(f"checkpoint {path} is at step {done}, beyond steps = {steps}")
    before: dict[str, Any] = {}
    try:
        for name, thing in state.items():
            before[name] = copy.deepcopy(_state_of(thing))
            _restore(thing, saved[name])
    except Exception as error:
        for name, old in before.items():  # a state that is half old and half new is none
            _restore(state[name], old)
        raise ValueError(f"checkpoint {path} does not fit state[{name!r}]: {error}") from error
    torch.set_rng_state(content["rng"])
    if content["rng_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["rng_cuda"])
    return done, content["history"]


def _state_of(thing: Any) -> Any:
    return thing.get_state() if isinstance(thing, torch.Generator) else thing.state_dict()


def _restore(thing: Any, saved: Any) -> None:
    if isinstance(thing, torch.Generator):
        thing.set_state(saved)
    else:
        thing.load_state_dict(saved)


def _bar(progress: bool | None, done: int, steps: int) -> Any:
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        return None
    from tqdm import tqdm

    return tqdm(total=steps, initial=done)
