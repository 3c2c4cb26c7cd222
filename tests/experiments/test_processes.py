"""MAML in two processes that `torchrun` starts: the gradient of one, its checkpoint, its record."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.experiments import processes

COMMON = """
import json, sys, torch
from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.experiments import maml as experiment
from nodes_tutorial.experiments.processes import mean_over_processes, share, together
from nodes_tutorial.meta import maml
from nodes_tutorial.nets import Conv4

rng = lambda seed: torch.Generator().manual_seed(seed)
kinds = torch.rand(12, 1, 28, 28, generator=rng(0))
images = kinds.repeat_interleave(8, 0) + 0.1 * torch.rand(96, 1, 28, 28, generator=rng(1))
labels = torch.arange(12).repeat_interleave(8)
out = sys.argv[1]
"""

GRADIENT = """
sampler = TaskSampler(images.double(), labels, ways=5, shots=1, queries=2)
net = Conv4(width=3, classes=5, generator=rng(2), dtype=torch.float64)
tasks = sampler.sample(4, rng(3))
with together() as process:
    own = share(tasks)
    slopes, _ = maml(net, own.support, own.query, steps=2, lr=0.1, order=2)
    slopes = mean_over_processes(slopes)
if process == 0:
    torch.save({"slopes": slopes, "own": len(own.query_y)}, out)
"""

TRAINING = """
part = Characters(images, labels, ("a/b",) * 12)
experiment._characters = lambda: (part, part)
run = experiment.Run(seed=1, steps=4, width=3, tasks=2, test_tasks=4, looks=2, queries=2)
cut = experiment.fit
def some(step, **how):
    def until(i):
        if i == 2 and len(sys.argv) > 2:
            raise KeyboardInterrupt
        return step(i)
    return cut(until, **how)
experiment.fit = some
with together() as process:
    row, net = experiment.execute(run, checkpoint=out + ".pt", every=1, progress=False)
if process == 0:
    json.dump({"row": row, "weights": [p.tolist() for p in net.parameters()]}, open(out, "w"))
"""


def started(tmp_path, text, *arguments, count=2, fine=True):
    script, out = tmp_path / "program.py", tmp_path / f"out{count}"
    script.write_text(textwrap.dedent(COMMON + text))
    how = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    how += ["--nproc-per-node", str(count), str(script), str(out), *arguments]
    done = subprocess.run(how, capture_output=True, text=True, timeout=240)
    assert (done.returncode == 0) == fine, done.stderr
    return out


def test_a_step_of_two_processes_is_that_of_one(tmp_path):
    one, two = (torch.load(started(tmp_path, GRADIENT, count=n)) for n in (1, 2))
    assert (one["own"], two["own"]) == (4, 2)
    for name, slope in one["slopes"].items():
        assert (slope - two["slopes"][name]).abs().max() < 1e-10 * max(1, slope.abs().max())


def test_a_run_in_two_processes_is_resumed_and_is_that_of_one(tmp_path):
    started(tmp_path, TRAINING, "cut", fine=False)
    two = json.loads(started(tmp_path, TRAINING).read_text())
    assert (tmp_path / "out2.pt").is_file() and two["row"]["processes"] == 2
    one = json.loads(started(tmp_path, TRAINING, count=1).read_text())
    for a, b in zip(one["weights"], two["weights"], strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-3, atol=1e-4)
    assert two["row"]["loss_last_tenth"] == pytest.approx(one["row"]["loss_last_tenth"], rel=1e-3)


def test_alone_nothing_is_shared(tmp_path):
    tasks = Tasks(*(torch.rand(3, 2) for _ in range(4)))
    assert processes.count() == 1
    assert processes.share(tasks) is tasks
    values = {"a": torch.ones(2)}
    assert processes.mean_over_processes(values) is values
    assert processes.own_checkpoint("run.pt") == "run.pt"
    with processes.together() as process:
        assert process == 0


def test_tasks_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ValueError, match="tasks must be a multiple of the 2 processes, got 3"):
        processes.share(Tasks(*(torch.rand(3, 2) for _ in range(4))))
