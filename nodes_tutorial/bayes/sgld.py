"""Stochastic gradient Langevin dynamics, many chains at once."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from nodes_tutorial.checks import check_count, check_generator, check_number, check_points, draw


def sgld(
    log_joint: Callable[[Tensor], Tensor],
    x0: Float[Tensor, "*chains dim"],
    *,
    steps: int,
    step_size: float | int | Callable[[int], float],
    burn: int = 0,
    thin: int = 1,
    temperature: float | int = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "kept chains dim"]:
    r"""Follow a gradient with noise, so that the place is a draw from the posterior.

    .. math:: w_{t+1} = w_t + \tfrac{\varepsilon_t}2\nabla\log p(D, w_t)
        + \sqrt{\varepsilon_t T}\,\xi_t,\qquad \xi_t\sim N(0, I)

    There is no accept step: at a fixed step size the law has an error of order ε.

    Args:
        log_joint: maps places of shape (chains, dim) to :math:`\log p(D, w)` of shape (chains,),
            or to an unbiased estimate of it, as ``minibatch_joint`` makes.
        x0: where the chains start.
        steps: number of steps.
        step_size: ε, or a function of the number of the step that gives it.
        burn: steps at the beginning that are not kept.
        thin: of the other steps every thin-th is kept, the last one first of all.
        temperature: T, 1 for the posterior; 0 gives gradient ascent.
        generator: source of the noise; None means PyTorch's global one.

    Returns:
        The places that are kept, in order.

    Raises:
        TypeError: ``x0`` is no floating-point tensor, or a number is none.
        ValueError: shapes that do not fit, ``steps`` or ``thin`` below 1, ``burn`` so large that
            nothing is kept, ``step_size`` not positive, or ``temperature`` negative.
        FloatingPointError: a chain ran away; the message tells how many did.

    Chapter: thm-networks-sgld

    References: Welling and Teh (2011), equation 4.

    >>> import torch
    >>> from nodes_tutorial.bayes.sgld import sgld
    >>> normal = lambda w: -0.5 * w.square().sum(-1)
    >>> kept = sgld(normal, torch.zeros(3, 2), steps=50, step_size=0.1, burn=10, thin=4)
    >>> kept.shape
    torch.Size([10, 3, 2])
    """
    check_points("x0", x0)
    if x0.ndim != 2:
        raise ValueError(f"x0 must have shape (chains, dim), got {tuple(x0.shape)}")
    check_count("steps", steps, least=1)
    check_count("burn", burn)
    check_count("thin", thin, least=1)
    if steps - burn < thin:
        raise ValueError(f"burn must leave at least thin = {thin} of {steps} steps, got {burn}")
    warm = check_number("temperature", temperature, "a number of at least 0", lambda t: t >= 0)
    check_generator(generator)
    size = step_size if callable(step_size) else lambda i: step_size
    w, kept = x0.detach(), []
    like = {"dtype": x0.dtype, "device": x0.device}
    for i in range(steps):
        epsilon = check_number("step_size", size(i), "a positive number", lambda e: e > 0)
        noise = draw(torch.randn, w.shape, generator, **like)
        w = w + epsilon / 2 * _gradient(log_joint, w) + math.sqrt(epsilon * warm) * noise
        if i >= burn and (steps - 1 - i) % thin == 0:
            kept.append(w)
    ran_away = ~w.isfinite().all(-1)
    if bool(ran_away.any()):
        raise FloatingPointError(
            f"{int(ran_away.sum())} of {len(w)} chains ran away; step_size is too large"
        )
    return torch.stack(kept)


def minibatch_joint(
    log_prior: Callable[[Tensor], Tensor],
    log_lik: Callable[..., Tensor],
    data: Sequence[Tensor],
    batch: int,
    generator: torch.Generator | None = None,
) -> Callable[[Float[Tensor, "chains dim"]], Float[Tensor, " chains"]]:
    r"""The joint, estimated from rows that are drawn anew at every call.

    .. math:: \log p(w) + \frac NB\sum_{i\in S}\log p(y_i\mid x_i, w)

    S holds B rows, drawn with replacement, for each chain its own.

    Args:
        log_prior: maps weights of shape (chains, dim) to shape (chains,).
        log_lik: maps one vector of weights and rows of the data to one number a row.
        data: tensors with N rows each, such as ``(x, y)``.
        batch: number B of rows of a draw.
        generator: source of the rows; None means PyTorch's global one.

    Returns:
        A function of the weights, shape (chains, dim), that estimates the joint of each.

    Raises:
        TypeError: ``batch`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``batch`` below 1, or ``data`` is empty or has tensors of unequal length.

    Chapter: thm-networks-sgld

    References: Welling and Teh (2011), equation 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import minibatch_joint
    >>> prior = lambda w: -0.5 * w.square().sum(-1)
    >>> joint = minibatch_joint(prior, lambda w, y: -0.5 * (y - w) ** 2, [torch.ones(10)], 5)
    >>> joint(torch.zeros(3, 1))
    tensor([-5., -5., -5.])
    """
    check_count("batch", batch, least=1)
    check_generator(generator)
    lengths = {len(part) for part in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"data must hold tensors with equally many rows, got {sorted(lengths)}")
    (total,) = lengths
    where = None if generator is None else generator.device

    def joint(w: Tensor) -> Tensor:
        index = torch.randint(total, (len(w), batch), generator=generator, device=where)
        rows = [part[index.to(part.device)] for part in data]
        each = vmap(log_lik)(w, *rows)
        return log_prior(w) + total / batch * each.reshape(len(w), -1).sum(-1)

    return joint


def _gradient(log_joint: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = w.detach().requires_grad_()
        value = log_joint(leaf)
        if value.shape != w.shape[:1]:
            raise ValueError(
                f"log_joint must return shape {tuple(w.shape[:1])}, got {tuple(value.shape)}"
            )
        return torch.autograd.grad(value.sum(), leaf)[0]
