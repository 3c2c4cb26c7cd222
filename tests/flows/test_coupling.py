"""Claims of the chapter on couplings and autoregressive flows; arguments, masks, training."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from nodes_tutorial.flows import (
    IAF,
    MADE,
    MAF,
    NICE,
    AffineCoupling,
    AutoregressiveAffine,
    InvertibleLinear,
    RealNVP,
    alternating_mask,
    bits_per_dim,
    checkerboard_mask,
    dequantize,
    half_mask,
    made_masks,
)
from nodes_tutorial.nets import MLP, count_parameters

F64 = {"dtype": torch.float64}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def jacobian(fun, x):
    return torch.autograd.functional.jacobian(fun, x).detach()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), **F64)


@pytest.mark.parametrize("make", [half_mask, alternating_mask])
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_masks_of_two_parities_are_complements(make, dim):
    assert torch.equal(make(dim), ~make(dim, 1))


def test_checkerboard_neighbours_differ():
    board = checkerboard_mask((2, 4, 5))
    assert torch.equal(board[:, 1:], ~board[:, :-1]) and torch.equal(
        board[..., 1:], ~board[..., :-1]
    )


def test_a_split_in_one_piece_needs_no_reordering():
    net = MLP([2, 8, 4])
    assert AffineCoupling(half_mask(4), net).order is None
    assert AffineCoupling(half_mask(4, 1), net).order is None
    assert AffineCoupling(alternating_mask(4), net).order is not None


def test_wrong_masks():
    with pytest.raises(ValueError, match="mask must keep some"):
        AffineCoupling(torch.ones(3, dtype=torch.bool), MLP([3, 1]))
    with pytest.raises(ValueError, match="axes"):
        AffineCoupling(torch.ones(3, 3, dtype=torch.bool), MLP([3, 1]))


@pytest.mark.parametrize("build", [NICE, RealNVP])
def test_wrong_sizes(build):
    with pytest.raises(ValueError, match="dim"):
        build(1)
    with pytest.raises(ValueError, match="layers"):
        build(3, 1)


def test_scales_are_bounded():
    layer = AffineCoupling(half_mask(2), MLP([1, 8, 2]), bound=1.5)
    z = 1e4 * torch.randn(100, 2, generator=rng())
    assert layer(z)[1].abs().max() <= 1.5


def test_nice_has_one_volume_everywhere():
    flow = NICE(4, generator=rng())
    with torch.no_grad():
        flow.transforms[-1].log_scale.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    z = torch.randn(8, 4, generator=rng(1))
    x, log_prob = flow.rsample_and_log_prob(8, rng(1))
    assert torch.allclose(flow.base.log_prob(z) - 1.0, log_prob, atol=1e-5)
    assert not torch.allclose(x, z)


def test_generator_gives_the_same_weights_and_counts_are_those_of_the_networks():
    first, second = (RealNVP(5, 4, (16,), generator=rng(3)) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    # kept 2: 2*16+16 + 16*6+6 = 150; kept 3: 3*16+16 + 16*4+4 = 132
    assert count_parameters(first) == 2 * (150 + 132)


def test_training_raises_the_likelihood():
    flow = RealNVP(2, 4, (16,), "tanh", rng())
    x = 0.3 * torch.randn(256, 2, generator=rng(1)) + torch.tensor([2.0, -1.0])
    adam = torch.optim.Adam(flow.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_built_on_the_gpu():
    flow = RealNVP(3, device="cuda", generator=rng())
    assert flow.sample(2).is_cuda and flow.log_prob(flow.sample(2)).is_cuda


# --- coupling and autoregressive ---------------------------------------------------------------


@pytest.mark.claim("thm-coupling-affine")
@pytest.mark.parametrize("mask", [half_mask(5), half_mask(5, 1), alternating_mask(5)])
def test_coupling_is_block_triangular(mask, measured):
    kept = int(mask.sum())
    layer = AffineCoupling(mask, MLP([kept, 16, 2 * (5 - kept)], "tanh", rng(1), **F64))
    z = randn(5)
    J, (x, ladj) = jacobian(layer.push, z), layer(z)
    order = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
    J = J[order][:, order]
    assert torch.equal(J[:kept, :kept], torch.eye(kept, **F64))
    assert (J[:kept, kept:] == 0).all() and (J[kept:, kept:].triu(1) == 0).all()
    t, a = layer.net(z[mask]).chunk(2)
    s = 2 * torch.tanh(a)
    assert measured((ladj - s.sum()).abs(), "sum of s") < 1e-12
    assert measured((ladj - torch.linalg.slogdet(J).logabsdet).abs(), "log-determinant") < 1e-9
    assert measured((layer.inverse(x)[0] - z).abs().max(), "inverse") < 1e-9
    assert (x[~mask] - (z[~mask] * s.exp() + t)).abs().max() < 1e-12
    # the inverse must ask the kept part, not the moved one
    if kept == 5 - kept - 1 or kept == 5 - kept + 1:
        wrong = (x[~mask] - t) * s.exp()
        assert (wrong - z[~mask]).abs().max() > 1e-3


@pytest.mark.claim("thm-coupling-affine")
def test_inverse_from_the_moved_part_is_wrong():
    """Printed in a source: s and t of the images instead of the kept entries."""
    layer = AffineCoupling(half_mask(4), MLP([2, 8, 4], "tanh", rng(), **F64))
    z = randn(4)
    x = layer.push(z)
    t, a = layer.net(x[2:]).chunk(2)
    assert ((x[2:] - t) * (-2 * torch.tanh(a)).exp() - z[2:]).abs().max() > 1e-2
    assert (layer.pull(x) - z).abs().max() < 1e-12


@pytest.mark.claim("thm-coupling-affine")
def test_additive_couplings_keep_the_volume():
    layer = AffineCoupling(half_mask(4), MLP([2, 8, 2], "tanh", rng(), **F64), scale=False)
    z = randn(6, 4)
    assert torch.equal(layer(z)[1], torch.zeros(6, **F64))
    assert abs(torch.linalg.det(jacobian(layer.push, z[0])) - 1) < 1e-12


@pytest.mark.claim("thm-coupling-autoregressive")
@pytest.mark.parametrize("reverse", [False, True])
def test_autoregressive_map_against_a_loop(reverse, measured):
    layer = AutoregressiveAffine(5, [16], reverse, "tanh", rng(1), **F64)
    z = randn(5)
    x, ladj = layer(z)
    order = range(4, -1, -1) if reverse else range(5)
    slow = torch.full((5,), 77.0, **F64)  # entries not yet known must not matter
    for i in order:
        shift, a = layer.net(slow).chunk(2)
        slow[i] = (z[i] * (2 * torch.tanh(a[i])).exp() + shift[i]).detach()
    assert measured((x - slow).abs().max(), "entry by entry") < 1e-12
    J = jacobian(layer.pull, x.detach())
    J = J.flip(0, 1) if reverse else J
    assert (J.triu(1) == 0).all()
    assert measured((torch.linalg.slogdet(J).logabsdet + ladj).abs(), "log-det") < 1e-12
    assert (torch.linalg.slogdet(J).logabsdet - ladj).abs() > 1e-3


@pytest.mark.claim("thm-coupling-autoregressive")
def test_passes():
    """MAF: one pass for a density, d for samples; IAF the reverse; and d passes may be needed."""
    d, calls = 6, []
    for build, density, samples in ((MAF, 1, d), (IAF, d, 1)):
        flow = build(d, layers=2, generator=rng())
        for module in flow.modules():
            if isinstance(module, MADE):
                module.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        flow.log_prob(torch.zeros(3, d))
        assert len(calls) == 2 * density
        calls.clear()
        flow.sample(3)
        assert len(calls) == 2 * samples
    chain = AutoregressiveAffine(d, [], generator=rng(), **F64)  # x_i = z_i + x_{i-1}, x_1 = 1
    with torch.no_grad():
        (layer,) = chain.net.layers
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[0] = 1
        layer.weight[:d].diagonal(-1).fill_(1)
    assert torch.equal(chain.push(torch.zeros(d, **F64)), torch.ones(d, **F64))
    chain.dim = d - 1  # one pass fewer
    short = chain.push(torch.zeros(d, **F64))
    assert torch.equal(short, torch.tensor([1.0] * (d - 1) + [0.0], **F64))


@pytest.mark.claim("prop-coupling-made")
@pytest.mark.parametrize("hidden", [[], [3], [7, 4], [64, 64]])
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_cut_every_forbidden_path(hidden, reverse):
    """Count paths from input j to output i: the product of the masks, an independent oracle."""
    d, outputs = 5, 2
    paths = torch.eye(d, **F64)
    for mask in made_masks(d, hidden, outputs, reverse):
        paths = mask.double() @ paths
    rank = torch.arange(d).flip(0) if reverse else torch.arange(d)
    allowed = (rank[:, None] > rank[None, :]).repeat(outputs, 1)
    assert (paths[~allowed] == 0).all()
    if not hidden or min(hidden) >= d - 1:
        assert (paths[allowed] > 0).all()  # and no permitted path is missing
    *masks, _ = made_masks(d, hidden, outputs, reverse)
    wrong = torch.eye(d, **F64)
    for mask in [*masks, made_masks(d, hidden, outputs, not reverse)[-1]]:
        wrong = mask.double() @ wrong
    assert (wrong[~allowed] > 0).any()  # outputs numbered the other way than inputs


@pytest.mark.claim("prop-coupling-lu")
def test_triangular_factors(measured):
    mix = InvertibleLinear(6, generator=rng(), **F64)
    with torch.no_grad():
        mix.lu.add_(0.4 * randn(6, 6, seed=3))
    exact = torch.linalg.slogdet(mix.matrix()).logabsdet
    assert measured((mix(torch.zeros(6, **F64))[1] - exact).abs(), "log-determinant") < 1e-12
    assert (mix.lu.diagonal().exp().sum() - exact).abs() > 1e-2  # the logarithm forgotten
    lower, upper = mix.factors()
    assert torch.equal(lower, lower.tril()) and torch.equal(upper, upper.triu())
    assert (lower.diagonal() == 1).all()
    z = randn(4, 6, seed=4)
    assert measured((mix.inverse(mix(z)[0])[0] - z).abs().max(), "inverse") < 1e-10
    assert (mix(z)[0] - z @ mix.matrix().mT).abs().max() < 1e-12


@pytest.mark.claim("prop-coupling-lu")
def test_one_by_one_convolution_counts_every_pixel(measured):
    mix = InvertibleLinear(3, event_dims=3, generator=rng(), **F64)
    with torch.no_grad():
        mix.lu.add_(0.4 * randn(3, 3, seed=3))
    image = randn(3, 4, 2, seed=5)
    J = jacobian(mix.push, image).view(24, 24)
    exact = torch.linalg.slogdet(J).logabsdet
    assert measured((mix(image)[1] - exact).abs(), "log-determinant") < 1e-12
    assert (exact - mix.lu.diagonal().sum()).abs() > 0.1  # one pixel only
    weight = mix.matrix()[:, :, None, None]
    conv = torch.nn.functional.conv2d(image[None], weight)[0]
    assert (mix(image)[0] - conv).abs().max() < 1e-12


@pytest.mark.claim("prop-coupling-lu")
def test_every_invertible_matrix_has_these_factors():
    for seed in range(5):
        W = randn(5, 5, seed=seed)
        p, lower, upper = torch.linalg.lu(W)
        mix = InvertibleLinear(5, generator=rng(), **F64)
        with torch.no_grad():
            mix.permutation.copy_(p)
            mix.sign.copy_(upper.diagonal().sign())
            mix.lu.copy_(lower.tril(-1) + upper.triu(1) + upper.diagonal().abs().log().diag())
        assert (mix.matrix() - W).abs().max() < 1e-12


# --- images ------------------------------------------------------------------------------------


@pytest.mark.claim("prop-coupling-bits")
def test_bits_bound_the_code_length_and_are_exact_for_constant_cells(measured):
    """A density on the square with a tilt in each cell: scipy's integrals against the bound."""
    levels = 3
    weights = np.array([[4.0, 1.0, 2.0], [1.0, 3.0, 0.5], [2.0, 1.5, 3.0]])
    weights /= weights.mean()

    def density(y1, y2, tilt):
        i, j = min(int(y1 * 3), 2), min(int(y2 * 3), 2)
        return weights[i, j] * (1 + tilt * (2 * (y1 * 3 - i) - 1))

    for tilt in (0.0, 0.8):
        for i, j in ((0, 0), (1, 2)):
            cell = (i / 3, (i + 1) / 3, lambda _, j=j: j / 3, lambda _, j=j: (j + 1) / 3)
            P = dblquad(lambda b, a, t=tilt: density(a, b, t), *cell)[0]
            mean = 9 * dblquad(lambda b, a, t=tilt: math.log(density(a, b, t)), *cell)[0]
            bits = float(bits_per_dim(torch.tensor(mean, **F64), 2, levels))
            exact = -math.log2(P) / 2
            if tilt == 0:
                assert measured(abs(bits - exact), "bits of constant cells") < 1e-9
            else:
                assert exact + 1e-3 < bits < exact + 0.2
            assert abs(bits - math.log2(levels) - exact) > 0.5  # the cells' volume forgotten


@pytest.mark.claim("prop-coupling-bits")
def test_dequantized_pixels_stay_in_their_cells():
    k = torch.arange(17).repeat(20_000)
    for dtype in (torch.float32, torch.float64):
        y = dequantize(k, 17, rng(), dtype)
        assert y.min() >= 0 and y.max() < 1
        assert ((y.double() * 17 - k).min() > -1e-5) and ((y.double() * 17 - k).max() < 1 + 1e-5)


# --- records -----------------------------------------------------------------------------------


@pytest.mark.claim("obs-coupling-plane")
def test_recorded_kernels_are_closer_than_recorded_couplings():
    """Of the same toy and the same seeds; the kernels had far fewer points."""
    record = Path(__file__).parents[2] / "results" / "density.json"
    rows = json.loads(record.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row["dataset"] == "8gaussians"]
    gaps, points = {}, {}
    for model in ("kde", "realnvp"):
        mine = [row for row in rows if row["model"] == model]
        assert {row["seed"] for row in mine} >= {0, 1, 2}
        gaps[model] = [row["excess"] for row in mine]
        settings = mine[0]["settings"]
        points[model] = settings.get("train_points") or settings["steps"] * settings["batch"]
    assert points == {"kde": 10_000, "realnvp": 6_144_000}
    mean = {model: statistics.mean(values) for model, values in gaps.items()}
    assert round(mean["kde"], 4) == 0.0157 and round(mean["realnvp"], 4) == 0.0212
    spread = math.sqrt(sum(statistics.variance(v) / len(v) for v in gaps.values()))
    assert mean["realnvp"] - mean["kde"] > 3 * spread


def test_the_recorded_flow_on_mnist_has_the_bits_that_the_chapter_prints():
    rows = json.loads((Path(__file__).parents[2] / "results" / "images.json").read_text())["rows"]
    found = [row for row in rows if row["dataset"] == "mnist"]
    assert [(row["seed"], row["settings"]["steps"]) for row in found] == [
        (k, 5000) for k in range(3)
    ]
    bits = sum(row["bits_per_dim"] for row in found) / 3
    text = (Path(__file__).parents[2] / "book" / "flows" / "coupling.md").read_text()
    assert f"| MNIST | Glow, 12 steps, 5,000 updates | {bits:.2f} |" in text
