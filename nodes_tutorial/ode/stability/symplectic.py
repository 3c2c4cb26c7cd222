"""Symplectic integrators for separable Hamiltonian systems: the Verlet pair and leapfrog.

With H(q, p) = V(q) + K(p) the flow of V alone moves only p, that of K alone moves only q. Both
are exact and cheap, and so is every composition of them. Hamiltonian Monte Carlo needs just this.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["leapfrog", "oscillator_energies", "verlet", "verlet_step"]

Gradient = Callable[[Tensor], Tensor]
Step = float | int | Tensor


def verlet_step(
    q: Float[Tensor, "*position"],
    p: Float[Tensor, "*momentum"],
    grad_potential: Gradient,
    grad_kinetic: Gradient,
    h: Step,
) -> tuple[Float[Tensor, "*position"], Float[Tensor, "*momentum"]]:
    r"""Make one kick and one drift.

    .. math:: p_{j+1/2} = p_{j-1/2} - h \nabla V(q_j), \qquad
              q_{j+1} = q_j + h \nabla K(p_{j+1/2})

    Args:
        q: positions at the start of the step.
        p: momenta, half a step behind the positions; their shape may differ from that of q.
        grad_potential: maps q to a change of p.
        grad_kinetic: maps p to a change of q.
        h: the step; a tensor gives every element of a batch its own.

    Returns:
        Position and momentum, the latter again half a step behind.

    Chapter: thm-stability-symplectic

    References: Hairer, Lubich and Wanner (2006), sections I.1.4 and VI.3.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import verlet_step
    >>> verlet_step(torch.tensor(1.0), torch.tensor(0.0), lambda q: q, lambda p: p, 0.5)
    (tensor(0.7500), tensor(-0.5000))
    """
    p = p - h * grad_potential(q)
    return q + h * grad_kinetic(p), p


def verlet(
    q: Float[Tensor, "*position"],
    p: Float[Tensor, "*momentum"],
    grad_potential: Gradient,
    h: Step,
    steps: int,
    *,
    grad_kinetic: Gradient | None = None,
    path: bool = False,
) -> tuple[Tensor, Tensor]:
    """The staggered Verlet method: ``steps`` times ``verlet_step``.

    Positions live at the times jh, momenta half a step before them. It is symplectic and
    explicit, and with a momentum that really is half a step behind it has order 2.

    Args:
        q: positions at time 0.
        p: momenta at time -h/2.
        grad_potential: gradient of V.
        h: the step; a tensor gives every element of a batch its own.
        steps: number of steps.
        grad_kinetic: gradient of K; by default p itself, which is unit mass.
        path: return all steps + 1 states, stacked in front, instead of the last.

    Returns:
        Positions and momenta.

    Raises:
        ValueError: ``steps`` below 0.

    Chapter: thm-stability-symplectic

    References: Hairer, Lubich and Wanner (2006), section I.1.4.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import verlet
    >>> q, p = verlet(torch.tensor(1.0), torch.tensor(0.0), torch.sin, 0.1, 100, path=True)
    >>> q.shape, bool(q.abs().max() < 1.01)
    (torch.Size([101]), True)
    """
    _check(steps)
    kinetic = _identity if grad_kinetic is None else grad_kinetic
    states = [(q, p)]
    for _ in range(steps):
        states.append(verlet_step(*states[-1], grad_potential, kinetic, h))
        if not path:
            states = states[-1:]
    return _collect(states, path)


def leapfrog(
    q: Float[Tensor, "*position"],
    p: Float[Tensor, "*momentum"],
    grad_potential: Gradient,
    h: Step,
    steps: int,
    *,
    grad_kinetic: Gradient | None = None,
    path: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Leapfrog: half a kick, a drift, half a kick. Symplectic, reversible, order 2.

    For unit mass the positions obey :math:`q_{j+1} = 2q_j - q_{j-1} - h^2\nabla V(q_j)`. The
    kicks of two neighbouring steps are one evaluation, so n steps cost n + 1 gradients.

    Args:
        q: positions at time 0.
        p: momenta at time 0.
        grad_potential: gradient of V.
        h: the step; a tensor gives every element of a batch its own. A negative one goes back.
        steps: number of steps.
        grad_kinetic: gradient of K; by default p itself, which is unit mass.
        path: return all steps + 1 states, stacked in front, instead of the last.

    Returns:
        Positions and momenta, both at the same times.

    Raises:
        ValueError: ``steps`` below 0.

    Chapter: thm-stability-symplectic

    References: Hairer, Lubich and Wanner (2006), section I.1.4; Neal (2011), section 5.2.3.

    >>> import torch
    >>> from nodes_tutorial.ode.stability import leapfrog
    >>> q, p = leapfrog(torch.tensor(1.0), torch.tensor(0.0), torch.sin, 0.1, 50)
    >>> back, _ = leapfrog(q, -p, torch.sin, 0.1, 50)
    >>> round(back.item(), 4)
    1.0
    """
    _check(steps)
    kinetic = _identity if grad_kinetic is None else grad_kinetic
    states, force = [(q, p)], grad_potential(q)
    for _ in range(steps):
        q, p = states[-1]
        p = p - h / 2 * force
        q = q + h * kinetic(p)
        force = grad_potential(q)
        states.append((q, p - h / 2 * force))
        if not path:
            states = states[-1:]
    return _collect(states, path)


def oscillator_energies(
    q: Float[Tensor, "*times"], p: Float[Tensor, "*times"], omega: float | int, h: float | int
) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"], Float[Tensor, "*times"]]:
    r"""Energy of the oscillator, and what the two methods conserve in its place, exactly.

    .. math:: H = \tfrac12(p^2 + \omega^2 q^2), \quad
              H_{\mathrm{leapfrog}} = H - \tfrac18 h^2\omega^4 q^2, \quad
              H_{\mathrm{Verlet}} = H - \tfrac12 h\omega^2 q p

    Args:
        q: positions at the given times.
        p: momenta, at the same times for leapfrog and half a step behind for Verlet.
        omega: frequency of the oscillator.
        h: step size of the two methods.

    Returns:
        The three energies; positive definite exactly if h omega < 2.

    Chapter: prop-stability-energy

    >>> import torch
    >>> from nodes_tutorial.ode.stability import oscillator_energies
    >>> oscillator_energies(torch.tensor(1.0), torch.tensor(0.0), 1.0, 1.0)
    (tensor(0.5000), tensor(0.3750), tensor(0.5000))
    """
    energy = (p**2 + omega**2 * q**2) / 2
    return energy, energy - h**2 * omega**4 * q**2 / 8, energy - h * omega**2 * q * p / 2


def _identity(p: Tensor) -> Tensor:
    return p


def _check(steps: int) -> None:
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")


def _collect(states: list, path: bool) -> tuple[Tensor, Tensor]:
    if not path:
        return states[-1]
    q, p = zip(*states, strict=True)
    return torch.stack(q), torch.stack(p)
