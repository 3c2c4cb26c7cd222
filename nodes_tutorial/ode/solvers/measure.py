"""How errors are measured: what an entry may err by, and the norm over all entries."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tolerances = float | Tensor | Sequence[float | Tensor]


def allowed(rtol: float | Tensor, atol: Tensor, size: Tensor) -> Tensor:
    """The allowed errors ``atol + rtol |y|`` of entries of these absolute values."""
    if isinstance(rtol, Tensor):
        return torch.addcmul(atol, rtol, size)
    return torch.add(atol, size, alpha=rtol)


@dataclass(frozen=True)
class Tolerance:
    """What an entry of the state may err by in one step: ``atol + rtol |y|``.

    Attributes:
        rtol: relative tolerance, a number or a tensor of the shape of the state.
        atol: absolute tolerance, likewise.
    """

    rtol: float | Tensor
    atol: float | Tensor

    def absolute(self, y: Tensor) -> Tensor:
        """The absolute tolerance as a tensor that goes with states like y."""
        if isinstance(self.atol, Tensor):
            return self.atol
        return torch.scalar_tensor(self.atol, dtype=y.dtype, device=y.device)

    def of(self, sample: int) -> "Tolerance":
        """The tolerance of one element of a batch."""
        parts = (x[sample] if isinstance(x, Tensor) else x for x in (self.rtol, self.atol))
        return Tolerance(*parts)

    @property
    def varies(self) -> bool:
        """Whether entries have tolerances of their own."""
        return isinstance(self.rtol, Tensor) or isinstance(self.atol, Tensor)

    def __str__(self) -> str:
        parts = [
            "one for each entry" if isinstance(x, Tensor) else repr(x)
            for x in (self.atol, self.rtol)
        ]
        return f"atol = {parts[0]}, rtol = {parts[1]}"


@dataclass(frozen=True)
class ErrorNorm:
    """Root mean square, over the whole state or for each sample.

    Attributes:
        per_sample: one norm for each element of the first dimension.
        size: how many leading entries of a flat state, or of a sample's row, count; all by default.
    """

    per_sample: bool = False
    size: int | None = None

    def total(self, x: Tensor) -> Tensor:
        """Root of the sum of squares."""
        if self.size is not None:
            x = x[..., : self.size]
        if self.per_sample and x.dim() > 1:
            return torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
        if self.per_sample:
            return x.abs()
        return torch.linalg.vector_norm(x)

    def root_count(self, x: Tensor) -> float:
        """Root of the number of entries that one norm runs over."""
        count = x.numel() // max(1, len(x) if self.per_sample else 1)
        return math.sqrt(max(1, count if self.size is None else self.size))

    def __call__(self, x: Tensor) -> Tensor:
        return self.total(x) / self.root_count(x)


@dataclass(frozen=True, kw_only=True)
class OwnNorm(ErrorNorm):
    """A norm of the user's.

    Attributes:
        function: maps errors, in units of what is allowed, to a number; it gets them in the form
            that the state has for the user.
    """

    function: Callable[[Tensor], Tensor | float]

    def total(self, x: Tensor) -> Tensor:
        """The user's norm.

        Raises:
            TypeError: it is no number.
        """
        found = self.function(x)
        if isinstance(found, Tensor) and found.numel() == 1 and not found.is_complex():
            return found.detach().reshape(()).to(x.dtype).abs()
        if isinstance(found, int | float) and not isinstance(found, bool):
            return x.new_tensor(abs(float(found)))
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"options['norm'] must return a real number, got {kind}")

    def root_count(self, x: Tensor) -> float:
        """1, as the user's norm has no mean to take."""
        return 1.0
