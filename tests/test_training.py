"""The loop is killed in earnest, and what it resumes to is compared bit by bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from nodes_tutorial.training import fit

# Dropout uses the global generator, the data a generator of their own, momentum and the learning
# rate live in optimizer and scheduler: forget one of the four and the weights differ.
RUN = """
import os, sys, time
import torch
from nodes_tutorial.nets import MLP
from nodes_tutorial.training import fit

def run(path, steps, pause=0.0):
    torch.manual_seed(0)
    data = torch.Generator().manual_seed(1)
    net = MLP([4, 32, 1], generator=torch.Generator().manual_seed(2))
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.99)

    def step(i):
        x = torch.randn(16, 4, generator=data)
        hidden = torch.nn.functional.dropout(x, 0.3)
        loss = (net(hidden) - x.sum(-1, keepdim=True)).pow(2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
        time.sleep(pause)
        return {"loss": loss, "rate": decay.get_last_lr()[0]}

    state = {"net": net, "adam": adam, "decay": decay, "data": data}
    history = fit(step, steps=steps, state=state, checkpoint=path, every=7, progress=False)
    return [p.detach().clone() for p in net.parameters()], history

if __name__ == "__main__":
    run(sys.argv[1], 400, 0.01)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(RUN)
    names = {"__name__": "script"}
    exec(compile(RUN, str(path), "exec"), names)
    return path, names["run"]


def same(one, two):
    weights = all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    return weights and all(torch.equal(one[1][k], two[1][k]) for k in one[1])


def kill_when_written(script, checkpoint, after):
    """Start the run in a process, wait until it has written, kill it without warning."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    worker = subprocess.Popen([sys.executable, str(script), str(checkpoint)], env=environment)
    try:
        limit = time.monotonic() + 60
        while not (checkpoint.is_file() and after(checkpoint)):
            assert worker.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.003)
        worker.send_signal(signal.SIGKILL)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == -signal.SIGKILL


def test_resume_after_sigkill_is_bit_for_bit(script, tmp_path):
    path, run = script
    checkpoint = tmp_path / "deep" / "run.pt"
    reached = []
    for wanted in (7, 40):

        def beyond(file, wanted=wanted):
            return torch.load(file, weights_only=True)["done"] >= wanted

        kill_when_written(path, checkpoint, beyond)
        reached.append(torch.load(checkpoint, weights_only=True)["done"])
    assert 7 <= reached[0] < reached[1] < 400
    resumed = run(checkpoint, 400)
    whole = run(None, 400)
    assert same(resumed, whole)
    assert resumed[1]["loss"].shape == (400,)
    assert not list(checkpoint.parent.glob(".*.partial"))


def test_forgetting_the_generator_is_noticed(script, tmp_path, monkeypatch):
    """The wrong variant: a resume that leaves the global generator alone ends elsewhere."""
    _, run = script
    run(tmp_path / "run.pt", 14)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    resumed = run(tmp_path / "run.pt", 40)
    monkeypatch.undo()
    assert not same(resumed, run(None, 40))
    assert same(run(tmp_path / "run.pt", 40), resumed)  # a finished run is only read


def test_a_write_that_dies_leaves_the_old_checkpoint(script, tmp_path, monkeypatch):
    _, run = script
    checkpoint = tmp_path / "run.pt"
    run(checkpoint, 14)
    before = checkpoint.read_bytes()

    def half(content, file):
        file.write(b"half a check")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        run(checkpoint, 40)
    monkeypatch.undo()
    assert checkpoint.read_bytes() == before
    assert same(run(checkpoint, 40), run(None, 40))


def test_reports_and_history():
    calls = []
    history = fit(lambda i: calls.append(i) or float(i), steps=5, every=2, progress=False)
    assert calls == [0, 1, 2, 3, 4]
    torch.testing.assert_close(history["loss"], torch.arange(5, dtype=torch.float64))
    assert fit(lambda i: 0.0, steps=0) == {}
    shared = torch.zeros(())
    history = fit(lambda i: shared.add_(1), steps=3, progress=False)
    assert history["loss"].tolist() == [1, 2, 3]


def test_progress_only_when_asked(capsys):
    fit(lambda i: 0.0, steps=3)
    assert capsys.readouterr() == ("", "")
    fit(lambda i: 0.5, steps=3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3/3" in shown.err
    assert "loss=0.5" in shown.err


def test_bad_input_names_the_argument(tmp_path):
    def step(i):
        return 0.0

    with pytest.raises(ValueError, match="steps"):
        fit(step, steps=-1)
    with pytest.raises(ValueError, match="every"):
        fit(step, steps=1, every=0)
    with pytest.raises(TypeError, match=r"state\['rate'\]"):
        fit(step, steps=1, state={"rate": 0.1})
    with pytest.raises(FloatingPointError, match="loss is nan at step 3"):
        fit(lambda i: float("nan") if i == 3 else 0.0, steps=9, every=5, progress=False)
    checkpoint = tmp_path / "run.pt"
    fit(step, steps=4, checkpoint=checkpoint, progress=False)
    with pytest.raises(ValueError, match="beyond steps"):
        fit(step, steps=3, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="holds the state"):
        fit(step, steps=4, checkpoint=checkpoint, state={"g": torch.Generator()})
    torch.save({"weights": 1}, checkpoint)
    with pytest.raises(ValueError, match="not written by"):
        fit(step, steps=4, checkpoint=checkpoint)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resume_on_cuda(tmp_path):
    def run(path, steps):
        torch.manual_seed(0)
        noise = torch.Generator("cuda").manual_seed(1)
        weight = torch.nn.Parameter(torch.zeros(8, device="cuda"))
        adam = torch.optim.Adam([weight], 0.1)

        def step(i):
            target = torch.randn(8, generator=noise, device="cuda")
            loss = (torch.nn.functional.dropout(weight, 0.5) - target).pow(2).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            return loss

        state = {"adam": adam, "noise": noise, "weight": torch.nn.ParameterList([weight])}
        fit(step, steps=steps, state=state, checkpoint=path, every=5, progress=False)
        return weight.detach().clone()

    run(tmp_path / "run.pt", 10)
    torch.testing.assert_close(run(tmp_path / "run.pt", 30), run(None, 30))
