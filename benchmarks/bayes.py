"""Bayesian computations beside Pyro, laplace-torch and loops: `make bench`.

- Hamiltonian Monte Carlo, in float64: a Gaussian in 50 dimensions with condition number 100, and
  the eight schools in their non-centred form. Ours runs 64 chains in one batch, with paths of 20
  steps whose size varies by half. Pyro runs one chain after the other, so its rate is that of one
  chain: HMC with its own length of path, and NUTS, both with what they adapt by default. Warm-ups
  are not timed. The bulk effective sample size is ours for both, the smallest over the entries.
  The error is the largest of a mean, in standard deviations; of the schools both are known from a
  long run only.
- Steps of Bayes by Backprop and of an ensemble: `bayes_steps`.
- Laplace's approximation of the last layer: `bayes_laplace`.

Pyro's HMC with its default path mixes on neither law, as its errors say; the rival to look at is
NUTS. A gradient of Pyro and one of ours cost about the same. What differs is that a batch of 64
chains costs little more than one chain, since most of a small gradient is overhead.
"""

import math
import sys
import time

import torch
from torch import Tensor

from benchmarks import bayes_laplace, bayes_steps
from benchmarks.harness import Row, Times, report
from nodes_tutorial.bayes import effective_sample_size, hmc, r_hat

try:
    from pyro.infer.mcmc import HMC, MCMC, NUTS
except ModuleNotFoundError:  # it is not in the extra: pip install pyro-ppl==1.9.2
    MCMC = None

torch.set_num_threads(1)
CHAINS, PATH, WARMUP = 64, 20, 300
GAUSSIAN, SCHOOLS = "Gaussian, d = 50", "eight schools"
EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)
SCALE = torch.logspace(0, 1, 50, dtype=torch.float64)  # variances from 1 to 100


def gaussian(x: Tensor) -> Tensor:
    return -0.5 * (x / SCALE).square().sum(-1)


def schools(x: Tensor) -> Tensor:
    """Entries: mean, logarithm of the spread, and eight standard normal deviations."""
    mean, log_spread, deviations = x[..., :1], x[..., 1:2], x[..., 2:]
    effects = mean + log_spread.exp() * deviations
    fit = -0.5 * ((EFFECTS - effects) / ERRORS).square().sum(-1)
    half_cauchy = log_spread - (1 + (log_spread.exp() / 5).square()).log()  # with the Jacobian
    prior = -0.5 * (mean / 5).square().sum(-1) - 0.5 * deviations.square().sum(-1)
    return fit + prior + half_cauchy.sum(-1)


PROBLEMS = {GAUSSIAN: (gaussian, 50, 0.5), SCHOOLS: (schools, 10, 0.2)}


def ours(name: str, steps: int, seed: int = 0) -> tuple[Tensor, float]:
    """The draws, (steps, chains, dim), and the seconds of the kept steps."""
    log_prob, dim, step_size = PROBLEMS[name]
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(CHAINS, dim, generator=generator, dtype=torch.float64)
    settings = {"leapfrog": PATH, "jitter": 0.5, "generator": generator}
    warm = hmc(log_prob, x0, steps=1, step_size=step_size, warmup=WARMUP, **settings)
    start = time.perf_counter()
    chains = hmc(log_prob, warm.x[-1], steps=steps, step_size=float(warm.step_size), **settings)
    return chains.x, time.perf_counter() - start


class AfterWarmup:
    """Notes when the warm-up of a chain ended."""

    def __init__(self) -> None:
        self.began = math.nan

    def __call__(self, kernel, samples, stage: str, i: int) -> None:
        if stage == "Sample" and i == 0:
            self.began = time.perf_counter()


def with_pyro(name: str, steps: int, method: str, seed: int = 0) -> tuple[Tensor, float]:
    """One chain of `HMC` or `NUTS` with Pyro's defaults: step size and masses are adapted."""
    log_prob, dim, step_size = PROBLEMS[name]
    torch.manual_seed(seed)
    clock = AfterWarmup()
    make = {"HMC": HMC, "NUTS": NUTS}[method]
    kernel = make(potential_fn=lambda row: -log_prob(row["x"]), step_size=step_size)
    start = torch.randn(dim, dtype=torch.float64)
    run = MCMC(
        kernel,
        steps,
        warmup_steps=WARMUP,
        initial_params={"x": start},
        hook_fn=clock,
        disable_progbar=True,
    )
    run.run()
    seconds = time.perf_counter() - clock.began
    return run.get_samples()["x"][:, None], seconds


def truth(name: str) -> tuple[Tensor, Tensor]:
    """Means and standard deviations; of the schools by a long run."""
    if name == GAUSSIAN:
        return torch.zeros(50, dtype=torch.float64), SCALE
    x, _ = ours(name, 2000, seed=10)
    assert (r_hat(x) < 1.01).all()
    return x.mean((0, 1)), x.std((0, 1))


def measure(name: str, draws: tuple[Tensor, float], exact: tuple[Tensor, Tensor]):
    """Effective samples a second, milliseconds for a thousand of them, error of the means."""
    x, seconds = draws
    least = float(effective_sample_size(x).min())
    mean, sd = exact
    error = float(((x.mean((0, 1)) - mean) / sd).abs().max())
    return least / seconds, 1e6 * seconds / least, error


def chains() -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    rows, errors = [], []
    for name in PROBLEMS:
        exact = truth(name)
        work = {"ours, 64 chains": lambda seed, n=name: ours(n, 300, seed)}
        if MCMC is not None:
            for method in ("HMC", "NUTS"):
                work[f"Pyro, {method}"] = lambda seed, n=name, m=method: with_pyro(n, 600, m, seed)
        found = {who: [] for who in work}
        for seed in range(3):  # in turns
            for who, run in work.items():
                found[who].append(measure(name, run(seed), exact))
        for who, lines in found.items():
            middle = sorted(lines)[1]
            errors.append((name, f"{who}, 1000 effective", middle[1], middle[2]))
            print(f"{name} {who}: {middle[0]:.0f} effective samples a second", file=sys.stderr)
        for who in list(work)[1:]:
            pairs = zip(found["ours, 64 chains"], found[who], strict=True)
            ratio = sorted(a[0] / b[0] for a, b in pairs)[1]
            rows.append(Row(f"{name}: effective samples a second over {who}", ratio, ">=5"))
    return rows, errors


def steps() -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    rows, errors = [], []
    work, truth = bayes_steps.bayes_by_backprop("cpu")
    before = {who: float(run()) for who, run in work.items()}
    times, name = Times(work, seconds=15.0), "Bayes by Backprop, 784-400-400-10"
    for who, loss in before.items():
        off = math.nan if who == "ordinary step" else abs(loss / truth - 1)
        errors.append((name, who, times.ms(who), off))
    gates = {"textbook loop": ">=1.3", "Pyro, AutoNormal": ">=2.2"}
    for who in work.keys() & gates.keys():
        rows.append(Row(f"{name}: over {who}", times.ratio(who, "ours"), gates[who]))
    ratio = times.ratio("ours", "ordinary step")
    rows.append(Row(f"{name}: over an ordinary step", ratio, "<=2.6", "2.2"))
    for shape in bayes_steps.SHAPES:
        work = bayes_steps.ensembles(shape, "cpu")
        first = {who: float(run()) for who, run in work.items()}
        times, name = Times(work), f"ensemble of 8, {shape}"
        errors += [(name, who, times.ms(who), abs(first[who] / first["loop"] - 1)) for who in work]
        rows.append(Row(f"{name}: over a loop", times.ratio("loop", "ours, one graph"), ">=1.0"))
    return rows, errors


def main() -> None:
    rows, errors = [], []
    for part in (steps, bayes_laplace.rows, chains):
        goals, lines = part()
        rows += goals
        errors += lines
    report("make bench RECORD_BAYES=", rows, errors)


if __name__ == "__main__":
    main()
