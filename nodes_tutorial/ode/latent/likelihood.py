"""Likelihoods of a series and of its observation times, and lower bounds from samples."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Posterior(NamedTuple):
    """A diagonal normal law of the latent start.

    Attributes:
        mean: mean of the law, shape (copies, n, latent).
        std: standard deviations of the law, of the same shape.
    """

    mean: Float[Tensor, "copies n latent"]
    std: Float[Tensor, "copies n latent"]

    def rsample(
        self, samples: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "samples copies n latent"]:
        """Differentiable draws ``mean + std * noise``."""
        kind = {"dtype": self.mean.dtype, "device": self.mean.device}
        noise = torch.randn(samples, *self.mean.shape, generator=generator, **kind)
        return self.mean + self.std * noise

    def log_prob(self, z: Float[Tensor, "*_ copies n latent"]) -> Float[Tensor, "*_ copies n"]:
        """Log-density of each start."""
        miss = (z - self.mean) / self.std
        return -(0.5 * (miss.square() + math.log(math.tau)) + self.std.log()).sum(-1)


def gaussian_log_prob(
    x: Float[Tensor, "*#batch grid dim"],
    mean: Float[Tensor, "*#batch grid dim"],
    std: float | Float[Tensor, "*#any"],
    mask: Bool[Tensor, "*#batch grid dim"],
) -> Float[Tensor, "*batch"]:
    r"""Log-density of the observed entries under independent normal laws.

    .. math:: \sum_{i:\,m_i=1} \log N(x_i;\, \mu_i, \sigma^2)

    Entries that are not observed do not count; in x they may be NaN.

    Args:
        x: observations, shape (\*batch, grid, dim).
        mean: expected observations, of the same shape.
        std: standard deviation of the noise, a number or a tensor that broadcasts.
        mask: True where an entry was observed.

    Returns:
        The sum over grid and features, in nats, shape (\*batch,).

    Chapter: thm-latent-elbo

    >>> import torch
    >>> from nodes_tutorial.ode.latent import gaussian_log_prob
    >>> x = torch.tensor([[0.0], [float("nan")]])
    >>> gaussian_log_prob(x, torch.zeros(2, 1), 1.0, ~x.isnan())
    tensor(-0.9189)
    """
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    miss = (torch.where(mask, x, 0.0) - mean) / std
    each = -0.5 * (miss.square() + math.log(math.tau)) - std.log()
    return torch.where(mask, each, 0.0).sum((-2, -1))


def poisson_log_prob(
    log_rate: Float[Tensor, "*#batch grid"],
    integral: Float[Tensor, "*#batch"],
    mask: Bool[Tensor, "*#batch grid"],
) -> Float[Tensor, "*batch"]:
    r"""Log-density of the times of a Poisson process with rate λ(t) on an interval.

    .. math:: \sum_{i=1}^n \log\lambda(t_i) - \int\lambda(t)\,dt

    Args:
        log_rate: values of log λ on a grid.
        integral: the integral of λ over the interval.
        mask: True at the grid times at which something happened.

    Returns:
        The log-density of each series.

    Chapter: thm-irregular-poisson

    References: Daley and Vere-Jones (2003), section 2.1.

    >>> import torch
    >>> from nodes_tutorial.ode.latent import poisson_log_prob
    >>> poisson_log_prob(torch.zeros(3), torch.tensor(2.0), torch.tensor([True, False, True]))
    tensor(-2.)
    """
    return torch.where(mask, log_rate, 0.0).sum(-1) - integral


def normal_kl(
    mean: Float[Tensor, "*batch latent"], std: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch"]:
    r"""Divergence of a diagonal normal law from the standard one.

    .. math:: \tfrac12 \sum_j \left(\mu_j^2 + s_j^2 - 1 - \log s_j^2\right)

    Args:
        mean: the means μ.
        std: the standard deviations s.

    Returns:
        The divergence in nats, summed over the last axis.

    Chapter: thm-latent-elbo

    >>> import torch
    >>> from nodes_tutorial.ode.latent import normal_kl
    >>> normal_kl(torch.ones(2), torch.ones(2))
    tensor(1.)
    """
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)


def iwae_bound(log_weights: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    r"""Importance-weighted bound from log-weights of K samples of the posterior.

    .. math:: \log \frac1K \sum_{k=1}^K w_k, \qquad
        \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k)

    Its mean lies between the mean of :math:`\log w_k`, which is the ELBO, and :math:`\log p(x)`.

    Args:
        log_weights: the numbers :math:`\log w_k`, with the axis of the samples first.

    Returns:
        The bound in nats, without the axis of the samples.

    Chapter: thm-latent-iwae

    References: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> import torch
    >>> from nodes_tutorial.ode.latent import iwae_bound
    >>> iwae_bound(torch.tensor([0.0, 0.0]))
    tensor(0.)
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def kl_weight(step: int, wait: int = 10, rate: float = 0.99) -> float:
    r"""Weight of the divergence during warm-up, 0 at first and then :math:`1 - \text{rate}^k`.

    Args:
        step: number of the step, or of the epoch.
        wait: number of steps during which the weight stays 0.
        rate: base of the power, in (0, 1); the nearer to 1, the longer the warm-up.

    Returns:
        The weight, in [0, 1).

    Chapter: def-latent-ode

    References: the program of Rubanova, Chen and Duvenaud (2019), which counts epochs.

    >>> from nodes_tutorial.ode.latent import kl_weight
    >>> [round(kl_weight(k), 4) for k in (0, 10, 11, 1000)]
    [0.0, 0.0, 0.01, 1.0]
    """
    return 1 - rate ** max(0, step - wait)
