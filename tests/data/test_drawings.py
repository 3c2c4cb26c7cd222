"""MNIST and Omniglot in full: official or packed anew, others refused, real counts."""

import functools
import gzip
import hashlib
import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from nodes_tutorial import data
from nodes_tutorial.data import DataError, drawings, images, pages, registry

ALPHABETS = {"background": ("Greek", "Korean"), "evaluation": ("Angelic",)}


def picture(number):
    """A page with a cross whose place depends on the number; as bools, ink True."""
    ink = np.zeros((105, 105), dtype=bool)
    ink[10 + number, 5:100] = ink[5:100, 20 + 2 * number] = True
    return ink


def png(ink, **how):
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "png", **how)
    return file.getvalue()


def archive(path, part, change=None, **how):
    """Two characters by three people for each alphabet, in the official layout."""
    how = {"compression": zipfile.ZIP_DEFLATED} | how
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", how["compression"]) as file:
        file.writestr(f"images_{part}/", "")
        file.writestr(f"__MACOSX/images_{part}/Greek/character01/._0001_01.png", b"\0")
        number = 0
        for alphabet in ALPHABETS[part]:
            for character in (1, 2):
                for person in (1, 2, 3):
                    ink = picture(number)
                    if number == change:
                        ink[0, 0] = True
                    name = f"{alphabet}/character{character:02}/{number:04}_{person:02}.png"
                    content = png(ink, compress_level=how.get("level", 6))
                    file.writestr(f"images_{part}/{name}", content)
                    number += 1


@pytest.fixture
def omniglot(tmp_path, monkeypatch):
    """A small Omniglot whose official form and whose content are known to the package."""
    folder = tmp_path / "data"
    files, content = dict(registry.FILES), {}
    for part in ALPHABETS:
        name = f"omniglot/images_{part}.zip"
        archive(folder / name, part)
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        files[name] = (f"md5:{md5}", "http://127.0.0.1:9/none.zip")
        content[name] = pages.fingerprint(pages.read_zip(folder / name))
    monkeypatch.setattr(registry, "FILES", files)
    monkeypatch.setattr(drawings, "CONTENT", content)
    monkeypatch.setenv(registry.ENVIRONMENT, str(folder))
    return folder / "omniglot"


def test_omniglot_in_its_official_form(omniglot):
    found = drawings.omniglot("all", side=105, dtype=torch.float64)
    assert found.images.shape == (18, 1, 105, 105) and found.images.dtype == torch.float64
    assert found.names[::2] == ("Greek/character01", "Korean/character01", "Angelic/character01")
    assert found.alphabets == ("Greek",) * 2 + ("Korean",) * 2 + ("Angelic",) * 2
    assert found.labels.tolist() == np.repeat(range(6), 3).tolist()
    for i, image in enumerate(found.images):
        assert torch.equal(image[0].bool(), torch.from_numpy(picture(i % 12)))
    assert drawings.omniglot("evaluation").images.shape == (6, 1, 28, 28)
    assert drawings.have_omniglot() and drawings.have_omniglot("background")


def test_omniglot_packed_anew_is_taken_by_its_content(omniglot):
    before = drawings.omniglot("background")
    path = omniglot / "images_background.zip"
    old = path.read_bytes()
    archive(path, "background", compression=zipfile.ZIP_STORED, level=0)
    assert path.read_bytes() != old
    after = drawings.omniglot("background")
    assert torch.equal(before.images, after.images) and before.names == after.names


def test_omniglot_with_another_pixel_or_name_is_refused(omniglot):
    path = omniglot / "images_background.zip"
    archive(path, "background", change=7)
    with pytest.raises(DataError, match=r"drawings in .*images_background\.zip have sha256"):
        drawings.omniglot("background")
    archive(path, "evaluation")
    with pytest.raises(DataError, match="replace the file"):
        drawings.omniglot("all")
    assert len(drawings.omniglot("evaluation").names) == 2


def test_missing_files_say_what_to_do(tmp_path, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setenv(registry.ENVIRONMENT, str(tmp_path))
    nowhere = {k: (known, "http://127.0.0.1:9/x") for k, (known, _) in registry.FILES.items()}
    nowhere[drawings.EN62] = (nowhere[drawings.EN62][0], "")
    monkeypatch.setattr(registry, "FILES", nowhere)
    assert not (drawings.have_omniglot() or drawings.have_en62() or data.have_mnist())
    for load in (drawings.omniglot, data.mnist, lambda: data.mnist("test")):
        with pytest.raises(DataError, match=rf"cannot download .*{registry.ENVIRONMENT}"):
            load()
    with pytest.raises(DataError, match=rf"en62.*no public address.*{registry.ENVIRONMENT}"):
        drawings.en62()
    for wrong in (drawings.omniglot, drawings.have_omniglot):
        with pytest.raises(ValueError, match=r"part must be one of .*'all'"):
            wrong("latin")
    with pytest.raises(ValueError, match=r"part must be one of \['test', 'train'\]"):
        data.mnist("valid")
    with pytest.raises(ValueError, match="side must be between 1 and 105"):
        drawings.omniglot(side=106)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"set/Greek/character01/1_01.png": b"text"}, "1_01.png is no picture"),
        ({"set/Greek/character01/1_01.png": png(np.zeros((3, 4), dtype=bool))}, "3×4, not 105"),
        ({"set/Greek/character01/1_01.png": png(picture(0))[:90]}, "cannot be read"),
        ({"readme.txt": b"text"}, "holds no drawings"),
    ],
)
def test_archives_that_are_none(content, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name, one in content.items():
            file.writestr(name, one)
    with pytest.raises(DataError, match=message):
        pages.read_zip(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"text")
    for path in (tmp_path / "a.zip", tmp_path / "b.zip"):
        with pytest.raises(DataError, match="cannot be read as a zip file"):
            pages.read_zip(path)


def test_smaller_images_keep_their_ink_and_place():
    ink = np.zeros((3, 105, 105), dtype=bool)
    ink[0] = True
    ink[1, 50:55, 50:55] = True
    ink[2, 30:60] = True
    small = pages.unpack(np.packbits(ink.reshape(3, -1), axis=1), 21, torch.float64)
    assert small.shape == (3, 1, 21, 21)
    assert (small[0] - 1).abs().max() < 1e-12
    assert small[1, 0].argmax() == 10 * 21 + 10 and abs(25 * small[1].sum() - 25) < 0.5
    rows = torch.zeros(21, 1, dtype=torch.float64)
    rows[7:11], rows[[6, 11]], rows[[5, 12]] = 1, 0.88, 0.12
    torch.testing.assert_close(small[2, 0], rows.expand(21, 21))


def test_classes_are_selected_and_split():
    labels = torch.tensor([2, 0, 1, 0, 2])
    all_ = drawings.Characters(torch.arange(5.0).view(5, 1, 1, 1), labels, ("a", "b", "c"))
    few = drawings.select(all_, [2, 0])
    assert few.names == ("c", "a") and few.labels.tolist() == [0, 0, 1, 1]
    assert few.images.flatten().tolist() == [0, 4, 1, 3]
    one, two = drawings.split(all_, 2)
    again, other = (
        drawings.split(all_, 2),
        drawings.split(all_, 2, torch.Generator().manual_seed(3)),
    )
    assert again[0].names == one.names and set(one.names + two.names) == {"a", "b", "c"}
    assert not set(one.names) & set(two.names)
    assert {
        drawings.split(all_, 1, torch.Generator().manual_seed(s))[0].names for s in range(9)
    } == {
        ("a",),
        ("b",),
        ("c",),
    }
    assert len(other[0].names) == 2
    for wrong in ([], [0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="classes must be distinct numbers from 0 to 2"):
            drawings.select(all_, wrong)
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="first must be between 1 and 2"):
            drawings.split(all_, wrong)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four small files in MNIST's format, known to the package by their content alone."""
    content = {}
    for part, names in images.PARTS.items():
        n = {"train": 5, "test": 3}[part]
        pixels = struct.pack(">4I", 0x803, n, 28, 28) + bytes(i % 251 for i in range(n * 784))
        for name, raw in zip(
            names, (pixels, struct.pack(">2I", 0x801, n) + bytes(range(n))), strict=True
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(gzip.compress(raw, 1))
            content[name] = hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr(images, "CONTENT", content)
    monkeypatch.setenv(registry.ENVIRONMENT, str(tmp_path))
    return tmp_path


def test_mnist_is_taken_by_its_content(small_mnist, as_at_the_users):
    for part, n in (("train", 5), ("test", 3)):
        x, y = data.mnist(part, torch.float64)
        assert x.shape == (n, 1, 28, 28) and y.tolist() == list(range(n))
        assert torch.equal((x.flatten() * 255).round().long(), torch.arange(n * 784) % 251)
    assert data.have_mnist()
    name = images.PARTS["train"][0]
    raw = bytearray(gzip.decompress((small_mnist / name).read_bytes()))
    raw[-1] ^= 1
    (small_mnist / name).write_bytes(gzip.compress(raw))
    with pytest.raises(DataError, match=r"content of .*train-images-idx3-ubyte\.gz has sha256"):
        data.mnist()
    (small_mnist / name).write_bytes(b"text")
    with pytest.raises(DataError, match="cannot be read as a gzip file"):
        data.mnist()


def test_the_official_wrapper_is_not_read_twice(small_mnist, monkeypatch):
    name = images.PARTS["train"][1]
    sha256 = hashlib.sha256((small_mnist / name).read_bytes()).hexdigest()
    monkeypatch.setitem(registry.FILES, name, (sha256, "http://127.0.0.1:9/x"))

    def never(path):
        raise AssertionError

    assert registry.fetch(name, never) == small_mnist / name


# ---- the real files, where they are at hand


@pytest.mark.skipif(not data.have_mnist(), reason="needs all of MNIST at hand")
def test_real_mnist():
    x, y = data.mnist("train")
    assert x.shape == (60_000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert y.bincount().tolist() == counts and y[:5].tolist() == [5, 0, 4, 1, 9]
    assert (x * 255).round().long().sum() == 1_567_298_545  # the mean .1307 that is in use
    x, y = data.mnist("test")
    assert x.shape == (10_000, 1, 28, 28)
    assert y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(255 * x.double().mean() - 33.791) < 1e-3


@functools.cache
def real_omniglot():
    return drawings.omniglot()


needs_omniglot = pytest.mark.skipif(
    not drawings.have_omniglot(), reason="needs all of Omniglot at hand"
)


@needs_omniglot
def test_real_omniglot():
    found = real_omniglot()
    assert found.images.shape == (32_460, 1, 28, 28) and len(found.names) == 1623
    assert (found.labels.bincount() == 20).all() and len(set(found.alphabets)) == 50
    assert len(set(found.alphabets[:964])) == 30
    assert not set(found.alphabets[:964]) & set(found.alphabets[964:])
    assert found.alphabets.count("Latin") == 26  # without them: the 1,597 of noLatin
    assert found.images.min() >= 0 and found.images.max() <= 1
    train, test = drawings.split(found)
    assert (len(train.names), len(test.names)) == (1200, 423)
    assert len(train.images) == 24_000 and len(set(train.names + test.names)) == 1623


@needs_omniglot
@pytest.mark.skipif(not drawings.have_omniglot("small"), reason="needs the small sets at hand")
def test_small_sets_are_a_part_of_all_pixel_for_pixel():
    folder = [registry.fetch(name) for name in drawings.PARTS["small"]]
    whole = pages.read_zip(registry.fetch(drawings.PARTS["background"][0], lambda path: None))
    place = {name: i for i, name in enumerate(whole.names)}
    for path in folder:
        part = pages.read_zip(path)
        rows = [place[name] for name in part.names]
        assert (whole.bits[rows] == part.bits).all()
    small = drawings.omniglot("small")
    assert small.images.shape == (4840, 1, 28, 28) and len(small.names) == 242
    assert (small.labels.bincount() == 20).all()


@pytest.mark.skipif(not drawings.have_en62(), reason="needs en62 at hand")
def test_real_en62():
    found = drawings.en62(torch.float64)
    assert found.images.shape == (5738, 1, 28, 28) and len(found.names) == 62
    assert "".join(found.names[9:12] + found.names[35:37]) == "9ABZa"
    assert {int(n) for n in found.labels.bincount()} <= {92, 93, 94}
    assert found.images.flatten(1).unique(dim=0).shape[0] == 5735
    test = drawings.select(found, range(1, 62, 2))
    assert len(test.names) == 31 and test.names[0] == "1"
