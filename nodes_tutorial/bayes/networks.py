"""Networks whose weights have a law: Bayes by Backprop."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from nodes_tutorial.bayes.backprop import draw_with_divergence
from nodes_tutorial.bayes.flat import FlatModule
from nodes_tutorial.bayes.gaussians import MeanFieldGaussian
from nodes_tutorial.bayes.priors import NormalPrior, Prior
from nodes_tutorial.checks import check_count, check_generator, check_number, check_points, draw
from nodes_tutorial.nets import MLP
from nodes_tutorial.nets.mlp import ACTIVATIONS


class BayesianModule(nn.Module):
    r"""Any module with a mean-field Gaussian over all its weights.

    .. math:: w = \mu + \sigma\odot\varepsilon,\qquad \varepsilon\sim N(0, I),\qquad
        f(x) = \mathrm{module}_w(x)

    One vector of noise makes all weights of a draw, and all draws are applied at once.

    Args:
        module: the network; its weights are where μ starts. It is copied.
        prior: law of the weights; None means the standard normal law.
        scale: where the standard deviations σ start.

    Attributes:
        posterior: the law of the weights, with the parameters ``mean`` and ``rho``.
        flat: the network as a function of one vector of weights.

    Raises:
        TypeError: ``module`` is no module, or ``scale`` is no number.
        ValueError: ``module`` has no parameter or has buffers, or ``scale`` is not positive.

    Chapter: prop-networks-bbb

    References: Blundell et al. (2015), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import BayesianModule
    >>> BayesianModule(torch.nn.Linear(2, 1))(torch.zeros(5, 2), n=3).shape
    torch.Size([3, 5, 1])
    """

    def __init__(
        self, module: nn.Module, prior: Prior | None = None, *, scale: Tensor | float | int = 0.02
    ) -> None:
        super().__init__()
        self.flat = FlatModule(module)
        self.prior = NormalPrior() if prior is None else prior
        self.posterior = MeanFieldGaussian(self.flat.start, scale)

    def forward(
        self, x: Float[Tensor, "batch ..."], n: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n batch ..."]:
        """Outputs of n networks, drawn from the posterior."""
        return self.flat(self.posterior.rsample(n, generator), x)

    def mean_output(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Outputs of the network with the mean weights, which is not the mean of the outputs."""
        return self.flat(self.posterior.mean, x)

    def kl(self, n: int = 1, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """KL(q, prior) in nats: in closed form where the prior has one, else from n draws."""
        closed = getattr(self.prior, "kl", None)
        return self.kl_draws(n, generator) if closed is None else closed(self.posterior)

    def kl_draws(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """The estimate of the divergence from n draws, for any prior."""
        w, log_q = self.posterior.rsample_and_log_prob(n, generator)
        return (log_q - self.prior.log_prob(w)).mean()


class BayesianMLP(BayesianModule):
    r"""A multilayer perceptron with a mean-field Gaussian over its weights and biases.

    With ``local=True`` the noise is drawn for the pre-activations instead of the weights:

    .. math:: a_{ik} \sim N\bigl((h_iM)_k + m_k,\; (h_i^2\,\Sigma^2)_k + s_k^2\bigr)

    Each example has then noise of its own, and its outputs have the same law as before.

    Args:
        sizes: number of features of the input, of each hidden layer and of the output.
        prior: law of the weights; None means the standard normal law.
        activation: a key of ``nets.mlp.ACTIVATIONS``.
        scale: where the standard deviations of the weights start.
        generator: source of the initial means; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: as for ``nets.MLP``.
        ValueError: as for ``nets.MLP``; or ``scale`` is not positive.

    Chapter: prop-networks-local

    References: Blundell et al. (2015); Kingma, Salimans and Welling (2015), section 2.3.

    >>> import torch
    >>> from nodes_tutorial.bayes import BayesianMLP
    >>> net = BayesianMLP([2, 16, 3])
    >>> net(torch.zeros(5, 2), n=4, local=True).shape
    torch.Size([4, 5, 3])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        prior: Prior | None = None,
        *,
        activation: str = "relu",
        scale: float | int = 0.02,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        mlp = MLP(sizes, activation, generator, dtype=dtype, device=device)
        super().__init__(mlp, prior, scale=scale)
        self._activation = ACTIVATIONS[activation]()

    def forward(
        self,
        x: Float[Tensor, "batch inputs"],
        n: int = 1,
        generator: torch.Generator | None = None,
        *,
        local: bool = False,
    ) -> Float[Tensor, "n batch outputs"]:
        """Outputs of n draws; with ``local`` each example has a draw of its own."""
        if not local:
            return super().forward(x, n, generator)
        check_count("n", n, least=1)
        mean = list(self.flat.split(self.posterior.mean).values())
        variance = list(self.flat.split(self.posterior.scale.square()).values())
        h = x.expand(n, *x.shape)
        for i in range(0, len(mean), 2):
            center = linear(h, mean[i], mean[i + 1])
            spread = linear(h.square(), variance[i], variance[i + 1]).sqrt()
            like = {"dtype": center.dtype, "device": center.device}
            h = center + spread * draw(torch.randn, center.shape, generator, **like)
            h = h if i + 2 == len(mean) else self._activation(h)
        return h


def minibatch_loss(
    log_lik: Float[Tensor, "..."],
    kl: Float[Tensor, ""],
    *,
    total: int,
    kl_weight: float | int = 1.0,
) -> Float[Tensor, ""]:
    r"""The negative bound for one example, from a part of the data.

    .. math:: \frac{c}{N}\,\mathrm{KL} - \frac1B\sum_{i\le B}\log p(y_i\mid x_i, w)

    N times this is :math:`c\,\mathrm{KL} - \frac NB\sum_i\log p(y_i\mid x_i,w)`. The divergence
    belongs to all N examples together, so a mean over B of them carries the N-th part of it.

    Args:
        log_lik: log-likelihoods of the examples, one row a draw, in nats.
        kl: the divergence of the posterior from the prior.
        total: number N of examples of the whole data set.
        kl_weight: the factor c; 1 for the posterior, below 1 for a cold one.

    Returns:
        The loss in nats, averaged over the draws.

    Raises:
        TypeError: ``log_lik`` is no floating-point tensor, or ``total`` is not an integer.
        ValueError: ``log_lik`` has another shape than (n, batch), ``total`` is below the
            batch, or ``kl_weight`` is negative.

    Chapter: prop-networks-weight

    >>> import torch
    >>> from nodes_tutorial.bayes import minibatch_loss
    >>> minibatch_loss(torch.full((1, 10), -2.0), torch.tensor(50.0), total=100)
    tensor(2.5000)
    """
    check_points("log_lik", log_lik)
    if log_lik.ndim != 2 or 0 in log_lik.shape:
        raise ValueError(f"log_lik must have shape (n, batch), got {tuple(log_lik.shape)}")
    check_count("total", total, least=log_lik.shape[1])
    factor = check_number("kl_weight", kl_weight, "a number of at least 0", lambda c: c >= 0)
    return factor * kl / total - log_lik.mean()


def bbb_loss(
    model: BayesianModule,
    x: Float[Tensor, "batch ..."],
    y: Tensor,
    log_lik: Callable[[Tensor, Tensor], Tensor],
    *,
    total: int,
    n: int = 1,
    local: bool = False,
    closed: bool = True,
    kl_weight: float | int = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Bayes by Backprop: the negative evidence lower bound for one example.

    Its gradient is that of ``minibatch_loss``, through n draws of the weights.

    Args:
        model: the network, with its posterior and its prior.
        x: inputs of a batch.
        y: its targets.
        log_lik: maps outputs of shape (n, batch, outputs) and ``y`` to log-likelihoods of shape
            (n, batch).
        total: number of examples of the whole data set.
        n: draws of the weights.
        local: draw pre-activations instead of weights; for a ``BayesianMLP``.
        closed: use the closed form of the divergence where the prior has one.
        kl_weight: factor of the divergence; 1 for the posterior.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The loss in nats.

    Raises:
        TypeError: an argument of the wrong type, such as a ``local`` that the model has not.
        ValueError: ``n`` below 1, ``total`` below the batch, or ``log_lik`` returns another
            shape than (n, batch).

    Chapter: prop-networks-bbb

    References: Blundell et al. (2015), section 3.2; Graves (2011).

    >>> import torch
    >>> from nodes_tutorial.bayes import BayesianMLP, bbb_loss
    >>> net = BayesianMLP([1, 8, 1])
    >>> x, y = torch.zeros(4, 1), torch.zeros(4)
    >>> loss = bbb_loss(net, x, y, lambda f, y: -0.5 * (f[..., 0] - y) ** 2, total=100)
    >>> loss.backward()
    """
    check_generator(generator)
    if local:
        if not isinstance(model, BayesianMLP):
            raise TypeError(f"local needs a BayesianMLP, got {type(model).__name__}")
        outputs = model(x, n, generator, local=True)
        kl = model.kl(n, generator) if closed else model.kl_draws(n, generator)
    elif closed and isinstance(model.prior, NormalPrior):
        w, kl = draw_with_divergence(model.posterior, model.prior, n, generator)
        outputs = model.flat(w[0], x)[None] if n == 1 else model.flat(w, x)
    else:
        w, log_q = model.posterior.rsample_and_log_prob(n, generator)
        outputs, kl = model.flat(w, x), (log_q - model.prior.log_prob(w)).mean()
        if closed and hasattr(model.prior, "kl"):
            kl = model.kl()
    found = log_lik(outputs, y)
    check_points("the value of log_lik", found)
    if found.shape != (n, len(x)):
        raise ValueError(f"log_lik must return shape {(n, len(x))}, got {tuple(found.shape)}")
    return minibatch_loss(found, kl, total=total, kl_weight=kl_weight)
