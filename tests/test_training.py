"""The loop is killed in earnest, and what it resumes to is compared bit by bit."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from nodes_tutorial.training import fit, read_checkpoint

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
        limit = time.monotonic() + 240  # importing torch takes a minute on a loaded machine
        while not (checkpoint.is_file() and after(checkpoint)):
            assert worker.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.02)
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
            return read_checkpoint(file)["done"] >= wanted

        kill_when_written(path, checkpoint, beyond)
        reached.append(read_checkpoint(checkpoint)["done"])
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

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        run(checkpoint, 40)
    monkeypatch.undo()
    assert checkpoint.read_bytes() == before
    assert same(run(checkpoint, 40), run(None, 40))


def packed(content):
    """A file as fit writes it, of any content."""
    payload = io.BytesIO()
    torch.save(content, payload)
    digest = hashlib.sha256(payload.getvalue()).hexdigest().encode()
    return b"nodes_tutorial checkpoint 2 sha256 " + digest + b"\n" + payload.getvalue()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What a small run left: a network, an optimizer and a generator."""
    path = tmp_path_factory.mktemp("run") / "run.pt"
    net, adam, noise = parts()
    fit(lambda i: 0.5, steps=3, state={"net": net, "adam": adam, "noise": noise}, checkpoint=path)
    return path.read_bytes(), read_checkpoint(path)


def parts():
    net = torch.nn.Linear(2, 2)
    return net, torch.optim.Adam(net.parameters()), torch.Generator().manual_seed(4)


def refuses(path, raw, message):
    """The run does not begin, the message names the file, and nothing has been loaded."""
    path.write_bytes(raw)
    net, adam, noise = parts()
    before = [p.detach().clone() for p in net.parameters()], noise.get_state()
    world = torch.get_rng_state()
    state = {"net": net, "adam": adam, "noise": noise}
    with pytest.raises(ValueError, match=message) as found:
        fit(lambda i: pytest.fail("began"), steps=5, state=state, checkpoint=path)
    assert str(path) in str(found.value)
    assert all(torch.equal(a, b) for a, b in zip(before[0], net.parameters(), strict=True))
    assert torch.equal(before[1], noise.get_state())
    assert torch.equal(world, torch.get_rng_state())
    assert not adam.state and path.read_bytes() == raw


def test_every_flipped_bit_is_found(content, tmp_path):
    raw, path = content[0], tmp_path / "run.pt"
    refuses(path, raw[:200] + bytes([raw[200] ^ 4]) + raw[201:], "damaged")
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(8 * len(raw), (300,), generator=generator).tolist():
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"checkpoint .* (damaged|not written)"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda raw: b"", "not written by"),
        (lambda raw: b"text\nand more", "not written by"),
        (lambda raw: bytes(1000), "not written by"),
        (lambda raw: raw.partition(b"\n")[2], "not written by"),  # what torch.save writes alone
        (lambda raw: raw[:40], "damaged"),
        (lambda raw: raw[:-1], "damaged"),
        (lambda raw: raw[: len(raw) // 2], "damaged"),
        (lambda raw: raw + b"\0", "damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(content, tmp_path, cut, message):
    refuses(tmp_path / "run.pt", cut(content[0]), message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"done": -5}, "from 0 on"),
        ({"done": 2.0}, "from 0 on"),
        ({"done": 4}, "4 values of 'loss'"),
        ({"done": 9, "history": {"loss": torch.zeros(9).double()}}, "beyond steps"),
        ({"history": {"loss": torch.zeros(2).double()}}, "3 values of 'loss'"),
        ({"history": {"loss": torch.zeros(3)}}, "3 values of 'loss'"),
        ({"state": {}}, "holds the state of"),
        ({"extra": 1}, "must hold"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(content, tmp_path, changed, message):
    refuses(tmp_path / "run.pt", packed({**content[1], **changed}), message)


@pytest.mark.parametrize("missing", ["done", "history", "rng", "state"])
def test_a_missing_key_is_refused(content, tmp_path, missing):
    rest = {key: value for key, value in content[1].items() if key != missing}
    refuses(tmp_path / "run.pt", packed(rest), "must hold")


def test_a_state_that_does_not_fit_changes_nothing(content, tmp_path):
    """The network comes first and fits; what does not is behind it."""
    state = dict(content[1]["state"])
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))] * 1).state_dict()
    refuses(tmp_path / "a", packed({**content[1], "state": {**state, "adam": other}}), "'adam'")
    refuses(tmp_path / "b", packed({**content[1], "state": {**state, "noise": 0}}), "'noise'")
    net = torch.nn.Linear(3, 2).state_dict()  # its bias would fit
    refuses(tmp_path / "c", packed({**content[1], "state": {**state, "net": net}}), "'net'")


def test_a_pickle_that_runs_code_is_not_run(content, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    refuses(tmp_path / "run.pt", packed({**content[1], "rng": Evil()}), "cannot be read")
    assert not (tmp_path / "ran").exists()


def test_metrics_stay_the_same():
    def sometimes(i):
        return {"loss": 0.0, "rate": 1.0} if i == 2 else {"loss": 0.0}

    for every in (1, 5):
        with pytest.raises(ValueError, match=r"at step 2 it reports \['loss', 'rate'\]"):
            fit(sometimes, steps=5, every=every)
        with pytest.raises(ValueError, match=r"at step 1 it reports \['rate'\]"):
            fit(lambda i: {"rate": 1.0} if i else {"loss": 0.0}, steps=5, every=every)


def test_metrics_stay_the_same_after_a_resume(tmp_path):
    fit(lambda i: 0.0, steps=3, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="at step 3 it reports"):
        fit(lambda i: {"rate": 1.0}, steps=5, checkpoint=tmp_path / "run.pt")


def test_the_place_of_a_checkpoint_is_tried_before_the_first_step(tmp_path):
    def step(i):
        pytest.fail("began")

    with pytest.raises(ValueError, match="checkpoint must be a file"):
        fit(step, steps=5, checkpoint=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fit(step, steps=5, checkpoint=tmp_path / "file" / "run.pt")


def test_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.pt", tmp_path / "link.pt"
    link.symlink_to(real)
    fit(lambda i: 0.0, steps=2, checkpoint=link)
    assert link.is_symlink() and read_checkpoint(real)["done"] == 2


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    fit(lambda i: 0.0, steps=1, checkpoint=tmp_path / "a.pt")
    before = len(os.listdir("/proc/self/fd"))
    fit(lambda i: 0.0, steps=20, every=1, checkpoint=tmp_path / "b.pt")
    assert len(os.listdir("/proc/self/fd")) == before


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
    with pytest.raises(TypeError, match="every"):
        fit(step, steps=1, every=1.5)
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
