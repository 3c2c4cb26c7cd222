"""Bayesian HyperMAML: a hypernetwork that answers a support with a law of the head's weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_number
from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.flows import CNF, ContextField
from nodes_tutorial.meta.averages import averaged_loss
from nodes_tutorial.meta.heads import head_logits
from nodes_tutorial.meta.hypernetworks import support_rows
from nodes_tutorial.meta.posteriors import FlowWeights, GaussianWeights

POSTERIORS = ("gaussian", "cnf")


class BayesianHyperMAML(nn.Module):
    r"""A law of the linear head of each task, made of the task's support.

    A row holds the weights and the bias of one class. With the common start θ and the numbers
    :math:`H(S)` that a hypernetwork makes of the support for that class, the row is

    .. math:: w\sim N\bigl(\theta-m(S), \mathrm{diag}\,e^{\ell(S)}\bigr)
        \qquad\text{or}\qquad w=\theta+F(z, C(S)),\quad z\sim N(0,tI)

    for ``"gaussian"``, :math:`H=(m,\ell)`, and ``"cnf"``, :math:`H=C`. Rows are independent of each
    other given the support. The prior of each row is N(0, I).

    Args:
        features: numbers of an embedding.
        posterior: ``"gaussian"`` or ``"cnf"``.
        hidden: widths of the hypernetwork's layers behind the mean over the support.
        latent: width of that mean.
        reads: what the hypernetwork is told, as for ``SupportRows``.
        log_variance: where the logarithms of the variances start.
        context: entries of the flow's context.
        field: widths of the layers of the flow's field.
        t: variance of the flow's noise.
        steps: steps of the classical Runge–Kutta method through the flow.
        trace: as for ``flows.CNF``; one random probe estimates it with ``"hutchinson"``.
        generator: source of the initial weights and of the probes; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: a size is not an integer, or a number is none.
        ValueError: unknown ``posterior``, a size below 1, ``t`` not positive, or a
            ``log_variance`` that is not finite.

    Chapter: def-bayesian-heads

    References: Borycki et al. (2022).

    >>> import torch
    >>> from nodes_tutorial.meta import BayesianHyperMAML
    >>> model = BayesianHyperMAML(4)
    >>> support, labels = torch.randn(3, 10, 4), torch.arange(5).repeat(2).expand(3, 10)
    >>> law = model(support, labels, ways=5)  # three tasks of five classes
    >>> weights, kl = law.rsample_and_kl(20)
    >>> weights.shape, kl.shape
    (torch.Size([20, 3, 5, 5]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        features: int,
        posterior: str = "gaussian",
        *,
        hidden: Sequence[int] = (128,),
        latent: int = 128,
        reads: str = "class",
        log_variance: float | int = -4.0,
        context: int = 32,
        field: Sequence[int] = (64,),
        t: float | int = 0.1,
        steps: int = 4,
        trace: str = "hutchinson",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if posterior not in POSTERIORS:
            raise ValueError(f"posterior must be one of {', '.join(POSTERIORS)}; got {posterior!r}")
        check_count("features", features, least=1)
        check_count("steps", steps, least=1)
        check_count("context", context, least=1)
        self.t = check_number("t", t, "a positive number", lambda t: 0 < t < math.inf)
        level = check_number("log_variance", log_variance, "a finite number", math.isfinite)
        like = {"dtype": dtype, "device": device}
        weights = features + 1
        self.posterior = posterior
        self.start = nn.Parameter(torch.zeros(weights, **like))
        outputs = 2 * weights if posterior == "gaussian" else context
        self.rows = support_rows(
            features,
            outputs,
            hidden=hidden,
            latent=latent,
            reads=reads,
            generator=generator,
            **like,
        )
        self.flow: CNF | None = None
        if posterior == "gaussian":
            *_, last_bias = self.rows.parameters()
            with torch.no_grad():
                last_bias[weights:].fill_(level)
        else:
            net = ContextField(weights, context, field, generator=generator, **like)
            fixed = {"step_size": 1 / steps}
            self.flow = CNF(net, trace, method="rk4", options=fixed, generator=generator)

    def forward(
        self, features: Float[Tensor, "*tasks support dim"], labels: Tensor, ways: int
    ) -> GaussianWeights | FlowWeights:
        """The law of the rows of all classes of all tasks.

        Args:
            features: one row for each point of the support.
            labels: their classes; each class has a point.
            ways: number of classes.

        Raises:
            TypeError: as for ``SupportRows``.
            ValueError: as for ``SupportRows``.
        """
        rows = self.rows(features, labels, ways)
        if self.flow is not None:
            return FlowWeights(self.start, self.flow, rows, t=self.t)
        shift, log_variance = rows.chunk(2, -1)
        return GaussianWeights(self.start - shift, log_variance)


class MetaLoss(NamedTuple):
    """The parts of the loss of a batch of tasks, each a mean over the tasks.

    Attributes:
        total: ``data`` plus γ times ``kl``.
        data: loss of the queries, averaged over them.
        kl: divergence of a task's head from the prior, in nats; estimated for a flow.
    """

    total: Float[Tensor, ""]
    data: Float[Tensor, ""]
    kl: Float[Tensor, ""]


def bayesian_meta_loss(
    model: nn.Module,
    tasks: Tasks,
    *,
    ways: int,
    gamma: float | int,
    draws: int = 5,
    average: str = "losses",
    generator: torch.Generator | None = None,
) -> MetaLoss:
    r"""The training loss of Bayesian HyperMAML for tasks of features.

    .. math:: \frac1T\sum_i\Bigl(\frac1{|Q_i|}\sum_{(x,y)\in Q_i}\mathrm{loss}(x,y)
        +\gamma\,KL\bigl(q(\cdot\mid S_i)\,\|\,N(0,I)\bigr)\Bigr)

    Args:
        model: maps support features, labels and ``ways`` to a law, as ``BayesianHyperMAML`` does.
        tasks: embeddings in place of images.
        ways: number of classes.
        gamma: the weight γ of the divergence, 0 or more.
        draws: heads drawn for each task.
        average: what is averaged over the draws, as for ``averaged_loss``.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The loss and its two parts.

    Raises:
        TypeError: ``gamma`` is no number, ``draws`` no integer.
        ValueError: ``gamma`` negative or infinite, ``draws`` below 1, unknown ``average``.

    Chapter: prop-bayesian-losses

    References: Borycki et al. (2022).
    """
    gamma = check_number("gamma", gamma, "a number of at least 0", _not_negative)
    law = model(*tasks.support, ways)
    weights, kl = law.rsample_and_kl(draws, generator)
    logits = head_logits(weights, tasks.query_x.expand(draws, *tasks.query_x.shape))
    data = averaged_loss(logits, tasks.query_y, average).mean()
    kl = kl.sum(-1).mean()
    return MetaLoss(data + gamma * kl, data, kl)


def adapt_further(
    law: GaussianWeights | FlowWeights,
    features: Float[Tensor, "*tasks support dim"],
    labels: Tensor,
    *,
    steps: int,
    lr: float | int,
    gamma: float | int = 0.0,
    draws: int = 5,
    generator: torch.Generator | None = None,
) -> GaussianWeights | FlowWeights:
    """Steps of gradient descent from the law that the hypernetwork gave, on the support alone.

    Each task goes its own way, with the loss of ``bayesian_meta_loss`` for its support. Means and
    variances change, or the start and the context; the flow stays.

    Args:
        law: where to start; no graph is kept to it.
        features: one row for each point of the support.
        labels: their classes.
        steps: how many; choose the number on validation tasks.
        lr: the step size, 0 or more.
        gamma: the weight of the divergence, 0 or more.
        draws: heads drawn in each step.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        A law of the same kind.

    Raises:
        TypeError: a count is no integer, or a number is none.
        ValueError: ``steps`` or ``lr`` or ``gamma`` negative, ``draws`` below 1.

    Chapter: def-bayesian-heads

    References: Borycki et al. (2022).
    """
    check_count("steps", steps)
    lr = check_number("lr", lr, "a number of at least 0", _not_negative)
    gamma = check_number("gamma", gamma, "a number of at least 0", _not_negative)
    numbers = [part.detach() for part in law.numbers()]
    several = features.expand(draws, *features.shape)
    for _ in range(steps):
        with torch.enable_grad():
            leaves = [part.requires_grad_() for part in numbers]
            now, penalty = law.with_numbers(*leaves), 0.0
            if gamma:
                weights, kl = now.rsample_and_kl(draws, generator)
                penalty = gamma * kl.sum()
            else:
                weights = now.rsample(draws, generator)
            data = averaged_loss(head_logits(weights, several), labels).mean(-1)
            slopes = torch.autograd.grad(data.sum() + penalty, leaves)
        numbers = [(p - lr * s).detach() for p, s in zip(leaves, slopes, strict=True)]
    return law.with_numbers(*numbers)


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf
