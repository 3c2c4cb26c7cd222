"""Losses that ignore the length of the weights, and schedules that are equivalent for them."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad

from nodes_tutorial.checks import check_count, check_number, check_points

CONVENTIONS = ("outside", "inside")  # where the step size stands: outside the buffer, or inside


class Schedule(NamedTuple):
    """What takes the place of weight decay.

    Attributes:
        step_sizes: step size of each step.
        momenta: momentum coefficient of each step.
        factors: α of each step.
        scales: decayed weights divided by the others, before each step and after the last.
        shifts: before a step the weights are divided by two to this power.
    """

    step_sizes: Float[Tensor, "... steps"]
    momenta: Float[Tensor, "... steps"]
    factors: Float[Tensor, "... steps"]
    scales: Float[Tensor, "... points"]
    shifts: Int[Tensor, "... steps"]


def equivalent_schedule(
    step_sizes: Float[Tensor, "*batch steps"],
    weight_decay: float | Float[Tensor, "*batch steps"],
    *,
    momentum: float = 0.0,
    convention: str = "outside",
    rebase: int | None = None,
) -> Schedule:
    r"""Step sizes without weight decay that give the directions of steps with weight decay.

    .. math:: \alpha_t = 1-\eta_t\lambda_t + \gamma\rho_t(1-1/\alpha_{t-1}),\qquad
        P_{t+1} = \alpha_tP_t,\qquad \tilde\eta_t = \frac{\eta_t}{P_tP_{t+1}}

    For a loss that does not change when its weights are multiplied by a positive number, and from
    the same start, the decayed weights are P times the others. The table is computed in double
    precision on the CPU, whatever the dtype.

    Args:
        step_sizes: η of the steps with decay.
        weight_decay: λ, one number or one for each step.
        momentum: γ, from 0 up to but not including 1.
        convention: ``"outside"`` where the step size multiplies the momentum buffer, as in
            ``torch.optim.SGD`` (ρ is η over the one before, γ stays); ``"inside"`` where it
            multiplies the gradient on its way into the buffer (ρ = 1, γ becomes γ / (α α')).
        rebase: steps after which the weights are divided by a power of two, so that nothing
            overflows; None for never.

    Returns:
        The schedule. With ``rebase`` its scales are those after the divisions.

    Raises:
        TypeError: an argument is no floating-point tensor or no number.
        ValueError: step sizes that are not positive, a negative decay, other shapes, an unknown
            convention, or a step with α ≤ 0, for which there is no schedule.
        OverflowError: a step size beyond the dtype; ``rebase`` avoids it.

    Chapter: thm-exponential-momentum

    References: Li and Arora (2020), theorems 2.7 and 2.12.

    >>> import torch
    >>> from nodes_tutorial.generalization import equivalent_schedule
    >>> equivalent_schedule(torch.full((3,), 0.1), 5.0).step_sizes
    tensor([0.2000, 0.8000, 3.2000])
    """
    eta, decay = _table(step_sizes, weight_decay)
    check_number("momentum", momentum, "a number in [0, 1)", lambda g: 0 <= g < 1)
    check_convention(convention)
    if rebase is not None:
        check_count("rebase", rebase, least=1)
    before = torch.cat([eta[..., :1], eta[..., :-1]], -1)
    ratio = eta / before if convention == "outside" else torch.ones_like(eta)
    factors, last = [], torch.ones_like(eta[..., 0])
    for t in range(eta.shape[-1]):
        last = 1 - eta[..., t] * decay[..., t] + momentum * ratio[..., t] * (1 - 1 / last)
        if not bool((last > 0).all()):
            raise ValueError(
                f"weight_decay must leave a positive factor, got {float(last.min()):.3g} at step "
                f"{t}: without momentum 1 − ηλ, with momentum γ it needs ηλ ≤ (1 − √γ)²"
            )
        factors.append(last)
    alpha = torch.stack(factors, -1)
    scales, shifts = _scales(alpha, rebase)
    shifted = scales[..., :-1]
    found = eta / (shifted.square() * alpha)
    momenta = torch.full_like(alpha, momentum)
    if convention == "inside":
        momenta[..., 1:] /= alpha[..., 1:] * alpha[..., :-1]
        momenta[..., 0] /= alpha[..., 0]
    largest = torch.finfo(step_sizes.dtype).max
    if not bool((found <= largest).all()):
        first = int((found <= largest).reshape(-1, found.shape[-1]).all(0).int().argmin())
        raise OverflowError(
            f"step_sizes of the schedule leave {step_sizes.dtype} at step {first}: pass rebase"
        )
    return Schedule(
        step_sizes=found.to(step_sizes),
        momenta=momenta.to(step_sizes),
        factors=alpha.to(step_sizes),
        scales=scales.to(step_sizes),
        shifts=shifts.to(step_sizes.device),
    )


def stationary_factor(step_size: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""The factor α of each step in the long run; step sizes grow by 1 / α² a step.

    .. math:: \alpha = \tfrac12\bigl(s+\sqrt{s^2-4\gamma}\bigr),\qquad s = 1+\gamma-\eta\lambda

    Args:
        step_size: η, the same in all steps.
        weight_decay: λ, the same in all steps.
        momentum: γ, from 0 up to but not including 1.

    Returns:
        α, in (0, 1].

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range, or there is no such factor.

    Chapter: prop-exponential-constant

    References: Li and Arora (2020), theorem 2.12.

    >>> from nodes_tutorial.generalization import stationary_factor
    >>> round(stationary_factor(0.1, 5e-4, 0.9), 8)
    0.99949773
    """
    check_number("step_size", step_size, "a positive number", lambda h: 0 < h < math.inf)
    check_number("weight_decay", weight_decay, "a number not below 0", lambda x: 0 <= x < math.inf)
    check_number("momentum", momentum, "a number in [0, 1)", lambda g: 0 <= g < 1)
    shrink = step_size * weight_decay
    if shrink > (1 - math.sqrt(momentum)) ** 2 or shrink >= 1:
        raise ValueError(
            f"weight_decay times step_size must be at most (1 − √γ)² and below 1, got {shrink:.3g}"
        )
    s = 1 + momentum - shrink
    return (s + math.sqrt(max(0.0, s * s - 4 * momentum))) / 2


def radial_cosines(
    loss: Callable[[dict[str, Tensor]], Float[Tensor, ""]], weights: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, ""]]:
    r"""Cosine of the angle between each weight tensor and the gradient of the loss in it.

    It is 0 at all points if and only if the loss ignores the length of the tensor.

    Args:
        loss: maps named weights to a number.
        weights: named weights, none of them zero.

    Returns:
        The cosine for each name; NaN where the gradient vanishes.

    Raises:
        TypeError: weights that are no floating-point tensors.
        ValueError: no weights.

    Chapter: prop-exponential-orthogonal

    References: Li and Arora (2020), lemma 1.3.

    >>> import torch
    >>> from nodes_tutorial.generalization import radial_cosines
    >>> loss = lambda p: (p["w"] / p["w"].norm())[0] + p["b"]
    >>> found = radial_cosines(loss, {"w": torch.tensor([3.0, 4.0]), "b": torch.tensor(2.0)})
    >>> bool(found["w"].abs() < 1e-6), float(found["b"])
    (True, 1.0)
    """
    if not weights:
        raise ValueError("weights must hold at least one tensor")
    for name, w in weights.items():
        check_points(name, w)
    slopes = grad(loss)(dict(weights))
    return {
        name: (slopes[name] * w).sum() / (slopes[name].norm() * w.norm())
        for name, w in weights.items()
    }


def check_convention(convention: str) -> None:
    """Refuse what is not a place of the step size.

    Args:
        convention: what the argument got.

    Raises:
        ValueError: neither ``"outside"`` nor ``"inside"``.

    >>> from nodes_tutorial.generalization.scale_invariance import check_convention
    >>> check_convention("inside")
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")


def _table(step_sizes: Tensor, weight_decay: float | Tensor) -> tuple[Tensor, Tensor]:
    """Both as double precision on the CPU, of one shape."""
    check_points("step_sizes", step_sizes)
    if step_sizes.ndim == 0 or step_sizes.shape[-1] == 0:
        raise ValueError(
            f"step_sizes must hold at least one step, got shape {tuple(step_sizes.shape)}"
        )
    eta = step_sizes.detach().double().cpu()
    if not bool(((eta > 0) & eta.isfinite()).all()):
        raise ValueError("step_sizes must be positive and finite")
    if isinstance(weight_decay, Tensor):
        check_points("weight_decay", weight_decay, like=step_sizes)
        if weight_decay.shape != step_sizes.shape:
            raise ValueError(
                f"weight_decay must have the shape {tuple(step_sizes.shape)} of step_sizes, "
                f"got {tuple(weight_decay.shape)}"
            )
        decay = weight_decay.detach().double().cpu()
    else:
        check_number("weight_decay", weight_decay, "a number or a tensor")
        decay = torch.full_like(eta, weight_decay)
    if not bool(((decay >= 0) & decay.isfinite()).all()):
        raise ValueError("weight_decay must be finite and not below zero")
    return eta, decay


def _scales(alpha: Tensor, rebase: int | None) -> tuple[Tensor, Tensor]:
    """P before each step and after the last, brought near 1 by powers of two now and then."""
    shifts = torch.zeros(alpha.shape, dtype=torch.long)
    if rebase is None:
        return torch.cat([torch.ones_like(alpha[..., :1]), alpha.cumprod(-1)], -1), shifts
    scales, now = [], torch.ones_like(alpha[..., 0])
    for t in range(alpha.shape[-1]):
        if t and t % rebase == 0:
            shifts[..., t] = -now.log2().round().long()
            now = torch.ldexp(now, shifts[..., t])
        scales.append(now)
        now = now * alpha[..., t]
    return torch.stack([*scales, now], -1), shifts
