"""What an argument must be: one wording for every error, and random numbers from a generator."""

import numbers
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def check_count(name: str, value: int, least: int = 0) -> int:
    """Refuse what is not an integer or is too small.

    Args:
        name: name of the argument, for the message.
        value: what it got.
        least: the smallest value that makes sense.

    Returns:
        The number as an ``int``.

    Raises:
        TypeError: no integer.
        ValueError: below ``least``.

    >>> from nodes_tutorial.checks import check_count
    >>> check_count("layers", 3, least=1)
    3
    """
    whole = isinstance(value, numbers.Integral | torch.SymInt) and not isinstance(value, bool)
    if not whole:
        raise TypeError(f"{name} must be an integer, got {_show(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_number(
    name: str, value: float | int, wanted: str, within: Callable[[float], bool] | None = None
) -> float:
    """Refuse what is not a real number of a range; a tensor is refused, as it may have a gradient.

    Args:
        name: name of the argument, for the message.
        value: what it got.
        wanted: the range in words.
        within: whether a number lies in the range; None for any.

    Returns:
        The number as a ``float``.

    Raises:
        TypeError: no real number.
        ValueError: outside the range.

    >>> from nodes_tutorial.checks import check_number
    >>> check_number("bound", 2, "a positive number", lambda c: c > 0)
    2.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {wanted}, got {_show(value)}")
    if within is not None and not within(value):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)


def check_points(
    name: str, x: Tensor, event: Sequence[int] | None = None, like: Tensor | None = None
) -> None:
    r"""Refuse what is not a real tensor that ends in the axes of one point.

    The numbers themselves are not checked, because that would wait for the device. A NaN in a
    point gives a NaN in what is computed from it.

    Args:
        name: name of the argument, for the message.
        x: what it got.
        event: axes of one point, which come last; None for any.
        like: a tensor whose dtype and device x must have; under autocast any dtype.

    Raises:
        TypeError: no tensor, one of integers, or another dtype or device than ``like``.
        ValueError: other axes.

    >>> import torch
    >>> from nodes_tutorial.checks import check_points
    >>> check_points("x", torch.zeros(5, 2), (2,))
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {_show(x)}; torch.as_tensor makes one")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {x.dtype}")
    if event is not None and tuple(x.shape[max(0, x.ndim - len(event)) :]) != tuple(event):
        raise ValueError(f"{name} must end in the axes {tuple(event)}, got shape {tuple(x.shape)}")
    if like is None:
        return
    mixed = x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type)
    if mixed or x.device != like.device:
        raise TypeError(
            f"{name} must be {like.dtype} on {like.device}, got {x.dtype} on {x.device}"
        )


def check_filled(name: str, x: Tensor) -> None:
    """Refuse a tensor without rows, because the mean of no rows is NaN.

    Args:
        name: name of the argument, for the message.
        x: the rows that the argument holds.

    Raises:
        ValueError: no row.

    >>> import torch
    >>> from nodes_tutorial.checks import check_filled
    >>> check_filled("x", torch.zeros(1, 2))
    """
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{name} must hold at least one point, got shape {tuple(x.shape)}")


def draw(
    law: Callable[..., Tensor],
    size: Sequence[int],
    generator: torch.Generator | None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random numbers, drawn where the generator lives and moved to where they are wanted.

    Args:
        law: ``torch.rand`` or ``torch.randn``.
        size: shape of the numbers.
        generator: their source; None means PyTorch's global one.
        dtype: their dtype; None means PyTorch's default.
        device: where to put them; None means where the generator lives.

    Returns:
        The numbers.

    Raises:
        TypeError: ``generator`` is none.

    >>> import torch
    >>> from nodes_tutorial.checks import draw
    >>> draw(torch.rand, (2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    if generator is None:
        return law(size, dtype=dtype, device=device)
    check_generator(generator)
    numbers_ = law(size, generator=generator, dtype=dtype, device=generator.device)
    return numbers_ if device is None else numbers_.to(device)


def check_generator(generator: torch.Generator | None) -> None:
    """Refuse what is neither a source of random numbers nor None.

    Args:
        generator: what the argument got.

    Raises:
        TypeError: neither a generator nor None.

    >>> import torch
    >>> from nodes_tutorial.checks import check_generator
    >>> check_generator(torch.Generator())
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {_show(generator)}; "
            "torch.Generator().manual_seed(0) makes one"
        )


def _show(value: object) -> str:
    """A short value as it is written, of a long one its type."""
    text = repr(value)
    short = "\n" not in text and len(text) <= 40 and not isinstance(value, Tensor)
    return text if short else f"a {type(value).__name__}"
