r"""Bayesian MAML: particles in place of one set of weights, moved by Stein's method.

A particle is a vector of all weights. M of them stand for a posterior. The rows of a matrix are
the particles of one task; losses and data of several tasks are mapped over their first axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from nodes_tutorial.checks import check_count, check_number
from nodes_tutorial.meta.batched import Batch, check_batch

LogProb = Callable[..., Tensor]


class ChaserReport(NamedTuple):
    """How a gradient of Bayesian MAML was reached.

    Attributes:
        chasers: particles of each task after the steps on its support.
        leaders: particles that went on from there, on support and query together.
        loss: squared distance of the two, summed over the particles.
    """

    chasers: Float[Tensor, "tasks particles size"]
    leaders: Float[Tensor, "tasks particles size"]
    loss: Float[Tensor, " tasks"]


def svgd_direction(
    particles: Float[Tensor, "particles size"],
    scores: Float[Tensor, "particles size"],
    *,
    bandwidth: float | int | None = None,
) -> Float[Tensor, "particles size"]:
    r"""The direction of Stein variational gradient descent.

    .. math:: \phi(\theta^m)=\frac1M\sum_{j=1}^M\bigl[k(\theta^j,\theta^m)\,s_j
        +\nabla_{\theta^j}k(\theta^j,\theta^m)\bigr],\qquad k(u,v)=e^{-\|u-v\|^2/h}

    The first part pulls all particles to where the density is large, the second pushes them
    apart. One particle has k = 1 and no push: its direction is its score.

    Args:
        particles: :math:`\theta^1,\dots,\theta^M`, one a row.
        scores: gradients s of the log-density at the particles.
        bandwidth: h. None takes the median of the squared distances of different particles,
            divided by :math:`\log(M+1)`, as a constant.

    Returns:
        One direction for each particle.

    Raises:
        ValueError: ``scores`` of another shape, ``bandwidth`` not positive.

    Chapter: prop-maml-svgd

    References: Liu and Wang (2016), equation 8.

    >>> import torch
    >>> from nodes_tutorial.meta import svgd_direction
    >>> svgd_direction(torch.zeros(1, 2), torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]])
    """
    if scores.shape != particles.shape:
        raise ValueError(
            f"scores must have the shape of particles, {tuple(particles.shape)}, "
            f"got {tuple(scores.shape)}"
        )
    count = len(particles)
    difference = particles[:, None] - particles[None]  # row j, column m
    squares = difference.square().sum(-1)
    if bandwidth is None:
        h = _median(squares.detach(), count) / math.log(count + 1)
    else:
        h = check_number("bandwidth", bandwidth, "a positive number or None", lambda h: h > 0)
    kernel = torch.exp(-squares / h)
    push = (-2 / h * kernel)[..., None] * difference
    return (kernel.mT @ scores + push.sum(0)) / count


def _median(squares: Tensor, count: int) -> Tensor:
    """Median over the pairs of different particles; 1 where there is none, or all coincide."""
    if count == 1:
        return torch.ones_like(squares[0, 0])
    low, high = torch.triu_indices(count, count, 1, device=squares.device)
    median = squares[low, high].median()
    return torch.where(median > 0, median, torch.ones_like(median))


def svgd(
    log_prob: LogProb,
    particles: Tensor | Sequence[Tensor],
    *data: Tensor,
    steps: int,
    lr: float | int,
    bandwidth: float | int | None = None,
) -> Float[Tensor, "particles size"]:
    r"""Particles after steps :math:`\theta^m\leftarrow\theta^m+a\,\phi(\theta^m)`; differentiable.

    Args:
        log_prob: logarithm of a density, without its constant, of one vector and of ``data``.
        particles: where to begin, one a row; or a sequence of vectors.
        *data: further arguments of ``log_prob``, the same for all particles.
        steps: number of steps.
        lr: step size a.
        bandwidth: as for ``svgd_direction``.

    Returns:
        The particles as rows.

    Raises:
        TypeError: particles that are no tensors, ``steps`` is no integer, ``lr`` no number.
        ValueError: particles of different shapes, none, or no vectors; ``steps`` below 0, ``lr``
            negative or not finite; or as for ``svgd_direction``.

    Chapter: prop-maml-svgd

    References: Liu and Wang (2016), algorithm 1.

    >>> import torch
    >>> from nodes_tutorial.meta import svgd
    >>> start = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    >>> ends = svgd(lambda x: -(x - 3).square().sum() / 2, start, steps=200, lr=0.5)
    >>> bool((ends.mean() - 3).abs() < 0.1), bool(ends.std() > 0.7)
    (True, True)
    """
    rows = _rows(particles)
    check_count("steps", steps)
    rate = check_number("lr", lr, "a finite number >= 0", lambda a: 0 <= a < math.inf)
    score = vmap(grad(lambda row: log_prob(row, *data)))
    for _ in range(steps):
        rows = rows + rate * svgd_direction(rows, score(rows), bandwidth=bandwidth)
    return rows


def _rows(particles: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(particles, Sequence):
        if not particles or not all(isinstance(part, Tensor) for part in particles):
            raise TypeError("particles must be a tensor or a sequence of one or more tensors")
        shapes = [tuple(part.shape) for part in particles]
        if len(set(shapes)) > 1:
            raise ValueError(f"particles must be vectors of one shape, got {shapes}")
        particles = torch.stack(list(particles))
    if not isinstance(particles, Tensor):
        raise TypeError(f"particles must be a tensor, got {type(particles).__name__}")
    if particles.ndim != 2 or particles.numel() == 0:
        raise ValueError(
            f"particles must have the shape (particles, size), got {tuple(particles.shape)}"
        )
    return particles


def chaser_loss(
    chasers: Float[Tensor, "*tasks particles size"], leaders: Float[Tensor, "*tasks particles size"]
) -> Float[Tensor, "*tasks"]:
    r"""Squared distance :math:`\sum_m\|\theta^m-\mathrm{leader}^m\|^2`, with the leaders fixed.

    Args:
        chasers: particles that get a gradient.
        leaders: particles that get none, in the same order.

    Returns:
        One number for each task.

    Raises:
        ValueError: particles of different shapes.

    Chapter: def-maml-chaser

    References: Yoon, Kim, Dia, Kim, Bengio and Ahn (2018), equation 7.

    >>> import torch
    >>> from nodes_tutorial.meta import chaser_loss
    >>> chaser_loss(torch.zeros(3, 2), torch.ones(3, 2))
    tensor(6.)
    """
    if chasers.shape != leaders.shape:
        raise ValueError(
            f"leaders must have the shape of chasers, {tuple(chasers.shape)}, "
            f"got {tuple(leaders.shape)}"
        )
    return (chasers - leaders.detach()).square().sum((-1, -2))


def bayesian_maml(
    log_prob: LogProb,
    particles: Tensor | Sequence[Tensor],
    support: Batch,
    query: Batch,
    *,
    steps: int,
    leader_steps: int,
    lr: float | int,
    bandwidth: float | int | None = None,
) -> tuple[Float[Tensor, "particles size"], ChaserReport]:
    r"""Gradient of the mean chaser loss in the initial particles.

    The chasers take ``steps`` of Stein's method on the support. The leaders go on from there for
    ``leader_steps`` on support and query together. The chasers should end where the leaders do.

    Args:
        log_prob: log-posterior of one vector, given inputs and targets, up to a constant.
        particles: initial particles, one a row, the same for all tasks; or a sequence of vectors.
        support: inputs and targets, with tasks and points as the first axes.
        query: likewise, of the same tasks.
        steps: steps of the chasers.
        leader_steps: further steps of the leaders.
        lr: step size of both.
        bandwidth: as for ``svgd_direction``.

    Returns:
        The gradient, one row for each particle, and a ``ChaserReport``.

    Raises:
        TypeError: as for ``svgd``.
        ValueError: as for ``svgd``, or numbers of tasks that differ.

    Chapter: def-maml-chaser

    References: Yoon, Kim, Dia, Kim, Bengio and Ahn (2018), algorithm 2.

    >>> import torch
    >>> from nodes_tutorial.meta import bayesian_maml
    >>> fit = lambda w, x, y: -(x @ w - y).square().sum() - w.square().sum() / 2
    >>> x, start = torch.rand(4, 6, 3), torch.randn(5, 3)
    >>> batch = x, x.sum(-1)
    >>> gradient, report = bayesian_maml(fit, start, batch, batch, steps=1, leader_steps=1, lr=0.01)
    >>> gradient.shape, report.leaders.shape
    (torch.Size([5, 3]), torch.Size([4, 5, 3]))
    """
    rows = _rows(particles).detach()
    check_batch("query", query, check_batch("support", support))
    solve = {"lr": lr, "bandwidth": bandwidth}

    def of_task(rows: Tensor, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor):
        chasers = svgd(log_prob, rows, sx, sy, steps=steps, **solve)
        both = torch.cat([sx, qx]), torch.cat([sy, qy])
        leaders = svgd(log_prob, chasers, *both, steps=leader_steps, **solve).detach()
        return chaser_loss(chasers, leaders), (chasers, leaders)

    differentiated = grad_and_value(of_task, has_aux=True)
    axes = (None, *(0,) * 4)
    gradients, (loss, (chasers, leaders)) = vmap(differentiated, axes)(rows, *support, *query)
    return gradients.mean(0), ChaserReport(chasers.detach(), leaders, loss.detach())
