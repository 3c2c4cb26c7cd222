"""Events beside torchdiffeq, and stiff problems beside diffrax and SciPy.

Events: a ball that bounces five times; the time of the last bounce against the closed form, with
and without its gradient. Stiffness: Robertson's reaction, and van der Pol's oscillator with
μ = 1000 on its creeping part, in float64, at equal tolerances; the reference is SciPy's Radau at
1e-10. diffrax is compiled, and each sample has steps of its own; SciPy solves one sample after
the other; our samples share their steps. Milliseconds are of the processor: the machine was shared.
"""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from benchmarks.harness import Row, Times, report
from nodes_tutorial.ode import odeint, odeint_adjoint, odeint_event
from nodes_tutorial.ode.stiffness import odeint_stiff

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)
F64 = {"dtype": torch.float64}
BOUNCES, GRAVITY, KEEP, HEIGHT = 5, 9.8, 0.8, 10.0
TOL = {"rtol": 1e-8, "atol": 1e-8}
STIFF = {"rtol": 1e-4, "atol": 1e-7}
ROWS: list[Row] = []
ERRORS: list[tuple[str, str, float, float]] = []


class Ball(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(GRAVITY, **F64))

    def forward(self, t, state):
        return state[1], -self.gravity.expand_as(state[1])


def last_bounce(event, interface) -> tuple[Tensor, Tensor]:
    """Time of the last bounce, and what it is a function of."""
    ball, t = Ball(), torch.tensor(0.0, **F64)
    state = (torch.full((1,), HEIGHT, **F64), torch.zeros(1, **F64))
    for _ in range(BOUNCES):
        t, found = event(
            ball, state, t, event_fn=lambda t, y: y[0], odeint_interface=interface, **TOL
        )
        state = (torch.full((1,), 1e-9, **F64), -KEEP * found[1][-1])
    return t, ball.gravity


def with_gradient(event, interface) -> Tensor:
    t, gravity = last_bounce(event, interface)
    (slope,) = torch.autograd.grad(t, gravity)
    return slope


def events() -> None:
    fall = (2 * HEIGHT / GRAVITY) ** 0.5
    exact = fall * (1 + 2 * sum(KEEP**k for k in range(1, BOUNCES)))
    slope = -exact / (2 * GRAVITY)
    theirs = torchdiffeq.odeint_event
    work = {
        "ours": lambda: last_bounce(odeint_event, odeint)[0],
        "torchdiffeq": lambda: last_bounce(theirs, torchdiffeq.odeint)[0],
        "gradient, ours": lambda: with_gradient(odeint_event, odeint),
        "gradient, torchdiffeq": lambda: with_gradient(theirs, torchdiffeq.odeint),
        "adjoint, ours": lambda: with_gradient(odeint_event, odeint_adjoint),
        "adjoint, torchdiffeq": lambda: with_gradient(theirs, torchdiffeq.odeint_adjoint),
    }
    times = Times(work, least=12, clock=time.process_time)
    for contender, run in work.items():
        wanted = slope if "," in contender else exact
        error = abs(float(run().detach()) - wanted) / abs(wanted)
        ERRORS.append(("five bounces", contender, times.ms(contender), error))
    for name, gate, stretch in (
        ("", ">=1.5", "2"),
        ("gradient, ", ">=1.5", "2"),
        ("adjoint, ", ">=1.5", "2"),
    ):
        ratio = times.ratio(f"{name}torchdiffeq", f"{name}ours")
        ROWS.append(Row(f"events: {name}over torchdiffeq", ratio, gate, stretch))


def stacked(xp, parts):
    return xp.stack(parts, -1)


def robertson(xp, y):
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return stacked(xp, [back - slow, slow - back - fast, fast])


def van_der_pol(xp, y):
    x, v = y[..., 0], y[..., 1]
    return stacked(xp, [v, 1000.0 * (1 - x * x) * v - x])


def stiff(name, rule, y0: np.ndarray, end: float, gates) -> None:
    t = torch.tensor([0.0, end], **F64)
    state = torch.from_numpy(y0)
    jy0 = jnp.asarray(y0)
    control = diffrax.PIDController(**STIFF)

    def with_diffrax(method):
        def run(y):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: rule(jnp, y)),
                method,
                0.0,
                end,
                None,
                y,
                stepsize_controller=control,
                max_steps=100_000,
            ).ys[-1]

        compiled = jax.jit(jax.vmap(run))
        return lambda: np.asarray(compiled(jy0).block_until_ready())

    def with_scipy(**tolerances):
        rows = [
            solve_ivp(lambda t, y: rule(np, y), (0.0, end), row, "Radau", **tolerances).y[:, -1]
            for row in y0
        ]
        return np.stack(rows)

    truth = with_scipy(rtol=1e-10, atol=1e-13)
    work = {
        "ours": lambda: odeint_stiff(lambda t, y: rule(torch, y), state, t, **STIFF)[-1].numpy(),
        "diffrax Kvaerno3": with_diffrax(diffrax.Kvaerno3()),
        "diffrax Kvaerno5": with_diffrax(diffrax.Kvaerno5()),
        "SciPy Radau": lambda: with_scipy(**STIFF),
    }
    times = Times(work, least=12, clock=time.process_time)
    for contender, run in work.items():
        error = float(np.sqrt(np.mean(((run() - truth) / (np.abs(truth) + 1e-8)) ** 2)))
        ERRORS.append((name, contender, times.ms(contender), error))
    fastest = min(("diffrax Kvaerno3", "diffrax Kvaerno5"), key=times.ms)
    found = {
        "over SciPy's Radau": times.ratio("SciPy Radau", "ours"),
        "/ diffrax (best)": times.ratio("ours", fastest),
    }
    for what, (gate, stretch) in gates.items():
        ROWS.append(Row(f"{name}: {what}", found[what], gate, stretch))


def main() -> None:
    events()
    rng = np.random.default_rng(0)
    share = rng.uniform(0.5, 1.0, 16)
    reaction = np.stack([share, np.zeros(16), 1 - share], -1)
    oscillator = np.stack([rng.uniform(1.5, 2.5, 16), np.zeros(16)], -1)
    for name, rule, y0, end in (
        ("Robertson, 16 starts", robertson, reaction, 100.0),
        ("van der Pol, mu = 1000, 16 starts", van_der_pol, oscillator, 100.0),
    ):
        gates = {"over SciPy's Radau": (">=5", "10"), "/ diffrax (best)": ("<=10", "5")}
        stiff(name, rule, y0, end, gates)
    report("make bench RECORD_EVENTS=", ROWS, ERRORS)


if __name__ == "__main__":
    main()
