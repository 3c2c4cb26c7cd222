"""Episodes and sinusoids: disjoint, distinct, fair, and floors by integration."""

import math

import pytest
import torch
from scipy.integrate import quad

from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import TaskSampler

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(counts=(7, 5, 9, 6, 8), dtype=torch.float64, side=2, seed=1):
    """Images that tell who they are: image i is i + 0.1·place, and labels are in any order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    place = torch.arange(side * side, dtype=dtype).view(side, side) / 10
    return torch.arange(len(labels), dtype=dtype).view(-1, 1, 1, 1) + place, labels


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_are_distinct_and_support_and_query_share_no_image(dtype, device):
    images, labels = numbered(dtype=dtype)
    sampler = TaskSampler(images.to(device), labels, ways=3, shots=2, queries=3)
    tasks = sampler.sample(200, seeded())
    for x, n in ((tasks.support_x, 6), (tasks.query_x, 9)):
        assert x.shape == (200, n, 1, 2, 2) and x.dtype == dtype and x.device.type == device
    who = torch.cat([tasks.support_x, tasks.query_x], 1)[:, :, 0, 0, 0].long().cpu()
    assert all(len(row.unique()) == 15 for row in who)
    label = labels[who]
    support, query = label[:, :6].view(200, 3, 2), label[:, 6:].view(200, 3, 3)
    assert (support == support[..., :1]).all() and (query == support[..., :1]).all()
    assert all(len(row.unique()) == 3 for row in support[..., 0])
    assert tasks.support_y[7].tolist() == [0, 0, 1, 1, 2, 2]
    assert tasks.query_y[7].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert tasks.support[0] is tasks.support_x and tasks.query[1] is tasks.query_y
    assert torch.equal(tasks.query_x, sampler.sample(200, seeded()).query_x)
    assert not torch.equal(tasks.query_x, sampler.sample(200, seeded(1)).query_x)


def test_every_class_and_every_image_is_equally_likely():
    """Frequencies within five standard deviations of a binomial law."""
    images, labels = numbered()
    sampler = TaskSampler(images, labels, ways=2, shots=1, queries=2)
    n = 20_000
    tasks = sampler.sample(n, seeded(2))
    first = labels[tasks.support_x[:, :, 0, 0, 0].long()]
    for way in (0, 1):
        share = first[:, way].bincount(minlength=5) / n
        assert (share - 0.2).abs().max() < 5 * math.sqrt(0.2 * 0.8 / n)
    who = tasks.support_x[:, 0, 0, 0, 0].long()
    chance = 0.2 / labels.bincount()[labels]
    share = who.bincount(minlength=len(labels)) / n
    assert ((share - chance).abs() < 5 * (chance / n).sqrt()).all()


def test_rotations_are_further_classes():
    images, labels = numbered(side=3)
    images = torch.cat([images, images + 100], 1)  # two channels
    sampler = TaskSampler(images, labels, ways=6, shots=2, queries=1, rotations=True)
    assert sampler.classes == 20
    classes, index = sampler.indices(50, seeded(3))
    tasks = sampler.sample(50, seeded(3))
    for t in range(50):
        for way in range(6):
            turned = torch.rot90(images[index[t, way]], int(classes[t, way]) % 4, (-2, -1))
            assert torch.equal(tasks.support_x[t, 2 * way : 2 * way + 2], turned[:2])
            assert torch.equal(tasks.query_x[t, way : way + 1], turned[2:])
            assert (labels[index[t, way]] == classes[t, way] // 4).all()
    assert all(len(row.unique()) == 6 for row in classes)
    assert (classes % 4).unique().tolist() == [0, 1, 2, 3]


def test_all_images_of_a_class_can_be_used():
    images, labels = numbered((3, 3))
    tasks = TaskSampler(images, labels, ways=2, shots=1, queries=2).sample(20, seeded())
    who = torch.cat([tasks.support_x, tasks.query_x], 1)[:, :, 0, 0, 0]
    assert (who.sort(1).values == torch.arange(6)).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"ways": 0}, ValueError, "ways must be at least 1"),
        ({"shots": 0}, ValueError, "shots must be at least 1"),
        ({"queries": 0}, ValueError, "queries must be at least 1"),
        ({"ways": 1.5}, TypeError, "ways must be an integer"),
        ({"ways": 6}, ValueError, "ways must be at most the 5 classes, got 6"),
        ({"queries": 5}, ValueError, "at most the 5 images of class 1, got 6"),
        ({"labels": torch.arange(3)}, ValueError, "labels must be one for each of the 35"),
        ({"labels": torch.full((35,), -1)}, ValueError, "labels must be 0 or more"),
        ({"labels": torch.full((35,), 2)}, ValueError, "the 0 images of class 0"),
        ({"images": torch.zeros(35, 1, 2, 2).long()}, TypeError, "floating-point"),
        ({"images": torch.zeros(35, 1, 2, 3), "rotations": True}, ValueError, "square"),
    ],
)
def test_what_cannot_be_sampled_is_named(change, error, message, as_at_the_users):
    images, labels = numbered()
    how = {"images": images, "labels": labels, "ways": 2, "shots": 1, "queries": 1} | change
    with pytest.raises(error, match=message):
        TaskSampler(how.pop("images"), how.pop("labels"), **how)


def test_the_number_of_tasks_is_positive():
    sampler = TaskSampler(*numbered(), ways=2, shots=1, queries=1)
    for source in (sampler, Sinusoids(2, 2)):
        with pytest.raises(ValueError, match="tasks must be at least 1"):
            source.sample(0)
        assert source.sample(3).support_x.shape[0] == 3


# ---- sinusoids


def test_sinusoids_are_the_curves_that_they_say():
    for dtype in (torch.float32, torch.float64):
        source = Sinusoids(10, 4, dtype=dtype)
        tasks, (amplitude, phase) = source.sample(500, seeded()), source.curves(500, seeded())
        for x, y, n in ((*tasks.support, 10), (*tasks.query, 4)):
            assert x.shape == y.shape == (500, n, 1) and x.dtype == y.dtype == dtype
            torch.testing.assert_close(y, amplitude * torch.sin(x - phase))
            assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
        assert 0.1 <= amplitude.min() < 0.2 and 4.9 < amplitude.max() <= 5
        assert 0 <= phase.min() < 0.1 and math.pi - 0.1 < phase.max() <= math.pi
    noisy = Sinusoids(10, 4, noise=0.5).sample(500, seeded())
    clean = Sinusoids(10, 4).sample(500, seeded())
    error = noisy.support_y - clean.support_y
    assert abs(error.std() - 0.5) < 0.03 and torch.equal(noisy.support_x, clean.support_x)


def moment(f, low, high):
    return quad(f, low, high, epsabs=1e-12)[0] / (high - low)


@pytest.mark.parametrize(
    "ends",
    [
        {},
        {"amplitude": (0.5, 2.0), "phase": (0.3, 1.9), "interval": (-1.0, 4.0)},
    ],
)
def test_floors_by_integration(ends):
    """Each by quadrature of E[(y - g(x))²] with its own g, and better than shifted ones."""
    source = Sinusoids(1, 1, noise=0.1, **ends)
    mean = moment(lambda a: a, *source.amplitude)
    square = moment(lambda a: a * a, *source.amplitude)

    def best(x):
        return mean * moment(lambda p: math.sin(x - p), *source.phase)

    def error(g):
        def at(x):
            power = moment(lambda p: math.sin(x - p) ** 2, *source.phase)
            return square * power - 2 * g(x) * best(x) + g(x) ** 2

        return moment(at, *source.interval) + 0.1**2

    constant = moment(best, *source.interval)
    floors = source.floors()
    assert abs(floors["zero"] - error(lambda x: 0.0)) < 1e-9
    assert abs(floors["constant"] - error(lambda x: constant)) < 1e-9
    assert abs(floors["function"] - error(best)) < 1e-9
    for shift in (-0.1, 0.1):
        assert error(lambda x, c=constant + shift: c) > floors["constant"] + 0.009
        assert error(lambda x, s=shift: best(x) + s) > floors["function"] + 0.009
    assert floors["function"] < floors["constant"] <= floors["zero"]


def test_the_published_setting_has_these_floors():
    """Always 0, the best number, and -(2/π) E[A] cos x; also as means over drawn tasks."""
    floors = Sinusoids(1, 1).floors()
    assert abs(floors["zero"] - 4.2517) < 5e-5
    assert abs(floors["function"] - 3.0057) < 5e-5
    assert abs(floors["constant"] - 4.1547) < 5e-5
    tasks = Sinusoids(5, 1, dtype=torch.float64).sample(40_000, seeded(4))
    x, y = tasks.support
    for name, guess in (
        ("zero", torch.zeros_like(x)),
        ("function", -(2 / math.pi) * 2.55 * x.cos()),
    ):
        error = ((y - guess) ** 2).mean(1)
        assert abs(error.mean() - floors[name]) < 5 * error.std() / 200


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"shots": 0}, ValueError, "shots must be at least 1"),
        ({"queries": 0}, ValueError, "queries must be at least 1"),
        ({"amplitude": (2.0, 1.0)}, ValueError, "amplitude must be two rising numbers"),
        ({"phase": (0.0, math.nan)}, ValueError, "phase must be two rising numbers"),
        ({"interval": (1.0, 1.0)}, ValueError, "interval must be two rising numbers"),
        ({"noise": -1.0}, ValueError, "noise must be 0 or more"),
    ],
)
def test_sinusoids_that_cannot_be_are_named(change, error, message):
    with pytest.raises(error, match=message):
        Sinusoids(**({"shots": 1, "queries": 1} | change))
