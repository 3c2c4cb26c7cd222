"""Latent ODE: a path through a latent space, found from irregular observations."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.data.series import Series
from nodes_tutorial.nets.stack import Generators, Stack, sources
from nodes_tutorial.ode.latent.likelihood import (
    Posterior,
    gaussian_log_prob,
    iwae_bound,
    kl_weight,
    normal_kl,
    poisson_log_prob,
)
from nodes_tutorial.ode.latent.odernn import ODERNN
from nodes_tutorial.ode.odeint import odeint

__all__ = ["ODERNN", "LatentODE", "Path", "Posterior", "kl_weight"]


class Path(NamedTuple):
    """What the decoder makes of latent starts.

    Attributes:
        x: expected observations.
        log_rate: log of the intensity of observation times; None without intensity.
        integral: integral of the intensity from the first time on; None without intensity.
    """

    x: Float[Tensor, "samples copies n grid dim"]
    log_rate: Float[Tensor, "samples copies n grid"] | None
    integral: Float[Tensor, "samples copies n grid"] | None


class LatentODE(nn.Module):
    r"""An encoder that reads a series backwards, a latent ODE, and a read-out.

    .. math:: q(z_0 \mid x) = N(\mu, \operatorname{diag} s^2), \qquad
        \dot z = f(z),\ z(t_0) = z_0, \qquad x_i \sim N(g(z(t_i)), \sigma^2 I)

    The prior of :math:`z_0` is standard normal and :math:`t_0` is the first time of the grid. One
    call of ``odeint`` solves for all series, samples and networks, at all times of the grid. With
    ``intensity`` the integral of :math:`\lambda(z(t))` is one more component of that solve.

    Args:
        dim: number of features of a series.
        latent: size of z.
        encoder: reads the series; by default an ``ODERNN`` of the given sizes. Its own ``copies``
            must be those of ``generator``.
        hidden: size of the encoder's state.
        width: width of the hidden layers of all networks.
        linear: whether field and read-out are affine, the case with a closed form.
        speed: factor of the initial field's last layer. Dynamics that turn several times within the
            data are found sooner by a field that starts with some speed.
        noise: standard deviation of an observation.
        intensity: whether observation times are modelled as a Poisson process.
        generator: source of the initial weights, or one for each of several networks that are
            trained side by side; None means PyTorch's global one.
        rtol: relative tolerance of the decoder.
        atol: absolute tolerance of the decoder.
        method: a key of ``METHODS`` for the decoder.
        options: as for ``odeint``.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: a size below 1, ``noise`` not positive, or an encoder with other copies.

    Chapter: def-latent-ode

    References: Rubanova, Chen and Duvenaud (2019), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.ode.latent import LatentODE
    >>> from nodes_tutorial.data.timeseries import observe, periodic
    >>> whole, _ = periodic(3, torch.Generator().manual_seed(0))
    >>> seen = observe(whole, 0.2, torch.Generator().manual_seed(1))
    >>> net = LatentODE(1, 4, generator=torch.Generator().manual_seed(0))
    >>> net.elbo(seen, whole, samples=2).shape, net(seen, whole.times).shape
    (torch.Size([3]), torch.Size([3, 100, 1]))
    """

    def __init__(
        self,
        dim: int,
        latent: int = 10,
        *,
        encoder: ODERNN | None = None,
        hidden: int = 20,
        width: int = 50,
        linear: bool = False,
        speed: float = 1.0,
        noise: float = 0.1,
        intensity: bool = False,
        generator: Generators = None,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        method: str = "dopri5",
        options: dict[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(dim, latent, width) < 1:
            raise ValueError(
                f"dim, latent and width must be at least 1, got {dim}, {latent} and {width}"
            )
        if not noise > 0:
            raise ValueError(f"noise must be positive, got {noise}")
        generators, self.copies = sources(generator)
        kind = {"dtype": dtype, "device": device}
        if encoder is None:
            sizes = {"hidden": hidden, "width": width, "readout": False}
            encoder = ODERNN(dim, **sizes, generator=generator, **kind)
        elif encoder.copies != self.copies:
            raise ValueError(f"encoder must have copies = {self.copies}, got {encoder.copies}")
        self.encoder, self.noise, self.latent = encoder, noise, latent
        self.head = Stack([encoder.hidden, width, 2 * latent], generators, **kind)
        # The posterior begins with a small variance: a decoder learns to ignore noisy starts.
        with torch.no_grad():
            self.head.biases[-1][..., latent:] -= 3
        inner = [] if linear else [width]
        self.field = Stack([latent, *inner, latent], generators, **kind)
        with torch.no_grad():
            self.field.weights[-1].mul_(speed)
        self.emission = Stack([latent, *inner, dim], generators, **kind)
        self.rate = Stack([latent, width, 1], generators, **kind) if intensity else None
        self.solver: dict[str, Any] = dict(rtol=rtol, atol=atol, method=method, options=options)

    def encode(self, series: Series) -> Posterior:
        """The law of the latent start, always with the axis of the networks."""
        h = self.encoder.encode(series, backwards=True)
        mean, raw = self.head(h).chunk(2, -1)
        return Posterior(mean, nn.functional.softplus(raw) + 1e-5)

    def decode(
        self, z: Float[Tensor, "samples copies n latent"], times: Float[Tensor, " grid"]
    ) -> Path:
        """Paths from latent starts at ``times[0]``: one solve for all.

        Args:
            z: latent starts, shape (samples, copies, n, latent).
            times: increasing times, of which the first is that of the starts.
        """
        samples, _, n, latent = z.shape
        z = z.transpose(0, 1).flatten(1, 2)
        if self.rate is not None:
            z = torch.cat([z, torch.zeros_like(z[..., :1])], -1)
        y = odeint(self._field, z, times, **self.solver)

        def split(part: Tensor) -> Tensor:
            return part.unflatten(2, (samples, n)).movedim((2, 0), (0, 3)).contiguous()

        x = split(self.emission(y[..., :latent]))
        if self.rate is None:
            return Path(x, None, None)
        log_rate = split(self.rate(y[..., :latent])).squeeze(-1)
        return Path(x, log_rate, split(y[..., latent:]).squeeze(-1))

    def _field(self, t: Tensor, y: Tensor) -> Tensor:
        if self.rate is None:
            return self.field(y)
        z = y[..., : self.latent]
        return torch.cat([self.field(z), self.rate(z).exp()], -1)

    def log_likelihood(self, path: Path, target: Series) -> Float[Tensor, "samples copies n"]:
        """Log-density of what is observed of ``target``, and of its times with ``intensity``."""
        total = gaussian_log_prob(target.values, path.x, self.noise, target.mask)
        if path.log_rate is None or path.integral is None:
            return total
        there = target.mask.any(-1)
        return total + poisson_log_prob(path.log_rate, path.integral[..., -1], there)

    def elbo(
        self,
        seen: Series,
        target: Series | None = None,
        *,
        samples: int = 1,
        beta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*copies n"]:
        r"""Lower bound of the log-density of ``target``, estimated from samples.

        .. math:: \mathbb E_{q(z_0 \mid \text{seen})} \log p(\text{target} \mid z_0)
            - \beta\,\mathrm{KL}(q \,\|\, N(0, I))

        Args:
            seen: what the encoder reads.
            target: what is explained, on a grid with the same first time; by default ``seen``.
            samples: draws of the start for each series.
            beta: weight of the divergence; below 1 the value is no bound.
            generator: source of the draws; None means PyTorch's global one.

        Chapter: thm-latent-elbo
        """
        posterior, path, target, _ = self._draw(seen, target, samples, generator)
        bound = self.log_likelihood(path, target).mean(0) - beta * normal_kl(*posterior)
        return bound if self.copies else bound.squeeze(0)

    def iwae(
        self,
        seen: Series,
        target: Series | None = None,
        *,
        samples: int = 16,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*copies n"]:
        """The tighter bound of ``iwae_bound``; arguments as for ``elbo``.

        Chapter: thm-latent-iwae
        """
        posterior, path, target, z = self._draw(seen, target, samples, generator)
        prior = -0.5 * (z.square() + math.log(math.tau)).sum(-1)
        weights = self.log_likelihood(path, target) + prior - posterior.log_prob(z)
        bound = iwae_bound(weights)
        return bound if self.copies else bound.squeeze(0)

    def _draw(self, seen, target, samples, generator):
        target = seen if target is None else target
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        _begin_together("target", seen, target.times)
        posterior = self.encode(seen)
        z = posterior.rsample(samples, generator)
        return posterior, self.decode(z, target.times), target, z

    def forward(
        self, seen: Series, times: Float[Tensor, " targets"]
    ) -> Float[Tensor, "*copies n targets dim"]:
        """The path from the posterior's mean.

        Args:
            seen: what the encoder reads.
            times: increasing; the first is the first time of the grid of ``seen``, where z starts.

        Raises:
            ValueError: ``times`` begins elsewhere.
        """
        _begin_together("times", seen, times)
        x = self.decode(self.encode(seen).mean.unsqueeze(0), times).x[0]
        return x if self.copies else x.squeeze(0)

    def sample(
        self,
        seen: Series,
        times: Float[Tensor, " targets"],
        samples: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "samples *copies n targets dim"]:
        """Paths from draws of the posterior, without observation noise.

        Args:
            seen: what the encoder reads.
            times: increasing; the first is the first time of the grid of ``seen``, where z starts.
            samples: number of draws for each series.
            generator: source of the draws; None means PyTorch's global one.

        Raises:
            ValueError: ``times`` begins elsewhere.
        """
        _begin_together("times", seen, times)
        x = self.decode(self.encode(seen).rsample(samples, generator), times).x
        return x if self.copies else x.squeeze(1)


def _begin_together(name: str, seen: Series, times: Tensor) -> None:
    """The latent state starts at the first time of the grid of ``seen``, and nowhere else."""
    if times[0] != seen.times[0]:
        raise ValueError(f"{name} must begin at the time of seen, {seen.times[0]}, got {times[0]}")
