"""Training a stable network: block coordinate descent, Adam, and many layers from few."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nodes_tutorial.linalg import cg
from nodes_tutorial.ode.multilevel.newton import (
    Classifier,
    curvature,
    fit_classifier,
    search,
)
from nodes_tutorial.ode.multilevel.objective import Level, Objective, new_classifier
from nodes_tutorial.ode.stability.base import Linearization, StableNet

__all__ = ["Level", "Objective", "train_adam", "train_blocks", "train_multilevel"]


@torch.no_grad()
def train_blocks(
    net: StableNet,
    objective: Objective,
    classifier: Classifier | None = None,
    *,
    max_iter: int = 30,
    tol: float = 0.01,
    goal: float | None = None,
    max_cg: int = 10,
) -> Level:
    r"""Block coordinate descent: Newton for the classifier, one Gauss–Newton step for the rest.

    The step solves :math:`(J^\top H J + R)\,\delta = -g` by conjugate gradients, where J is the
    Jacobian of the logits in the propagation weights, H the Hessian of cross-entropy in the
    logits and R that of the regularizer, whose (shifted) inverse is the preconditioner.

    Args:
        net: the network; its weights are changed in place.
        objective: data and regularizers.
        classifier: the classifier to start from; by default zero.
        max_iter: iterations at most.
        tol: stop when five iterations together lower the objective by less than five times
            this share of it.
        goal: stop when the objective is below it, and only then.
        max_cg: products of one Gauss–Newton step.

    Returns:
        The record of the training.

    Chapter: prop-multilevel-descent

    References: Haber and Ruthotto (2018), section 5.

    >>> import torch
    >>> from nodes_tutorial.ode.multilevel import Objective, train_blocks
    >>> from nodes_tutorial.data.labelled2d import ellipses
    >>> from nodes_tutorial.ode.stability.networks import AntisymmetricNet
    >>> x, label = ellipses(200, torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> how = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> net = AntisymmetricNet(2, 8, 20.0, **how)
    >>> level = train_blocks(net, Objective(x, label))
    >>> level.accuracy(x, label) > 0.9
    True
    """
    start, x, labels = time.perf_counter(), objective.x, objective.labels
    c = new_classifier(objective) if classifier is None else classifier
    level, flat = Level(net, c), _Flat(net)
    one_hot = F.one_hot(labels, c.W.shape[1]).to(x)
    R = objective.curvature(net.layers, net.h, x)
    identity = torch.eye(net.layers, dtype=x.dtype, device=x.device)
    inverse = torch.linalg.inv(R + 0.01 * net.h * identity)
    for _ in range(max_iter + 1):
        linear = net.linearize(x)
        c, _ = fit_classifier(linear.out, labels, c, alpha=objective.alpha_c)
        value = objective.value(linear.out, net.weights, net.h, c)
        level.history.append(value.item())
        if len(level.history) > max_iter or _done(level.history, tol, goal):
            break
        step, slope, taken = _gauss_newton(linear, c, one_hot, flat, (R, inverse), max_cg)
        level.products += 2 * taken + 2

        def at(v: Tensor, c: Classifier = c) -> Tensor:
            new = flat.tree(v)
            y, _ = net.sweep.run(net.h, x, *net.operators(*new))
            return objective.value(y, new, net.h, c)

        v, _, moved = search(at, flat.of(net.weights), value, step, slope)
        if not moved:
            break
        for w, new in zip(net.weights, flat.tree(v), strict=True):
            w.copy_(new)
    level.classifier, level.seconds = c, time.perf_counter() - start
    return level


def _gauss_newton(
    linear: Linearization,
    c: Classifier,
    one_hot: Tensor,
    flat: "_Flat",
    penalty: tuple[Tensor, Tensor],
    max_cg: int,
) -> tuple[Tensor, Tensor, int]:
    """The step, the slope of the objective along it, and the products taken."""
    R, inverse = penalty
    p = c.logits(linear.out).softmax(1)

    def pull(dz: Tensor) -> Tensor:
        return flat.of(linear.pull(dz @ c.W.mT / len(dz)))

    def product(u: Tensor) -> Tensor:
        moved = linear.push(flat.tree(u)) @ c.W
        return pull(curvature(p, moved)) + flat.along_depth(R, u)

    gradient = pull(p - one_hot) + flat.along_depth(R, flat.of(flat.net.weights))
    found = cg(
        product,
        -gradient,
        preconditioner=lambda u: flat.along_depth(inverse, u),
        rtol=1e-2,
        max_iterations=max_cg,
    )
    return found.x, torch.dot(gradient, found.x), int(found.iterations)


class _Flat:
    """The weights of a network as one vector, layer after layer, and back."""

    def __init__(self, net: StableNet) -> None:
        self.net = net
        self.shapes = [w.shape for w in net.weights]
        self.sizes = [w[0].numel() for w in net.weights]

    def of(self, weights: Sequence[Tensor]) -> Tensor:
        return torch.cat([w.detach().flatten(1) for w in weights], 1).flatten()

    def tree(self, v: Tensor) -> tuple[Tensor, ...]:
        parts = v.view(self.net.layers, -1).split(self.sizes, 1)
        return tuple(part.reshape(s) for part, s in zip(parts, self.shapes, strict=True))

    def along_depth(self, matrix: Tensor, v: Tensor) -> Tensor:
        return (matrix @ v.view(self.net.layers, -1)).flatten()


def _done(history: list[float], tol: float, goal: float | None) -> bool:
    if goal is not None:
        return history[-1] <= goal
    return len(history) > 5 and history[-6] - history[-1] <= 5 * tol * history[-6]


def train_adam(
    net: StableNet,
    objective: Objective,
    classifier: Classifier | None = None,
    *,
    lr: float = 0.05,
    max_iter: int = 300,
    goal: float | None = None,
) -> Level:
    """Adam on all weights at once, full batch, for comparison with ``train_blocks``.

    Args:
        net: the network; its weights are changed in place.
        objective: data and regularizers.
        classifier: the classifier to start from; by default zero.
        lr: the learning rate.
        max_iter: iterations at most.
        goal: stop when the objective is below it.

    Returns:
        The record of the training.

    References: Kingma and Ba (2015), algorithm 1.
    """
    start = time.perf_counter()
    c = new_classifier(objective) if classifier is None else classifier
    c = Classifier(*(w.clone().requires_grad_() for w in c))
    level = Level(net, c)
    optimizer = torch.optim.Adam([*net.parameters(), *c], lr)
    for _ in range(max_iter + 1):
        value = objective.value(net(objective.x), net.weights, net.h, c)
        level.history.append(value.item())
        if goal is not None and level.history[-1] <= goal:
            break
        if len(level.history) <= max_iter:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            level.products += 2
    level.classifier = Classifier(*(w.detach() for w in c))
    level.seconds = time.perf_counter() - start
    return level


def train_multilevel(net: StableNet, objective: Objective, levels: int, **options) -> list[Level]:
    """Train, double the layers, prolong the weights, train again: ``levels`` times in all.

    Args:
        net: the coarsest network; trained in place, as is each of its refinements.
        objective: data and regularizers.
        levels: number of depths, so that the last has ``2**(levels - 1)`` times the layers.
        **options: keyword arguments of ``train_blocks``.

    Returns:
        One record for each depth.

    Raises:
        ValueError: ``levels`` below 1.

    Chapter: prop-multilevel-prolong

    References: Haber and Ruthotto (2018), section 3.3.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    found = [train_blocks(net, objective, **options)]
    for _ in range(levels - 1):
        coarse = found[-1]
        found.append(train_blocks(coarse.net.refined(), objective, coarse.classifier, **options))
    return found
