"""How long the next step may be: error ratio, PI controller, first step."""

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from nodes_tutorial.ode.solvers.measure import ErrorNorm, Tolerance, allowed
from nodes_tutorial.ode.solvers.stages import Stages
from nodes_tutorial.ode.solvers.step import stage_times

SAFETY = 0.9  # aim a little below the tolerance, so that few steps are rejected
SHRINK = 0.2  # smallest factor from one step to the next
GROW = 10.0  # largest factor
ALPHA = 0.85  # power of this step's error ratio, times q + 1
BETA = 0.2  # power of the ratio before it, times q + 1
FLOOR = 0.1  # a ratio below this says only that the step was much too short
SMALLEST_RATIO = 1e-10  # for the logarithm, and where an error estimate is 0
FIRST = 0.3  # relative change that the first step may make
RESOLUTION = 8 * sys.float_info.epsilon  # shortest step, relative to the largest time


class SolverError(RuntimeError):
    """The solver cannot go on.

    Attributes:
        t: the time that was reached.
        step: size of the step that failed.
        norm: root mean square of the state there.
        sample: with ``per_sample``, which element of the batch it was.
    """

    def __init__(self, reason: str, t: float, step: float, norm: float, sample: int | None = None):
        whose = "" if sample is None else f" of sample {sample}"
        super().__init__(
            f"{reason} at t = {t:.6g}, step {step:.3g}, RMS norm of the state{whose} {norm:.3g}"
        )
        self.t, self.step, self.norm, self.sample = t, step, norm, sample


def rms(y: Tensor) -> float:
    """Root mean square of a state, for messages."""
    return float(ErrorNorm()(y.detach()))


def failure(
    y: Tensor,
    slope: Tensor,
    t: float,
    h: float,
    tolerance: Tolerance,
    otherwise: str,
    sample: int | None = None,
) -> SolverError:
    """The error that says why a solve cannot go on; looked into only when it cannot."""
    size = y.detach().abs()
    if not bool(y.isfinite().all()):
        otherwise = "the state is NaN or Inf"
    elif not bool(slope.isfinite().all()):
        otherwise = "the field returned NaN or Inf"
    elif bool((allowed(tolerance.rtol, tolerance.absolute(y), size) == 0.0).any()):
        otherwise = (
            f"atol + rtol |y| is 0 for an entry of the state, so no step is short enough "
            f"({tolerance}, dtype {y.dtype}): a larger atol is needed"
        )
    return SolverError(otherwise, t, h, rms(y), sample)


def error_ratio(
    stages: Stages,
    scale: Tensor,
    norm: ErrorNorm,
) -> float | Tensor:
    r"""Estimated error of a step over what is allowed; the step stands when it is at most 1.

    .. math:: r = \left\| \frac{h \sum_i (b_i - \hat b_i) k_i}
        {\mathrm{atol} + \mathrm{rtol}\, s} \right\|_{\mathrm{RMS}},
        \qquad s = \max(|y_0|, |y_1|)

    ``dopri8`` has two estimates, of order 5 and 3, and :math:`r = |h| r_5^2 /
    \sqrt{r_5^2 + 0.01 r_3^2}` is of order 8.

    Args:
        stages: the slopes of the step.
        scale: atol + rtol s, with s the larger of the absolute values at its start and its end.
        norm: over the whole state or for each sample.

    Returns:
        The ratio, a float where the step is one, or else one for each sample.

    Chapter: def-error-ratio

    References: Hairer, Nørsett and Wanner (1993), equations II.4.11 and II.10.17.
    """
    ratio = norm.total(stages.error(0).div_(scale))
    if len(stages.tableau.error_rows) == 2:
        low = norm.total(stages.error(1).div_(scale))
        tiny = 1e-37  # keeps 0 / 0 away, and is a normal number in float32
        ratio = ratio * (ratio * ratio / (ratio * ratio + 0.01 * low * low + tiny)) ** 0.5
    return (ratio.item() if isinstance(stages.h, float) else ratio) / norm.root_count(scale)


def step_factor(ratio: float, previous: float, order: int) -> float:
    r"""Factor from this step to the next, by a proportional–integral controller.

    .. math:: 0.9\, r_n^{-0.85/(q+1)}\, \max(r_{n-1}, 0.1)^{0.2/(q+1)}
        \quad\text{within } [0.2, 10]

    Before the first accepted step there is no trend, and the factor is the elementary
    :math:`0.9\, r_n^{-1/(q+1)}`. The floor 0.1 keeps a step that was much too short from holding
    back the next but one.

    Args:
        ratio: error ratio of the step just tried.
        previous: error ratio of the last accepted step, 0 if there is none.
        order: q, the ``error_order`` of the tableau.

    Returns:
        The factor, between 0.2 and 10.

    Chapter: prop-pi-controller

    References: Hairer and Wanner (1996), section IV.2; Gustafsson (1991).
    """
    if not math.isfinite(ratio):
        return SHRINK
    k = order + 1
    ratio = max(ratio, SMALLEST_RATIO)
    if previous == 0.0:
        factor = SAFETY * ratio ** (-1 / k)
    else:
        factor = SAFETY * ratio ** (-ALPHA / k) * max(previous, FLOOR) ** (BETA / k)
    return min(GROW, max(SHRINK, factor))


def step_factors(
    ratio: Tensor, gain: Tensor, trend: Tensor, order: int
) -> tuple[Tensor, float, Tensor]:
    r"""The factors of :func:`step_factor` for many steps: :math:`0.9 e^{g\log r_n + \tau}`.

    Powers are taken by logarithms, because a power costs three times as much. Eight bits of a
    factor are enough, and it is rounded to them: the last bits of a logarithm depend on an entry's
    place in its tensor, and a sample must not feel its batch mates.

    Args:
        ratio: error ratios r of the steps just tried.
        gain: g, at first :math:`-1/(q+1)`.
        trend: τ, at first 0.
        order: q, the ``error_order`` of the tableau.

    Returns:
        The factors, and the gain and the trend after this step if it is accepted.

    Chapter: prop-pi-controller
    """
    k = order + 1
    log = ratio.clamp(min=SMALLEST_RATIO).log_()
    factor = torch.addcmul(trend, gain, log).exp_().mul_(SAFETY)
    factor = factor.nan_to_num_(nan=SHRINK).clamp_(SHRINK, GROW).bfloat16()
    return factor, -ALPHA / k, log.clamp_(min=math.log(FLOOR)).mul_(BETA / k)


def initial_step(
    field: Callable[[Tensor, Tensor], Tensor],
    t: float | Tensor,
    y: Tensor,
    slope: Tensor,
    direction: float,
    order: int,
    scale: Tensor,
    norm: ErrorNorm,
) -> float | Tensor:
    r"""Signed first step, from the sizes of y, y′ and an estimate of y″; one evaluation.

    .. math:: h = \left( \frac{0.3}{\max(\|y'\|, \|y''\|)} \right)^{1/(q+1)}

    Hairer et al. use 0.01 instead of 0.3. With 0.01 the first step is almost never rejected, but it
    is about half as long as possible. In a solve of only a few steps this is a noticeable cost.

    Args:
        field: the right-hand side, called as ``field(t, y)``.
        t: start time; a float gives a float, a float64 tensor that broadcasts against ``y`` a
            tensor of its shape.
        y: state at that time.
        slope: value of the field there.
        direction: 1 forwards in time, -1 backwards.
        order: q, the ``error_order`` of the tableau.
        scale: ``atol + rtol |y|``.
        norm: the error norm, which also decides between one step and one for each sample.

    Returns:
        The step, with the sign of ``direction``.

    References: Hairer, Nørsett and Wanner (1993), section II.4, "Starting step size".
    """
    on_host = isinstance(t, float)
    root = norm.root_count(y)

    def size(x):
        total = norm.total(x / scale)
        return total.item() / root if on_host else total.double() / root

    steepness = size(slope)
    trial = _trial_step(size(y), steepness)
    if on_host and not trial > 0.0:  # the slope is Inf or NaN, or the scale is 0
        return math.nan
    h = direction * trial
    moved = torch.add(y, slope, alpha=h) if on_host else y + h.to(y.dtype) * slope
    ahead = field(stage_times(t, h, (1.0,), y)[0], moved)
    return direction * _step_by_slopes(trial, steepness, size(ahead - slope) / trial, order)


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
