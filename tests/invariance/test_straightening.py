"""Claims of the chapter on straight trajectories, and the package against obvious oracles."""

import math

import pytest
import torch

from nodes_tutorial.data.movies import blobs, textures, translate
from nodes_tutorial.invariance import center_surround, curvature, oriented_energy, sfa
from nodes_tutorial.invariance.vision import filter_bank

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*size, seed=0, dtype=F64):
    return torch.randn(size, generator=rng(seed), dtype=dtype)


def acos(x):
    return math.degrees(math.acos(x))


# --- angles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_angles_of_a_polygon(dtype):
    turns = torch.tensor([0.0, 30.0, 90.0, 180.0, 179.9], dtype=F64)
    heading = torch.cat([torch.zeros(1, dtype=F64), turns.cumsum(0)]).deg2rad()
    steps = torch.stack([heading.cos(), heading.sin()], 1) * torch.arange(1, 7, dtype=F64)[:, None]
    x = torch.cat([torch.zeros(1, 2, dtype=F64), steps.cumsum(0)]).to(dtype)
    found = curvature(x)
    assert found.dtype == dtype
    assert (found - turns).abs().max() < (1e-9 if dtype == F64 else 1e-3)
    batch = torch.stack([x, 3 * x + 1])
    assert (curvature(batch) - found).abs().max() < (1e-9 if dtype == F64 else 1e-3)
    rotation = torch.linalg.qr(randn(2, 2)).Q.to(dtype)
    assert (curvature(x @ rotation) - found).abs().max() < (1e-9 if dtype == F64 else 1e-3)
    stretched = curvature(x * torch.tensor([1.0, 5.0], dtype=dtype))
    assert (stretched - found).abs().max() > 5  # other coordinates, other angles


def test_small_angles_are_accurate():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-9]], dtype=F64)
    assert abs(curvature(x)[0] - math.degrees(1e-9)) < 1e-15


@pytest.mark.usefixtures("as_at_the_users")
def test_bad_input_is_named():
    x = randn(5, 3)
    with pytest.raises(ValueError, match="x must not repeat a frame"):
        curvature(torch.cat([x, x[-1:]]))
    with pytest.raises(ValueError, match="x must have three or more frames"):
        curvature(x[:2])
    with pytest.raises(TypeError, match="x must hold floating-point numbers"):
        curvature(torch.arange(9).view(3, 3))
    constant = torch.cat([x, torch.ones(5, 1, dtype=F64)], 1)
    with pytest.raises(ValueError, match="neither constant nor linearly dependent"):
        sfa(constant)
    with pytest.raises(ValueError, match="neither constant nor linearly dependent"):
        sfa(torch.cat([randn(50, 2), randn(50, 2)[:, :1]], 1))
    with pytest.raises(ValueError, match="count must be at most 3"):
        sfa(randn(50, 3), 4)
    with pytest.raises(ValueError, match="x must have two or more frames"):
        sfa(x[:1])
    with pytest.raises(ValueError, match="scales must be at least 1"):
        oriented_energy(randn(8, 8), 0)
    with pytest.raises(ValueError, match=r"shifts must end in the axes \(2,\)"):
        translate(randn(8, 8), randn(4, 3))
    with pytest.raises(ValueError, match="width must be a positive number"):
        blobs(randn(4, 2), 8, 0.0)


@pytest.mark.claim("prop-straightening-distances")
def test_distances_and_the_angle():
    a, b, c = randn(3, 40, 5)
    ab, bc, ac = ((b - a).norm(dim=1), (c - b).norm(dim=1), (c - a).norm(dim=1))
    angle = curvature(torch.stack([a, b, c], 1))[:, 0].deg2rad()
    square = ab**2 + bc**2 + 2 * ab * bc * angle.cos()
    assert (ac**2 - square).abs().max() < 1e-12
    assert (ac**2 - (square - 4 * ab * bc * angle.cos())).abs().max() > 0.1  # the other sign
    on_line = a + torch.linspace(0.1, 0.9, 40, dtype=F64)[:, None] * (c - a)
    parts = (on_line - a).norm(dim=1) + (c - on_line).norm(dim=1)
    assert (parts - ac).abs().max() < 1e-12 and (ab + bc - ac).min() > 0
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]], dtype=F64)
    assert abs((x[2] - x[0]).norm() - 5) < 1e-12 and abs(curvature(x)[0] - 90) < 1e-12


# --- random paths --------------------------------------------------------------------------------


def pairs(r, root, count=100_000, seed=0):
    """Steps u, v with covariance S = root root' and cross-covariance r S."""
    u, w = randn(2, count, len(root), seed=seed) @ root.mT
    return u, r * u + math.sqrt(1 - r**2) * w


def mean_angle(u, v):
    x = torch.stack([torch.zeros_like(u), u, u + v], 1)
    angles = curvature(x)[:, 0]
    return angles.mean(), angles.std() / len(angles) ** 0.5, angles


ROOTS = {
    "one": torch.ones(1, 1, dtype=F64),
    "plane": torch.eye(2, dtype=F64),
    "stretched": torch.diag(torch.tensor([1.0, 5.0, 0.2], dtype=F64)),
    "any": randn(6, 6, seed=3),
}


@pytest.mark.claim("thm-straightening-gaussian")
@pytest.mark.parametrize("r", [-0.5, 0.0, 0.4, 0.9])
@pytest.mark.parametrize("name", ROOTS)
def test_mean_angle_of_gaussian_steps(name, r):
    """100,000 pairs, five standard errors; the angle of the mean cosine is another number."""
    found, error, angles = mean_angle(*pairs(r, ROOTS[name], seed=7))
    assert abs(found - acos(r)) < 5 * error
    if r == 0.4:
        other = acos(angles.deg2rad().cos().mean().item())
        assert abs(other - acos(r)) > 5 * error


@pytest.mark.claim("thm-straightening-gaussian")
def test_each_hypothesis_of_the_mean_angle_is_needed():
    r = 0.6
    u, w = randn(2, 100_000, 2, seed=8)
    other = torch.tensor([0.9, 0.3], dtype=F64)  # correlations that differ between coordinates
    v = other * u + (1 - other**2).sqrt() * w
    found, error, _ = mean_angle(u * torch.tensor([1.0, 4.0], dtype=F64),
                                 v * torch.tensor([1.0, 4.0], dtype=F64))  # fmt: skip
    assert abs(found - acos(r)) > 20 * error
    heavy = u.sign() * u.abs() ** 4, w.sign() * w.abs() ** 4
    found, error, _ = mean_angle(heavy[0], r * heavy[0] + 0.8 * heavy[1])  # not Gaussian
    assert abs(found - acos(r)) > 20 * error


@pytest.mark.claim("thm-straightening-gaussian")
def test_the_angle_is_the_share_of_separating_planes():
    """The step of the proof: random directions see different signs with probability angle / 180."""
    u, v = randn(2, 5, seed=9)
    g = randn(200_000, 5, seed=10)
    share = ((g @ u > 0) != (g @ v > 0)).double().mean() * 180
    angle = curvature(torch.stack([0 * u, u, u + v]))[0]
    assert abs(share - angle) < 5 * 90 / 200_000**0.5


def path(kind, count=20_000, dim=3, seed=11):
    """Three frames of each process."""
    z = randn(5, count, dim, seed=seed)
    if kind == "independent":
        return z[:3].transpose(0, 1)
    if kind == "walk":
        return z[:3].cumsum(0).transpose(0, 1)
    rho = 0.8
    y = [z[0]]
    for k in (1, 2):
        y.append(rho * y[-1] + math.sqrt(1 - rho**2) * z[k])
    y = torch.stack(y)
    if kind == "AR(1)":
        return y.transpose(0, 1)
    return torch.cat([z[4:], z[4:] + y[:2].cumsum(0)]).transpose(0, 1)  # velocity AR(1)


@pytest.mark.claim("prop-straightening-processes")
@pytest.mark.parametrize(
    "kind, r", [("independent", -0.5), ("walk", 0.0), ("AR(1)", -0.1), ("velocity", 0.8)]
)
def test_mean_angle_of_processes(kind, r):
    angles = curvature(path(kind))[:, 0]
    error = angles.std() / len(angles) ** 0.5
    assert abs(angles.mean() - acos(r)) < 5 * error
    if kind == "AR(1)":  # "about 90 degrees" is not exact
        assert angles.mean() - 90 > 5 * error


@pytest.mark.claim("prop-straightening-processes")
def test_angle_of_an_integrated_walk():
    for t in (1, 9, 99):
        velocity = randn(t + 1, 20_000, 3, seed=t).cumsum(0)
        x = torch.stack([0 * velocity[0], velocity[t - 1], velocity[t - 1] + velocity[t]], 1)
        angles = curvature(x)[:, 0]
        error = angles.std() / len(angles) ** 0.5
        assert abs(angles.mean() - acos(math.sqrt(t / (t + 1)))) < 5 * error


@pytest.mark.claim("prop-straightening-slow")
@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_slowness_does_not_tell_the_angle(rho):
    """Two stationary processes with one c(1), by their covariances over three times."""
    found = {}
    for name, c2 in (("AR(1)", rho**2), ("rotation", 2 * rho**2 - 1)):
        C = torch.tensor([[1, rho, c2], [rho, 1, rho], [c2, rho, 1]], dtype=F64)
        values, vectors = torch.linalg.eigh(C)  # the rotation has a singular one
        root = vectors * values.clamp_min(0).sqrt()
        x = torch.einsum("ts,snd->ntd", root, randn(3, 50_000, 2, seed=12))
        slow = x.diff(dim=1).square().sum(2).mean() / x.square().sum(2).mean()
        assert abs(slow - (2 - 2 * rho)) < 0.01
        angles = curvature(x)[:, 0]
        r = (2 * rho - 1 - c2) / (2 - 2 * rho)
        assert abs(angles.mean() - acos(r)) < 5 * angles.std() / len(angles) ** 0.5
        found[name] = acos(r)
    assert abs(found["AR(1)"] - acos(-(1 - rho) / 2)) < 1e-9
    assert abs(found["rotation"] - acos(rho)) < 1e-6


# --- slow features -------------------------------------------------------------------------------


@pytest.mark.claim("prop-straightening-sfa")
def test_slow_features_solve_the_eigenproblem(measured):
    x = randn(500, 4, seed=13).cumsum(0) @ randn(4, 4, seed=14) + randn(500, 4, seed=15)
    found = sfa(x)
    y = found(x)
    unit = y.mT @ y / len(y)
    assert measured((unit - torch.eye(4, dtype=F64)).abs().max(), "covariance") < 1e-10
    assert y.mean(0).abs().max() < 1e-10
    moved = y.diff(dim=0)
    assert (moved.mT @ moved / len(moved) - torch.diag(found.slowness)).abs().max() < 1e-10
    assert (found.slowness.diff() >= 0).all()
    A = (x - x.mean(0)).mT @ (x - x.mean(0)) / len(x)
    B = x.diff(dim=0).mT @ x.diff(dim=0) / (len(x) - 1)
    generalized = torch.linalg.eigvals(torch.linalg.solve(A, B)).real.sort().values
    assert (generalized - found.slowness).abs().max() < 1e-10
    for seed in range(20):  # no other uncorrelated projections of variance 1 are slower in sum
        root = torch.linalg.cholesky(torch.linalg.inv(A))
        W = root @ torch.linalg.qr(randn(4, 2, seed=seed)).Q
        assert (W.mT @ B @ W).trace() > found.slowness[:2].sum() - 1e-12
    assert (sfa(x, 2).weights - found.weights[:, :2]).abs().max() == 0


@pytest.mark.claim("prop-straightening-sfa")
def test_slowness_of_sinusoids_and_the_known_example():
    t = torch.linspace(0, 2 * math.pi, 2001, dtype=F64)[:-1]
    x = torch.stack([t.sin() + (11 * t).cos() ** 2, (11 * t).cos()], 1)
    squares = torch.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)
    expanded = torch.cat([x, squares], 1)
    found = sfa(expanded, 1)
    y = found(expanded)[:, 0]
    correlation = torch.corrcoef(torch.stack([y, t.sin()]))[0, 1].abs()
    assert correlation > 1 - 1e-6
    assert abs(found.slowness[0] / (2 - 2 * math.cos(2 * math.pi / 2000)) - 1) < 1e-3


def test_changes_are_taken_within_each_sequence():
    x = randn(6, 40, 2, seed=16).cumsum(1)
    moved = x.diff(dim=1).flatten(0, 1)
    found = sfa(x)
    y = moved @ found.weights
    assert ((y.mT @ y / len(y)).diagonal() - found.slowness).abs().max() < 1e-10
    assert (sfa(x.flatten(0, 1)).slowness - found.slowness).abs().max() > 1e-3


# --- movies and the model of early vision --------------------------------------------------------


@pytest.mark.claim("prop-straightening-texture")
@pytest.mark.parametrize("shift", [(0.0, 1.0), (0.3, -0.7), (4.0, 2.0)])
@pytest.mark.parametrize("size", [15, 16])
def test_curvature_of_a_translated_texture(shift, size, measured):
    x = textures(3, size, generator=rng(17), dtype=F64)
    s = torch.tensor(shift, dtype=F64)
    movie = translate(x, torch.arange(5, dtype=F64)[:, None] * s)
    k = torch.fft.fftfreq(size, dtype=F64)
    phase = 2 * math.pi * (s[0] * k[:, None] + s[1] * k)
    weight = torch.fft.fft2(x).abs().square() * 4 * (phase / 2).sin().square()
    wanted = ((weight * phase.cos()).sum((1, 2)) / weight.sum((1, 2))).acos().rad2deg()
    found = curvature(movie.flatten(2))
    assert measured((found - wanted[:, None]).abs().max(), "degrees") < 1e-6
    power = torch.fft.fft2(x).abs().square()
    without = (power * phase.cos()).sum((1, 2)) / power.sum((1, 2))  # the factor left out
    assert (without.acos().rad2deg() - wanted).abs().min() > 5
    small = curvature(translate(x, torch.arange(3, dtype=F64)[:, None] * s * 1e-4).flatten(2))
    limit = ((power * phase**4).sum((1, 2)) / (power * phase**2).sum((1, 2))).sqrt() * 1e-4
    assert (small[:, 0].deg2rad() / limit - 1).abs().max() < 1e-3


def grating(size, k, frames, step):
    across = torch.arange(size, dtype=F64)
    phase = 2 * math.pi * k * across / size - step * torch.arange(frames, dtype=F64)[:, None]
    return phase.cos()[:, None].expand(frames, size, size)


@pytest.mark.claim("prop-straightening-texture")
@pytest.mark.parametrize("step", [0.1, 1.0, 3.0])
def test_gratings(step):
    movie = grating(32, 4, 5, step)
    assert (curvature(movie.flatten(1)) - math.degrees(step)).abs().max() < 1e-9
    energy = oriented_energy(movie)
    assert energy.max() > 0.1 and (energy - energy[:1]).abs().max() < 1e-12
    with pytest.raises(ValueError, match="must not repeat a frame"):
        curvature(energy.flatten(1))
    two = movie + grating(32, 5, 5, 2 * step)  # two frequencies in one band: they beat
    assert oriented_energy(two).diff(dim=0).abs().max() > 1e-3


@pytest.mark.parametrize("orientations", [1, 2, 4, 6])
def test_filters_cover_the_frequencies(orientations):
    bank = filter_bank(torch.zeros(64, 64, dtype=F64), 3, orientations)
    squares = bank.square().sum(0)
    both = squares + squares.flip(0, 1).roll((1, 1), (0, 1))
    k = torch.fft.fftfreq(64, dtype=F64)
    radius = torch.hypot(k[:, None], k)
    inside = (radius > 0.0625) & (radius < 0.25) & (k != 0)
    assert (both[inside] - 1).abs().max() < 1e-9


def test_center_surround_cells():
    flat = center_surround(torch.full((16, 16), 0.4, dtype=F64))
    assert (flat - math.log(2)).abs().max() < 1e-9
    image = 0.5 + 0.15 * textures(1, 32, generator=rng(18), dtype=F64)[0]
    cells = center_surround(image)
    assert cells.shape == (2, 32, 32) and cells.min() > 0
    rolled = center_surround(image.roll(3, 1))
    assert (rolled - cells.roll(3, -1)).abs().max() < 1e-9
    gain = center_surround(0.5 + 2 * (image - 0.5)) - cells
    assert gain.abs().max() < 1.0  # twice the contrast, far from twice the response
    spot = torch.full((33, 33), 0.2, dtype=F64)
    spot[16, 16] = 1.0
    on, off = center_surround(spot)
    assert on.argmax() == 16 * 33 + 16 and off[16, 16] < off.median()


def test_movies():
    x = textures(2, 12, generator=rng(19), dtype=F64)
    assert x.mean((1, 2)).abs().max() < 1e-12
    assert (x.square().mean((1, 2)) - 1).abs().max() < 1e-12
    shifts = torch.tensor([[0.0, 3.0], [2.0, -1.0], [0.4, 0.2]], dtype=F64)
    for image in (x[0], randn(12, 12), randn(11, 11)):
        moved = translate(image, shifts)
        assert (moved[0] - image.roll(3, 1)).abs().max() < 1e-12
        assert (moved[1] - image.roll((2, -1), (0, 1))).abs().max() < 1e-12
    back = translate(translate(x[0], shifts)[2], -shifts[2:])[0]
    assert (back - x[0]).abs().max() < 1e-12
    steep = textures(200, 16, 2.0, rng(20), dtype=F64)
    power = torch.fft.fft2(steep).abs().square().mean(0)
    assert 10 < power[0, 1] / power[0, 2] < 25  # 2^4
    drawn = blobs(torch.tensor([[0.25, 0.75]], dtype=F64), 8, 0.1)[0]
    assert drawn[1:3, 5:7].min() > 0.6 and drawn[6, 1] < 1e-3
