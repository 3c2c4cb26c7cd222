"""Cases of `options={"compile": True}`; run one by name: `python compiled_cases.py whole_loop`."""

import math
import sys

import torch
from torch import nn

from nodes_tutorial.ode import SolverError, odeint


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        weights = torch.tensor([[0.3, 1.0], [-0.8, -0.2]], dtype=torch.float64)
        self.weights = nn.Parameter(weights)

    def forward(self, t, y):
        return torch.tanh(y @ self.weights) * torch.cos(t)


FIELD = Field()
Y0 = torch.tensor([[1.0, 0.0], [0.3, -2.0], [-1.0, 0.5]], dtype=torch.float64)
T = torch.tensor([0.0, 0.7, 3.0], dtype=torch.float64)


def fails(kind, message, *args, **kwargs):
    try:
        odeint(*args, **kwargs)
    except kind as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__}")


@torch.no_grad()
def _whole_loop(**options):
    exact = odeint(FIELD, Y0, T, rtol=1e-11, atol=1e-11)
    for times, states in ((T, exact), (T.flip(0), None)):
        options["compile"] = True
        y = odeint(FIELD, Y0, times, rtol=1e-8, atol=1e-8, options=options)
        if states is None:
            states = odeint(FIELD, Y0, times, rtol=1e-11, atol=1e-11)
        assert (y - states).abs().max() < 1e-7
    tight = options | {"max_steps": 3}
    fails(SolverError, "max_steps = 3 exceeded", FIELD, Y0, T, options=tight)
    blow_up = torch.ones(1, 1, dtype=torch.float64)
    fails(SolverError, "underflow", lambda t, y: y**2, blow_up, T, options=options)


def whole_loop():
    _whole_loop()


def own_steps_for_each_sample():
    _whole_loop(per_sample=True)


@torch.no_grad()
def _fixed(times):
    options = {"step_size": 0.1}
    eager = odeint(FIELD, Y0, times, method="rk4", options=options)
    y = odeint(FIELD, Y0, times, method="rk4", options=options | {"compile": True})
    assert (y - eager).abs().max() < 1e-13


def fixed_steps():
    _fixed(T)
    _fixed(T.flip(0))


def tuple_states():
    def pair(t, state):
        x, v = state
        return v, -x

    state = (Y0[:, 0], Y0[:, 1])
    with torch.no_grad():
        x, _ = odeint(pair, state, T, rtol=1e-9, atol=1e-9, options={"compile": True})
    exact = state[0] * math.cos(3) + state[1] * math.sin(3)
    assert (x[-1] - exact).abs().max() < 1e-7


def gradient_is_not_dropped():
    """A compiled loop would lose the gradient of parameters alone; steps are compiled instead."""

    def gradient(mode="direct", **options):
        y = odeint(FIELD, Y0, T, rtol=1e-10, atol=1e-10, options=options, gradient=mode)
        (found,) = torch.autograd.grad(y.square().sum(), FIELD.parameters())
        return found

    exact = gradient()
    assert exact.abs().max() > 0.1
    for mode in ("direct", "checkpoint", "adjoint"):
        assert (gradient(mode, compile=True) - exact).abs().max() < 1e-7, mode
    message = "serves solves without a gradient"
    for options in ({"per_sample": True}, {"step_size": 0.1}):
        options["compile"] = True
        fails(ValueError, message, FIELD, Y0, T, options=options)


class Late(nn.Module):
    """A field that uses its parameter only in the second half."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, t, y):
        if t < 0.5:
            return -y
        return -y - self.k


def gradient_that_begins_later():
    field, ends = Late(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    y = odeint(field, Y0, ends, rtol=1e-6, atol=1e-6, options={"compile": True})[-1]
    (found,) = torch.autograd.grad(y.sum(), field.parameters())
    exact = -Y0.numel() * (1 - math.exp(-0.5))
    assert abs(found - exact) < 1e-3, (found, exact)
    for options in ({"per_sample": True}, {"step_size": 0.1}):
        options["compile"] = True
        fails(ValueError, "serves solves without a gradient", field, Y0, ends, options=options)


def steps_for_batches_of_other_sizes():
    """A compiled step is made for one batch, then for any."""
    many = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).view(12, 2)
    for size in (3, 12, 7, 1):

        def gradient(y0=many[:size], **options):
            y = odeint(FIELD, y0, T, rtol=1e-9, atol=1e-9, options=options)
            return torch.autograd.grad(y.square().sum(), FIELD.parameters())[0]

        assert (gradient(compile=True) - gradient()).abs().max() < 1e-6, size


if __name__ == "__main__":
    globals()[sys.argv[1]]()
