"""How long the next step may be: error norm, PI controller, first step."""

import math

import torch
from torch import Tensor

from nodes_tutorial.ode.step import Field, StageBuffer, StageList, stage_times

SAFETY, SHRINK, GROW, FIRST = 0.9, 0.2, 10.0, 0.3


class SolverError(RuntimeError):
    """The solver cannot go on.

    Attributes:
        t: time reached.
        step: size of the step that failed.
        norm: root mean square of the state there.
    """

    def __init__(self, reason: str, t: float, step: float, norm: float):
        super().__init__(
            f"{reason} at t = {t:.6g}, step {step:.3g}, RMS norm of the state {norm:.3g}"
        )
        self.t, self.step, self.norm = t, step, norm


class ErrorNorm:
    r"""Root mean square, over the whole state or for each sample.

    Args:
        per_sample: one norm for each element of the first dimension.
        size: how many leading entries of a flat state, or of a sample's row, count; all by default.
    """

    def __init__(self, per_sample: bool = False, size: int | None = None):
        self.per_sample, self.size = per_sample, size

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
        count = x.numel() // (len(x) if self.per_sample else 1)
        return math.sqrt(max(1, count if self.size is None else self.size))

    def __call__(self, x: Tensor) -> Tensor:
        return self.total(x) / self.root_count(x)


def error_ratio(
    ks: StageList | StageBuffer,
    y0: Tensor,
    y1: Tensor,
    h: float | Tensor,
    rtol: float,
    atol: Tensor,
    norm: ErrorNorm,
) -> float | Tensor:
    r"""Estimated error of a step over what is allowed; the step stands when it is at most 1.

    .. math:: r = \left\| \frac{h \sum_i (b_i - \hat b_i) k_i}
        {\mathrm{atol} + \mathrm{rtol} \max(|y_0|, |y_1|)} \right\|_{\mathrm{RMS}}

    ``dopri8`` has two estimates, of order 5 and 3, and :math:`r = |h| r_5^2 /
    \sqrt{r_5^2 + 0.01 r_3^2}` is of order 8.

    Args:
        ks: stages of the step.
        y0: state at its start.
        y1: state at its end.
        h: its length; for a float the ratio is brought to the host, for a tensor it stays.
        rtol: relative tolerance.
        atol: absolute tolerance, 0-d.
        norm: over the whole state or for each sample.

    Chapter: def-error-ratio
    References: Hairer, Nørsett and Wanner (1993), equations II.4.11 and II.10.17.
    """
    tableau = ks.tableau
    scale = torch.add(atol, torch.maximum(y0.abs(), y1.abs()), alpha=rtol)
    estimates = []
    for weights in (tableau.b_error, tableau.b_error_low):
        if weights is not None:
            total = norm.total(ks.weighted(weights).div_(scale))
            estimates.append(total.item() if isinstance(h, float) else total)
    ratio = estimates[0]
    if len(estimates) == 2:
        low = estimates[1]
        ratio = ratio * (ratio * ratio / (ratio * ratio + 0.01 * low * low + 1e-37)) ** 0.5
    return ratio * (abs(h) / norm.root_count(y0))


def step_factor(ratio: float | Tensor, previous: float | Tensor, order: int) -> float | Tensor:
    r"""Factor from this step to the next, by a proportional–integral controller.

    .. math:: 0.9\, r_n^{-0.85/(q+1)}\, \max(r_{n-1}, 0.1)^{0.2/(q+1)}
        \quad\text{within } [0.2, 10]

    Before the first accepted step there is no trend, and the factor is the elementary
    :math:`0.9\, r_n^{-1/(q+1)}`. The floor 0.1 keeps a step that was much too short from holding
    back the next but one.

    Eight bits of a factor are enough. A tensor is rounded to them because the last bits of a power
    depend on an entry's place in its tensor, and a sample must not feel its batch mates.

    Args:
        ratio: error ratio of the step just tried.
        previous: error ratio of the last accepted step, 0 if there is none.
        order: q, the ``error_order`` of the tableau.

    Chapter: prop-pi-controller
    References: Hairer and Wanner (1996), section IV.2; Gustafsson (1991).
    """
    k = order + 1
    alpha, beta, rest = 0.85 / k, 0.2 / k, 0.15 / k
    if isinstance(ratio, float):
        if not math.isfinite(ratio):
            return SHRINK
        ratio = max(ratio, 1e-10)
        trend = max(previous, 0.1) ** beta if previous > 0.0 else ratio**-rest
        return min(GROW, max(SHRINK, SAFETY * ratio**-alpha * trend))
    log = ratio.clamp(min=1e-10).log()  # logarithms: a power costs three times as much
    trend = torch.where(previous > 0.0, beta * previous.clamp(min=0.1).log(), -rest * log)
    factor = SAFETY * torch.exp(trend - alpha * log)
    return torch.nan_to_num(factor, nan=SHRINK).clamp(SHRINK, GROW).bfloat16()


def initial_step(
    field: Field,
    t: float | Tensor,
    y: Tensor,
    k: Tensor,
    direction: float,
    order: int,
    rtol: float,
    atol: Tensor,
    norm: ErrorNorm,
) -> float | Tensor:
    r"""Signed first step, from the sizes of y, y′ and an estimate of y″; one evaluation.

    .. math:: h = \left( \frac{0.3}{\max(\|y'\|, \|y''\|)} \right)^{1/(q+1)}

    The source has 0.01 in place of 0.3. Then the first step is hardly ever rejected, but two times
    too short, which tells where a solve has few steps.

    Args:
        field: ``f(t, y)``.
        t: start time; a float gives a float, a float64 tensor that broadcasts against ``y`` a
            tensor of its shape.
        y: state there.
        k: ``f(t, y)``.
        direction: 1 or -1.
        order: q, the ``error_order`` of the tableau.
        rtol: relative tolerance.
        atol: absolute tolerance, 0-d.
        norm: the error norm, which also decides between one step and one for each sample.

    References: Hairer, Nørsett and Wanner (1993), section II.4, "Starting step size".
    """
    scale, on_host = torch.add(atol, y.abs(), alpha=rtol), isinstance(t, float)

    def size(x):
        return norm(x / scale).item() if on_host else norm(x / scale).double()

    slope = size(k)
    trial = _trial_step(size(y), slope)
    h = direction * trial if on_host else (direction * trial).to(y.dtype)
    ahead = field(stage_times(t, direction * trial, (1.0,), y)[0], y + h * k)
    return direction * _step_by_slopes(trial, slope, size(ahead - k) / trial, order)


def _trial_step(size: float | Tensor, slope: float | Tensor) -> float | Tensor:
    """A step that changes y by a hundredth."""
    if isinstance(size, float):
        return 1e-6 if min(size, slope) < 1e-5 else 0.01 * size / slope
    tiny = torch.minimum(size, slope) < 1e-5
    return torch.where(tiny, 1e-6, 0.01 * size / slope.clamp(min=1e-5))


def _step_by_slopes(
    trial: float | Tensor, slope: float | Tensor, curve: float | Tensor, order: int
) -> float | Tensor:
    power = 1 / (order + 1)
    if isinstance(trial, float):
        steepest = max(curve, slope)  # in this order NaN comes through
        step = max(trial * 1e-3, 1e-6) if steepest <= 1e-15 else (FIRST / steepest) ** power
        return min(100 * trial, step)
    steepest = torch.maximum(slope, curve)
    by_curve = (FIRST / steepest.clamp(min=1e-15)) ** power
    step = torch.where(steepest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), by_curve)
    return torch.minimum(100 * trial, step).bfloat16().double()
