"""Claims of the chapter on augmented neural ODEs: what a flow cannot do, and what room gives it."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial import data
from nodes_tutorial.data.nested import flip, nested_spheres
from nodes_tutorial.nets import TimeMLP
from nodes_tutorial.ode import METHODS, odeint
from nodes_tutorial.ode.augmented.model import AugmentedODE, lift, pad, shear

ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def node(dim, dims, seed=0, scale=1.0, **options):
    """A random network in double precision, its field made steeper by ``scale``."""
    kind = {"hidden": (16, 16), "activation": "tanh", "dtype": torch.float64, **TIGHT, **options}
    net = AugmentedODE(dim, dims, generator=rng(seed), **kind)
    with torch.no_grad():
        for weight in net.field.parameters():
            weight.mul_(scale)
    return net


def by_scipy(net, x):
    """Final states by scipy's DOP853, from numpy copies of the weights."""
    layers = [
        (w[0].detach().numpy(), b[0, 0].detach().numpy())
        for w, b in zip(net.field.weights, net.field.biases, strict=True)
    ]
    y0 = np.pad(x.numpy(), ((0, 0), (0, net.dims)))

    def rhs(t, y):
        h = np.concatenate([y.reshape(y0.shape), np.full((len(y0), 1), t)], 1)
        for i, (w, b) in enumerate(layers):
            h = (np.tanh(h) if i else h) @ w + b
        return h.ravel()

    run = solve_ivp(rhs, (0, 1), y0.ravel(), "DOP853", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(run.y[:, -1].reshape(y0.shape))


def sphere(dim, n, radius=1.0):
    """Points of a sphere: both ends, evenly spaced angles, or a Fibonacci lattice."""
    if dim == 1:
        return radius * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    k = torch.arange(n, dtype=torch.float64)
    if dim == 2:
        angle = k * (math.tau / n)
        return radius * torch.stack([angle.cos(), angle.sin()], 1)
    z, angle = 1 - (2 * k + 1) / n, k * math.pi * (3 - math.sqrt(5))
    flat = (1 - z**2).sqrt()
    return radius * torch.stack([flat * angle.cos(), flat * angle.sin(), z], 1)


# --- what a flow cannot do ----------------------------------------------------------------------


@pytest.mark.claim("thm-augmented-flip")
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_flow_on_the_line_keeps_order_and_pays_for_it(seed, measured):
    net = node(1, 0, seed, scale=3.0)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    y = net.states(x, ENDS)[-1]
    assert measured((y - by_scipy(net, x)).abs().max(), "flow against scipy") < 1e-7
    assert (y.diff(dim=0) > 0).all()
    a, b = y[10, 0], y[30, 0]
    assert ((a - 1) ** 2 + (b + 1) ** 2) / 2 > 1
    target = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert torch.nn.functional.smooth_l1_loss(torch.stack([a, b]), target) > 0.5
    g = net(x)[:, 0]  # an affine read-out: strictly monotone
    assert (g.diff() > 0).all() or (g.diff() < 0).all()
    assert max((g[20] + 1).abs(), (g[[10, 30]] - 1).abs().max()) >= 1  # -1 between two ones


@pytest.mark.claim("thm-augmented-flip")
def test_floor_of_the_flip_is_sharp_and_the_read_out_escapes(measured):
    """y' = -ky squeezes both points to 0, so the floors 1 and 1/2 are limits; a sign is free."""
    x, y = flip(2, dtype=torch.float64)
    for k in (1.0, 5.0, 20.0):
        end = odeint(lambda t, z, k=k: -k * z, x, ENDS, **TIGHT)[-1]
        # (a - 1)^2 with a = -e^-k, at both points
        gap = (end - y).square().mean() - (1 + math.exp(-k)) ** 2
        assert measured(gap.abs(), "squared loss against its closed form") < 1e-9
    assert (end - y).square().mean() - 1 < 1e-7
    assert torch.nn.functional.smooth_l1_loss(end, y) - 0.5 < 1e-7
    still = AugmentedODE(1, 0, field=lambda t, z: 0 * z, dtype=torch.float64)
    with torch.no_grad():
        still.readout.weights[0].fill_(-1.0)
        still.readout.biases[0].zero_()
    assert torch.equal(still(x), y)  # the read-out -x of the flow that stands still
    # one Euler step with h K > 1 crosses: the statement is about the flow, not about the network
    stepped = odeint(lambda t, z: -2 * z, x, ENDS, method="euler", options={"step_size": 1.0})
    assert torch.equal(stepped[-1], y)


@pytest.mark.claim("thm-augmented-spheres")
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_maximum_principle_of_a_flow_with_affine_read_out(dim, seed, measured):
    # 1e-8: one solve of all points at once, which no bound below needs more of
    net = node(dim, 0, seed, scale=2.0, rtol=1e-8, atol=1e-10)
    ball = torch.randn(100, dim, generator=rng(seed), dtype=torch.float64)
    ball = 0.9 * ball / (1 + ball.norm(dim=1, keepdim=True))
    answers = net(torch.cat([ball, sphere(dim, 400)]))[:, 0]
    inside, rim = answers[:100], answers[100:]
    far = net.readout(by_scipy(net, ball[:5])[None])[0, :, 0]
    assert measured((inside[:5] - far).abs().max(), "read-out against scipy") < 1e-6
    assert rim.min() < inside.min() and inside.max() < rim.max()
    assert max((inside + 1).abs().max(), (rim - 1).abs().max()) >= 1
    # with one more coordinate the principle is gone: the lifted bowl has its minimum inside
    bowl = lift(lambda x: 4 * x.norm(dim=-1, keepdim=True) - 3, dim)
    low = odeint(bowl, pad(ball, 1), ENDS)[-1, :, -1]
    high = odeint(bowl, pad(sphere(dim, 50), 1), ENDS)[-1, :, -1]
    assert low.min() < 0 < high.min()


@pytest.mark.claim("thm-augmented-spheres")
@torch.no_grad()
def test_a_perfect_fit_of_a_sample_does_not_beat_the_maximum_principle():
    """A flow that has all of 60 points exactly right fails on the whole circle."""
    x, y = nested_spheres(15, 45, generator=rng(1), dtype=torch.float64)
    net = AugmentedODE(2, 0, field=shear(x, y[:, 0]), dtype=torch.float64, method="euler")
    net.options = {"step_size": 1.0}  # exact for a shear
    net.readout.weights[0].copy_(torch.tensor([[[0.0], [1.0]]]))
    net.readout.biases[0].zero_()
    assert (net(x) - y).abs().max() < 1e-12
    for radius in (0.6, 1.0, 1.5):
        inside = net(radius * torch.rand(500, 1, dtype=torch.float64) * sphere(2, 500))
        rim = net(sphere(2, 20_000, radius))
        assert rim.min() <= inside.min() + 1e-2 and inside.max() <= rim.max() + 1e-2
    center = net(torch.zeros(1, 2, dtype=torch.float64))
    assert max((center + 1).abs().max(), (net(sphere(2, 20_000)) - 1).abs().max()) >= 1


@pytest.mark.claim("thm-augmented-spheres")
@torch.no_grad()
def test_maximum_principle_of_a_flow_that_is_far_from_affine():
    """Two strong waves, one after the other, and the principle on balls of three sizes."""

    def field(t, y):
        first, second = y[:, :1], y[:, 1:]
        early = torch.cat([0 * first, 3 * torch.sin(4 * first)], 1)
        late = torch.cat([3 * torch.sin(2 * second + 1), 0 * second], 1)
        return (1 - t) * early + t * late

    inside = torch.randn(1000, 2, generator=rng(1), dtype=torch.float64)
    inside = inside / (1 + inside.norm(dim=1, keepdim=True))
    for radius in (0.7, 1.3):
        points = torch.cat([radius * inside, sphere(2, 8000, radius)])
        end = odeint(field, points, ENDS, rtol=1e-7, atol=1e-9)[-1]
        answers = end @ torch.tensor([0.6, -0.8], dtype=torch.float64)
        ball, rim = answers[:1000], answers[1000:]
        assert rim.min() < ball.min() and ball.max() < rim.max()
        plane = torch.cat([points[:1000], torch.ones(1000, 1, dtype=torch.float64)], 1)
        rest = ball - plane @ torch.linalg.lstsq(plane, ball[:, None]).solution[:, 0]
        assert rest.var() > 0.5 * ball.var(), "the answer is far from affine"
        # the distance from an inner image is no affine read-out: it is least inside
        size = (end - end[0]).norm(dim=1)
        assert size[:1000].min() < size[1000:].min() - 1e-2


@pytest.mark.claim("prop-augmented-finite")
@pytest.mark.parametrize("dim", [2, 4])
def test_shear_fits_any_finite_sample(dim, measured):
    x = torch.randn(40, dim, generator=rng(2), dtype=torch.float64)
    y = torch.randn(40, generator=rng(3), dtype=torch.float64)
    end = odeint(shear(x, y), x, ENDS, method="euler", options={"step_size": 1.0})[-1]
    assert measured((end[:, 1] - y).abs().max(), "targets") < 1e-12
    kept = [0, *range(2, dim)]
    assert torch.equal(end[:, kept], x[:, kept])
    # between the points: the same shift as numpy's linear interpolation
    z = torch.randn(300, dim, generator=rng(4), dtype=torch.float64)
    nodes, order = x[:, 0].sort()
    shift = np.interp(z[:, 0].numpy(), nodes.numpy(), (y - x[:, 1])[order].numpy())
    end = odeint(shear(x, y), z, ENDS, **TIGHT)[-1]
    error = (end[:, 1] - z[:, 1] - torch.from_numpy(shift)).abs().max()
    assert measured(error, "against numpy.interp") < 1e-12
    back = odeint(shear(x, y), end, ENDS.flip(0), **TIGHT)[-1]
    assert (back - z).abs().max() < 1e-12
    wrong = odeint(shear(x, y + x[:, 1]), x, ENDS)[-1]  # shifts that forget where the points are
    assert (wrong[:, 1] - y).abs().max() > 1


def test_shear_says_what_it_needs():
    x = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    for bad in (x, x[:, :1]):
        with pytest.raises(ValueError, match="x must have two or more columns and distinct"):
            shear(bad, torch.zeros(2))


# --- what room gives ----------------------------------------------------------------------------


def step(x):
    """-1 for |x| <= 1/2, 1 for |x| >= 1, linear between: Lipschitz."""
    return (4 * x.norm(dim=-1, keepdim=True) - 3).clamp(-1, 1)


@pytest.mark.claim("thm-augmented-suffices")
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_one_coordinate_is_enough(dim, method, measured):
    x, y = nested_spheres(200, 300, dim, rng(5), dtype=torch.float64)
    options = {"step_size": 1.0} if method == "euler" else {}
    net = AugmentedODE(
        dim, 1, field=lift(step, dim), method=method, options=options, dtype=torch.float64
    )
    end = net.states(x, ENDS)[-1]
    assert torch.equal(end[:, :dim], x)
    assert measured((end[:, dim:] - y).abs().max(), f"lifted targets, {method}") < 1e-14
    if dim == 1:
        x, y = flip(4, rng(), noise=0.1, dtype=torch.float64)
        end = odeint(lift(torch.neg, 1), pad(x, 1), ENDS)[-1]
        assert (end[:, 1:] + x).abs().max() < 1e-14
    # the same field without the room, x' = g(x) - x, does not arrive
    short = odeint(lambda t, z: step(z) - z, x, ENDS, **TIGHT)[-1]
    assert (short[:, :1] - step(x)).abs().max() > 0.1


@pytest.mark.claim("cor-augmented-embedding")
@pytest.mark.parametrize("dims", [0, 1, 3])
@torch.no_grad()
def test_augmented_flow_forgets_nothing(dims, measured):
    net = node(2, dims, 6, scale=2.0)
    x = torch.randn(100, 2, generator=rng(7), dtype=torch.float64)
    end = net.states(x, ENDS)[-1]
    assert (end - by_scipy(net, x)).abs().max() < 1e-7
    start = odeint(lambda t, y: net._field(t, y), end[None], ENDS.flip(0), **TIGHT)[-1, 0]
    assert measured((start - pad(x, dims)).abs().max(), "way back to (x, 0)") < 1e-7
    norms = [torch.linalg.matrix_norm(w[0], 2) for w in net.field.weights]
    bound = math.exp(float(torch.stack(norms).prod()))
    ratio = torch.pdist(end) / torch.pdist(x)
    assert 1 / bound <= ratio.min() and ratio.max() <= bound
    # the read-out does forget: an even function takes the same value at x and -x
    even = odeint(lift(step, 2), pad(torch.cat([x, -x]), 1), ENDS)[-1, :, 2]
    assert torch.equal(even[:100], even[100:])


@pytest.mark.claim("cor-augmented-embedding")
@pytest.mark.parametrize("sign", [1, -1])
def test_distances_attain_both_factors(sign, measured):
    """The field K y stretches all distances by e^K, the field -K y shrinks them by e^-K."""
    constant = 1.3
    x = torch.randn(20, 2, generator=rng(7), dtype=torch.float64)
    field = lambda t, y: sign * constant * y  # noqa: E731
    net = AugmentedODE(2, 1, field=field, dtype=torch.float64, **TIGHT)
    ratio = torch.pdist(net.states(x, ENDS)[-1]) / torch.pdist(x)
    error = (ratio - math.exp(sign * constant)).abs().max()
    assert measured(error, "factor of distances against its bound") < 1e-7


# --- the module ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [0, 2])
def test_matches_a_time_mlp_solved_by_hand(dims):
    tighter = {"rtol": 1e-11, "atol": 1e-13}  # a kink of the field costs two digits
    net = AugmentedODE(2, dims, hidden=(8,), generator=rng(8), dtype=torch.float64, **tighter)
    field = TimeMLP(2 + dims, [8], "relu", rng(8), dtype=torch.float64)
    x = torch.randn(5, 2, generator=rng(9), dtype=torch.float64)
    by_hand = odeint(field, pad(x, dims), ENDS, **tighter)[-1]
    torch.testing.assert_close(net.states(x, ENDS)[-1], by_hand)
    assert net(x).shape == (5, 1)


@pytest.mark.parametrize("dims", [0, 1])
def test_stacked_networks_do_not_see_each_other(dims):
    """Values, gradients and counts of a stack are those of its networks alone."""
    kind = {"hidden": (8, 8), "dtype": torch.float64, "rtol": 1e-5, "atol": 1e-5}
    stack = AugmentedODE(2, dims, generator=[rng(s) for s in (0, 1, 2)], **kind)
    with torch.no_grad():
        stack.field.weights[0][1].mul_(20)  # one needs many more steps
    x = torch.randn(6, 2, generator=rng(9), dtype=torch.float64)
    stack(x).square().sum().backward()
    counts = stack.nfe(x)
    assert counts.shape == (3,) and counts[1] > counts[0]
    for i in range(3):
        one = AugmentedODE(2, dims, generator=[rng(i)], **kind)
        with torch.no_grad():
            for mine, theirs in zip(one.parameters(), stack.parameters(), strict=True):
                mine.copy_(theirs[i : i + 1])
        out = one(x)
        torch.testing.assert_close(out[0], stack(x)[i], rtol=1e-10, atol=1e-12)
        assert one.nfe(x).item() == counts[i]
        out.square().sum().backward()
        for mine, theirs in zip(one.parameters(), stack.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[0], theirs.grad[i], rtol=1e-8, atol=1e-10)
    own = torch.randn(3, 6, 2, generator=rng(10), dtype=torch.float64)
    torch.testing.assert_close(stack(own)[2], stack(own[2])[2])


def test_fixed_steps_count_too():
    two = AugmentedODE(1, 1, generator=[rng(0), rng(1)], method="rk4", options={"step_size": 0.5})
    assert two.nfe(torch.zeros(3, 1)).tolist() == [8, 8]


def test_a_tableau_counts_as_its_name_does():
    x = torch.randn(3, 1, generator=rng(1))
    named, own = (
        AugmentedODE(1, 1, generator=rng(0), method=m) for m in ("bosh3", METHODS["bosh3"])
    )
    assert own.nfe(x).item() == named.nfe(x).item() > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 0, "dims": 1}, "dim and outputs must be at least 1"),
        ({"dim": 1, "dims": -1}, "dims must be at least 0"),
        ({"dim": 1, "dims": 1, "generator": []}, "generator must be one"),
        ({"dim": 1, "dims": 1, "generator": [rng()], "field": torch.neg}, "without field"),
        ({"dim": 1, "dims": 1, "activation": "step"}, "activation must be one of"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentedODE(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    stack = AugmentedODE(2, 1, generator=[rng(0), rng(1)]).cuda()
    x = torch.randn(6, 2, generator=rng(9))
    torch.testing.assert_close(stack(x.cuda()).cpu(), stack.cpu()(x), rtol=1e-3, atol=1e-4)


# --- the data -----------------------------------------------------------------------------------


def test_published_shell_is_not_uniform():
    """Mean radii 4/3 and 19/15 in the plane, within four standard errors of 200,000 points."""
    n = 200_000
    for uniform, mean in ((False, 4 / 3), (True, 19 / 15)):
        x, y = nested_spheres(n, n, generator=rng(), uniform=uniform, dtype=torch.float64)
        radius = x.norm(dim=1)
        assert y[:n].eq(-1).all() and y[n:].eq(1).all()
        assert radius[:n].max() <= 0.5 and 1 <= radius[n:].min() <= radius.max() <= 1.5
        for part, expected in ((radius[:n], 1 / 3), (radius[n:], mean)):
            assert abs(part.mean() - expected) < 4 * part.std() / n**0.5


def test_generators_follow_their_generator():
    for make in (lambda g: flip(5, g, noise=0.2), lambda g: nested_spheres(4, 5, 3, g)):
        (a, ya), (b, yb), (c, _) = make(rng(0)), make(rng(0)), make(rng(1))
        assert torch.equal(a, b) and torch.equal(ya, yb) and not torch.equal(a, c)
        assert a.dtype == torch.float32
    assert data.nested.flip(2)[0].flatten().tolist() == [-1, 1]
    for bad in ({"inner": 0, "outer": 1}, {"inner": 1, "outer": 1, "dim": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            nested_spheres(**bad)
    with pytest.raises(ValueError, match="radii must satisfy"):
        nested_spheres(1, 1, radii=(1.0, 0.5, 2.0))
    with pytest.raises(ValueError, match="n must be at least 1"):
        flip(0)
    with pytest.raises(ValueError, match="noise must be at least 0"):
        flip(1, noise=-1.0)
