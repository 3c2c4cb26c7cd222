"""Gradient steps with momentum and weight decay, step by step, and their change of scale."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import SGD, Optimizer

from nodes_tutorial.checks import check_count, check_points
from nodes_tutorial.generalization.scale_invariance import check_convention


def heavy_ball(
    slope: Callable[[Tensor, int], Tensor],
    w: Float[Tensor, "*shape"],
    step_sizes: Float[Tensor, " steps"],
    *,
    weight_decay: float = 0.0,
    momenta: float | Float[Tensor, " steps"] = 0.0,
    convention: str = "outside",
    shifts: Int[Tensor, " steps"] | None = None,
) -> Float[Tensor, "points *shape"]:
    r"""All iterates of gradient descent with momentum and weight decay, from rest.

    .. math:: w_{t+1} = (1-\eta_t\lambda)\,w_t + \gamma_t\rho_t(w_t-w_{t-1}) - \eta_t\nabla L_t(w_t)

    Outside, ρ is the step size over the one before it; inside it is 1. With ``"outside"`` these
    are the steps of ``torch.optim.SGD`` up to rounding.

    Args:
        slope: gradient of the loss of a step, from weights (\*shape) and the step's number.
        w: start; any axes, for example several starts.
        step_sizes: η of each step.
        weight_decay: λ, the same in all steps.
        momenta: γ, one number or one for each step.
        convention: place of the step size, see ``equivalent_schedule``.
        shifts: before a step its weights are divided by two to this power; None for never.

    Returns:
        The weights that each step starts from, and those after the last.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: tables that do not have one entry for each step, or an unknown convention.

    Chapter: thm-exponential-momentum

    References: Polyak (1964); Sutskever, Martens, Dahl and Hinton (2013), eq. 1 and 2.

    >>> import torch
    >>> from nodes_tutorial.generalization import heavy_ball
    >>> heavy_ball(lambda w, t: w, torch.ones(1), torch.full((2,), 0.5), momenta=0.5)[:, 0]
    tensor([1.0000, 0.5000, 0.0000])
    """
    check_points("w", w)
    check_points("step_sizes", step_sizes)
    check_convention(convention)
    steps = len(step_sizes) if step_sizes.ndim == 1 else -1
    gammas = torch.as_tensor(momenta, dtype=w.dtype, device=w.device)
    if gammas.ndim == 0:
        gammas = gammas.expand(max(steps, 0))
    if steps < 0 or gammas.shape != (steps,) or (shifts is not None and shifts.shape != (steps,)):
        raise ValueError("step_sizes, momenta and shifts must have one entry for each step")
    path, last = [w], w
    for t in range(steps):
        now, eta = path[-1], step_sizes[t]
        if shifts is not None:
            now, last = torch.ldexp(now, -shifts[t]), torch.ldexp(last, -shifts[t])
            path[-1] = now
        ratio = eta / step_sizes[t - 1] if t and convention == "outside" else 1.0
        if shifts is not None and convention == "outside":
            ratio = torch.ldexp(torch.as_tensor(ratio), 2 * shifts[t])
        drift = gammas[t] * ratio * (now - last)
        path.append((1 - eta * weight_decay) * now + drift - eta * slope(now, t))
        last = now
    return torch.stack(path)


def rescale(optimizer: Optimizer, exponent: int) -> None:
    r"""Divide the weights of an SGD optimizer by a power of two, and change nothing else.

    .. math:: w \leftarrow 2^{-k}w,\qquad b \leftarrow 2^kb

    For a loss that ignores the length of the weights, with the step sizes multiplied by 4 to the
    power −k from here on, the run goes on through the same directions, bit for bit while nothing
    overflows. ``equivalent_schedule(..., rebase=...)`` has such step sizes.

    Args:
        optimizer: ``torch.optim.SGD`` without weight decay; all its weights are divided.
        exponent: k, of either sign.

    Raises:
        TypeError: another optimizer, or ``exponent`` is no integer.
        ValueError: the optimizer decays its weights.

    Chapter: prop-exponential-exact

    References: Li and Arora (2020), section 2.

    >>> import torch
    >>> from nodes_tutorial.generalization import rescale
    >>> w = torch.ones(2, requires_grad=True)
    >>> rescale(torch.optim.SGD([w], lr=1.0), 3)
    >>> w
    tensor([0.1250, 0.1250], requires_grad=True)
    """
    if not isinstance(optimizer, SGD):
        raise TypeError(f"optimizer must be torch.optim.SGD, got {type(optimizer).__name__}")
    k = check_count("exponent", exponent, least=-1000)
    if any(group["weight_decay"] for group in optimizer.param_groups):
        raise ValueError("optimizer must be without weight decay: it depends on the length")
    with torch.no_grad():
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.mul_(2.0**-k)
                buffer = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
                if buffer is not None:
                    buffer.mul_(2.0**k)
