"""GOKU-net: sequences whose equations are known and whose state and parameters are inferred."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.nets import MLP
from nodes_tutorial.ode.known_unknowns.forecast import draw_lstm
from nodes_tutorial.ode.known_unknowns.partly_known import Field, grounding_loss
from nodes_tutorial.ode.latent.likelihood import normal_kl
from nodes_tutorial.ode.odeint import odeint

__all__ = ["GOKUNet", "Parts", "Path"]


class Path(NamedTuple):
    """What the model says of a batch of sequences at some times.

    Args:
        theta: the parameters of the equation.
        z: its solutions.
        x: the observations that they emit.
    """

    theta: Float[Tensor, "batch parameters"]
    z: Float[Tensor, "batch times state"]
    x: Float[Tensor, "batch times observed"]


class Parts(NamedTuple):
    """The negative evidence bound of a batch and what it is made of, means over sequences.

    Args:
        loss: reconstruction + beta · divergence + weight · grounding.
        reconstruction: minus the log-likelihood under the sample, in nats.
        divergence: from the prior, in nats.
        grounding: squared distance to the labelled states.
    """

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    divergence: Float[Tensor, ""]
    grounding: Float[Tensor, ""]


class GOKUNet(nn.Module):
    r"""A variational autoencoder of sequences whose decoder solves a given equation.

    .. math:: \tilde u \sim N(0, I),\quad (\tilde z, \tilde\theta) = \tilde u,\quad
        z(t_0) = h(\tilde z),\ \theta = k(\tilde\theta),\quad
        \dot z = f(t, z, \theta),\quad x_i \sim N\bigl(e(z(t_i)), \sigma^2I\bigr)

    The posterior of :math:`\tilde u` is a diagonal Gaussian. Its part for the first state is
    read by a recurrent network that runs backwards over the sequence, its part for the
    parameters by one that runs both ways. With ``parameters=0`` and a network as field, this is
    a latent ODE.

    Args:
        field: the right-hand side, ``field(t, z, theta)`` with t 0-d; a module is trained too.
        state: number of entries of z.
        parameters: number of entries of θ.
        observed: number of entries of an observation.
        hidden: width of the recurrent networks and of what they read.
        emission: maps states to observations; by default an MLP with 64 hidden units.
        state_link: h, from all of ℝⁿ to states; by default the identity.
        parameter_link: k, from all of ℝⁿ to parameters; by default ``softplus``.
        noise: σ, the standard deviation of an observation.
        center: subtracted from the observations where they are read, a number or one an entry.
        gain: factor after that; signals should come to the recurrent networks at size one.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: a key of ``METHODS``.
        options: as for ``odeint``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        ValueError: a size below 1, negative ``parameters``, or ``noise`` not positive.

    Chapter: def-unknowns-model
    References: Linial, Ravid, Eytan and Shalit (2021), section 4.

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import GOKUNet
    >>> from nodes_tutorial.ode.known_unknowns.systems import pendulum
    >>> net = GOKUNet(pendulum, 2, 1, 256, generator=torch.Generator().manual_seed(0))
    >>> path = net.predict(torch.zeros(3, 5, 256), 0.1 * torch.arange(8))
    >>> path.theta.shape, path.z.shape, path.x.shape
    (torch.Size([3, 1]), torch.Size([3, 8, 2]), torch.Size([3, 8, 256]))
    """

    def __init__(
        self,
        field: Field,
        state: int,
        parameters: int,
        observed: int,
        *,
        hidden: int = 32,
        emission: nn.Module | None = None,
        state_link: Callable[[Tensor], Tensor] | None = None,
        parameter_link: Callable[[Tensor], Tensor] = F.softplus,
        noise: float = 0.1,
        center: float | int | Float[Tensor, " observed"] = 0.0,
        gain: float | int | Float[Tensor, " observed"] = 1.0,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str = "dopri5",
        options: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(state, observed, hidden) < 1 or parameters < 0:
            raise ValueError(
                "state, observed and hidden must be at least 1 and parameters at least 0, got "
                f"{state}, {observed}, {hidden} and {parameters}"
            )
        if not noise > 0:
            raise ValueError(f"noise must be positive, got {noise}")
        kind = {"dtype": dtype, "device": device}
        self.field, self.sizes, self.noise = field, (state, parameters), noise
        for name, value in (("center", center), ("gain", gain)):
            self.register_buffer(name, torch.as_tensor(value, **kind), persistent=False)
        self.state_link, self.parameter_link = state_link, parameter_link
        self.solver = dict(rtol=rtol, atol=atol, method=method, options=options)
        self.embed = MLP([observed, hidden], generator=generator, **kind)
        self.backwards = draw_lstm(nn.LSTM(hidden, hidden, batch_first=True, **kind), generator)
        self.to_state = MLP([hidden, 2 * state], generator=generator, **kind)
        self.both_ways = None
        if parameters:
            both = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True, **kind)
            self.both_ways = draw_lstm(both, generator)
            self.to_theta = MLP([2 * hidden, 2 * parameters], generator=generator, **kind)
        default = MLP([state, 64, observed], generator=generator, **kind)
        self.emission = default if emission is None else emission

    def infer(
        self, x: Float[Tensor, "batch times observed"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log standard deviation of the posterior of (z̃, θ̃), from the whole sequence."""
        h = torch.tanh(self.embed(self.gain * (x - self.center)))
        mean, log_std = self.to_state(self.backwards(h.flip(1))[1][0][0]).chunk(2, -1)
        if self.both_ways is not None:
            parts = self.to_theta(self.both_ways(h)[0].mean(1)).chunk(2, -1)
            mean, log_std = torch.cat([mean, parts[0]], -1), torch.cat([log_std, parts[1]], -1)
        return mean, log_std - 3  # begins close to certain: a noisy start teaches the field little

    def decode(self, u: Float[Tensor, "batch latent"], t: Float[Tensor, " times"]) -> Path:
        """Link, solve, emit.

        Args:
            u: a value of (z̃, θ̃) for each sequence.
            t: times, of which the first is that of the first state.
        """
        z0, theta = u.split(self.sizes, -1)
        z0 = z0 if self.state_link is None else self.state_link(z0)
        theta = self.parameter_link(theta)
        z = odeint(lambda s, z: self.field(s, z, theta), z0, t, **self.solver).transpose(0, 1)
        return Path(theta, z, self.emission(z))

    def predict(self, x: Float[Tensor, "batch seen observed"], t: Float[Tensor, " times"]) -> Path:
        """The path of the posterior's mean, inferred from x, at times that may go on beyond it."""
        return self.decode(self.infer(x)[0], t)

    def loss(
        self,
        x: Float[Tensor, "batch times observed"],
        t: Float[Tensor, " times"],
        *,
        beta: float | int = 1.0,
        truth: Float[Tensor, "batch times state"] | None = None,
        mask: Bool[Tensor, "batch times"] | None = None,
        weight: float | int = 0.0,
        generator: torch.Generator | None = None,
    ) -> Parts:
        r"""One sample of the negative evidence bound, and the grounding.

        Args:
            x: observed sequences.
            t: their times.
            beta: factor of the divergence; 1 is the bound.
            truth: labelled states, read where ``mask`` says so.
            mask: where there are labels.
            weight: factor of the grounding loss.
            generator: source of the sample; None means PyTorch's global one.

        Raises:
            ValueError: ``weight`` is not 0 and there are no labels.

        Chapter: thm-unknowns-elbo
        """
        if weight and (truth is None or mask is None):
            raise ValueError("truth and mask must be given when weight is not 0")
        mean, log_std = self.infer(x)
        sample = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        path = self.decode(mean + log_std.exp() * sample, t)
        scaled = ((path.x - x) / self.noise).square().sum((1, 2)).mean()
        constant = 0.5 * x[0].numel() * math.log(2 * math.pi * self.noise**2)
        reconstruction = 0.5 * scaled + constant
        divergence = normal_kl(mean, log_std.exp()).mean()
        ground = grounding_loss(path.z, truth, mask) if weight else x.new_zeros(())
        total = reconstruction + beta * divergence + weight * ground
        return Parts(total, reconstruction, divergence, ground)
