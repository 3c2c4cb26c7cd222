"""The dictionary of options, checked; every error names its key."""

from math import inf, isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor

OPTIONS = (
    *("step_size", "first_step", "max_steps", "per_sample", "compile", "adjoint_norm"),
    *("controlled", "min_step", "max_step", "step_t", "jump_t", "norm", "grid_constructor"),
    *("perturb", "interp", "dtype", "max_num_steps", "max_order"),
)


def check_options(options) -> dict[str, Any]:
    """The options that were given, under one name each.

    Raises:
        TypeError, ValueError: an option is unknown, of the wrong type or does not fit.
    """
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise TypeError(f"options must be a dict or None, got {type(options).__name__}")
    options = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(str(name) for name in set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"options knows {', '.join(OPTIONS)}; got {', '.join(unknown)}")
    _check_numbers(options)
    for name in ("per_sample", "compile", "perturb"):
        if not isinstance(options.get(name, False), bool):
            raise TypeError(f"options[{name!r}] must be True or False, got {options[name]!r}")
    for name in ("step_t", "jump_t"):
        if name in options:
            options[name] = _stops(name, options[name])
    for name in ("norm", "grid_constructor"):
        if name in options and not callable(options[name]):
            raise TypeError(f"options[{name!r}] must be callable, got {options[name]!r}")
    _check_words(options)
    return options


def _check_numbers(options: dict) -> None:
    """Lengths of steps and their number."""
    if "max_num_steps" in options:
        if "max_steps" in options:
            raise ValueError("options['max_num_steps'] is another name of 'max_steps': give one")
        options["max_steps"] = options.pop("max_num_steps")
    if isinstance(options.get("max_step"), Real) and options["max_step"] == inf:
        del options["max_step"]  # no limit, as by default
    for name in ("step_size", "first_step", "max_steps", "max_step", "max_order"):
        if name in options:
            options[name] = number(f"options[{name!r}]", options[name])
    if "min_step" in options:
        options["min_step"] = number("options['min_step']", options["min_step"], least=0.0)
    if options.get("min_step", 0.0) > options.get("max_step", inf):
        raise ValueError("options['min_step'] must not be above options['max_step']")
    for name in ("max_steps", "max_order"):
        if name in options:
            if options[name] != int(options[name]):
                raise ValueError(f"options[{name!r}] must be whole, got {options[name]!r}")
            options[name] = int(options[name])


def _check_words(options: dict) -> None:
    """Options with a few possible values; those that change nothing here are taken out."""
    norm = options.get("adjoint_norm", "full")
    if norm not in ("seminorm", "full") and not callable(norm):
        raise ValueError(
            f"options['adjoint_norm'] must be 'seminorm' or 'full', or a function; got {norm!r}"
        )
    if options.pop("interp", "linear") not in ("linear", "cubic"):
        raise ValueError("options['interp'] must be 'linear' or 'cubic'; steps end at outputs here")
    if options.pop("dtype", torch.float64) is not torch.float64:
        raise ValueError("options['dtype'] must be torch.float64, in which time is kept here")


def _stops(name: str, times) -> tuple[float, ...]:
    if not isinstance(times, Tensor) or not times.is_floating_point() or times.dim() != 1:
        shown = tuple(times.shape) if isinstance(times, Tensor) else repr(times)
        raise TypeError(f"options[{name!r}] must be a 1-D floating-point tensor, got {shown}")
    found = tuple(times.detach().double().tolist())
    if not all(map(isfinite, found)):
        raise ValueError(f"options[{name!r}] must be finite")
    return found


def number(name: str, value, least: float | None = None) -> float:
    """A finite number, not below ``least`` or, without one, positive.

    Raises:
        TypeError: it is no number.
        ValueError: it is too small or not finite.
    """
    kind = "a positive number" if least is None else f"a number >= {least:g}"
    if isinstance(value, Tensor) and value.numel() == 1 and not value.dtype.is_complex:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        shown = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name} must be {kind}, got {shown}")
    value = float(value)
    if not isfinite(value) or (value <= 0.0 if least is None else value < least):
        raise ValueError(f"{name} must be {kind} and finite, got {value!r}")
    return value
