"""Seconds and peak memory of what runs below this process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

YARDSTICK = 0.115  # processor seconds of :func:`yardstick` on the machine limits are meant for


def yardstick() -> float:
    """Processor seconds of 200 training steps of a small network, the kind of work chapters do."""
    import torch  # here: the number of threads is settled by now

    net = torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
    )
    adam, x = torch.optim.Adam(net.parameters()), torch.ones(256, 2)
    began = time.thread_time()
    for _ in range(200):
        adam.zero_grad()
        net(x).square().mean().backward()
        adam.step()
    return time.thread_time() - began


class Meter:
    """Samples the child processes while a notebook runs.

    The peak is the kernel's own high-water mark where the system keeps one (Linux), else the
    largest resident size seen. Processor time tells a slow notebook from a busy machine, and the
    yardstick, taken before and after, from a slow machine.
    """

    def __init__(self, interval: float = 0.1) -> None:
        self.interval = interval
        self._peaks: dict[int, float] = {}
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._slowness = yardstick()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.monotonic() - self._began
        self._stop.set()
        self._thread.join()
        self._slowness = (self._slowness + yardstick()) / (2 * YARDSTICK)

    @property
    def cost(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(sum(self._cpu.values()), 1),
            "slowness": round(self._slowness, 2),
            "peak_mib": round(sum(self._peaks.values())),
        }

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self.interval):
            for child in me.children(recursive=True):
                try:
                    times = child.cpu_times()
                    self._cpu[child.pid] = times.user + times.system
                    peak = max(_high_water(child), self._peaks.get(child.pid, 0.0))
                    self._peaks[child.pid] = peak
                except psutil.Error:
                    continue


def _high_water(process: psutil.Process) -> float:
    """MiB."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return process.memory_info().rss / 2**20
