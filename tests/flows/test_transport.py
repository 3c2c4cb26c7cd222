"""Pairing, distance and straightness against brute force, sorted lines and closed forms."""

import itertools
import math

import pytest
import torch

from nodes_tutorial.flows import optimal_pairs, straightness, wasserstein2
from nodes_tutorial.ode import odeint

F64 = torch.float64
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def cost(x0, x1):
    return (x1 - x0).square().flatten(1).sum(-1).mean()


@pytest.mark.claim("prop-matching-ot")
@pytest.mark.parametrize("seed", range(5))
def test_pairing_is_the_best_of_all_permutations(seed, measured):
    x0, x1 = normal(6, 3, seed=seed), normal(6, 3, seed=seed + 50)
    best = min(cost(x0, x1[list(p)]) for p in itertools.permutations(range(6)))
    ours = optimal_pairs(x0, x1)
    assert ours.sort().values.tolist() == list(range(6))  # both marginals are kept
    assert measured((cost(x0, x1[ours]) - best).abs(), "cost, 720 permutations") < 1e-13
    assert abs(wasserstein2(x0, x1) - best.sqrt()) < 1e-13
    # a greedy pairing, each to its nearest that is free, is not optimal in general
    greedy, free = [], set(range(6))
    for point in x0:
        greedy.append(min(free, key=lambda j: float((x1[j] - point).square().sum())))
        free.remove(greedy[-1])
    assert cost(x0, x1[greedy]) >= best
    if seed == 0:
        assert cost(x0, x1[greedy]) > best + 1e-2


@pytest.mark.claim("prop-matching-ot")
def test_pairing_on_a_line_sorts(measured):
    x0, x1 = normal(200, 1), 3 + normal(200, 1, seed=1).exp()
    ours = cost(x0, x1[optimal_pairs(x0, x1)])
    ranks = cost(x0.sort(0).values, x1.sort(0).values)
    assert measured((ours - ranks).abs(), "against sorting") < 1e-12
    assert cost(x0.sort(0).values, x1.sort(0, descending=True).values) > ranks + 1


@pytest.mark.claim("prop-matching-ot")
def test_larger_batches_cost_less():
    """Pairing two halves by themselves is one pairing of the whole; batch 1 is independence."""
    x0, x1 = normal(64, 2), normal(64, 2, seed=1) @ torch.tensor([[2.0, 0.5], [0.0, 0.3]]).double()
    costs = []
    for size in (1, 2, 4, 8, 16, 32, 64):
        blocks = zip(x0.split(size), x1.split(size), strict=True)
        costs.append(torch.stack([cost(a, b[optimal_pairs(a, b)]) for a, b in blocks]).mean())
    assert abs(costs[0] - cost(x0, x1)) < 1e-12
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(costs))
    assert costs[-1] < 0.7 * costs[0]


@pytest.mark.claim("prop-matching-ot")
def test_expected_cost_falls_to_the_distance_of_the_laws():
    """Two laws with two atoms each: every batch of 1, 2 and 4 is run through."""
    atoms0 = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=F64)
    atoms1 = torch.tensor([[0.5, 2.5], [3.0, 0.0]], dtype=F64)
    least = min(cost(atoms0, atoms1[list(p)]) for p in itertools.permutations(range(2)))
    found = []
    for n in (1, 2, 4):
        draws = list(itertools.product(range(2), repeat=n))
        costs = [
            float(wasserstein2(atoms0[list(i)], atoms1[list(j)])) ** 2
            for i, j in itertools.product(draws, draws)
        ]
        found.append(sum(costs) / len(costs))
    every = torch.cdist(atoms0, atoms1).square().mean()
    assert abs(found[0] - every) < 1e-12
    assert found[0] > found[1] > found[2] > least + 1e-3


def test_distance_of_shifted_and_of_equal_samples():
    x = normal(50, 2)
    shift = torch.tensor([3.0, 4.0], dtype=F64)
    assert abs(wasserstein2(x, x.flip(0) + shift) - 5) < 1e-12
    assert wasserstein2(x, x.flip(0)) < 1e-12
    assert abs(wasserstein2(x[:, 0], x[:, 0] + 2) - 2) < 1e-12  # points may be numbers
    images = x.view(25, 2, 2)
    assert abs(wasserstein2(images, images + 1) - 2) < 1e-12


@pytest.mark.claim("thm-matching-budget")
@pytest.mark.parametrize("sd", [0.5, 1.0, 3.0])
def test_straightness_of_the_gaussian_flow(sd, measured):
    """N(0, 1) to N(m, s^2) by independent pairs: S = (2 - pi/2) s, for points of variance 1."""

    def field(t, z):
        return 1.5 + (t * sd**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * sd**2) * (z - 1.5 * t)

    x0 = torch.tensor([[1.0], [-1.0]], dtype=F64)
    ours = straightness(field, x0, nodes=40, rtol=1e-11, atol=1e-12)
    assert measured((ours - (2 - math.pi / 2) * sd).abs(), "straightness") < 1e-8
    assert abs(ours - (2 - math.pi / 4) * sd) > 0.1  # another constant


@pytest.mark.claim("prop-matching-straight")
def test_straight_paths_have_no_defect():
    def field(t, z):  # z(t) = z0 (1 + t): straight, at constant speed
        return z / (1 + t)

    x0 = normal(5, 3)
    assert straightness(field, x0, rtol=1e-10, atol=1e-12) < 1e-18
    # the same lines at another speed are not straight in this sense: z(t) = z0 (1 + t^2)
    uneven = straightness(lambda t, z: 2 * t * z / (1 + t**2), x0, rtol=1e-10, atol=1e-12)
    assert abs(uneven - x0.square().sum(-1).mean() / 3) < 1e-8


SKEW = torch.tensor([[0.4, -0.9], [0.6, 0.2]], dtype=F64)
EYE = torch.eye(2, dtype=F64)
FIELDS = {  # field, and whether its paths are straight lines at constant speed
    "one matrix": (lambda t, z: torch.linalg.solve(EYE + t * SKEW, (z @ SKEW.T).mT).mT, True),
    "a bent shear": (lambda t, z: torch.stack([torch.sin(3 * z[..., 1]), 0 * z[..., 1]], -1), True),
    "the same shear, ever faster": (
        lambda t, z: 2 * t * torch.stack([torch.sin(3 * z[..., 1]), 0 * z[..., 1]], -1),
        False,
    ),
    "a turn": (lambda t, z: z @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64), False),
    "one matrix, kept": (lambda t, z: z @ SKEW.T, False),
}


@pytest.mark.claim("prop-matching-straight")
@pytest.mark.parametrize("name", FIELDS)
def test_no_bend_and_exact_euler_steps_go_together(name):
    """Also for a matrix that is not symmetric and for a field that is not linear."""
    field, straight = FIELDS[name]
    x0, ends = normal(9, 2, seed=3), torch.tensor([0.0, 1.0], dtype=F64)
    bend = straightness(field, x0, rtol=1e-11, atol=1e-12)
    exact = odeint(field, x0, ends, rtol=1e-11, atol=1e-12)[-1]
    for steps in (1, 2, 5):
        euler = {"method": "euler", "options": {"step_size": 1 / steps}}
        error = (odeint(field, x0, ends, **euler)[-1] - exact).abs().max()
        assert error < 1e-9 if straight else error > 1e-2
    assert bend < 1e-18 if straight else bend > 1e-2


@pytest.mark.parametrize("device", DEVICES)
def test_device_and_dtype_are_kept(device):
    x0, x1 = normal(8, 2).float().to(device), normal(8, 2, seed=1).float().to(device)
    pairs = optimal_pairs(x0, x1)
    assert pairs.device == x1.device
    assert pairs.tolist() == optimal_pairs(x0.cpu(), x1.cpu()).tolist()
    assert wasserstein2(x0, x1).dtype == torch.float32
    assert straightness(lambda t, z: -z, x0).device == x0.device
    x0.requires_grad_()
    assert not wasserstein2(x0, x1).requires_grad


def test_bad_input_names_the_argument():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x0 and x1"):
        optimal_pairs(x, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="x0 and x1"):
        wasserstein2(x[:0], x[:0])
    with pytest.raises(ValueError, match="finite"):
        optimal_pairs(x, x + math.nan)
    with pytest.raises(ValueError, match="nodes"):
        straightness(lambda t, z: z, x, nodes=0)
