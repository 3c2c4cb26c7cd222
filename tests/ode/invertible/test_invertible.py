"""Claims of the chapter on paths that never meet, and the loop that inverts a layer."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nodes_tutorial.ode.invertible import invert_layer
from nodes_tutorial.ode.residual.convergence import field_constants
from nodes_tutorial.ode.residual.network import ResidualNet, residual_states
from nodes_tutorial.ode.residual.picard import picard_step
from tests.ode.residual_cases import exact, gen, smooth_net

# --- trajectories ------------------------------------------------------------------------------


@pytest.mark.claim("thm-invertible-trajectories")
def test_trajectories_keep_their_distance(measured):
    net = smooth_net(seed=1, scale=1.5)
    K = field_constants(net, radius=10.0).K
    y0 = torch.randn(30, 2, generator=gen(2), dtype=torch.float64)
    t = np.linspace(0, 1, 11)
    y = exact(net, y0, t)
    apart = torch.cdist(y, y) / torch.cdist(y0, y0).fill_diagonal_(1)
    for time, ratio in zip(t, apart, strict=True):
        ratio = ratio[~torch.eye(30, dtype=torch.bool)]
        assert (ratio >= math.exp(-K * time)).all() and (ratio <= math.exp(K * time)).all()
    for sign in (-1, 1):  # both bounds are attained
        sol = solve_ivp(lambda s, y, k=3.0 * sign: k * y, (0, 1), [1, 2], rtol=1e-12, atol=1e-14)
        ratio = sol.y[1, -1] - sol.y[0, -1]
        error = abs(ratio / math.exp(3 * sign) - 1)
        assert measured(error, "extreme case against e^(+-Kt)") < 1e-9


@pytest.mark.claim("thm-invertible-trajectories")
def test_trajectories_of_a_field_that_is_not_lipschitz_meet():
    """y' = -2 sign(y) sqrt|y|: (1-t)^2 and -(1-t)^2 both solve it and both are 0 at t = 1."""
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    for sign in (1, -1):
        y = sign * (1 - t) ** 2
        image = picard_step(lambda s, y: -2 * y.sign() * y.abs().sqrt(), y, t[:, 0])
        assert (image - y).abs().max() < 1e-12
        assert y[-1] == 0


@pytest.mark.claim("thm-invertible-trajectories")
def test_paths_may_cross_in_space_at_different_times():
    """y' = 2 pi (-sin 2 pi t, cos 2 pi t): circles through (0.6, 0.8) at two times, 1.2 apart."""
    early = math.acos(0.6) / (2 * math.pi)
    times = [early, 0.5 - early]
    paths = []
    for start in ([1.0, 0.0], [2.2, 0.0]):
        sol = solve_ivp(
            lambda s, y: 2 * np.pi * np.array([-np.sin(2 * np.pi * s), np.cos(2 * np.pi * s)]),
            (0, 1),
            start,
            "DOP853",
            times,
            rtol=1e-12,
            atol=1e-12,
        )
        paths.append(sol.y.T)
    assert np.abs(paths[0][0] - [0.6, 0.8]).max() < 1e-9
    assert np.abs(paths[1][1] - [0.6, 0.8]).max() < 1e-9
    assert np.abs(np.linalg.norm(paths[0] - paths[1], axis=1) - 1.2).max() < 1e-9


@pytest.mark.claim("cor-invertible-order")
def test_order_is_kept_in_one_dimension(measured):
    start = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    for seed in range(5):
        net = smooth_net(seed, dim=1, width=16, scale=3.0)
        end = exact(net, start)[-1]
        assert (end.diff(dim=0) > 0).all()
    # closed form: y' = -K y keeps the order of -1 and 1 for ever; one layer with h K > 1 does not
    K, ends = 3.0, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    flow = math.exp(-K) * ends
    sol = solve_ivp(lambda s, y: -K * y, (0, 1), [-1, 1], rtol=1e-12, atol=1e-14)
    assert measured(np.abs(sol.y[:, -1] - flow[:, 0].numpy()).max(), "flow of -Ky") < 1e-10
    assert sol.y[0, -1] < sol.y[1, -1]
    layer = residual_states([lambda y: -K * y], ends, 1.0)[-1]
    assert layer[0] > layer[1]


# --- invertibility and gradients ---------------------------------------------------------------


@pytest.mark.claim("prop-invertible-layer")
def test_deep_enough_network_is_invertible(measured):
    net = smooth_net(3, scale=1.5)
    K = field_constants(net, 1.0).K
    depth = math.floor(K) + 1
    net = ResidualNet(2, 8, depth, modes=3, scale=1.5, generator=gen(3)).double()
    x = torch.randn(500, 2, generator=gen(4), dtype=torch.float64)
    with torch.no_grad():
        z = net(x)
        assert measured((net.inverse(z) - x).abs().max(), "inverse of the network") < 1e-9
        states, q = net.states(x), K / depth
        for before, after in itertools.pairwise(states):
            ratio = torch.pdist(after) / torch.pdist(before)
            assert ratio.min() >= 1 - q and ratio.max() <= 1 + q


@pytest.mark.claim("prop-invertible-layer")
def test_larger_steps_collapse_and_swap(measured):
    K, x = 2.0, torch.tensor([[-1.0], [0.5], [1.0]], dtype=torch.float64)

    def layer(h):
        return residual_states([lambda y: -K * y], x, h)[-1]

    assert measured(layer(1 / K).abs().max(), "h K = 1 collapses to one point") < 1e-12
    assert (layer(0.99 / K).diff(dim=0) > 0).all()
    assert (layer(1.01 / K).diff(dim=0) < 0).all()
    assert torch.allclose(invert_layer(lambda y: -K * y, layer(0.9 / K), 0.9 / K), x, atol=1e-9)
    with pytest.raises(RuntimeError, match="h K < 1"):
        invert_layer(lambda y: -K * y, layer(1.5 / K), 1.5 / K)


@pytest.mark.claim("prop-invertible-layer")
def test_crossing_comes_before_instability(measured):
    """On y' = -Ky a step multiplies by 1 - hK: it crosses above hK = 1 and grows above hK = 2."""
    K, one = 10.0, torch.ones(1, 1, dtype=torch.float64)
    for hK, crosses, grows in ((0.9, False, False), (1.1, True, False), (2.1, True, True)):
        path = residual_states([lambda y: -K * y] * 30, one, hK / K).flatten()
        closed = (1 - hK) ** torch.arange(31, dtype=torch.float64)
        assert measured((path / closed - 1).abs().max(), "powers of 1 - hK") < 1e-12
        assert bool((path < 0).any()) == crosses and bool(path[-1].abs() > 1) == grows


@pytest.mark.claim("prop-invertible-gradient")
def test_gradient_stays_between_the_bounds(measured):
    g = torch.randn(200, 2, generator=gen(1), dtype=torch.float64)
    net = smooth_net(4, scale=1.2)
    K = field_constants(net, 1.0).K
    for L in (math.floor(K) + 1, 64, 512):
        x = torch.randn(200, 2, generator=gen(6), dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(net.states(x, depth=L)[-1], x, g)
        ratio = grad.norm(dim=1) / g.norm(dim=1)
        assert ratio.min() >= math.exp(-K / (1 - K / L)) and ratio.max() <= math.exp(K)
    # the lower bound is met: f = -K y multiplies the gradient by (1 - K/L)^L -> e^{-K}
    for K in (1.0, 10.0):
        x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        L = 10**4
        end = residual_states([lambda y, K=K: -K * y] * L, x, 1 / L)[-1]
        (grad,) = torch.autograd.grad(end.sum(), x)
        assert measured(abs(grad.item() / (1 - K / L) ** L - 1), "gradient of f = -Ky") < 1e-9
        assert abs(grad.item() / math.exp(-K) - 1) < K * K / L
        # and so is the upper one, by f = K y
        end = residual_states([lambda y, K=K: K * y] * L, x, 1 / L)[-1]
        (grad,) = torch.autograd.grad(end.sum(), x)
        assert (1 - K * K / L) * math.exp(K) < grad.item() <= math.exp(K)


@pytest.mark.claim("prop-invertible-gradient")
def test_skip_connection_alone_does_not_save_the_gradient():
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    for factor, size in ((-1.0, 0.0), (1.0, 2.0**20)):  # h = 1, twenty layers: gone, or 2^20
        end = residual_states([lambda y, k=factor: k * y] * 20, x, 1.0)[-1]
        (grad,) = torch.autograd.grad(end.sum(), x)
        assert grad.item() == size
