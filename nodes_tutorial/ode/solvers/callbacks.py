"""Functions of the user's that are called at the steps of a solve."""

import warnings
from collections.abc import Callable

from torch import Tensor

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


Tell = Callable[[str, float, Tensor, float], None]


def told_by(func: Callable, shown: Callable, like: Tensor, suffix: str = "") -> Tell | None:
    """What the loops call at a step, behind an accepted one and instead of a rejected one.

    Args:
        func: the field, which may have the functions ``callback_step(t, y, h)`` and so on.
        shown: brings the joined state to the form in which the user knows it.
        like: a tensor with the dtype and device of the times.
        suffix: what stands behind the names.

    Returns:
        A function of the name without ``callback_``, the time, the state and the step, or None
        where the field has none. The user gets the length of the step, which is positive also
        backwards in time.
    """
    own = {name: getattr(func, name + suffix, None) for name in CALLBACKS}
    if not any(own.values()):
        return None

    def tell(name: str, t: float, y: Tensor, h: float) -> None:
        call = own[f"callback_{name}"]
        if call is not None:
            call(like.new_tensor(t), shown(y), like.new_tensor(abs(h)))

    return tell


def warn_of_silence(func, fixed) -> None:
    """Steps of a grid are neither accepted nor rejected."""
    silent = [name for name in CALLBACKS[1:] if getattr(func, name, None) is not None]
    if fixed and silent:
        warnings.warn(
            f"func.{silent[0]} is not called by steps of a fixed size", UserWarning, stacklevel=4
        )
