"""One continuous flow in four libraries: the same weights, times, tolerances and probes.

Each peer gives ``loss_and_gradient()``, the mean of -log p over the points and its gradient for all
weights, and ``sample(z)``. Torch's peers share one module; JAX gets copies of its weights.
"""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import math
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import torch
import torchdiffeq
import zuko
from torch import Tensor, nn

from nodes_tutorial.nets import TimeMLP
from benchmarks.peers import to_jax

TOL = dict(rtol=1e-5, atol=1e-5)
JAX_ACTIVATIONS = {"tanh": jnp.tanh, "softplus": jax.nn.softplus}


def mean_nll(z: Tensor, log_det: Tensor) -> Tensor:
    """From noise and log|det dz/dx|, under a standard normal base."""
    log_p0 = -0.5 * z.square().sum(-1) - math.log(math.tau) * z.shape[-1] / 2
    return -(log_p0 + log_det).mean()


class Zuko:
    """zuko's own transform around our field; the global seed fixes its probe."""

    def __init__(self, field: TimeMLP, exact: bool) -> None:
        self.field = field
        self.parameters = tuple(field.parameters())
        # zuko maps data to noise forwards; here noise is at t = 0, as in ours
        self.transform = zuko.transforms.FreeFormJacobianTransform(
            field, t0=1.0, t1=0.0, phi=self.parameters, exact=exact, **TOL
        )

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        loss = mean_nll(*self.transform.call_and_ladj(x))
        return loss.detach(), *torch.autograd.grad(loss, self.parameters)

    @torch.no_grad()
    def sample(self, z: Tensor) -> Tensor:
        return self.transform.inv(z)


class _Augmented(nn.Module):
    """The field with its trace by reverse mode, as FFJORD's authors write it."""

    def __init__(self, field: TimeMLP, eps: Tensor | None) -> None:
        super().__init__()
        self.field = field
        self.eps = eps

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = state[0].requires_grad_()
            dz = self.field(t, z)
            if self.eps is None:
                rows = (
                    torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i]
                    for i in range(z.shape[1])
                )
                return dz, sum(rows)
            row = torch.autograd.grad(dz, z, self.eps, create_graph=True)[0]
            return dz, (row * self.eps).sum(-1)


class Torchdiffeq:
    """A continuous flow written by hand around torchdiffeq's two solvers."""

    def __init__(self, field: TimeMLP, exact: bool, adjoint: bool) -> None:
        self.field, self.exact = field, exact
        self.solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        self.parameters = tuple(field.parameters())
        self.back, self.forth = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        augmented = _Augmented(self.field, None if self.exact else torch.randn_like(x))
        state = (x.clone(), x.new_zeros(len(x)))
        z, log_det = self.solve(augmented, state, self.back, **TOL)
        loss = mean_nll(z[-1], log_det[-1])
        return loss.detach(), *torch.autograd.grad(loss, self.parameters)

    @torch.no_grad()
    def sample(self, z: Tensor) -> Tensor:
        return torchdiffeq.odeint(self.field, z, self.forth, **TOL)[-1]


def jax_field(activation: str, t, y, layers):
    """The field at all rows of y."""
    y = jnp.concatenate([y, jnp.broadcast_to(t, (*y.shape[:-1], 1))], -1)
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        y = JAX_ACTIVATIONS[activation](y @ w.T + b)
    return y @ weight.T + bias


class Diffrax:
    """A jitted flow; the trace by reverse mode over one stacked batch, the fastest of six ways."""

    def __init__(self, field: TimeMLP, activation: str, exact: bool, adjoint: str) -> None:
        linear = [m for m in field.modules() if isinstance(m, nn.Linear)]
        self.layers = [(to_jax(m.weight), to_jax(m.bias)) for m in linear]
        call = partial(jax_field, activation)
        control = diffrax.PIDController(**TOL)
        method = {
            "checkpoint": diffrax.RecursiveCheckpointAdjoint(),
            "backsolve": diffrax.BacksolveAdjoint(),
        }[adjoint]

        def solve(terms, y0, args, t0, t1):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(terms),
                diffrax.Dopri5(),
                t0,
                t1,
                None,
                y0,
                args,
                stepsize_controller=control,
                adjoint=method,
                max_steps=4096,
            ).ys

        def augmented(t, state, args):
            layers, probes = args
            y, _ = state
            stacked = jnp.tile(y, (len(probes), 1))
            value, pull = jax.vjp(lambda y: call(t, y, layers), stacked)
            rows = pull(probes.reshape(stacked.shape))[0].reshape(probes.shape)
            return value[: len(y)], (rows * probes).sum((0, 2))

        def loss(layers, x, probes):
            state = (x, jnp.zeros(len(x)))
            ys = solve(augmented, state, (layers, probes), 1.0, 0.0)
            z, log_det = ys[0][-1], ys[1][-1]
            log_p0 = -0.5 * (z**2).sum(-1) - math.log(math.tau) * z.shape[-1] / 2
            return -(log_p0 + log_det).mean()

        def sample(layers, z):
            return solve(call, z, layers, 0.0, 1.0)[-1]

        self.exact = exact
        self.run = jax.jit(jax.value_and_grad(loss))
        self.draw = jax.jit(sample)

    def probes(self, x: Tensor):
        """Unit vectors for the exact trace, else the torch peers' probe."""
        if self.exact:
            eye = torch.eye(x.shape[1])[:, None, :]
            return to_jax(eye.expand(-1, *x.shape))
        torch.manual_seed(0)
        return to_jax(torch.randn_like(x)[None])

    def loss_and_gradient(self, x: Tensor, raw: bool = False):
        if not hasattr(self, "given"):
            self.given = (to_jax(x), self.probes(x))
        found = jax.block_until_ready(self.run(self.layers, *self.given))
        if raw:
            return found
        value, layers = found
        flat = [torch.tensor(part.tolist()) for pair in layers for part in pair]
        return torch.tensor(float(value)), *flat

    def sample(self, z: Tensor):
        if not hasattr(self, "noise"):
            self.noise = to_jax(z)
        return self.draw(self.layers, self.noise).block_until_ready()
