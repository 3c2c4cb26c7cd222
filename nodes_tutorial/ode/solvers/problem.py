"""What the user asked for, checked once and brought to the form the loops work on."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.callbacks import Tell

State = Tensor | tuple[Tensor, ...]
Field = Callable[[Tensor, Tensor], Tensor]


class Again(Exception):
    """The solve must begin anew, because a later slope needs what the first one did not."""


def under_transform() -> bool:
    """Whether forward-mode differentiation or a ``torch.func`` transform is under way."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return torch.autograd.forward_ad._current_level >= 0


def carries_derivative(t: Tensor) -> bool:
    """Whether a derivative with respect to t may be wanted, backwards or forwards."""
    if torch.is_grad_enabled() and t.requires_grad:
        return True
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        return True
    return torch.autograd.forward_ad.unpack_dual(t).tangent is not None


class Problem:
    """An initial value problem on a single tensor.

    A tuple of states is joined to one vector, or with ``per_sample`` to one row a sample. Complex
    numbers become pairs of real ones.

    Attributes:
        stops: times at which a step shall end although no output is wanted there.
        jumps: those of them at which the field is discontinuous in time.
        stops_back: stops of the adjoint equation.
        jumps_back: jumps of the adjoint equation.
        tell: what is told of the steps, if anything is.
        graph: whether the steps must be differentiable. The first slope tells; a later one that
            carries a graph where no other did raises :class:`Again`.
        copies: whether slopes are copied, because the field writes them all into one tensor.

    Raises:
        TypeError, ValueError: ``func``, ``y0`` or ``t`` has a wrong type or dtype, or does not fit.
    """

    def __init__(self, func, y0, t, per_sample=False):
        """Check the arguments' types and shapes; hence no annotations here."""
        if not callable(func):
            raise TypeError(f"func must be callable as func(t, y), got {type(func).__name__}")
        self.func, self.per_sample = func, per_sample
        self.is_tuple = isinstance(y0, tuple | list)
        parts = tuple(y0) if self.is_tuple else (y0,)
        _check_state(parts, per_sample)
        self.outputs = _check_times(t)
        if t.device != parts[0].device:
            t = t.to(parts[0].device)
        self.t = t
        self.lead = 1 if per_sample else 0
        self.complex = [part.is_complex() for part in parts]
        self.joined = self.is_tuple or self.complex[0]
        self.shapes = [_real(part).shape for part in parts]
        self.sizes = [shape[self.lead :].numel() for shape in self.shapes]
        self.y0 = self.pack(parts) if self.joined else y0
        self.stops: tuple[float, ...] = ()
        self.jumps: tuple[float, ...] = ()
        self.stops_back: tuple[float, ...] = ()
        self.jumps_back: tuple[float, ...] = ()
        self.tell: Tell | None = None
        if self.y0.is_inference() and not torch.is_inference_mode_enabled():
            self.y0 = self.y0.clone()  # an ordinary tensor again
        self.call = self._joined if self.joined else func
        self.copies = False
        self.graph = under_transform() or (torch.is_grad_enabled() and self.y0.requires_grad)
        kind = self.y0.device.type
        self.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def evaluator(self) -> Field:
        """The field with its checks; all evaluations of a solve are made by such a function.

        Raises:
            TypeError, ValueError: a slope does not fit the state.
            RuntimeError: the field changes y in place.
            Again: a slope carries a graph, and the steps are not made for one.
        """
        call, copies = self.call, self.copies
        shape, dtype = self.y0.shape, self.y0.dtype
        watch_graph = torch.is_grad_enabled() and not self.graph
        if self.autocast is not None:
            call = self._under_autocast
        if torch.is_inference_mode_enabled():
            # Tensors do not count their changes in this mode, so the field gets a copy.
            return lambda t, y: self._fitted(call(t, y.clone()), y).clone()

        def evaluate(t: Tensor, y: Tensor) -> Tensor:
            version = y._version
            slope = call(t, y)
            if slope.__class__ is not Tensor or slope.dtype is not dtype or slope.shape != shape:
                slope = self._fitted(slope, y)
            if y._version != version:
                raise RuntimeError(
                    "func must not change y in place; let it make a new tensor, as -y for y.neg_()"
                )
            if watch_graph and slope.requires_grad:
                self.graph = True
                raise Again
            return slope.clone() if copies else slope

        return evaluate

    def _under_autocast(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, self.autocast):
            return self.call(t, y)

    def first_slope(self, start: Tensor | None = None) -> Tensor:
        """The field at the start; whether its value carries a graph decides for the solve."""
        before, self.graph = self.graph, True
        if start is None:
            start = torch.scalar_tensor(self.outputs[0], dtype=self.y0.dtype, device=self.y0.device)
        slope = self.evaluator()(self.field_time(start), self.y0)
        self.graph = before or (torch.is_grad_enabled() and slope.requires_grad)
        return slope.clone()

    def _fitted(self, slope, y: Tensor) -> Tensor:
        """A slope of another dtype is taken only from a field under autocast."""
        if self.autocast is not None and isinstance(slope, Tensor) and slope.is_floating_point():
            slope = slope.to(y.dtype)
        return check_slope(slope, y)

    def arithmetic(self):
        """The context of the solver's own operations: autocast is for the field alone."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.y0.device.type, enabled=False)

    def _joined(self, t: Tensor, y: Tensor) -> Tensor:
        parts = self.parts(y)
        slopes = self.func(t, parts if self.is_tuple else parts[0])
        if not self.is_tuple:
            return self.pack([self._fitted(slopes, parts[0])])
        if not isinstance(slopes, tuple | list) or len(slopes) != len(parts):
            raise ValueError(f"func must return a tuple of {len(parts)} tensors, like y0")
        return self.pack([self._fitted(k, part) for k, part in zip(slopes, parts, strict=True)])

    def field_time(self, t: Tensor) -> Tensor:
        """A time as the field takes it."""
        t = t.to(self.y0.dtype)
        return t.expand(len(self.y0), *(1 for _ in self.y0.shape[1:])) if self.per_sample else t

    def pack(self, parts) -> Tensor:
        rows = (self._rows(_real(part)) for part in parts)
        return torch.cat([part.flatten(self.lead) for part in rows], dim=-1)

    def _rows(self, part: Tensor) -> Tensor:
        return part.unsqueeze(-1) if part.dim() == self.lead else part

    def unpack(self, y: Tensor) -> State:
        """Undo :meth:`pack`; leading dimensions beyond the state's (output times) are kept."""
        if not self.joined:
            return y
        parts = self.parts(y)
        return parts if self.is_tuple else parts[0]

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        """The parts of a joined state."""
        ahead = y.shape[: y.dim() - 1 - self.lead]
        split = zip(y.split(self.sizes, dim=-1), self.shapes, strict=True)
        pieces = [piece.reshape((*ahead, *shape)) for piece, shape in split]
        return tuple(
            torch.complex(piece[..., 0], piece[..., 1]) if pairs else piece
            for piece, pairs in zip(pieces, self.complex, strict=True)
        )

    def sides(self, field: Field) -> tuple[Field, Field]:
        """The field for the begin of a step, and for all later stages.

        A time at which the field jumps is moved to the next number behind it or before it.
        """
        if not self.jumps:
            return field, field
        way = 1.0 if self.outputs[-1] > self.outputs[0] else -1.0

        def beside(shift: float) -> Field:
            def shifted(t: Tensor, y: Tensor) -> Tensor:
                there = (t == t.new_tensor(self.jumps)).any()
                return field(torch.where(there, torch.nextafter(t, t + shift), t), y)

            return shifted

        return beside(way), beside(-way)


def _real(part: Tensor) -> Tensor:
    """A tensor with its complex numbers as pairs."""
    return torch.view_as_real(part) if part.is_complex() else part


def check_slope(slope: object, y: Tensor) -> Tensor:
    """A slope, checked to fit the state.

    Raises:
        TypeError: not a tensor, or of another dtype than the state.
        ValueError: of another shape than the state.
    """
    if not isinstance(slope, Tensor):
        raise TypeError(f"func must return tensors, got {type(slope).__name__}")
    if slope.shape != y.shape:
        raise ValueError(
            f"func must return the shape of y: {tuple(y.shape)}, got {tuple(slope.shape)}"
        )
    if slope.dtype != y.dtype:
        raise TypeError(f"func must return the dtype of y: {y.dtype}, got {slope.dtype}")
    return slope


def _check_state(parts, per_sample) -> None:
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"y0 must be a tensor or a non-empty tuple of tensors, got {kinds or '()'}")
    first = parts[0]
    for part in parts:
        if not (part.is_floating_point() or part.is_complex()):
            raise TypeError(f"y0 must be of a floating-point or complex dtype, got {part.dtype}")
        if part.dtype.to_real() != first.dtype.to_real() or part.device != first.device:
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
    if t.dim() != 1 or len(t) < 1:
        raise ValueError(f"t must be 1-D with at least one time, got shape {tuple(t.shape)}")
    times = t.detach().double().tolist()
    rising = all(a < b for a, b in pairwise(times))
    if not (rising or all(a > b for a, b in pairwise(times))) or not all(map(isfinite, times)):
        raise ValueError("t must be finite and strictly increasing or strictly decreasing")
    return times
