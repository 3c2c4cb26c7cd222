"""Hamiltonian Monte Carlo: many chains in one batch, and one law's kernel as a map of points."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nodes_tutorial.bayes.step_size import DualAveraging
from nodes_tutorial.bayes.weights import checked_values
from nodes_tutorial.checks import check_count, check_generator, check_number, check_points, draw
from nodes_tutorial.ode.stability.symplectic import leapfrog as integrate

DIVERGENT = 1000.0  # energy error in nats above which a path has left the right one; Stan's value

LogDensity = Callable[[Tensor], Tensor]


class Chains(NamedTuple):
    """Chains that ran side by side, and how each of their steps went."""

    x: Float[Tensor, "steps chains dim"]
    """The states after each step."""
    accept: Float[Tensor, "steps chains"]
    """Probability with which the proposal of the step was accepted."""
    energy_error: Float[Tensor, "steps chains"]
    """Energy at the end of the path minus that at its beginning, in nats; exact paths have 0."""
    divergent: Bool[Tensor, "steps chains"]
    """Where the energy error is above 1000 or not finite; the chain then stays where it is."""
    step_size: Float[Tensor, ""]
    """Step size of the leapfrog method in all these steps."""
    warmup_divergences: Tensor
    """Number of divergent paths in the warm-up, whose states are not kept."""

    @property
    def divergences(self) -> int:
        """Number of divergent paths among the kept steps."""
        return int(self.divergent.sum())


@torch.no_grad()
def hmc(
    log_prob: LogDensity,
    x0: Float[Tensor, "chains dim"],
    *,
    steps: int,
    leapfrog: int,
    step_size: float,
    generator: torch.Generator | None,
    warmup: int = 0,
    target: float = 0.8,
    jitter: float = 0.0,
) -> Chains:
    r"""Run Hamiltonian Monte Carlo from each row of ``x0``.

    .. math:: H(x, v) = -\log p(x) + \tfrac12\|v\|^2, \qquad v\sim N(0, I), \qquad
        P(\text{accept}) = \min(1, e^{H(x, v) - H(x', v')})

    A path is ``leapfrog`` steps of the leapfrog method, which cost as many gradients; those of
    all chains are one call. In the warm-up, dual averaging moves the logarithm of the step size
    until the mean acceptance probability of all chains is ``target``; half way it starts anew from
    what it found. After it the step size stands still, as it must for p to be invariant.

    Args:
        log_prob: logarithm of the density p, which need not be normalized; maps points of shape
            (chains, dim) to numbers of shape (chains,), differentiable, each row for itself.
        x0: where the chains start.
        steps: number of steps that are kept.
        leapfrog: steps of the integrator in one path.
        step_size: step of the integrator; with a warm-up, where its adaptation starts.
        generator: source of momenta and decisions; None means PyTorch's global one.
        warmup: number of steps before them in which the step size is adapted; 0 for none.
        target: mean acceptance probability that the warm-up aims at.
        jitter: each path of each chain has a step size of its own, uniform within this share of
            ``step_size``; it keeps a path from closing on itself.

    Returns:
        States, acceptance probabilities, energy errors and divergences.

    Raises:
        TypeError: an argument of another type, or ``log_prob`` returns no floating-point tensor.
        ValueError: a number out of range, ``x0`` is no matrix with a row, ``log_prob`` returns
            another shape than (chains,), is not finite at ``x0``, or has no derivative there.

    Chapter: prop-vcd-leapfrog

    References: Duane et al. (1987); Neal (2011), sections 5.2 and 5.3; Hoffman and Gelman
        (2014), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import hmc
    >>> chains = hmc(
    ...     lambda x: -0.5 * x.square().sum(-1), torch.zeros(4, 2), steps=50, leapfrog=5,
    ...     step_size=0.3, generator=torch.Generator().manual_seed(0),
    ... )
    >>> chains.x.shape, chains.divergences
    (torch.Size([50, 4, 2]), 0)
    """
    check_count("steps", steps, least=1)
    check_count("warmup", warmup)
    check_number("target", target, "a number between 0 and 1", lambda a: 0 < a < 1)
    check_points("x0", x0)
    if x0.ndim != 2 or len(x0) == 0:
        raise ValueError(f"x0 must be a matrix with a chain a row, got shape {tuple(x0.shape)}")
    _check_paths(leapfrog, step_size, jitter)
    check_generator(generator)
    potential = _Potential(log_prob, x0.detach())
    if not potential.value.isfinite().all():
        raise ValueError("x0 must lie where log_prob is finite, got a row where it is not")
    h = x0.new_tensor(step_size)
    early = torch.zeros((), dtype=torch.long, device=x0.device)
    tuner = DualAveraging(h, target)
    for i in range(warmup):
        if i and i == warmup // 2:  # the first half found the order of magnitude
            tuner = DualAveraging(tuner.averaged(), target)
        move = _move(potential, leapfrog, _jittered(tuner.h, jitter, x0, generator), generator)
        tuner.update(move.accept.mean())
        early += move.divergent.sum()
    h = tuner.averaged() if warmup else h
    x = x0.new_empty(steps, *x0.shape)
    accept, error = x0.new_empty(2, steps, len(x0))
    divergent = torch.empty(steps, len(x0), dtype=torch.bool, device=x0.device)
    for i in range(steps):
        move = _move(potential, leapfrog, _jittered(h, jitter, x0, generator), generator)
        x[i], accept[i] = potential.point, move.accept
        error[i], divergent[i] = move.error, move.divergent
    return Chains(x, accept, error, divergent, h, early)


@dataclass(frozen=True)
class HMCKernel:
    r"""A few steps of Hamiltonian Monte Carlo with nothing adapted, as a map of points.

    With ``adjust`` the law with density p is invariant. Without it every path is accepted; then
    what stays invariant differs from p by :math:`O(h^2)`.

    Attributes:
        log_prob: logarithm of the density p, as for ``hmc``.
        steps: number of steps t.
        leapfrog: steps of the integrator in one path.
        step_size: step h of the integrator.
        jitter: share of ``step_size`` by which it varies between paths, as for ``hmc``.
        adjust: whether a path is accepted or refused by its energy error.

    Raises:
        TypeError: a number of another type.
        ValueError: a number out of range.

    Chapter: def-vcd-divergence

    References: Neal (2011), section 5.3; Ruiz and Titsias (2019), section 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import HMCKernel
    >>> kernel = HMCKernel(lambda x: -0.5 * x.square().sum(-1), steps=3, leapfrog=5, step_size=0.3)
    >>> kernel(torch.zeros(4, 2), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

    log_prob: LogDensity
    steps: int
    leapfrog: int
    step_size: float
    jitter: float = 0.0
    adjust: bool = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=1)
        _check_paths(self.leapfrog, self.step_size, self.jitter)

    @torch.no_grad()
    def __call__(
        self, x: Float[Tensor, "n dim"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n dim"]:
        """Move every row, independently of the others."""
        check_points("x", x)
        potential = _Potential(self.log_prob, x.detach())
        h = x.new_tensor(self.step_size)
        for _ in range(self.steps):
            step = _jittered(h, self.jitter, x, generator)
            _move(potential, self.leapfrog, step, generator, self.adjust)
        return potential.point


class _Potential:
    """Minus the log-density: its value and gradient at the points asked for last."""

    def __init__(self, log_prob: LogDensity, x: Tensor) -> None:
        self.log_prob = log_prob
        self.point, self.value, self.gradient = x, x, x
        self._evaluate(x)

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient; at the same points it is not computed again."""
        if x is not self.point:
            self._evaluate(x)
        return self.gradient

    def choose(self, taken: Tensor, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Go back to ``x`` in the rows that are not taken."""
        self.point = torch.where(taken[:, None], self.point, x)
        self.value = torch.where(taken, self.value, value)
        self.gradient = torch.where(taken[:, None], self.gradient, gradient)

    @torch.enable_grad()
    def _evaluate(self, x: Tensor) -> None:
        leaf = x.detach().requires_grad_()
        value = checked_values("log_prob", self.log_prob, leaf)
        if not value.requires_grad:
            raise ValueError("log_prob must have a derivative in its points, got a constant")
        (self.gradient,) = torch.autograd.grad(-value.sum(), leaf)
        self.point, self.value = x, -value.detach()


class _Move(NamedTuple):
    accept: Tensor
    error: Tensor
    divergent: Tensor


def _move(
    potential: _Potential,
    leapfrog: int,
    h: Tensor,
    generator: torch.Generator | None,
    adjust: bool = True,
) -> _Move:
    """One path from the points where the potential stands, to the points where it then stands."""
    x, value, gradient = potential.point, potential.value, potential.gradient
    v = draw(torch.randn, x.shape, generator, dtype=x.dtype, device=x.device)
    _, v_end = integrate(x, v, potential, h, leapfrog)  # the last gradient is at the end
    error = potential.value - value + 0.5 * (v_end.square() - v.square()).sum(-1)
    divergent = ~(error.isfinite() & (error <= DIVERGENT))  # true for NaN too
    accept = torch.where(divergent, 0, (-error).exp().clamp(max=1))
    if adjust:
        u = draw(torch.rand, accept.shape, generator, dtype=x.dtype, device=x.device)
        potential.choose(u < accept, x, value, gradient)
    return _Move(accept, error, divergent)


def _jittered(h: Tensor, jitter: float, x: Tensor, generator: torch.Generator | None) -> Tensor:
    if jitter == 0:
        return h
    u = draw(torch.rand, (len(x), 1), generator, dtype=x.dtype, device=x.device)
    return h * (1 + jitter * (2 * u - 1))


def _check_paths(leapfrog: int, step_size: float, jitter: float) -> None:
    check_count("leapfrog", leapfrog, least=1)
    positive = lambda h: 0 < h < math.inf  # noqa: E731
    check_number("step_size", step_size, "a positive number", positive)
    check_number("jitter", jitter, "a number from 0 to below 1", lambda j: 0 <= j < 1)
