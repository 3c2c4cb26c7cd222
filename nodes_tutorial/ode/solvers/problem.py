"""What the user asked for, checked once and brought to the form the loops work on."""

from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.control import ErrorNorm
from nodes_tutorial.ode.solvers.loops import Settings
from nodes_tutorial.ode.solvers.step import check_slope
from nodes_tutorial.ode.solvers.tableaus import METHODS

State = Tensor | tuple[Tensor, ...]
OPTIONS = (
    *("step_size", "first_step", "max_steps", "per_sample", "compile", "adjoint_norm"),
    "controlled",
)
GRADIENTS = ("direct", "checkpoint", "adjoint")


class Problem:
    """An initial value problem on a single tensor.

    A tuple of states is joined to one vector (one row a sample with ``per_sample``), and the field
    is wrapped to match.
    """

    def __init__(self, func, y0, t, per_sample=False):
        """Check the arguments' types and shapes; hence no annotations here."""
        if not callable(func):
            raise TypeError(f"func must be callable as func(t, y), got {type(func).__name__}")
        self.func, self.per_sample, self.checked = func, per_sample, False
        self.is_tuple = not isinstance(y0, Tensor)
        parts = tuple(y0) if self.is_tuple else (y0,)
        _check_state(parts, per_sample)
        self.outputs = _check_times(t)
        if t.device != parts[0].device:
            t = t.to(parts[0].device)
        self.t = t
        self.lead = 1 if per_sample else 0
        self.shapes = [part.shape for part in parts]
        self.sizes = [part.shape[self.lead :].numel() for part in parts]
        self.y0 = self.pack(parts) if self.is_tuple else y0

    def control(self, settings: Settings) -> Settings:
        """Settings whose error norm looks at ``options["controlled"]`` leading parts only."""
        parts = settings.controlled
        if parts is not None:
            if not (self.is_tuple and 1 <= parts <= len(self.sizes)):
                raise ValueError(
                    "options['controlled'] must be a number of parts of a tuple state, at least 1; "
                    f"got {parts!r} for {len(self.sizes)} part(s)"
                )
            settings.norm.size = sum(self.sizes[:parts])
        return settings

    @property
    def field(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The user's field on the joined state; where it can, the user's own object.

        A compiled program looks at each call whether its field is still the one it was made for.
        """
        return self._joined if self.is_tuple else self.func

    def _joined(self, t: Tensor, y: Tensor) -> Tensor:
        parts = self.unpack(y)
        slopes = self.func(t, parts)
        if not self.checked:
            if not isinstance(slopes, tuple | list) or len(slopes) != len(parts):
                raise ValueError(f"func must return a tuple of {len(parts)} tensors, like y0")
            for slope, part in zip(slopes, parts, strict=True):
                check_slope(slope, part)
            self.checked = True
        return self.pack(slopes)

    def first_slope(self) -> Tensor:
        """The field at the start, checked to fit the state."""
        return check_slope(self.field(self.field_time(self.t[0]), self.y0), self.y0)

    def field_time(self, t: Tensor) -> Tensor:
        """A time as the field takes it."""
        t = t.detach().to(self.y0.dtype)
        return t.expand(len(self.y0), *(1 for _ in self.y0.shape[1:])) if self.per_sample else t

    def pack(self, parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part.flatten(self.lead) for part in map(self._rows, parts)], dim=-1)

    def _rows(self, part: Tensor) -> Tensor:
        return part.unsqueeze(-1) if part.dim() == self.lead else part

    def unpack(self, y: Tensor) -> State:
        """Undo :meth:`pack`; leading dimensions beyond the state's (output times) are kept."""
        if not self.is_tuple:
            return y
        ahead = y.shape[: y.dim() - 1 - self.lead]
        pieces = y.split(self.sizes, dim=-1)
        return tuple(p.reshape((*ahead, *s)) for p, s in zip(pieces, self.shapes, strict=True))


def _check_state(parts, per_sample) -> None:
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError("y0 must be a tensor or a non-empty tuple of tensors")
    first = parts[0]
    for part in parts:
        if not part.is_floating_point():
            raise TypeError(f"y0 must be of a real floating-point dtype, got {part.dtype}")
        if part.dtype != first.dtype or part.device != first.device:
            raise TypeError(
                f"the parts of y0 must share dtype and device, got {first.dtype} on "
                f"{first.device} and {part.dtype} on {part.device}"
            )
        if per_sample and (part.dim() == 0 or len(part) != len(first)):
            raise ValueError(
                "options['per_sample'] needs a batch: every part of y0 must have the same first "
                f"dimension, got shapes {[tuple(p.shape) for p in parts]}"
            )


def _check_times(t) -> list[float]:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be a floating-point tensor, got {kind}")
    if t.dim() != 1 or len(t) < 2:
        raise ValueError(f"t must be 1-D with at least two times, got shape {tuple(t.shape)}")
    times = t.detach().double().tolist()
    rising = all(a < b for a, b in pairwise(times))
    if not (rising or all(a > b for a, b in pairwise(times))) or not all(map(isfinite, times)):
        raise ValueError("t must be finite and strictly increasing or strictly decreasing")
    return times


def make_settings(
    method: str, rtol: float, atol: float, options: dict[str, Any] | None, gradient: str
) -> Settings:
    """Check the options and gather them; every error names its argument."""
    options = dict(options or {})
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"options knows {', '.join(OPTIONS)}; got {', '.join(unknown)}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not value >= 0.0:
            raise ValueError(f"{name} must be a number >= 0, got {value!r}")
    for name in ("step_size", "first_step", "max_steps"):
        if options.get(name) is not None and not options[name] > 0:
            raise ValueError(f"options[{name!r}] must be positive, got {options[name]!r}")
    if options.get("adjoint_norm", "full") not in ("seminorm", "full"):
        raise ValueError(
            f"options['adjoint_norm'] must be 'seminorm' or 'full', got {options['adjoint_norm']!r}"
        )
    per_sample = options.pop("per_sample", False)
    settings = Settings(METHODS[method], rtol, atol, ErrorNorm(per_sample), **options)
    if per_sample and settings.fixed:
        raise ValueError("options['per_sample'] needs an adaptive method and no step_size")
    if per_sample and gradient == "adjoint":
        raise ValueError(
            "options['per_sample'] and gradient='adjoint' do not go together: the parameters' "
            "adjoint is one for the batch; use 'direct' or 'checkpoint'"
        )
    return settings
