"""A zero of an event function: its sign changes, its place in a bracket, its speed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.problem import State

SLOW = 3  # regula falsi steps in which a bracket must halve


def bracketed_root(g: Callable[[float], float], a: float, b: float, width: float) -> float:
    """Root of a function between two places of opposite sign: regula falsi, safeguarded.

    The Illinois rule halves the value at an end that stays. Where the bracket has not halved in
    three steps, it is bisected.

    Args:
        g: a continuous function.
        a: left end of the bracket.
        b: right end; ``g(a)`` and ``g(b)`` differ in sign, or one of them is zero.
        width: length of a bracket that is short enough.

    Returns:
        The place of smallest ``|g|`` that was seen in the last bracket.

    Raises:
        ValueError: both ends have the same sign.

    >>> from nodes_tutorial.ode.events import bracketed_root
    >>> f"{bracketed_root(lambda x: x * x - 2, 0.0, 2.0, 1e-15):.12f}"
    '1.414213562373'
    """
    left, right = g(a), g(b)
    if left * right > 0.0:
        raise ValueError(f"g must change its sign, got {left:g} at a and {right:g} at b")
    true_left, true_right = left, right  # without the halving
    goal, tries = (b - a) / 2, 0
    while b - a > width and true_left != 0.0 and true_right != 0.0:
        middle = (a + b) / 2
        if tries < SLOW:
            middle = (a * right - b * left) / (right - left)
        tries += 1
        if not a < middle < b:
            middle = (a + b) / 2
        if not a < middle < b:
            break  # no number lies between
        value = g(middle)
        if (value > 0.0) == (true_left > 0.0) and value != 0.0:
            a, left, true_left = middle, value, value
            right /= 2
        else:
            b, right, true_right = middle, value, value
            left /= 2
        if b - a <= goal:
            goal, tries = (b - a) / 2, 0
            left, right = true_left, true_right
    return a if abs(true_left) < abs(true_right) else b


def values_of(event_fn: Callable, t: Tensor, y: State) -> Tensor:
    """The components of an event function, flat.

    Raises:
        TypeError: it returns no real floating-point tensor.
        ValueError: it returns no components.
    """
    values = event_fn(t, y)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"event_fn must return a real floating-point tensor, got {kind}")
    if values.numel() == 0:
        raise ValueError(f"event_fn must return a component, got shape {tuple(values.shape)}")
    return values.flatten()


def crossings(before: np.ndarray, now: np.ndarray, direction: int) -> np.ndarray:
    """The components that reached or crossed zero between two looks.

    Args:
        before: values at the earlier look, shape ``(components,)``.
        now: values at the later look, likewise.
        direction: +1 for components that rise, -1 for those that fall, 0 for both.

    Returns:
        The indices of the components, in rising order. A value of zero at the earlier look counts
        for no crossing.

    Chapter: def-events-event

    >>> from nodes_tutorial.ode.events import crossings
    >>> import numpy as np
    >>> crossings(np.array([-1.0, 1.0, 1.0]), np.array([2.0, 0.0, 3.0]), -1).tolist()
    [1]
    """
    rises, falls = (before < 0.0) & (now >= 0.0), (before > 0.0) & (now <= 0.0)
    if direction == 0:
        return np.flatnonzero(rises | falls)
    return np.flatnonzero(rises if direction > 0 else falls)


def slope_along(event_fn: Callable, component: int, t: Tensor, y: State, slope: State):
    r"""The derivative :math:`\partial_t g+\partial_yg\,f` of one component along the solution.

    Args:
        event_fn: the event function.
        component: which component, in flat order.
        t: the time, 0-d.
        y: the state there, a tensor or a tuple of tensors.
        slope: the field there, like ``y``.

    Returns:
        A 0-d tensor, or None where the event function has no derivative for autograd.

    Chapter: thm-events-derivative
    """
    parts = tuple(y) if isinstance(y, tuple | list) else (y,)
    slopes = slope if isinstance(slope, tuple | list) else (slope,)
    with torch.enable_grad():
        leaves = [part.detach().clone().requires_grad_() for part in parts]
        time = t.detach().clone().requires_grad_()
        state = tuple(leaves) if isinstance(y, tuple | list) else leaves[0]
        value = values_of(event_fn, time, state)[component]
        if not value.requires_grad:
            return None
        grads = torch.autograd.grad(value, [time, *leaves], allow_unused=True)
    if all(grad is None for grad in grads):
        return None
    along = zip(grads, [torch.ones_like(time), *slopes], strict=True)
    terms = [(grad * way).sum() for grad, way in along if grad is not None]
    return torch.stack(terms).sum().detach()
