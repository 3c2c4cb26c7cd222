"""Meta-gradients on a GPU: `python -m benchmarks.meta_cuda` needs a CUDA device.

The problems, peers and reference are those of `benchmarks.meta`, and contenders wait for the device
before the clock is read. The convolutions are `nets.Conv4` with pooling: its normalization has
second derivatives under `vmap`, so that all tasks are one grouped convolution.
"""

import torch

from benchmarks.harness import Row, Times, Work, report
from benchmarks.meta import BLOCKS, WAVES, Problem, convolutions, error, peers, perceptron
from nodes_tutorial.nets import Conv4

DEVICE = "cuda"


def waiting(run):
    def call():
        found = run()
        torch.cuda.synchronize()
        return found

    return call


def measured(name: str, problem: Problem, gates: tuple[str, str]) -> tuple[list[Row], list]:
    rivals = peers(problem)
    work: Work = {"ours": problem.ours, "ours, compiled": problem.compiled(), **rivals}
    times = Times({who: waiting(run) for who, run in work.items()}, seconds=5.0, least=3)
    best = min(rivals, key=times.ms)
    rows = [
        Row(f"{name}{how}: over the fastest peer", times.ratio(best, f"ours{how}"), gate)
        for how, gate in zip(("", ", compiled"), gates, strict=True)
    ]
    return rows, [(name, who, times.ms(who), error(problem, run())) for who, run in work.items()]


def main() -> None:
    net = Conv4(pool="max", classes=5, generator=torch.Generator().manual_seed(0), width=32)
    waves, errors = measured(WAVES, Problem(*perceptron(), 0.01, DEVICE), (">=10", ">=25"))
    blocks, more = measured(
        BLOCKS, Problem(net, convolutions()[1], 0.01, DEVICE), (">=1.0", ">=1.2")
    )
    report("python -m benchmarks.meta_cuda ", waves + blocks, errors + more,
           torch.cuda.get_device_name(DEVICE))  # fmt: skip


if __name__ == "__main__":
    main()
