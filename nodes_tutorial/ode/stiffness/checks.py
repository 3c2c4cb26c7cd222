"""Bad input of ``odeint_stiff`` gets an error that names the argument."""

from math import isfinite

from torch import Tensor

from nodes_tutorial.ode.stiffness.tableaus import IMPLICIT, DiagonallyImplicit


def check_problem(func, y0, t) -> None:
    """Raise an error that names what is wrong with the field, the state or the times."""
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), got {type(func).__name__}")
    for name, value in (("y0", y0), ("t", t)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            shown = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a real floating-point tensor, got {shown}")
    if y0.ndim == 0 or y0.numel() == 0:
        raise ValueError(f"y0 must have a last axis of the state, got shape {tuple(y0.shape)}")
    if t.requires_grad:
        raise TypeError("t must not require a gradient: odeint_stiff does not carry it")
    if t.ndim != 1 or len(t) < 2 or not bool(t.isfinite().all()):
        raise ValueError(f"t must be a row of at least two finite times, got {tuple(t.shape)}")
    gaps = t.diff()
    if not (bool((gaps > 0).all()) or bool((gaps < 0).all())):
        raise ValueError("t must be strictly increasing or strictly decreasing")


def check_numbers(numbers: dict, max_steps) -> None:
    """Raise an error that names the number that is bad; only ``rtol`` may be 0."""
    for name, value in numbers.items():
        if name == "step_size" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not isfinite(value) or value < 0 or (name != "rtol" and value == 0):
            raise ValueError(f"{name} must be finite and positive, got {value}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be a whole number from 1 on, got {max_steps!r}")


def named_method(method, adaptive: bool) -> DiagonallyImplicit:
    """The tableau of a name.

    Raises:
        ValueError: no such method, or one without an error estimate for adaptive steps.
    """
    if isinstance(method, str) and method in IMPLICIT:
        method = IMPLICIT[method]
    if not isinstance(method, DiagonallyImplicit):
        raise ValueError(f"method must be one of {', '.join(IMPLICIT)}, or a tableau; {method!r}")
    if adaptive and method.b_error is None:
        raise ValueError(f"method {method.name!r} has no error estimate: give a step_size")
    return method
