"""The same problems for torchode and diffrax."""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import diffrax
import jax
import jax.numpy as jnp
import torch
import torchode
from torch import Tensor

jax.config.update("jax_enable_x64", False)


def to_jax(x: Tensor):
    return jnp.asarray(x.detach().numpy())


def torchode_solver(field, rtol, atol):
    """Per-sample steps; the field takes the batch, as ours does."""
    term = torchode.ODETerm(field)
    control = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)

    def run(y0: Tensor, t0: float, t1: float) -> Tensor:
        start, end = torch.full((len(y0),), t0), torch.full((len(y0),), t1)
        problem = torchode.InitialValueProblem(y0=y0, t_start=start, t_end=end)
        return solver.solve(problem).ys[:, -1]

    return run


def jax_van_der_pol(t, y, args):
    x, v = y[..., 0], y[..., 1]
    return jnp.stack([v, 10.0 * (1 - x * x) * v - x], -1)


def jax_lotka_volterra(t, y, args):
    x, v = y[..., 0], y[..., 1]
    return jnp.stack([1.5 * x - x * v, x * v - 3.0 * v], -1)


def jax_mlp(t, y, args):
    *hidden, last = args
    for weight, bias in hidden:
        y = jnp.tanh(y @ weight.T + bias)
    weight, bias = last
    return y @ weight.T + bias


def diffrax_solver(field, rtol, atol, adjoint=None, per_sample=False):
    """A jitted ``run(y0, t1, args)`` that returns the final state."""
    control = diffrax.PIDController(rtol=rtol, atol=atol)
    adjoint = adjoint or diffrax.RecursiveCheckpointAdjoint()

    def run(y0, t1, args):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            0.0,
            t1,
            None,
            y0,
            args,
            stepsize_controller=control,
            adjoint=adjoint,
            max_steps=8192,
        )
        return solution.ys[-1]

    return jax.jit(jax.vmap(run, (0, None, None)) if per_sample else run)


def diffrax_gradient(field, rtol, atol):
    run = diffrax_solver(field, rtol, atol)
    return jax.jit(jax.grad(lambda args, y0, t1: (run(y0, t1, args) ** 2).sum(), argnums=(0, 1)))
