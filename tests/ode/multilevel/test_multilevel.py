"""Claims on the training of stable networks, and the modules behind it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from nodes_tutorial.data.labelled2d import ellipses, pad, peaks, peaks_surface, swissroll
from nodes_tutorial.linalg import cg
from nodes_tutorial.ode.multilevel.blocks import train_adam, train_blocks, train_multilevel
from nodes_tutorial.ode.multilevel.newton import (
    Classifier,
    curvature,
    fit_classifier,
    search,
)
from nodes_tutorial.ode.multilevel.objective import Objective
from nodes_tutorial.ode.stability.depth import prolong, smoothness_penalty, tikhonov_penalty
from nodes_tutorial.ode.stability.networks import AntisymmetricNet, PlainNet, VerletNet
from tests.ode.stability_cases import KINDS, f64, gen, normal

RECORD = Path(__file__).parents[3] / "results" / "stability.json"


# --- weights as curves ----------------------------------------------------------------------------


@pytest.mark.claim("prop-multilevel-prolong")
def test_prolongation_is_numpy_interpolation_and_keeps_the_energy(measured):
    w, h = normal(6, 2, 3), 0.7
    fine = prolong(w)
    times, grid = np.arange(6) * h, np.arange(12) * h / 2
    oracle = np.stack([np.interp(grid, times, c) for c in w.flatten(1).T.numpy()], 1)
    error = (fine.flatten(1) - torch.from_numpy(oracle)).abs().max()
    assert measured(error, "against numpy.interp") < 1e-14
    energy = smoothness_penalty([w], h)
    gap = (smoothness_penalty([fine], h / 2) - energy).abs()
    assert measured(gap / energy, "smoothness energy") < 1e-13
    doubled = w.repeat_interleave(2, 0)  # piecewise constant: the energy doubles
    assert abs(smoothness_penalty([doubled], h / 2) / energy - 2) < 1e-12


@pytest.mark.claim("prop-multilevel-prolong")
@pytest.mark.parametrize("kind", KINDS)
def test_refinement_moves_the_output_by_order_h(kind):
    y, gaps = normal(20, 3), []
    net = KINDS[kind](generator=gen(), dtype=f64)
    with torch.no_grad():
        for i, w in enumerate(net.weights):
            w.add_(
                0.3
                * normal(1, *w.shape[1:], seed=i)
                * torch.linspace(-1, 1, 7, dtype=f64).view(-1, *[1] * (w.dim() - 1))
            )
        for _ in range(7):
            fine = net.refined()
            gaps.append((fine(y) - net(y)).abs().max().item())
            net = fine
    slopes = np.diff(np.log2(gaps))[-3:]
    assert np.all(slopes < -0.9)  # leapfrog and Verlet do better


def test_penalties_against_loops():
    w = [normal(5, 2, 2), normal(5, 3, seed=1)]
    rough_part = sum(((v[j] - v[j - 1]) ** 2).sum() for v in w for j in range(1, 5)) / (2 * 0.3)
    large_part = sum((v[j] ** 2).sum() for v in w for j in range(5)) * 0.3 / 2
    assert torch.isclose(smoothness_penalty(w, 0.3), rough_part)
    assert torch.isclose(tikhonov_penalty(w, 0.3), large_part)


def test_smooth_classifiers_pay_by_the_lattice():
    W = normal(5, 7)
    found = smoothness_penalty([W, W.mT], 1.0)
    path = [torch.eye(n, dtype=f64).diff(dim=0) for n in W.shape]
    rows, columns = (D.mT @ D for D in path)
    eye = [torch.eye(n, dtype=f64) for n in W.shape]
    laplacian = torch.kron(rows, eye[1]) + torch.kron(eye[0], columns)
    assert torch.allclose(found, W.flatten() @ laplacian @ W.flatten() / 2)
    assert smoothness_penalty([torch.ones(5, 7), torch.ones(7, 5)], 1.0) == 0


# --- block by block ------------------------------------------------------------------------------


@pytest.mark.claim("prop-multilevel-descent")
def test_every_truncated_solution_is_a_descent_direction(measured):
    A = normal(30, 30)
    H, r = A @ A.mT + 0.1 * torch.eye(30, dtype=f64), normal(30, seed=1)
    P = torch.diag(1 / H.diagonal())
    for preconditioner in (None, lambda v: P @ v):
        values = []
        for n in (1, 2, 5, 20, 200):
            x, _, taken, *_ = cg(
                lambda v: H @ v, r, preconditioner=preconditioner, max_iterations=n, rtol=1e-12
            )
            assert taken <= n and r @ x > 0
            values.append((x @ H @ x / 2 - r @ x).item())
        assert all(b < a for a, b in itertools.pairwise(values))
        error = (x - torch.linalg.solve(H, r)).norm() / x.norm()
        assert measured(error, "conjugate gradients against LU") < 1e-8
    # an indefinite matrix, as the full Hessian may be: its Newton step can point uphill
    Q = torch.linalg.qr(A).Q
    bad = Q @ torch.diag(torch.linspace(-1, 1, 30, dtype=f64) - 0.01) @ Q.mT
    assert min(r @ torch.linalg.solve(bad, r) for r in normal(50, 30, seed=2)) < 0


@pytest.mark.claim("prop-multilevel-descent")
def test_curvature_is_the_positive_hessian_of_cross_entropy(measured):
    z, label = normal(1, 5), torch.tensor([2])
    H = torch.func.hessian(lambda z: F.cross_entropy(z[None], label))(z[0])
    p = z.softmax(1)
    ours = torch.stack([curvature(p, e[None])[0] for e in torch.eye(5, dtype=f64)], 1)
    assert measured((ours - H).abs().max(), "curvature against autograd") < 1e-14
    assert torch.linalg.eigvalsh(ours).min() > -1e-14
    assert torch.linalg.eigvalsh(ours + 2 * p.mT @ p - 2 * torch.diag(p[0])).min() < -1e-2


@pytest.mark.claim("prop-multilevel-descent")
@pytest.mark.parametrize("classes", [2, 4])
def test_newton_finds_the_one_minimizer(classes, measured):
    y, label = normal(60, 3), torch.arange(60) % classes
    y = y + label[:, None]

    def value(v):
        W = torch.as_tensor(v).view(4, classes)
        fit = F.cross_entropy(y @ W[:-1] + W[-1], label)
        return fit + 5e-3 * W.square().sum()

    def both(v):
        v = torch.tensor(v, requires_grad=True)
        out = value(v)
        return out.item(), torch.autograd.grad(out, v)[0].numpy()

    best = minimize(both, np.zeros(4 * classes), jac=True, method="BFGS", options={"gtol": 1e-10})
    for seed in range(3):
        start = Classifier(5 * normal(3, classes, seed=seed), normal(classes, seed=seed))
        c, reached = fit_classifier(y, label, start, alpha=1e-2)
        found = torch.cat([c.W, c.mu[None]]).flatten()
        error = (found - torch.from_numpy(best.x)).abs().max()
        assert measured(error, "Newton-CG against scipy's BFGS") < 1e-6
        assert abs(reached - best.fun) < 1e-10


def test_objective_and_its_curvature():
    x, label = ellipses(40, gen(), dtype=f64)
    net = PlainNet(2, 6, 3.0, generator=gen(), dtype=f64)
    net.K.data += normal(6, 2, 2)
    objective = Objective(x, label, alpha=0.3, beta=0.2, smooth=0.7)
    R = objective.curvature(6, net.h, x)
    quadratic = sum((w.flatten(1).mT @ R * w.flatten(1).mT).sum() / 2 for w in net.weights)
    assert torch.isclose(quadratic, objective.penalty(net.weights, net.h))
    by_hand = 0.7 * smoothness_penalty(net.weights, 0.5) + 0.2 * tikhonov_penalty(net.weights, 0.5)
    assert torch.isclose(0.3 * by_hand, objective.penalty(net.weights, net.h))


@pytest.mark.parametrize("kind", [AntisymmetricNet, VerletNet])
def test_block_descent_never_goes_up_and_stops_at_its_goal(kind):
    x, label = ellipses(200, gen(), dtype=f64)
    net = kind(2, 8, 8.0, generator=gen(), dtype=f64)
    level = train_blocks(net, Objective(x, label), max_iter=12)
    assert (np.diff(level.history) <= 1e-9).all() and level.iterations <= 12
    assert level.history[-1] < level.history[0] - 0.1
    again = kind(2, 8, 8.0, generator=gen(), dtype=f64)
    goal = level.history[3]
    short = train_blocks(again, Objective(x, label), max_iter=12, goal=goal)
    assert short.history[-1] <= goal and short.iterations <= 3


@pytest.mark.claim("obs-multilevel-levels")
def test_recorded_levels_have_less_and_less_to_do():
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    taken = {
        (row["seed"], row["layers"]): row["iterations"]
        for row in rows
        if (row["dataset"], row["model"]) == ("ellipses", "verlet")
    }
    saved = [taken[seed, 32] - taken[seed, 256] for seed in range(10)]
    assert np.mean(saved) > 11, "null: 0"
    assert np.mean(saved) - 3 * np.std(saved, ddof=1) / len(saved) ** 0.5 > 11


def test_warm_start_begins_where_the_coarse_level_ended():
    x, label = ellipses(200, gen(), dtype=f64)
    net = VerletNet(2, 16, 4.0, generator=gen(), dtype=f64)
    levels = train_multilevel(net, Objective(x, label), 3, max_iter=20)
    assert [level.net.layers for level in levels] == [16, 32, 64]
    cold = VerletNet(2, 64, 4.0, generator=gen(), dtype=f64)
    start = train_blocks(cold, Objective(x, label), max_iter=0).history[0]
    assert levels[2].history[0] < (levels[1].history[-1] + start) / 2
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        train_multilevel(net, Objective(x, label), 0)


def test_adam_lowers_the_same_objective():
    x, label = ellipses(100, gen(), dtype=f64)
    net = VerletNet(2, 8, 4.0, generator=gen(), dtype=f64)
    level = train_adam(net, Objective(x, label), max_iter=60)
    assert level.iterations == 60 and level.history[-1] < 0.8 * level.history[0]
    assert 0 <= level.accuracy(x, label) <= 1


# --- data -----------------------------------------------------------------------------------------


def test_generators_follow_their_definitions():
    x, label = ellipses(2001, gen(), dtype=f64)
    radius = (x / torch.tensor([1.0, 0.4])).norm(dim=1)
    assert torch.equal(radius >= 1, label == 1) and radius.max() <= 2
    assert abs(radius[label == 0].mean() - 0.5) < 0.03 and len(x) == 2001
    x, label = swissroll(dtype=f64)
    radius = x.norm(dim=1)
    assert label.bincount().tolist() == [513, 513]
    assert (radius[label == 1] - radius[label == 0] - 0.2).abs().max() < 1e-12
    x, label = peaks(50, gen(), dtype=f64)
    assert label.bincount().tolist() == [50] * 5 and len(x.unique(dim=0)) == 250
    order = [peaks_surface(x[label == c]) for c in range(5)]
    assert all(a.max() < b.min() for a, b in itertools.pairwise(order))
    assert abs(peaks_surface(torch.tensor([-0.0093, 1.5814], dtype=f64)) - 8.1062) < 1e-4
    assert pad(x, 4).shape == (250, 4) and (pad(x, 4)[:, 2:] == 0).all()


def test_bad_data_arguments_are_named():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        ellipses(0)
    with pytest.raises(ValueError, match="per_class must be at most"):
        peaks(60_000)
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        pad(torch.zeros(1, 2), 1)


def test_a_step_must_lower_the_objective_enough():
    """Armijo: of a slope of -1 at least 1e-4 is wanted; half of that is no step."""
    v, value, slope = torch.zeros(1, dtype=f64), torch.tensor(0.0, dtype=f64), torch.tensor(-1.0)
    step = torch.ones(1, dtype=f64)
    for rate, moves in ((-1.0, True), (-2e-4, True), (-5e-5, False), (5e-5, False)):
        place, new, moved = search(lambda w, r=rate: r * w[0], v, value, step, slope)
        assert moved is moves
        assert (place == step).all() and new == rate if moves else (place == v).all()
    # a valley at 1/3: the first half that falls is taken
    place, _, moved = search(lambda w: (w[0] - 1 / 3).square(), v, torch.tensor(1 / 9), step, slope)
    assert moved and place == 0.5
