"""Irregular series and pen strokes: union grids, masks, generators, files of Omniglot's form."""

import hashlib
import math
import zipfile

import pytest
import torch

from nodes_tutorial.data import DataError, registry, strokes
from nodes_tutorial.data.spirals import archimedean
from nodes_tutorial.data.timeseries import Series, collate, compact, observe, periodic, spirals


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- union grids ----------------------------------------------------------------------------------


def ragged(n=7, seed=0):
    generator = rng(seed)
    counts = torch.randint(1, 9, (n,), generator=generator).tolist()
    times = [torch.rand(c, generator=generator).sort().values for c in counts]
    return times, [torch.randn(c, 2, generator=generator) for c in counts]


def test_union_grid_keeps_every_observation():
    times, values = ragged()
    batch = collate(times, values)
    assert torch.equal(batch.times, torch.cat(times).unique())
    for row, (t, x) in enumerate(zip(times, values, strict=True)):
        there = batch.mask[row, :, 0]
        assert torch.equal(batch.times[there], t) and torch.equal(batch.values[row, there], x)
    assert (batch.values[~batch.mask] == 0).all()


def test_resolution_averages_what_falls_together():
    t = torch.tensor([0.0, 0.04, 0.11, 0.29])
    x = torch.tensor([[1.0], [3.0], [5.0], [7.0]])
    batch = collate([t], [x], resolution=0.1)
    torch.testing.assert_close(batch.times, torch.tensor([0.0, 0.1, 0.3]))
    torch.testing.assert_close(batch.values[0, :, 0], torch.tensor([2.0, 5.0, 7.0]))


@pytest.mark.parametrize("backwards", [False, True])
def test_compact_gives_each_series_its_own_observations(backwards):
    times, values = ragged()
    own, found, mask = compact(collate(times, values), backwards=backwards)
    assert own.shape[1] == max(map(len, times))
    for row, (t, x) in enumerate(zip(times, values, strict=True)):
        t, x = (t.flip(0), x.flip(0)) if backwards else (t, x)
        count = len(t)
        assert torch.equal(own[row, :count], t) and torch.equal(found[row, :count], x)
        assert mask[row, :count].all() and not mask[row, count:].any()
        assert (own[row, count:] == t[-1]).all() and (found[row, count:] == 0).all()


def test_compact_of_partly_observed_times_and_of_nothing():
    batch = collate([torch.arange(3.0)], [torch.ones(3, 2)])
    holes = torch.ones_like(batch.mask)
    holes[0, 1, 0], holes[0, 2] = False, False
    own, values, mask = compact(batch.keep(holes))
    assert own.tolist() == [[0, 1]] and mask.tolist() == [[[True, True], [False, True]]]
    assert values.tolist() == [[[1, 1], [0, 1]]]
    own, _, mask = compact(batch.window(stop=-1.0))
    assert own.tolist() == [[0]] and not mask.any()
    stacked = Series(batch.times, *(torch.stack([part] * 2) for part in batch[1:]))
    assert compact(stacked)[1].shape == (2, 1, 3, 2)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_observe_keeps_a_share_of_each_series(fraction):
    whole, _ = periodic(50, rng())
    seen = observe(whole, fraction, rng(1))
    assert (seen.mask.sum((1, 2)) == round(100 * fraction)).all()
    assert torch.equal(seen.values, torch.where(seen.mask, whole.values, 0.0))
    again = observe(whole.window(stop=2.5), fraction, rng(1))
    assert not again.mask[:, whole.times > 2.5].any()
    if fraction < 1:  # each time is as likely as any other: 50 draws, five standard errors
        share = seen.mask.double().mean((0, 2))
        assert (share - fraction).abs().max() < 5 * math.sqrt(fraction * (1 - fraction) / 50)
        assert not torch.equal(seen.mask[0], seen.mask[1])


def test_windows_and_rows():
    whole, _ = periodic(5, rng())
    part = whole.rows(slice(1, 3)).window(1.0, 2.0)
    inside = (whole.times >= 1) & (whole.times <= 2)
    assert torch.equal(part.mask[0, :, 0], inside) and part.values.shape[0] == 2
    begin = whole.until(2.0)
    assert torch.equal(begin.times, whole.times[whole.times <= 2])
    assert torch.equal(begin.values, whole.values[:, : len(begin.times)])


# --- generators -----------------------------------------------------------------------------------


def test_program_and_paper_differ_as_stated():
    """Noise, offset and frequency: 20,000 series, bounds of five standard errors."""
    n = 20_000
    for variant in ("code", "paper"):
        whole, clean = periodic(n, rng(), variant=variant, points=64, noise=0.01)
        error = (whole.values - clean)[..., 0]
        t, x = whole.times, clean[..., 0]
        assert t[0] == 0 and (t.diff() > 0).all() and t[-1] <= 5
        offset = x[:, 0]
        if variant == "code":
            assert error.min() >= 0 and error.max() <= 0.01 + 1e-6 and (error[:, 0] == 0).all()
            assert abs(error[:, 1:].mean() - 0.005) < 1e-4
            assert abs(offset.mean() - 1) < 5 * 0.1 / n**0.5 and abs(offset.std() - 0.1) < 0.003
        else:
            assert abs(error.mean()) < 1e-4 and abs(error.std() - 0.01) < 1e-4
            assert abs(offset.mean()) < 5 / n**0.5 and abs(offset.std() - 1) < 0.03
        low, high = (0.4, 0.8) if variant == "code" else (0.5, 1.0)
        phase = torch.asin((x[:, 1] - offset).clamp(-1, 1))  # the second time comes early
        assert math.tau * high * t[1] < math.pi / 2
        frequency = phase / (math.tau * t[1])
        assert frequency.min() > low - 0.02 and frequency.max() < high + 0.02
        assert abs(frequency.mean() - (low + high) / 2) < 0.01


def test_spirals_are_pieces_of_the_known_curves():
    series, clean = spirals(40, rng(), points=60, beyond=40)
    _, whole, _ = archimedean(200, rng(1))
    curves = torch.unique(whole, dim=0)
    assert curves.shape[0] == 2
    windows = curves.unfold(1, 100, 1).transpose(2, 3).flatten(0, 1)
    gap = torch.stack([(windows - piece).abs().amax((1, 2)).min() for piece in clean])
    assert gap.max() < 1e-4
    noise = series.values - clean
    assert abs(noise.std() - 0.3) < 0.01 and abs(noise.mean()) < 0.02
    assert series.times[0] == 0 and series.mask.all()


def test_generators_follow_their_generator():
    for make in (periodic, spirals):
        one, two, other = (make(3, rng(seed))[0].values for seed in (0, 0, 1))
        assert torch.equal(one, two) and not torch.equal(one, other)
        assert make(1, rng(), dtype=torch.float64)[1].dtype == torch.float64


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: periodic(3, variant="text"), "variant must be one of"),
        (lambda: periodic(0), "n must be at least 1"),
        (lambda: periodic(1, span=0.0), "span must be positive"),
        (lambda: spirals(0), "n must be at least 1"),
        (lambda: spirals(1, points=400, beyond=200), "points >= 2"),
        (lambda: observe(periodic(1)[0], 0.0), "fraction must lie in"),
        (lambda: collate([], []), "times and values must be as many"),
        (lambda: collate([torch.arange(2.0)], [torch.ones(3, 1)]), r"times\[0\] must increase"),
        (lambda: collate([torch.zeros(2)], [torch.ones(2, 1)]), r"times\[0\] must increase"),
        (lambda: collate([torch.arange(2.0)], [torch.ones(2, 1)], 0.0), "resolution"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- strokes --------------------------------------------------------------------------------------

TEXT = (
    "START\n10,-20,0\n12.5,-22,16\n12.5,-23,16\n14,-24,31\nBREAK\n50,-60,400\n51,-61,395\nBREAK\n"
)


def archive(path, files):
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(f"strokes_background_small1/{name}", text)
        file.writestr("__MACOSX/strokes_background_small1/._x.txt", "\0\0")
        file.writestr("strokes_background_small1/Greek/.DS_Store", "\0")
    return path


@pytest.fixture
def small(tmp_path):
    later = TEXT.replace("400", "500").replace("395", "520")
    names = ("Greek/character01/0394_01.txt", "Greek/character02/0395_07.txt")
    files = {names[0]: TEXT, names[1]: later, "Latin/character01/0700_20.txt": TEXT}
    return archive(tmp_path / "strokes.zip", files)


def test_archive_is_read_as_it_is(small):
    drawings = strokes.read_zip(small)
    found = [(d.alphabet, d.character, d.drawer) for d in drawings]
    assert found == [("Greek", "character01", 1), ("Greek", "character02", 7),
                     ("Latin", "character01", 20)]  # fmt: skip
    first = drawings[0]
    assert first.t.tolist() == [0, 16, 16, 31, 400, 395]
    assert first.stroke.tolist() == [0, 0, 0, 0, 1, 1] and first.xy[1].tolist() == [12.5, -22]
    assert len(strokes.read_zip(small, ["Latin"])) == 1


def test_series_of_drawings_have_increasing_times_and_a_common_scale(small):
    drawings = strokes.read_zip(small, ["Greek"])
    series = strokes.to_series(drawings, 0.01)
    # 16 comes twice and 395 after 400: four points, then five
    assert series.mask.any(-1).sum(1).tolist() == [4, 5]
    assert series.times[0] == 0 and abs(series.times[-1] - 1) < 1e-6
    torch.testing.assert_close(series.values[0, 0], torch.tensor([-42.5, 32.5]) / 52.5)
    still = drawings[0]._replace(t=torch.zeros(6))
    with pytest.raises(ValueError, match="drawer 1 has no duration"):
        strokes.to_series([still])


def test_synthetic_drawings_look_like_recorded_ones():
    drawings = strokes.synthetic(10, rng())
    assert {d.character for d in drawings} == set(strokes.SHAPES) and len(drawings) == 40
    for d in drawings:
        assert d.t[0] == 0 and (d.t.diff() >= 0).all() and d.t[-1] <= 2000
        assert (d.xy[:, 0] > 0).all() and (d.xy[:, 0] < strokes.SIDE).all()
        assert (d.xy[:, 1] < 0).all() and (d.xy[:, 1] > -strokes.SIDE).all()
        assert len(d.t) == len(d.xy) == len(d.stroke)
    again = strokes.synthetic(10, rng())
    assert all(torch.equal(a.xy, b.xy) for a, b in zip(drawings, again, strict=True))


def test_files_that_are_not_what_they_should_be(tmp_path, small):
    with pytest.raises(DataError, match="holds no drawings of Korean"):
        strokes.read_zip(small, ["Korean"])
    bad = archive(tmp_path / "bad.zip", {"Greek/character01/0001_01.txt": "START\n1,2\n"})
    with pytest.raises(DataError, match=r"0001_01.txt: line 2 is no x,y,t"):
        strokes.read_zip(bad)
    empty = archive(tmp_path / "empty.zip", {"Greek/character01/0001_01.txt": "START\nBREAK\n"})
    with pytest.raises(DataError, match="without points"):
        strokes.read_zip(empty)
    text = tmp_path / "text.zip"
    text.write_text("no archive")
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        strokes.read_zip(text)


def test_registered_file_is_checked_and_its_absence_explained(tmp_path, small, monkeypatch):
    import pooch

    folder = tmp_path / "data"
    (folder / "omniglot_small").mkdir(parents=True)
    (folder / strokes.STROKES).write_bytes(small.read_bytes())
    monkeypatch.setenv(registry.ENVIRONMENT, str(folder))
    assert strokes.have_omniglot()
    with pytest.raises(DataError, match="has sha256"):  # not the public archive
        strokes.omniglot()
    sha256 = hashlib.sha256(small.read_bytes()).hexdigest()
    address = "http://127.0.0.1:9/strokes.zip"  # the discard port: nothing answers
    monkeypatch.setattr(registry, "FILES", {strokes.STROKES: (sha256, address)})
    assert len(strokes.omniglot(["Greek"])) == 2
    monkeypatch.delenv(registry.ENVIRONMENT)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    assert not strokes.have_omniglot()
    with pytest.raises(DataError, match=rf"{address}.*{registry.ENVIRONMENT}"):
        strokes.omniglot()


@pytest.mark.skipif(not strokes.have_omniglot(), reason="needs Omniglot's strokes at hand")
def test_the_real_archive():
    drawings = strokes.omniglot()
    assert len(drawings) == 2720
    assert len({(d.alphabet, d.character) for d in drawings}) == 136
    assert sum(len(d.t) for d in drawings) == 375_709
    counts = torch.tensor([int(d.stroke[-1]) + 1 for d in drawings]).bincount()
    assert counts[1] == 1134 and counts[2] == 773
    series = strokes.to_series(drawings[:40])
    assert series.values.abs().max() < 1.3
