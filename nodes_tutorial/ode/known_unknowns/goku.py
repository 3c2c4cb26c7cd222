"""GOKU-net: sequences whose equations are known and whose state and parameters are inferred."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.nets.stack import Generators, Stack, sources
from nodes_tutorial.ode.known_unknowns.identifiability import Field, grounding_loss
from nodes_tutorial.ode.known_unknowns.lstm import LSTM
from nodes_tutorial.ode.latent.likelihood import normal_kl
from nodes_tutorial.ode.odeint import odeint

__all__ = ["GOKUNet", "Parts", "Path"]


class Path(NamedTuple):
    """What the model says of a batch of sequences at some times.

    Args:
        theta: the parameters of the equation.
        z: solutions of the equation, with the times on their own axis.
        x: the observations that they emit.
    """

    theta: Float[Tensor, "*copies batch parameters"]
    z: Float[Tensor, "*copies batch times state"]
    x: Float[Tensor, "*copies batch times observed"]


class Parts(NamedTuple):
    """The negative evidence bound of a batch and what it is made of, means over sequences.

    Args:
        loss: reconstruction + beta · divergence + weight · grounding.
        reconstruction: minus the log-likelihood under the sample, in nats.
        divergence: divergence of the posterior from the prior, in nats.
        grounding: squared distance to the labelled states.
    """

    loss: Float[Tensor, "*copies"]
    reconstruction: Float[Tensor, "*copies"]
    divergence: Float[Tensor, "*copies"]
    grounding: Float[Tensor, "*copies"]


class GOKUNet(nn.Module):
    r"""A variational autoencoder of sequences whose decoder solves a given equation.

    .. math:: \tilde u \sim N(0, I),\quad (\tilde z, \tilde\theta) = \tilde u,\quad
        z(t_0) = h(\tilde z),\ \theta = k(\tilde\theta),\quad
        \dot z = f(t, z, \theta),\quad x_i \sim N\bigl(e(z(t_i)), \sigma^2I\bigr)

    The posterior of :math:`\tilde u` is a diagonal Gaussian. Its part for the first state is
    read by a recurrent network that runs backwards over the sequence, its part for the
    parameters by one that runs both ways. With ``parameters=0`` and a network as field, this is
    a latent ODE. With a sequence of generators the module holds as many independent networks,
    and results have an axis for them in front.

    Args:
        field: the right-hand side, ``field(t, z, theta)`` with t 0-d; a module is trained too.
        state: number of entries of z.
        parameters: number of entries of θ.
        observed: number of entries of an observation.
        hidden: width of the recurrent networks and of what they read.
        emission: maps states of shape (copies, rows, state) to observations; by default a
            perceptron with 64 hidden units for each network.
        state_link: h, from all of ℝⁿ to states; by default the identity.
        parameter_link: k, from all of ℝⁿ to parameters; by default ``softplus``.
        noise: σ, the standard deviation of an observation.
        center: subtracted from the observations where they are read, a number or one an entry.
        gain: factor after that; signals should come to the recurrent networks at size one.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``.
        options: as for ``odeint``.
        generator: source of the initial weights, or one for each of several networks that are
            trained side by side; None means PyTorch's global one.
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
        generator: Generators = None,
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
        self.solver: dict[str, Any] = dict(rtol=rtol, atol=atol, method=method, options=options)
        generators, self.copies = sources(generator)
        self.embed = Stack([observed, hidden], generators, **kind)
        self.readers = LSTM(hidden, hidden, generators * (3 if parameters else 1), **kind)
        self.to_state = Stack([hidden, 2 * state], generators, **kind)
        if parameters:
            self.to_theta = Stack([2 * hidden, 2 * parameters], generators, **kind)
        default = Stack([state, 64, observed], generators, **kind)
        self.emission = default if emission is None else emission

    def infer(
        self, x: Float[Tensor, "batch times observed"]
    ) -> tuple[Float[Tensor, "copies batch latent"], Float[Tensor, "copies batch latent"]]:
        """Mean and log standard deviation of the posterior of (z̃, θ̃), from the whole sequence."""
        read = self.gain * (x - self.center)
        h = torch.tanh(self.embed(read.flatten(0, 1)[None])).unflatten(1, x.shape[:2])
        back = h.flip(2)
        outputs, (last, _) = self.readers(torch.cat([back, h, back] if self.sizes[1] else [back]))
        mean, log_std = self.to_state(last[: len(h)]).chunk(2, -1)
        if self.sizes[1]:
            middle = torch.cat(outputs[len(h) :].mean(2).chunk(2), -1)  # of both directions
            parts = self.to_theta(middle).chunk(2, -1)
            mean, log_std = torch.cat([mean, parts[0]], -1), torch.cat([log_std, parts[1]], -1)
        return mean, log_std - 3  # begins close to certain: a noisy start teaches the field little

    def decode(self, u: Float[Tensor, "copies batch latent"], t: Float[Tensor, " times"]) -> Path:
        """Turn draws of the latent vector into states, parameters and observations.

        Args:
            u: a value of (z̃, θ̃) for each sequence.
            t: times, of which the first is that of the first state.
        """
        z0, theta = u.split(self.sizes, -1)
        z0 = z0 if self.state_link is None else self.state_link(z0)
        theta = self.parameter_link(theta)
        z = odeint(lambda s, z: self.field(s, z, theta), z0, t, **self.solver).movedim(0, 2)
        x = self.emission(z.flatten(1, 2)).unflatten(1, z.shape[1:3])
        return Path(theta, z, x)

    def predict(self, x: Float[Tensor, "batch seen observed"], t: Float[Tensor, " times"]) -> Path:
        """The path of the posterior's mean, inferred from x, at times that may go on beyond it.

        Args:
            x: what is seen, shape (batch, seen, observed); its first entry is at ``t[0]``.
            t: increasing times, shape (times,). The inferred state stands at the first of them, so
                later times are asked for after those of x, not instead of them.

        Returns:
            States, observations and parameters, without the axis of networks if there is one only.
        """
        path = self.decode(self.infer(x)[0], t)
        return path if self.copies else Path(*(part.squeeze(0) for part in path))

    def loss(
        self,
        x: Float[Tensor, "batch times observed"],
        t: Float[Tensor, " times"],
        *,
        beta: float | int = 1.0,
        truth: Float[Tensor, "batch times state"] | None = None,
        mask: Bool[Tensor, "batch times"] | None = None,
        weight: float | int | Float[Tensor, " copies"] = 0.0,
        generator: torch.Generator | None = None,
    ) -> Parts:
        r"""One sample of the negative evidence bound, and the grounding.

        Args:
            x: observed sequences, shape (batch, times, observed).
            t: times of the observations, shape (times,).
            beta: factor of the divergence; 1 is the bound.
            truth: labelled states, read where ``mask`` says so.
            mask: where there are labels.
            weight: factor of the grounding loss; may be one for each network.
            generator: source of the sample; None means PyTorch's global one.

        Raises:
            ValueError: ``weight`` is not 0 and there are no labels.

        Chapter: thm-unknowns-elbo
        """
        grounded = bool(torch.as_tensor(weight).any())
        if grounded and (truth is None or mask is None):
            raise ValueError("truth and mask must be given when weight is not 0")
        mean, log_std = self.infer(x)
        sample = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        path = self.decode(mean + log_std.exp() * sample, t)
        scaled = ((path.x - x) / self.noise).square().sum((-2, -1)).mean(-1)
        constant = 0.5 * x[0].numel() * math.log(2 * math.pi * self.noise**2)
        reconstruction = 0.5 * scaled + constant
        divergence = normal_kl(mean, log_std.exp()).mean(-1)
        ground = grounding_loss(path.z, truth, mask) if grounded else torch.zeros_like(divergence)
        total = reconstruction + beta * divergence + weight * ground
        parts = Parts(total, reconstruction, divergence, ground)
        return parts if self.copies else Parts(*(part.squeeze(0) for part in parts))
