"""The four targets on a box with walls, and the reverse divergence."""

import math

import numpy as np
import pytest
import torch

from nodes_tutorial.flows import (
    ENERGIES,
    BoxTarget,
    Flow,
    Gaussian,
    PlanarTransform,
    StandardNormal,
    reverse_kl,
)

F64 = torch.float64
LOG_Z = {"U1": 1.8775, "U2": 2.0821, "U3": 2.6417, "U4": 2.6846}
ENTROPY = {"U1": 2.6600, "U2": 2.5821, "U3": 2.6267, "U4": 2.7662}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rule(ends, panels, order=20):
    """Gauss-Legendre nodes and weights on [ends]."""
    node, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(order))
    half = (ends[1] - ends[0]) / panels / 2
    middle = ends[0] + half * (2 * torch.arange(panels, dtype=F64) + 1)
    return (middle[:, None] + half * node).flatten(), (half * weight).repeat(panels)


def whole_plane(wall):
    """Nodes on the box and, separately, on the walls beyond it, where the density has a kink."""
    pieces = [rule((-4 - 12 * wall, -4), 4), rule((-4, 4), 20), rule((4, 4 + 12 * wall), 4)]
    x, w = (torch.cat(part) for part in zip(*pieces, strict=True))
    return torch.cartesian_prod(x, x), torch.cartesian_prod(w, w).prod(1)


def numpy_energy(name, x, y):
    """The energies written a second time."""
    w1 = np.sin(2 * np.pi * x / 4)
    w2 = 3 * np.exp(-0.5 * ((x - 1) / 0.6) ** 2)
    w3 = 3 / (1 + np.exp(-(x - 1) / 0.3))
    bump = lambda v, s: np.exp(-0.5 * (v / s) ** 2)  # noqa: E731
    return {
        "U1": lambda: (
            0.5 * ((np.hypot(x, y) - 2) / 0.4) ** 2 - np.log(bump(x - 2, 0.6) + bump(x + 2, 0.6))
        ),
        "U2": lambda: 0.5 * ((y - w1) / 0.4) ** 2,
        "U3": lambda: -np.log(bump(y - w1, 0.35) + bump(y - w1 + w2, 0.35)),
        "U4": lambda: -np.log(bump(y - w1, 0.4) + bump(y - w1 + w3, 0.35)),
    }[name]()


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_and_box_constants(name, measured):
    target = BoxTarget(name, dtype=F64)
    x = (np.arange(1600) + 0.5) * (8 / 1600) - 4
    grid = np.meshgrid(x, x, indexing="ij")
    energy = numpy_energy(name, *grid)
    ours = target.energy(torch.from_numpy(np.stack(grid, -1)))
    near = energy < 50  # beyond, the second version underflows
    assert measured(np.abs(ours.numpy() - energy)[near].max(), "energy") < 1e-9
    mass = np.exp(-energy) * (8 / 1600) ** 2
    log_z = math.log(mass.sum())
    entropy = log_z + (mass * np.where(near, energy, 0)).sum() / mass.sum()
    # the midpoint rule does not see the edge better than this
    assert measured(abs(target.log_z_box - log_z), "log Z") < 1e-5
    assert measured(abs(target.entropy_box - entropy), "entropy") < 1e-5
    assert abs(target.log_z_box - LOG_Z[name]) < 5.1e-5
    assert abs(target.entropy_box - ENTROPY[name]) < 5.1e-5


@pytest.mark.claim("prop-density-walls")
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("wall", [0.1, 0.4])
def test_walls_integrate_to_one_and_cost_what_is_stated(name, wall, measured):
    target = BoxTarget(name, wall, dtype=F64)
    z, weight = whole_plane(wall)
    p = target.log_prob(z).exp() * weight
    assert measured(abs(p.sum() - 1), "mass") < 1e-9
    inside = (z.abs() <= 4).all(1)
    cost = float(target.log_z - target.log_z_box)
    assert measured(abs(p[inside].sum().log() + cost), "mass of the box") < 1e-9
    box = BoxTarget(name, 0.0, dtype=F64)
    q = box.log_prob(z[inside]).exp() * weight[inside]
    divergence = (q * (box.log_prob(z[inside]) - target.log_prob(z[inside]))).sum()
    assert measured(abs(divergence - cost), "divergence from the box") < 1e-9
    if name != "U1":  # its mass does not reach the edge
        penalty = (-target.energy(z)).exp() * weight  # a steep penalty with the constant of the box
        assert abs(penalty.sum().log() - target.log_z_box) > 1e-2
        lost = (target.log_z.exp() - target.log_z_box.exp()) / math.sqrt(math.pi / 2)
        assert abs((target.log_z_box.exp() + lost).log() - target.log_z) > 1e-3  # without sqrt


@pytest.mark.claim("prop-density-walls")
@pytest.mark.parametrize("name", ENERGIES)
def test_divergence_with_walls_bounds_that_of_the_box(name, measured):
    target, box = BoxTarget(name, 0.3, dtype=F64), BoxTarget(name, 0.0, dtype=F64)
    z, weight = whole_plane(0.3)
    inside = (z.abs() <= 4).all(1)
    for mean, sd in (((0.0, 0.0), 1.0), ((2.5, -1.0), 0.8)):
        q = Gaussian(torch.tensor(mean, dtype=F64), sd**2 * torch.eye(2, dtype=F64))
        log_q, log_p = q.log_prob(z), target.log_prob(z)
        terms = log_q.exp() * weight * (log_q - log_p)
        whole = terms.sum()
        a = (log_q.exp() * weight)[inside].sum()
        b = (target.log_z_box - target.log_z).exp()
        given = log_q[inside].exp() * weight[inside] / a
        in_box = (given * (log_q[inside] - a.log() - box.log_prob(z[inside]))).sum()
        assert in_box <= whole / a
        # the decomposition of the proof; the part outside from its own integrals
        rest = (log_q.exp() * weight)[~inside]
        outside = (rest * (log_q - (1 - a).log() - log_p + (1 - b).log())[~inside]).sum()
        coins = a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()
        # the rule ends at 12 walls, where 1e-6 of the second Gaussian is left
        assert measured(abs(a * in_box + outside + coins - whole), "decomposition") < 1e-4
        assert abs(in_box + outside + coins - whole) > abs(a * in_box + outside + coins - whole)


def test_without_walls_the_outside_is_impossible():
    box = BoxTarget("U2", 0.0, dtype=F64)
    z = torch.tensor([[0.0, 0.0], [4.5, 0.0]], dtype=F64)
    assert box.log_prob(z).isfinite().tolist() == [True, False]
    assert reverse_kl(StandardNormal(2, dtype=F64), box, 200_000, rng()) == math.inf
    assert box.log_z == box.log_z_box


def test_beyond_the_box_the_plane_itself_has_no_density():
    """Of U2 the mass grows with the width of the strip, without end: walls or no density."""
    widths = []
    for edge in (4.0, 40.0, 400.0):
        x, w = rule((-edge, edge), int(10 * edge))
        y, v = rule((-4.0, 4.0), 20)
        points = torch.stack(torch.meshgrid(x[::20], y, indexing="ij"), -1)
        column = (-ENERGIES["U2"](points)).exp() @ v
        widths.append(column.mean() * w.sum())
    assert abs(widths[1] / widths[0] - 10) < 0.01 and abs(widths[2] / widths[1] - 10) < 0.01


def test_reverse_kl_is_free_energy_plus_log_z(measured):
    target = BoxTarget("U3", dtype=F64)
    flow = Flow(StandardNormal(2, dtype=F64), [PlanarTransform(2, rng(), dtype=F64)])
    z, log_q = flow.rsample_and_log_prob(500, rng(1))
    free = (log_q + target.energy(z)).mean()
    kl = reverse_kl(flow, target, 500, rng(1))
    assert measured((kl - free - target.log_z).abs().detach(), "nats") < 1e-12
    gradients = torch.autograd.grad(kl, list(flow.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)


def test_reverse_kl_is_unbiased():
    target = BoxTarget("U1", 0.3, dtype=F64)
    q = Gaussian(torch.tensor([0.5, -0.5], dtype=F64), 0.8 * torch.eye(2, dtype=F64))
    z, weight = whole_plane(0.3)
    terms = q.log_prob(z) - target.log_prob(z)
    exact = (q.log_prob(z).exp() * weight * terms).sum()
    spread = ((q.log_prob(z).exp() * weight * terms**2).sum() - exact**2).sqrt()
    n = 200_000
    estimate = reverse_kl(q, target, n, rng(2))
    assert abs(estimate - exact) < 4 * spread / math.sqrt(n)
    assert abs(-estimate - exact) > 1


def test_targets_move_and_batch():
    target = BoxTarget("U4", dtype=F64)
    z = 3 * torch.randn(2, 5, 2, generator=rng(3), dtype=F64)
    batch = target.log_prob(z)
    assert batch.shape == (2, 5)
    assert (torch.func.vmap(torch.func.vmap(target.log_prob))(z) - batch).abs().max() < 1e-12
    single = target.float()
    assert single.log_prob(z.float()).dtype == torch.float32
    assert (single.log_prob(z.float()) - batch).abs().max() < 1e-2
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(BoxTarget("U4", dtype=F64).log_prob(z).sum(), z)
    assert gradient.isfinite().all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="name must be one of"):
        BoxTarget("U5")
    with pytest.raises(ValueError, match="wall must be 0 or more"):
        BoxTarget("U1", -0.1)
    with pytest.raises(ValueError, match="n must be at least 1"):
        reverse_kl(StandardNormal(2), BoxTarget("U1"), 0)
