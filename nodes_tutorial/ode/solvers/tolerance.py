"""Tolerances for each entry and grids of the user's, brought to the form of the joined state."""

from itertools import pairwise

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.options import number
from nodes_tutorial.ode.solvers.problem import Problem


def grid_of(times, problem: Problem) -> tuple[float, ...]:
    """The user's grid of fixed steps, checked.

    Raises:
        ValueError: it is no 1-D tensor of rising or falling times from the first to the last.
    """
    name, ends = "options['grid_constructor']", (problem.outputs[0], problem.outputs[-1])
    if not isinstance(times, Tensor) or times.dim() != 1 or len(times) < 2:
        raise ValueError(f"{name} must return a 1-D tensor of two or more times")
    grid = times.detach().double().tolist()
    sign = 1.0 if ends[1] > ends[0] else -1.0
    if (grid[0], grid[-1]) != ends or any((b - a) * sign <= 0.0 for a, b in pairwise(grid)):
        raise ValueError(f"{name} must return times that go from t[0] to t[-1] in steps")
    return tuple(grid)


def tolerance_of(name: str, value, problem: Problem, y0) -> float | Tensor:
    """A tolerance as a number, or as a tensor of the shape of the joined state.

    Raises:
        TypeError, ValueError: it is no number, no tensor that goes with the state, and no tuple
            of such for the parts of a tuple; or it is negative or not finite.
    """
    if isinstance(value, tuple | list):
        if not problem.is_tuple or len(value) != len(problem.shapes):
            raise ValueError(
                f"{name} must be one for all, or one for each of the {len(problem.shapes)} parts "
                f"of a tuple y0; got {len(value)}"
            )
        parts, states = value, y0
    elif isinstance(value, Tensor) and value.numel() != 1:
        if problem.is_tuple:
            raise ValueError(f"{name} must be a tuple of tolerances for a tuple y0, got a tensor")
        parts, states = (value,), (y0,)
    else:
        return number(name, value, least=0.0)
    rows = []
    for part, state in zip(parts, states, strict=True):
        if isinstance(part, Tensor) and (part.requires_grad or not part.is_floating_point()):
            raise TypeError(f"{name} must hold real numbers without a gradient, got {part.dtype}")
        if not isinstance(part, Tensor):
            part = torch.tensor(number(name, part, least=0.0), dtype=torch.float64)
        if not bool((part.isfinite() & (part >= 0.0)).all()):
            raise ValueError(f"{name} must be finite and 0 or more")
        like = state.detach()
        try:
            full = part.to(device=like.device, dtype=like.dtype.to_real()).expand(like.shape)
        except RuntimeError:
            raise ValueError(
                f"{name} must go with the state of shape {tuple(like.shape)}, got "
                f"{tuple(part.shape)}"
            ) from None
        rows.append(torch.complex(full, full) if like.is_complex() else full)
    return problem.pack(rows) if problem.joined else rows[0].contiguous()


def controlled_size(problem: Problem, parts) -> int:
    """How many entries of the joined state the leading parts have.

    Raises:
        ValueError: ``parts`` is no number of parts of a tuple state.
    """
    whole = isinstance(parts, int) and not isinstance(parts, bool)
    if not (problem.is_tuple and whole and 1 <= parts <= len(problem.sizes)):
        raise ValueError(
            "options['controlled'] must be a number of parts of a tuple state, at least 1; "
            f"got {parts!r} for {len(problem.sizes)} part(s)"
        )
    return sum(problem.sizes[:parts])
