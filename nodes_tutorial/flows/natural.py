"""Natural gradients: steps that are measured by how far the density moves, not the weights."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from nodes_tutorial.checks import check_filled, check_number, check_points
from nodes_tutorial.flows.flow import Flow

_LONGEST = 10.0  # a score longer than this many medians is shortened to it


def scores(
    flow: Flow, x: Float[Tensor, "n dim"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n weights"]]:
    r"""Log-densities, and for each point the gradient of its own with respect to all weights.

    For a layer :math:`h_i = Wa_i + b` the gradient in W of a function of point i alone is
    :math:`g_i a_i^\top`, where :math:`g_i` is its gradient in :math:`h_i`. Points do not see each
    other, so one backward pass from the sum gives all :math:`g_i`.

    Args:
        flow: all its parameters belong to ``nn.Linear`` layers that are called once.
        x: points of the data, one a row.

    Returns:
        The log-densities, and one row of gradients for each point, in the order of
        ``flow.parameters()``. Neither has a graph.

    Raises:
        ValueError: a parameter outside such layers.

    Chapter: prop-normalizing-natural

    References: Goodfellow (2015).

    >>> import torch
    >>> from nodes_tutorial.flows.natural import scores
    >>> from nodes_tutorial.flows import RealNVP
    >>> log_prob, rows = scores(RealNVP(2, 2, [4]), torch.zeros(5, 2))
    >>> log_prob.shape, rows.shape  # two couplings of 4 + 4 + 8 + 2 weights
    (torch.Size([5]), torch.Size([5, 36]))
    """
    calls: list[tuple] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        # the edge stays valid when an activation overwrites the output
        calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))

    linear = [module for module in flow.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    try:
        log_prob = flow.log_prob(x)
    finally:
        for hook in hooks:
            hook.remove()
    owned = {weight for layer, _, _ in calls for weight in layer.parameters()}
    missing = [name for name, weight in flow.named_parameters() if weight not in owned]
    if missing or len(calls) > len(linear):
        raise ValueError(
            "flow must hold its parameters in nn.Linear layers that are called once, got "
            f"{missing[:4] or 'a layer called twice'}"
        )
    rows = {}
    gradients = torch.autograd.grad(log_prob.sum(), [edge for _, _, edge in calls])
    for (layer, a, _), g in zip(calls, gradients, strict=True):
        rows[layer.weight] = (g.unsqueeze(-1) * a.unsqueeze(-2)).flatten(1)
        rows[layer.bias] = g
    return log_prob.detach(), torch.cat([rows[weight] for weight in flow.parameters()], 1)


class NaturalGradient:
    r"""Maximum likelihood by natural gradients, for flows of up to a few thousand weights.

    .. math:: \theta \leftarrow \theta + \eta\,(F + \lambda I)^{-1} g

    Here g is a running mean of the gradient of the mean log-likelihood and F one of
    :math:`\frac1n\sum_i s_is_i^\top` with the scores :math:`s_i`, over the data. Scores
    longer than ten medians are shortened to that. A step costs :math:`O(np^2 + p^3)` for p weights.

    Args:
        flow: as for ``scores``.
        damping: the number :math:`\lambda` that is added to the diagonal.
        memory: share of the old F that each step keeps.
        momentum: share of the old g that each step keeps.

    Raises:
        TypeError: one of the numbers is none.
        ValueError: ``damping`` not positive; ``memory`` or ``momentum`` outside [0, 1).

    Chapter: prop-normalizing-natural

    References: Amari (1998).

    >>> import torch
    >>> from nodes_tutorial.flows.natural import NaturalGradient
    >>> from nodes_tutorial.flows import RealNVP
    >>> optimizer = NaturalGradient(RealNVP(2, 2, [4]))
    >>> optimizer.step(torch.randn(50, 2), rate=0.1).shape
    torch.Size([])
    """

    def __init__(
        self,
        flow: Flow,
        *,
        damping: float | int = 1e-3,
        memory: float | int = 0.97,
        momentum: float | int = 0.8,
    ) -> None:
        check_number("damping", damping, "positive", lambda d: 0 < d < math.inf)
        for name, share in (("memory", memory), ("momentum", momentum)):
            check_number(name, share, "at least 0 and below 1", lambda s: 0 <= s < 1)
        self.flow, self.damping, self.memory, self.momentum = flow, damping, memory, momentum
        self.weights = list(flow.parameters())
        sizes = [weight.numel() for weight in self.weights]
        self.fisher = self.weights[0].new_zeros(sum(sizes), sum(sizes))
        self.gradient = self.fisher.new_zeros(sum(sizes))
        self.steps = 0

    def step(self, x: Float[Tensor, "n dim"], rate: float | int) -> Float[Tensor, ""]:
        r"""Make one step.

        Args:
            x: a batch of data.
            rate: the step size :math:`\eta`.

        Returns:
            The mean negative log-likelihood of the batch before the step.

        Raises:
            TypeError: ``rate`` is not a number, or as for ``Flow.log_prob``.
            ValueError: ``rate`` is not finite, no points, or as for ``Flow.log_prob``.
        """
        check_points("x", x)
        check_filled("x", x)
        check_number("rate", rate, "a finite number", math.isfinite)
        log_prob, rows = scores(self.flow, x)
        length = rows.norm(dim=1, keepdim=True)
        rows *= (_LONGEST * length.median() / length).clamp(max=1)
        self.fisher.mul_(self.memory)
        self.fisher.addmm_(rows.mT, rows, alpha=(1 - self.memory) / len(x))
        self.gradient.lerp_(rows.mean(0), 1 - self.momentum)
        self.steps += 1
        fisher = self.fisher / (1 - self.memory**self.steps)
        fisher.diagonal().add_(self.damping)
        factor = torch.linalg.cholesky(fisher)
        mean = self.gradient / (1 - self.momentum**self.steps)
        move = torch.cholesky_solve(mean.unsqueeze(-1), factor).squeeze(-1)
        with torch.no_grad():
            parts = move.split([weight.numel() for weight in self.weights])
            for weight, part in zip(self.weights, parts, strict=True):
                weight.add_(part.view_as(weight), alpha=rate)
        return -log_prob.mean()
