"""Generators against their densities, files against their checksums."""

import gzip
import hashlib
import itertools
import math
import struct

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.special import ive

from nodes_tutorial import data
from nodes_tutorial.data import registry, spirals, toy2d

DTYPES = [torch.float32, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(toy2d.GENERATORS))
def test_samples_follow_the_generator_alone(name, dtype, device):
    before = torch.get_rng_state()
    one, two = (toy2d.sample(name, 50, seeded(device=device), dtype=dtype) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == dtype
    assert one.device.type == device
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, toy2d.sample(name, 50, seeded(1, device), dtype=dtype))
    assert toy2d.sample(name, 5).shape == (5, 2)


@pytest.mark.parametrize("name", sorted(toy2d.ENTROPY))
def test_samples_have_the_entropy_that_is_documented(name):
    """Mean of -log p over samples, within four standard errors of the documented floor."""
    x = toy2d.sample(name, 20_000, seeded(3), dtype=torch.float64)
    surprise = -torch.cat([toy2d.log_prob(name, part) for part in x.split(2000)])
    error = (surprise.mean() - toy2d.ENTROPY[name]).abs()
    assert error <= 4 * surprise.std() / len(x) ** 0.5 + 1e-4
    assert surprise.std() < 2


@pytest.mark.parametrize("name", ["8gaussians", "moons"])
def test_floor_by_quadrature(name):
    """The trapezoidal rule, which is spectrally accurate for a smooth density on the plane."""
    grid = torch.linspace(-5, 5, 201, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    logp = torch.cat([toy2d.log_prob(name, part) for part in points.split(20_000)])
    cell = (grid[1] - grid[0]) ** 2
    assert abs(logp.exp().sum() * cell - 1) < 1e-6
    assert abs(-(logp.exp() * logp).sum() * cell - toy2d.ENTROPY[name]) < 1e-4


@pytest.mark.parametrize(
    ("name", "radii", "sd"),
    [("circles", (3, 1.5), 0.24), ("rings", (0.75, 1.5, 2.25, 3), 0.08)],
)
def test_floor_of_rings_by_radial_quadrature(name, radii, sd):
    def density(r):
        terms = [ive(0, r * a / sd**2) * math.exp(-((r - a) ** 2) / 2 / sd**2) for a in radii]
        return sum(terms) / len(radii) / (math.tau * sd**2)

    def surprise(r):
        return -math.tau * r * density(r) * math.log(max(density(r), 1e-300))

    edges = np.linspace(0, 5, 41)
    floor = sum(quad(surprise, a, b)[0] for a, b in itertools.pairwise(edges))
    assert abs(floor - toy2d.ENTROPY[name]) < 1e-4
    point = torch.tensor([[0.3, -1.4]], dtype=torch.float64)
    np.testing.assert_allclose(
        toy2d.log_prob(name, point).exp().item(), density(point.norm().item())
    )


def test_checkerboard_is_uniform_on_its_squares():
    x = toy2d.sample("checkerboard", 80_000, seeded(), dtype=torch.float64)
    assert toy2d.log_prob("checkerboard", x).isfinite().all()
    assert toy2d.ENTROPY["checkerboard"] == math.log(32)
    cells = ((x + 4) / 2).floor().long()
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16)
    assert (counts > 0).sum() == 8
    sd = (80_000 / 8 * 7 / 8) ** 0.5
    assert (counts[counts > 0] - 10_000).abs().max() < 4 * sd


@pytest.mark.parametrize(
    ("name", "low", "high"), [("swissroll", 0, 3.7), ("pinwheel", 0, 6), ("2spirals", 0, 4)]
)
def test_shapes_without_a_density_stay_in_their_range(name, low, high):
    radius = toy2d.sample(name, 4000, seeded()).norm(dim=-1)
    assert low <= radius.min()
    assert radius.max() < high
    with pytest.raises(ValueError, match="name"):
        toy2d.log_prob(name, torch.zeros(1, 2))


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match="name"):
        toy2d.sample("moon", 3)
    with pytest.raises(ValueError, match="n must"):
        toy2d.sample("moons", 0)
    with pytest.raises(ValueError, match="points"):
        spirals.archimedean(3, points=600)
    with pytest.raises(ValueError, match="n must"):
        spirals.archimedean(0)
    with pytest.raises(ValueError, match="name"):
        registry.fetch("mnist")


def test_cubic_spiral_reaches_its_golden_states():
    def field(t, y):
        return spirals.cubic_field(torch.tensor(t), torch.from_numpy(y)).numpy()

    times = sorted(spirals.CUBIC_STATES)
    run = solve_ivp(field, (0, 25), [2.0, 0.0], "DOP853", times, rtol=1e-11, atol=1e-12)
    golden = np.array([spirals.CUBIC_STATES[t] for t in times])
    np.testing.assert_allclose(run.y.T, golden, atol=2e-8)


def test_archimedean_spirals():
    seen, whole, times = spirals.archimedean(400, seeded(), noise=0.0, dtype=torch.float64)
    again = spirals.archimedean(400, seeded(), noise=0.0, dtype=torch.float64)[0]
    assert torch.equal(seen, again)
    radius = whole.norm(dim=-1)
    clockwise = radius[:, 0] > 1
    assert abs(clockwise.double().mean() - 0.5) < 0.1
    theta = torch.linspace(0, 6 * math.pi, 500, dtype=torch.float64)
    torch.testing.assert_close(radius[~clockwise][0], 0.3 * theta)
    torch.testing.assert_close(radius[clockwise][0], (15 / (6 * math.pi + 1 - theta)).flip(0))
    torch.testing.assert_close(times, theta[:100])
    for i in (0, 1, 2):  # a piece is one hundred consecutive states of its whole
        gaps = (whole[i].unfold(0, 100, 1).mT - seen[i]).abs().amax((1, 2))
        assert gaps.min() == 0
    noisy, whole, _ = spirals.archimedean(400, seeded(), dtype=torch.float64)
    assert abs((noisy - seen).std() - 0.3) < 0.01


def test_digits_come_with_scikit_learn():
    images, labels = data.digits(torch.float64)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float64
    assert (images.min(), images.max()) == (0, 1)
    assert torch.bincount(labels).min() >= 174


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with a small image file and label file in the format of MNIST."""
    pixels, labels = bytes(range(24)), bytes([3, 1])
    contents = {
        "mnist_t10k/t10k-images-idx3-ubyte.gz": struct.pack(">4I", 0x803, 2, 3, 4) + pixels,
        "mnist_t10k/t10k-labels-idx1-ubyte.gz": struct.pack(">2I", 0x801, 2) + labels,
    }
    files = {}
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        files[name] = (sha256, registry.FILES[name][1])
    monkeypatch.setenv(registry.ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr(registry, "FILES", files)
    return tmp_path


def test_registry_finds_files_under_the_environment_variable(folder):
    name = "mnist_t10k/t10k-images-idx3-ubyte.gz"
    assert registry.available(name)
    assert data.have_mnist10k()
    assert registry.fetch(name) == folder / name
    assert torch.equal(data.read_idx(folder / name).flatten(), torch.arange(24).byte())


def test_registry_refuses_a_file_with_another_checksum(folder):
    name = "mnist_t10k/t10k-images-idx3-ubyte.gz"
    (folder / name).write_bytes(b"something else")
    with pytest.raises(data.DataError, match="sha256"):
        registry.fetch(name)


def test_registry_says_what_to_do_offline(tmp_path, monkeypatch):
    import pooch

    name = "mnist_t10k/t10k-images-idx3-ubyte.gz"
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path)
    address = "http://127.0.0.1:9/none.gz"  # the discard port: nothing answers
    monkeypatch.setitem(registry.FILES, name, (registry.FILES[name][0], address))
    assert not registry.available(name)
    assert not data.have_mnist10k()
    with pytest.raises(data.DataError, match=f"cannot download.*{registry.ENVIRONMENT}"):
        registry.fetch(name)


def test_read_idx_refuses_what_is_not_idx(tmp_path):
    path = tmp_path / "file.gz"
    for content in (b"", b"PK\3\4abcd", struct.pack(">4I", 0x803, 2, 3, 4) + b"short"):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(data.DataError, match=r"file\.gz"):
            data.read_idx(path)


@pytest.mark.skipif(not data.have_mnist10k(), reason="needs the MNIST files at hand")
def test_mnist10k():
    images, labels = data.mnist10k()
    assert images.shape == (10_000, 1, 28, 28)
    assert images.max() == 1
    assert torch.bincount(labels).tolist()[:2] == [980, 1135]
