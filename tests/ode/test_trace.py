"""The way from `odeint(f, y0, t)` to the first evaluation of f, short enough to read at a sitting.

The table is what a reader follows; a test compares it with what Python does.
"""

import subprocess
import sys
from pathlib import Path

import nodes_tutorial

ROOT = Path(nodes_tutorial.__file__).parent

# file, and the functions entered in it in this order, before f is called for the first time
TRACE = """
ode/odeint.py             odeint
ode/solvers/prepare.py    prepare, find_tableau
ode/solvers/problem.py    Problem: its checks of y0 and t; carries_derivative
ode/solvers/run.py        integrate, run, iterate
ode/solvers/gather.py     Gather: where the outputs will go
ode/solvers/loops.py      adaptive_steps, which asks for first_slope (problem.py), which calls f
"""

PROGRAM = """
import sys, torch
from nodes_tutorial.ode import odeint
files = []
def tracer(frame, event, argument):
    name = frame.f_code.co_filename
    if "nodes_tutorial" in name and name not in files:
        files.append(name)
class Reached(Exception): pass
def f(t, y):
    sys.settrace(None)
    raise Reached
y0, t = torch.ones(2), torch.tensor([0.0, 1.0])
sys.settrace(tracer)
try: odeint(f, y0, t)
except Reached: print(*files, sep="\\n")
"""


def test_the_way_to_the_first_evaluation():
    """In a process of its own: here, every function is wrapped by the checks of shapes."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    entered = [Path(line) for line in done.stdout.split()]
    table = [line.split()[0] for line in TRACE.strip().splitlines()]
    assert [path.relative_to(ROOT).as_posix() for path in entered] == table
    assert len(entered) <= 6
    assert sum(len(path.read_text().splitlines()) for path in entered) <= 900
