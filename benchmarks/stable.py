"""1,024 layers on the ellipses: level by level from 4, and at full depth from the start.

``python -m benchmarks.stable [seeds]`` prints seconds of the processor and of the clock,
validation accuracy, objective and sweeps of both. Goal: the levels take at most 60 s and reach the
accuracy of full depth.
"""

import json
import sys
import time

import torch

from nodes_tutorial.data.labelled2d import ellipses
from nodes_tutorial.ode.multilevel.blocks import train_blocks, train_multilevel
from nodes_tutorial.ode.multilevel.objective import Level, Objective
from nodes_tutorial.ode.stability.networks import VerletNet

GOAL_SECONDS = 60.0


def network(layers: int, seed: int) -> VerletNet:
    how = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    return VerletNet(2, layers, 20.0, scale=0.6, **how)


def problem() -> tuple[Objective, torch.Tensor, torch.Tensor]:
    x, label = ellipses(1200, torch.Generator().manual_seed(0), dtype=torch.float64)
    return Objective(x[:1000], label[:1000], alpha=1e-3, beta=1.0), x[1000:], label[1000:]


def timed(run) -> tuple[list[Level], float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    levels = run()
    return levels, time.process_time() - processor, time.perf_counter() - clock


def main(seeds: int = 1) -> None:
    torch.set_num_threads(1)
    objective, x, label = problem()
    for seed in range(seeds):
        runs = {
            "4 to 1024": lambda seed=seed: train_multilevel(network(4, seed), objective, 9),
            "1024 alone": lambda seed=seed: [
                train_blocks(network(1024, seed), objective, max_iter=40)
            ],
        }
        for name, run in runs.items():
            levels, cpu, wall = timed(run)
            for level in levels:
                row = {
                    "run": name,
                    "seed": seed,
                    "layers": level.net.layers,
                    "iterations": level.iterations,
                    "sweeps": level.products,
                    "start": round(level.history[0], 4),
                    "end": round(level.history[-1], 4),
                    "accuracy": round(level.accuracy(x, label), 4),
                }
                print(json.dumps(row), flush=True)
            goal = f", goal {GOAL_SECONDS:.0f} s" if len(levels) > 1 else ""
            print(f"{name}, seed {seed}: cpu {cpu:.1f} s, clock {wall:.1f} s{goal}", flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
