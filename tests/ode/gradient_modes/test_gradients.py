"""The gradient modes against each other, against finite differences, and what they keep."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nodes_tutorial.ode import METHODS, odeint

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
ADAPTIVE = [name for name, tableau in METHODS.items() if tableau.b_error]


class Field(nn.Module):
    def __init__(self, dtype=torch.float64, device="cpu"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = 0.6 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        self.inner = nn.Parameter(weights[0].to(device, dtype))
        self.outer = nn.Parameter(weights[1].to(device, dtype))
        self.idle = nn.Parameter(torch.ones(2, dtype=dtype, device=device))

    def forward(self, t, y):
        return torch.tanh(y @ self.inner + torch.sin(3 * t)) @ self.outer


def start(dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64).to(device, dtype)


TIMES = (0.0, 0.31, 0.7, 0.71, 1.5)


def gradients(mode, method="dopri5", dtype=torch.float64, device="cpu", rtol=1e-9, **options):
    """Of a loss on all outputs, with respect to y0, t and the parameters."""
    field, y0 = Field(dtype, device), start(dtype, device).requires_grad_()
    t = torch.tensor(TIMES, dtype=dtype, device=device, requires_grad=True)
    y = odeint(field, y0, t, rtol=rtol, atol=rtol, method=method, gradient=mode, options=options)
    loss = (y * torch.linspace(-1, 2, y.numel(), device=device).view_as(y).to(dtype)).sum()
    (loss + y[2].square().sum()).backward()
    return [y0.grad, t.grad, field.inner.grad, field.outer.grad]


def largest_difference(found, exact):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"per_sample": True}, {"step_size": 0.1}])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("method", ["bosh3", "adaptive_heun", "dopri5", "tsit5", "dopri8"])
def test_checkpoint_is_the_gradient_of_the_discrete_map(method, dtype, bound, options, device):
    settings = dict(method=method, dtype=dtype, device=device, rtol=1e-4, **options)
    assert (
        largest_difference(gradients("checkpoint", **settings), gradients("direct", **settings))
        < bound
    )


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_checkpoint_of_fixed_step_methods(method):
    settings = dict(method=method, step_size=0.1)
    assert (
        largest_difference(gradients("checkpoint", **settings), gradients("direct", **settings))
        < 1e-12
    )


@pytest.mark.parametrize("norm", ["seminorm", "full"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "rk4"])
def test_adjoint_agrees_to_the_tolerance(method, norm):
    grid = {"step_size": 0.01} if method == "rk4" else {}
    found = gradients("adjoint", method, adjoint_norm=norm, **grid)
    assert largest_difference(found, gradients("direct", method, **grid)) < 1e-6


@pytest.mark.parametrize("mode", ["direct", "checkpoint", "adjoint"])
def test_gradcheck(mode):
    """Against finite differences, for y0, parameters and t, forwards and backwards in time."""
    parameter = (0.5 * torch.ones(2, 2).double()).requires_grad_()
    y0 = start()[:2, :2].requires_grad_()

    def solution(y0, parameter, t):
        field = lambda t, y: torch.tanh(y @ parameter) * torch.cos(t)  # noqa: E731
        return odeint(
            field, y0, t, rtol=1e-10, atol=1e-10, gradient=mode, adjoint_params=[parameter]
        )

    for times in ([0.0, 0.4, 1.0], [1.0, 0.2]):
        t = torch.tensor(times, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(solution, (y0, parameter, t), eps=1e-5, atol=1e-6)


def test_wrong_signs_would_be_seen():
    """dL/dt0 has the sign of -a f: a later start is a shorter way."""
    rate = torch.tensor(0.7).double()
    t = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    odeint(lambda t, y: rate * y, torch.tensor(1.3).double(), t)[-1].backward()
    end = 1.3 * torch.exp(2 * rate)
    torch.testing.assert_close(t.grad, torch.stack([-rate * end, rate * end]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["direct", "checkpoint", "adjoint"])
def test_tuple_states(mode):
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def field(t, state):
        x, v = state
        return v * a, -x

    start = (torch.ones(2).double().requires_grad_(), torch.zeros(2).double())
    t = torch.tensor([0.0, 1.0]).double()
    x, _ = odeint(field, start, t, gradient=mode, adjoint_params=[a], rtol=1e-10, atol=1e-10)
    x[-1].sum().backward()
    w = a.detach().sqrt()  # x = cos(w t), so dx/da = -t sin(w t) / (2 w)
    torch.testing.assert_close(a.grad, -torch.sin(w) / w, rtol=1e-7, atol=0)
    torch.testing.assert_close(start[0].grad, torch.cos(w).expand(2), rtol=1e-7, atol=0)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_tensors_that_are_not_registered(mode):
    t, y0 = torch.tensor([0.0, 1.0]), torch.ones(2)
    hidden = torch.eye(2, requires_grad=True)
    outside = hidden * 2.0
    for field in (lambda t, y: y @ hidden, lambda t, y: y @ outside):
        with pytest.raises(ValueError, match=r"not in adjoint_params, of shapes \(2, 2\)"):
            odeint(field, y0, t, gradient=mode)
    y = odeint(lambda t, y: y @ outside, y0, t, gradient=mode, adjoint_params=[outside])
    y[-1].sum().backward()
    direct = odeint(lambda t, y: y @ (hidden * 2.0), y0, t)[-1].sum()
    torch.testing.assert_close(
        hidden.grad, torch.autograd.grad(direct, hidden)[0], rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_parameters_changed_before_the_backward_pass(mode):
    field = Field()
    y = odeint(field, start(), torch.tensor([0.0, 1.0]).double(), gradient=mode)
    with torch.no_grad():
        field.outer.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def saved_bytes(mode, end, **options):
    """Bytes that the graph of a solve holds on to."""
    total = 0

    def pack(x):
        nonlocal total
        total += x.numel() * x.element_size()
        return x

    field = Field()
    t = torch.tensor([0.0, end], dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        odeint(field, start(), t, gradient=mode, options=options)
    return total


def test_what_the_graph_keeps():
    """Backpropagation keeps every stage, "checkpoint" one state a step, "adjoint" the outputs."""
    options = {"step_size": 0.1}
    assert saved_bytes("direct", 20.0, **options) > 9 * saved_bytes("direct", 2.0, **options)
    assert saved_bytes("adjoint", 20.0, **options) == saved_bytes("adjoint", 2.0, **options)
    grown = saved_bytes("checkpoint", 20.0, **options) - saved_bytes("checkpoint", 2.0, **options)
    state = start().numel() * start().element_size()
    assert grown == 180 * state


PEAK = """
import re, sys, torch
from nodes_tutorial.ode import odeint
torch.set_num_threads(1)
torch.manual_seed(0)
field = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.Tanh(), torch.nn.Linear(256, 784))
def f(t, y): return field(y)
def gradient(mode, steps, batch):
    y0, t = torch.randn(batch, 784), torch.tensor([0.0, 1.0])
    y = odeint(f, y0, t, gradient=mode, adjoint_params=list(field.parameters()), method="rk4",
               options={"step_size": 1 / steps})
    y[-1].square().sum().backward()
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = gradient(sys.argv[1], 1, 64)
print(gradient(sys.argv[1], 50, 64) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_the_process():
    peak = {}
    for mode in ("direct", "checkpoint"):
        command = [sys.executable, "-c", PEAK, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak[mode] = int(done.stdout)
    assert peak["checkpoint"] < 0.6 * peak["direct"]
