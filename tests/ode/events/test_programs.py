"""Programs written for torchdiffeq run after one changed import line, and give the same."""

import pytest
import torch

BALL = """
import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint, odeint_event


class Ball(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor([9.8], dtype=dtype))
        self.log_radius = nn.Parameter(torch.tensor(0.2, dtype=dtype).log())
        self.start = nn.Parameter(torch.tensor([0.0], dtype=dtype))
        self.height = nn.Parameter(torch.tensor([10.0], dtype=dtype))
        self.loss = nn.Parameter(torch.tensor([0.2], dtype=dtype))

    def forward(self, t, state):
        height, speed, log_radius = state
        return speed, -self.gravity, torch.zeros_like(log_radius)

    def touch(self, t, state):
        return state[0] - state[2].exp()


def main(dtype, adjoint):
    ball = Ball(dtype)
    t, times = ball.start, []
    state = (ball.height, torch.zeros_like(ball.height), ball.log_radius)
    interface = odeint_adjoint if adjoint else odeint
    for _ in range(3):
        t, path = odeint_event(
            ball, state, t, event_fn=ball.touch, reverse_time=False,
            odeint_interface=interface, rtol=1e-8, atol=1e-8,
        )
        times.append(t)
        height, speed, log_radius = (part[-1] for part in path)
        state = (height + 1e-7, -speed * (1 - ball.loss), log_radius)
    ends = torch.cat([t.reshape(-1), t.reshape(-1) + 0.1])
    state = odeint(ball, state, ends, rtol=1e-8, atol=1e-8)
    (times[-1] + state[0][-1].sum()).backward()
    grads = [p.grad.reshape(-1) for p in ball.parameters()]
    return torch.stack(times).detach(), state[0].detach().reshape(-1), torch.cat(grads)
"""
BOX = """
import torch
from torchdiffeq import odeint, odeint_adjoint, odeint_event


def main(dtype, adjoint):
    weight = torch.tensor([[0.1, -1.0], [1.0, 0.05]], dtype=dtype, requires_grad=True)
    y0 = torch.tensor([0.3, 0.2], dtype=dtype, requires_grad=True)
    t0 = torch.tensor(0.5, dtype=dtype)
    interface, more = (odeint_adjoint, {"adjoint_params": (weight,)}) if adjoint else (odeint, {})
    found = []
    for reverse in (False, True):
        t, path = odeint_event(
            lambda t, y: weight @ y + 0.1, y0, t0, reverse_time=reverse, method="dopri5",
            event_fn=lambda t, y: torch.stack([0.6 - y[0], y[0] + 0.5, 0.45 - y[1], y[1] + 0.2]),
            odeint_interface=interface, rtol=1e-8, atol=1e-9, **more,
        )
        grads = torch.autograd.grad(t + path[-1].prod(), (weight, y0))
        found += [t.detach().reshape(1), path.detach().flatten(), grads[0].flatten(), grads[1]]
    return found
"""


def run(program, library, dtype, adjoint):
    space = {}
    exec(program.replace("from torchdiffeq import", f"from {library} import"), space)
    return space["main"](dtype, adjoint)


@pytest.mark.usefixtures("as_at_the_users")
@pytest.mark.parametrize("program", [BALL, BOX], ids=["ball", "box"])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-5), (torch.float32, 2e-3)])
def test_one_changed_import_line(program, adjoint, dtype, size):
    """Theirs in float64, for in float32 its ball meets an event that is not there."""
    theirs = run(program, "torchdiffeq", torch.float64, adjoint)
    ours = run(program, "nodes_tutorial.ode", dtype, adjoint)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=size, atol=size)
