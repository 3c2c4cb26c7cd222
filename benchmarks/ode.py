"""Solvers and their gradients beside torchdiffeq, torchode, zuko and diffrax: `make bench`.

One process, one thread, contenders interleaved, medians; error beside time. Tolerances do not mean
the same in two libraries: besides the ratio at equal tolerance there is one at equal error, where
our tolerance is the loosest of a few whose error is no larger than torchdiffeq's.
"""

import subprocess
import sys
import time

import torch
import torchdiffeq
import zuko
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import Row, Times, report
from benchmarks.ode_problems import (
    Network,
    bare_loop,
    exact,
    lotka_volterra,
    rms,
    starts,
    van_der_pol,
)
from nodes_tutorial.ode import odeint, solve
from nodes_tutorial.ode.solvers.prepare import prepare
from nodes_tutorial.ode.solvers.run import iterate

torch.set_num_threads(1)
TOL = dict(rtol=1e-5, atol=1e-5)
ROWS: list[Row] = []
ERRORS: list[tuple[str, str, float, float]] = []


def loosest(field, y0, t, truth) -> float:
    """Our tolerance with an error no larger than torchdiffeq's at 1e-5."""
    theirs = rms(torchdiffeq.odeint(field, y0, t, **TOL)[-1] - truth)
    fits = [1e-5]
    for tol in (2e-5, 4e-5, 8e-5, 1.6e-4, 3.2e-4):
        if rms(odeint(field, y0, t, rtol=tol, atol=tol)[-1] - truth) <= theirs:
            fits.append(tol)
    return max(fits)


@torch.no_grad()
def forward(name, field, y0, end, gates, jax_field, jax_args=None):
    t, truth = torch.tensor([0.0, end]), exact(field, y0, end)
    nfe, tol = solve(field, y0, t, **TOL).nfe, loosest(field, y0, t, truth)
    own = {"per_sample": True}
    step = prepare(field, y0, t, "dopri5", 1e-5, 1e-5, {"compile": True}, "direct")
    by_torchode = peers.torchode_solver(field, **TOL)
    jy0 = peers.to_jax(y0)
    joint = peers.diffrax_solver(jax_field, **TOL)
    each = peers.diffrax_solver(jax_field, **TOL, per_sample=True)

    def step_only():
        for taken in iterate(*step):
            last = taken.y1
        return last

    def by_hand():
        at = t[0]
        for _ in range(nfe):
            field(at, y0)

    work = {
        "field alone": by_hand,
        "bare loop": lambda: bare_loop(field, y0, end),
        "eager": lambda: odeint(field, y0, t, **TOL)[-1],
        "eager, equal error": lambda: odeint(field, y0, t, rtol=tol, atol=tol)[-1],
        "eager, own steps": lambda: odeint(field, y0, t, **TOL, options=own)[-1],
        "compiled step": step_only,
        "compiled": lambda: odeint(field, y0, t, **TOL, options={"compile": True})[-1],
        "compiled, own steps": lambda: odeint(
            field, y0, t, **TOL, options={"compile": True, **own}
        )[-1],
        "torchdiffeq": lambda: torchdiffeq.odeint(field, y0, t, **TOL)[-1],
        "torchode": lambda: by_torchode(y0, 0.0, end),
        "diffrax": lambda: joint(jy0, end, jax_args).block_until_ready(),
        "diffrax, own steps": lambda: each(jy0, end, jax_args).block_until_ready(),
    }
    times = Times(work)
    for contender, run in work.items():
        if contender != "field alone":
            state = run()
            state = state if isinstance(state, Tensor) else torch.tensor(state.tolist())
            ERRORS.append((name, contender, times.ms(contender), rms(state - truth)))
    best = min(("diffrax", "diffrax, own steps"), key=times.ms)
    measured = {
        "eager time / (NFE x f)": times.ratio("eager", "field alone"),
        "eager / bare loop of the same steps": times.ratio("eager", "bare loop"),
        "eager over torchdiffeq": times.ratio("torchdiffeq", "eager"),
        "eager over torchdiffeq, equal error": times.ratio("torchdiffeq", "eager, equal error"),
        "own steps over torchdiffeq": times.ratio("torchdiffeq", "eager, own steps"),
        "own steps over torchode": times.ratio("torchode", "eager, own steps"),
        "compiled over torchdiffeq": times.ratio("torchdiffeq", "compiled"),
        "compiled own steps over torchdiffeq": times.ratio("torchdiffeq", "compiled, own steps"),
        "compiled step over torchdiffeq": times.ratio("torchdiffeq", "compiled step"),
        "compiled (best) / diffrax (best)": min(
            times.ratio("compiled", best), times.ratio("compiled, own steps", best)
        ),
    }
    for what, (gate, stretch) in gates.items():
        ROWS.append(Row(f"{name}: {what}", measured[what], gate, stretch))


@torch.no_grad()
def many_outputs(name, field, y0, end, gate, stretch):
    t = torch.linspace(0.0, end, 101)
    times = Times(
        {
            "ours": lambda: odeint(field, y0, t, **TOL),
            "torchdiffeq": lambda: torchdiffeq.odeint(field, y0, t, **TOL),
        }
    )
    what = f"{name}: 101 outputs over torchdiffeq"
    ROWS.append(Row(what, times.ratio("torchdiffeq", "ours"), gate, stretch))


@torch.no_grad()
def fixed_steps(field, y0):
    t = torch.tensor([0.0, 10.0])
    options = {"step_size": 0.1}

    def by_hand():
        at = t[0]
        for _ in range(400):
            field(at, y0)

    kwargs = dict(method="rk4", options=options)
    compiled = dict(method="rk4", options=options | {"compile": True})
    times = Times(
        {
            "field alone": by_hand,
            "ours": lambda: odeint(field, y0, t, **kwargs),
            "compiled": lambda: odeint(field, y0, t, **compiled),
            "torchdiffeq": lambda: torchdiffeq.odeint(field, y0, t, **kwargs),
        }
    )
    rows = (
        ("eager over torchdiffeq", times.ratio("torchdiffeq", "ours"), ">=1.6", "1.76"),
        ("eager time / (NFE x f)", times.ratio("ours", "field alone"), "<=1.25", "1.17"),
        ("compiled over torchdiffeq", times.ratio("torchdiffeq", "compiled"), ">=1.6", "20"),
    )
    ROWS.extend(Row(f"LV rk4, 100 steps: {what}", *rest) for what, *rest in rows)


def gradients(name, sizes, batch, gates):
    field = Network(sizes, scale=3.0)
    parameters = list(field.parameters())
    y0, t = starts(-1.0, 1.0, n=batch, d=sizes[0]).requires_grad_(), torch.tensor([0.0, 1.0])
    jax_gradient = peers.diffrax_gradient(peers.jax_mlp, **TOL)
    jax_args, jy0 = field.in_jax(), peers.to_jax(y0)

    def differentiate(final):
        return torch.autograd.grad(final.square().sum(), [y0, *parameters])

    def ours(**kwargs):
        return lambda: differentiate(odeint(field, y0, t, **TOL, **kwargs)[-1])

    work = {
        "backprop": ours(),
        "checkpoint": ours(gradient="checkpoint"),
        "adjoint": ours(gradient="adjoint"),
        "compiled step": ours(options={"compile": True}),
        "torchdiffeq backprop": lambda: differentiate(torchdiffeq.odeint(field, y0, t, **TOL)[-1]),
        "torchdiffeq adjoint": lambda: differentiate(
            torchdiffeq.odeint_adjoint(field, y0, t, **TOL)[-1]
        ),
        "zuko checkpoint": lambda: differentiate(
            zuko.utils.odeint(field, y0, 0.0, 1.0, parameters, **TOL)
        ),
        "diffrax checkpoint": lambda: peers.jax.block_until_ready(jax_gradient(jax_args, jy0, 1.0)),
    }
    times = Times(work, seconds=10.0)
    truth = differentiate(odeint(field, y0, t, rtol=1e-7, atol=1e-8)[-1])
    for contender, run in work.items():
        found = run()
        if contender.startswith("diffrax"):
            layers, state = found
            flat = [state, *(x for layer in layers for x in layer)]
            found = [torch.tensor(x.tolist()) for x in flat]
        pairs = zip(found, truth, strict=True)
        error = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
        ERRORS.append((f"gradient {name}", contender, times.ms(contender), error))
    for contender, peer, gate, stretch in gates:
        ratio = times.ratio(peer, contender) if gate[0] == ">" else times.ratio(contender, peer)
        word = "over" if gate[0] == ">" else "/"
        ROWS.append(Row(f"gradient {name}: {contender} {word} {peer}", ratio, gate, stretch))


def imports():
    def seconds(*command, rounds=7):
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            found.append(time.perf_counter() - began)
        return min(found)

    script = (
        "import re, torch, time\n"
        "def rss():\n"
        "    return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "a, m = time.perf_counter(), rss()\n"
        "import nodes_tutorial.ode\n"
        "print(time.perf_counter() - a, (rss() - m) / 1024)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        for _ in range(5)
    ]
    extra, memory = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    ROWS.append(Row("import, seconds beside torch's", min(extra), "<=0.05", "0.02"))
    ROWS.append(Row("import, MiB beside torch's", min(memory), "<=5", "2"))
    shown = seconds("-m", "nodes_tutorial", "--version")
    ROWS.append(Row("python -m nodes_tutorial --version, s", shown, "<=0.15", "0.1"))


def main() -> None:
    cheap = {
        "eager time / (NFE x f)": ("<=1.75", "1.5"),
        "eager / bare loop of the same steps": ("<=1.10", "1.0"),
        "eager over torchdiffeq": (">=3.0", "3.7"),
        "eager over torchdiffeq, equal error": (">=3.0", "3.7"),
        "compiled over torchdiffeq": (">=40", "50"),
        "compiled step over torchdiffeq": (">=11", "13"),
    }
    lv, vdp = starts(0.5, 2.5), starts(-2.0, 2.0)
    mild, steep = Network((2, 64, 64, 2)), Network((2, 64, 64, 2), scale=3.0)
    forward(
        "Lotka-Volterra",
        lotka_volterra,
        lv,
        10.0,
        cheap | {"compiled (best) / diffrax (best)": ("<=1.6", "1.3")},
        peers.jax_lotka_volterra,
    )
    own = {
        "own steps over torchdiffeq": (">=7", "8"),
        "own steps over torchode": (">=2", "2.3"),
        "compiled own steps over torchdiffeq": (">=40", "100"),
        "compiled (best) / diffrax (best)": ("<=1.5", "1.2"),
    }
    forward("van der Pol", van_der_pol, vdp, 20.0, cheap | own, peers.jax_van_der_pol)
    network = {
        "eager time / (NFE x f)": ("<=1.20", "1.10"),
        "eager over torchdiffeq": (">=1.35", "1.5"),
        "eager over torchdiffeq, equal error": (">=1.35", "1.5"),
    }
    y0 = starts(-2.0, 2.0)
    forward("MLP", mild, y0, 1.0, network, peers.jax_mlp, mild.in_jax())
    network["compiled (best) / diffrax (best)"] = ("<=4", "2.5")
    forward("MLP, weights x3", steep, y0, 1.0, network, peers.jax_mlp, steep.in_jax())
    many_outputs("Lotka-Volterra", lotka_volterra, lv, 10.0, ">=3", "3.6")
    many_outputs("MLP, weights x3", steep, y0, 1.0, ">=1.6", "1.85")
    fixed_steps(lotka_volterra, lv)
    small = [
        ("backprop", "torchdiffeq backprop", ">=1.25", "1.4"),
        ("backprop", "torchdiffeq adjoint", ">=2.2", "2.5"),
        ("checkpoint", "torchdiffeq adjoint", ">=1.6", "1.8"),
        ("checkpoint", "zuko checkpoint", ">=1.9", "2.2"),
        ("compiled step", "torchdiffeq backprop", ">=1.75", "2.05"),
        ("backprop", "diffrax checkpoint", "<=2.6", "1.7"),
    ]
    gradients("2-64-64-2 x 256", (2, 64, 64, 2), 256, small)
    large = [
        ("backprop", "torchdiffeq backprop", ">=1.12", "1.25"),
        ("backprop", "torchdiffeq adjoint", ">=4.2", "4.7"),
        ("checkpoint", "torchdiffeq adjoint", ">=3.2", "3.6"),
        ("checkpoint", "zuko checkpoint", ">=1.5", "1.7"),
        ("backprop", "diffrax checkpoint", "<=1.3", "0.75"),
    ]
    gradients("784-256-784 x 64", (784, 256, 784), 64, large)
    imports()
    report("make bench RECORD=", ROWS, ERRORS)


if __name__ == "__main__":
    main()
