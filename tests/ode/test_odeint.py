"""The contract of `odeint` and `solve`: conventions, options, errors, cost."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nodes_tutorial.ode import METHODS, SolverError, odeint, solve
from nodes_tutorial.ode.solvers.prepare import prepare

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# fehlberg2 takes a 256th of its own error for the error: test_convention has its bound
ADAPTIVE = [name for name, tableau in METHODS.items() if tableau.b_error and name != "fehlberg2"]


def rotation(t, y):
    """y' = (y2, -y1), a turn by -t."""
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def turned(y0, t):
    cos, sin = math.cos(t), math.sin(t)
    return torch.stack(
        [cos * y0[..., 0] + sin * y0[..., 1], cos * y0[..., 1] - sin * y0[..., 0]], -1
    )


def starts(n=5, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64).to(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_in_order_and_at_their_times(method, per_sample, dtype, device):
    y0 = starts(dtype=dtype, device=device)
    rtol = 1e-4 if METHODS[method].order < 4 else 1e-6
    for times in ([0.0, 0.1, 0.11, 1.0, 2.5, 3.0], [3.0, 2.9, 0.0], [-1.0, 1.0]):
        t = torch.tensor(times, dtype=dtype, device=device)
        options = {"per_sample": per_sample}
        y = odeint(rotation, y0, t, rtol=rtol, atol=rtol, method=method, options=options)
        assert y.shape == (len(t), *y0.shape) and y.dtype == dtype and y.device == y0.device
        assert torch.equal(y[0], y0)
        exact = torch.stack([turned(y0, s - times[0]) for s in t.tolist()])
        assert (y - exact).abs().max() < 300 * rtol


def test_fixed_steps_end_at_the_outputs():
    t = torch.tensor([0.0, 0.25, 0.35, 1.0]).double()
    y = odeint(rotation, starts(), t, method="rk4", options={"step_size": 0.1})
    by_hand, at = starts(), 0.0
    for cuts, time in ((3, 0.25), (1, 0.35), (7, 1.0)):
        h = (time - at) / cuts
        for _ in range(cuts):
            k1 = rotation(0, by_hand)
            k2 = rotation(0, by_hand + h / 2 * k1)
            k3 = rotation(0, by_hand + h / 2 * k2)
            by_hand = by_hand + h / 6 * (k1 + 2 * k2 + 2 * k3 + rotation(0, by_hand + h * k3))
        at = time
    torch.testing.assert_close(y[-1], by_hand, rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, {"step_size": 0.05}])
def test_tuple_states_are_the_joined_state(options):
    y0 = starts()

    def pair(t, state):
        x, v = state
        return v, -x.unsqueeze(-1).squeeze(-1)

    t = torch.linspace(0, 2, 7).double()
    x, v = odeint(pair, (y0[:, 0], y0[:, 1]), t, options=options)
    joined = odeint(rotation, y0, t, options=options)
    assert x.shape == v.shape == (7, 5)
    torch.testing.assert_close(torch.stack([x, v], -1), joined, rtol=0, atol=1e-7)


def test_tuple_parts_may_differ_in_shape():
    def field(t, state):
        a, b = state
        return -a, b * t

    t = torch.tensor([0.0, 1.0, 2.0]).double()
    start = (torch.ones(2, 3).double(), torch.tensor(1.0).double())
    a, b = odeint(field, start, t)
    assert a.shape == (3, 2, 3) and b.shape == (3,)
    torch.testing.assert_close(a[:, 1, 2], torch.exp(-t), rtol=1e-6, atol=0)
    torch.testing.assert_close(b, torch.exp(t**2 / 2), rtol=1e-6, atol=0)


def stiffness(t, y):
    """Samples that need very different steps: y' = -rate * (y - cos t), rate kept in y."""
    value, rate = y.unbind(-1)
    return torch.stack([-rate * (value - torch.cos(t).reshape(-1)), torch.zeros_like(rate)], -1)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_sample_does_not_depend_on_its_batch_mates(method):
    """Bit for bit, states and step counts, with outputs inside the steps."""
    y0 = torch.tensor([[0.0, 1.0], [2.0, 30.0], [1.0, 200.0]]).double()
    t = torch.linspace(0, 1.5, 6).double()
    kwargs = dict(rtol=1e-4, atol=1e-4, method=method, options={"per_sample": True})
    together = solve(stiffness, y0, t, **kwargs)
    for i in range(3):
        alone = solve(stiffness, y0[i : i + 1], t, **kwargs)
        assert torch.equal(alone.y[:, 0], together.y[:, i])
        assert alone.accepted == together.accepted[i] and alone.rejected == together.rejected[i]
    assert together.accepted[2] > 1.5 * together.accepted[0]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_interpolate_anywhere(method, per_sample):
    t = torch.tensor([3.0, 1.0, 0.0]).double()
    kwargs = dict(rtol=1e-8, atol=1e-8, method=method, options={"per_sample": per_sample})
    solution = solve(rotation, starts(), t, **kwargs)
    wanted = torch.tensor([0.0, 2.0, 3.0, 1.0, 0.4]).double()
    exact = torch.stack([turned(starts(), s - 3.0) for s in wanted.tolist()])
    assert (solution.interpolate(wanted) - exact).abs().max() < 2e-6
    assert (solution.interpolate(t) - solution.y).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"t must be 1-D with times in \[0, 3\]"):
        solution.interpolate(torch.tensor([3.1]).double())


def test_record_of_a_solve():
    solution = solve(rotation, starts(), torch.tensor([0.0, 5.0]).double())
    assert solution.nfe == 2 + 6 * (solution.accepted + solution.rejected)
    assert len(solution.step_sizes) == solution.accepted
    torch.testing.assert_close(solution.step_times[1:], solution.step_sizes.cumsum(0)[:-1])
    torch.testing.assert_close(solution.step_sizes.sum().item(), 5.0)


def test_first_step_and_fixed_grid_of_an_adaptive_method():
    t = torch.tensor([0.0, 1.0]).double()
    first = solve(rotation, starts(), t, options={"first_step": 1e-3})
    assert first.step_sizes[0] == 1e-3
    grid = solve(rotation, starts(), t, options={"step_size": 0.1})
    assert grid.accepted == 10 and grid.rejected == 0 and grid.nfe == 61


BAD_CALLS = {
    "func is no function": (dict(func=3), TypeError, "func must be callable"),
    "y0 is a list": (dict(y0=[1.0]), TypeError, "y0 must be a tensor"),
    "y0 holds integers": (dict(y0=torch.ones(2, dtype=torch.int64)), TypeError, "y0 must be of"),
    "parts of two dtypes": (
        dict(y0=(torch.ones(1), torch.ones(1).double())),
        TypeError,
        "share dtype and device",
    ),
    "t is a list": (dict(t=[0.0, 1.0]), TypeError, "t must be a floating-point tensor"),
    "no time": (dict(t=torch.tensor([])), ValueError, "at least one time"),
    "t of two dimensions": (dict(t=torch.zeros(2, 2)), ValueError, "t must be 1-D"),
    "a time twice": (dict(t=torch.tensor([0.0, 1.0, 1.0])), ValueError, "strictly"),
    "there and back": (dict(t=torch.tensor([0.0, 1.0, 0.5])), ValueError, "strictly"),
    "NaN among the times": (dict(t=torch.tensor([0.0, math.nan])), ValueError, "strictly"),
    "unknown method": (dict(method="adams"), ValueError, "method must be one of euler"),
    "unknown gradient": (dict(gradient="magic"), ValueError, "gradient must be one of direct"),
    "unknown option": (dict(options={"stepsize": 1}), ValueError, "options knows step_size"),
    "negative tolerance": (dict(rtol=-1e-3), ValueError, "rtol must be a number >= 0"),
    "negative step": (
        dict(options={"step_size": -0.1}),
        ValueError,
        r"'step_size'\] must be a positive",
    ),
    "per-sample rk4": (
        dict(method="rk4", options={"per_sample": True}),
        ValueError,
        "needs an adaptive method",
    ),
    "per-sample adjoint": (
        dict(gradient="adjoint", options={"per_sample": True}),
        ValueError,
        "do not go together",
    ),
    "batches that differ": (
        dict(y0=(torch.ones(2), torch.ones(3)), options={"per_sample": True}),
        ValueError,
        "same first dimension",
    ),
    "wrong norm": (dict(options={"adjoint_norm": "max"}), ValueError, "'seminorm' or 'full'"),
    "field of another shape": (
        dict(func=lambda t, y: y.sum()),
        ValueError,
        r"func must return the shape of y: \(3, 2\), got \(\)",
    ),
    "field of another dtype": (
        dict(func=lambda t, y: y.double()),
        TypeError,
        "func must return the dtype of y: torch.float32, got torch.float64",
    ),
    "field that returns a number": (dict(func=lambda t, y: 0.0), TypeError, "must return tensors"),
    "field that drops a part": (
        dict(func=lambda t, y: y[:1], y0=(torch.ones(1), torch.ones(1))),
        ValueError,
        "func must return a tuple of 2 tensors",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_names_the_argument(case):
    change, kind, message = BAD_CALLS[case]
    call = dict(func=rotation, y0=torch.ones(3, 2), t=torch.tensor([0.0, 1.0])) | change
    func, y0, t = call.pop("func"), call.pop("y0"), call.pop("t")
    with pytest.raises(kind, match=message):
        # First the checks alone: the annotations of `odeint` are themselves checked in tests.
        arguments = dict(method="dopri5", rtol=1e-7, atol=1e-9, options=None, gradient="direct")
        problem, _ = prepare(func, y0, t, **arguments | call)
        problem.first_slope()


@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
class TestFailuresOfASolve:
    t = torch.tensor([0.0, 2.0]).double()

    def test_blow_up(self, options):
        """y' = y^2 from 1 reaches infinity at t = 1."""
        with pytest.raises(SolverError, match=r"underflow|NaN") as caught:
            odeint(lambda t, y: y**2, torch.ones(1, 1).double(), self.t, options=options)
        assert abs(caught.value.t - 1.0) < 1e-6
        assert abs(caught.value.step) < 1e-10 and caught.value.norm > 1e6

    def test_nan_beyond_a_point(self, options):
        with pytest.raises(SolverError, match="NaN") as caught:
            odeint(
                lambda t, y: torch.sqrt(1 - t) + 0 * y,
                torch.ones(2).double(),
                self.t,
                options=options,
            )
        assert abs(caught.value.t - 1.0) < 1e-3

    def test_nan_from_the_start(self, options):
        with pytest.raises(SolverError, match="NaN"):
            odeint(lambda t, y: y * math.nan, torch.ones(2, 1).double(), self.t, options=options)

    def test_too_many_steps(self, options):
        with pytest.raises(SolverError, match="max_steps = 5 exceeded") as caught:
            odeint(rotation, starts(), self.t, options=options | {"max_steps": 5})
        assert 0.0 < caught.value.t < 2.0


def test_fixed_steps_that_blow_up():
    with pytest.raises(SolverError, match="NaN or Inf at t = 3"):
        t = torch.tensor([0.0, 1.0, 3.0, 4.0]).double()
        odeint(
            lambda t, y: y**3,
            torch.full((1,), 1.2).double(),
            t,
            method="euler",
            options={"step_size": 0.1},
        )


def test_more_fixed_steps_than_allowed():
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="the grid has 100 steps"):
        odeint(
            rotation, torch.ones(2), t, method="rk4", options={"step_size": 0.01, "max_steps": 9}
        )


def test_function_transforms_pass_through_fixed_steps():
    t = torch.tensor([0.0, 1.0]).double()

    def final(y0):
        return odeint(rotation, y0, t, method="rk4", options={"step_size": 0.05})[-1]

    turn = torch.tensor([[math.cos(1), math.sin(1)], [-math.sin(1), math.cos(1)]]).double()
    jacobian = torch.func.jacrev(final)(starts()[0])
    torch.testing.assert_close(jacobian, turn, rtol=0, atol=1e-6)
    _, tangent = torch.func.jvp(final, (starts()[0],), (torch.ones(2).double(),))
    torch.testing.assert_close(tangent, turn.sum(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(final)(starts()), final(starts()))


class Count(TorchDispatchMode):
    """Counts operations that reach the backend, but not those of the field."""

    def __init__(self):
        super().__init__()
        self.count, self.outside = 0, True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += self.outside
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("per_sample", "limit"), [(False, 39), (True, 78)])
def test_own_operations_of_a_step(per_sample, limit):
    """The solver's own cost, free of noise: backend operations a dopri5 step beside the field's."""
    counter = Count()

    def field(t, y):
        counter.outside = False
        dy = rotation(t, y)
        counter.outside = True
        return dy

    costs = []
    for end in (5.0, 25.0):
        t = torch.tensor([0.0, end])
        kwargs = dict(rtol=1e-5, atol=1e-5, options={"per_sample": per_sample})
        steps = (solve(rotation, starts(dtype=torch.float32), t, **kwargs).nfe - 2) // 6
        counter.count = 0
        with torch.no_grad(), counter:
            odeint(field, starts(dtype=torch.float32), t, **kwargs)
        costs.append((steps, counter.count))
    (few, cheap), (many, dear) = costs
    assert (dear - cheap) / (many - few) <= limit


def test_import_is_light():
    """Nothing heavy comes along: not at import, and torch not even for the command line's help."""
    heavy = "scipy sklearn matplotlib pandas sympy pooch tqdm IPython torch._dynamo jax"
    probe = (
        "import sys, torch; before = set(sys.modules); import nodes_tutorial.ode, "
        "nodes_tutorial.nets, nodes_tutorial.linalg; "
        f"print(*[m for m in {heavy.split()} if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    probe = (
        "import sys, runpy; sys.argv = ['nodes_tutorial', '--version']\n"
        "try: runpy.run_module('nodes_tutorial', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


CASES = Path(__file__).with_name("compiled_cases.py")


@pytest.mark.parametrize("case", re.findall(r"^def (\w+)\(\):", CASES.read_text(), re.MULTILINE))
def test_compiled(case):
    """In a process of its own: what tests check at run time is not for the compiler."""
    done = subprocess.run([sys.executable, CASES, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_part_of_a_tuple_is_checked():
    """A transposed part has as many entries as the right one."""
    y0 = (torch.ones(2, 3), torch.ones(4))
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match=r"the shape of y: \(2, 3\), got \(3, 2\)"):
        odeint(lambda t, y: (y[0].T, y[1]), y0, t)
    with pytest.raises(TypeError, match="func must return the dtype of y"):
        odeint(lambda t, y: (y[0], y[1].double()), y0, t)


def test_the_norm_of_a_failure_is_that_of_the_last_good_output():
    t, options = torch.tensor([0.0, 1.0, 3.0, 4.0]).double(), {"step_size": 0.1}
    y0, kwargs = torch.full((2,), 1.2).double(), dict(method="euler", options=options)
    with pytest.raises(SolverError) as caught:
        odeint(lambda t, y: y**3 * (t < 5), y0, t, **kwargs)
    good = odeint(lambda t, y: y**3, y0, t[:2], **kwargs)[-1]
    assert caught.value.norm == pytest.approx(good.square().mean().sqrt().item(), rel=1e-12)


def test_the_first_step_is_the_one_of_the_formula():
    """Joint and own steps have an implementation each; a batch of one must get the same step."""
    t, y0 = torch.tensor([0.0, 3.0]).double(), starts(1)
    joint = solve(rotation, y0, t).step_sizes[0].item()
    own = solve(rotation, y0, t, options={"per_sample": True}).step_sizes[0].item()
    assert own == pytest.approx(joint, rel=1e-2)
    # |y'| = |y''| = |y| here, so by hand: h = (0.3 / (|y| / scale))^(1/5)
    scale = 1e-9 + 1e-7 * y0.abs()
    size = (rotation(0, y0) / scale).square().mean().sqrt()
    turned_twice = (y0 / scale).square().mean().sqrt()
    by_hand = (0.3 / torch.maximum(size, turned_twice)) ** 0.2
    assert joint == pytest.approx(by_hand.item(), rel=1e-3)
