"""Files that are not what they should be: each way in raises DataError with the file's name."""

import gzip
import hashlib
import os
import struct
import zipfile

import numpy as np
import pytest
import torch

from nodes_tutorial import data
from nodes_tutorial.data import DataError, registry, strokes, tabular

pytestmark = pytest.mark.usefixtures("as_at_the_users")
IMAGE = struct.pack(">4I", 0x803, 2, 3, 4) + bytes(range(24))
PACKED = gzip.compress(IMAGE)
LINES = "START\n10,-20,0\n12,-22,16\nBREAK\n"


def rows(**changes):
    table = np.random.default_rng(0).standard_normal((200, 43))
    for place, value in changes.items():
        table[5 if place == "entry" else slice(None), 7] = value
    return table


def written(save, content):
    def write(path):
        with open(path, "wb") as file:
            save(file, content)

    return write


def put(content):
    return lambda path: path.write_bytes(content)


def zipped(text, name="set/Greek/character01/0001_01.txt"):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, text)

    return write


def flip(path):
    """A drawing whose compressed bytes have changed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("set/Greek/character01/0001_01.txt", LINES * 20)
    raw = bytearray(path.read_bytes())
    raw[70] ^= 16
    path.write_bytes(raw)


def own(path):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    return tabular.load("miniboone", path, sha256)


NPY = written(np.save, rows())
BROKEN = {
    "idx no gzip": (data.read_idx, put(IMAGE)),
    "idx empty": (data.read_idx, put(b"")),
    "idx gzip cut": (data.read_idx, put(PACKED[:-9])),
    "idx gzip flipped": (data.read_idx, put(PACKED[:20] + b"\xff\xff" + PACKED[22:])),
    "idx bytes behind": (data.read_idx, put(PACKED + b"more")),
    "idx header cut": (data.read_idx, put(gzip.compress(IMAGE[:9]))),
    "idx values cut": (data.read_idx, put(gzip.compress(IMAGE[:-1]))),
    "idx values too many": (data.read_idx, put(gzip.compress(IMAGE + b"0"))),
    "idx 255 axes": (data.read_idx, put(gzip.compress(b"\0\0\x08\xff" + IMAGE[4:]))),
    "idx no axis": (data.read_idx, put(gzip.compress(b"\0\0\x08\0" + b"1"))),
    "idx of floats": (data.read_idx, put(gzip.compress(b"\0\0\x0d\x01" + bytes(8)))),
    "idx missing": (data.read_idx, lambda path: None),
    "idx a folder": (data.read_idx, lambda path: path.mkdir()),
    "table npz": (own, written(lambda f, x: np.savez(f, x=x), rows())),
    "table zip": (own, zipped("text")),
    "table nan": (own, written(np.save, rows(entry=np.nan))),
    "table inf": (own, written(np.save, rows(entry=-np.inf))),
    "table constant": (own, written(np.save, rows(column=1.0))),
    "table complex": (own, written(np.save, rows() + 1j)),
    "table of text": (own, written(np.save, rows().astype(str))),
    "table of one axis": (own, written(np.save, rows().ravel())),
    "table empty": (own, put(b"")),
    "table missing": (own, lambda path: None),
    "strokes missing": (strokes.read_zip, lambda path: None),
    "strokes a folder": (strokes.read_zip, lambda path: path.mkdir()),
    "strokes text": (strokes.read_zip, put(b"text")),
    "strokes flipped": (strokes.read_zip, flip),
    "strokes nan": (strokes.read_zip, zipped("START\nnan,1,0\n")),
    "strokes inf": (strokes.read_zip, zipped("START\n1,inf,0\n")),
    "strokes no number of a person": (
        strokes.read_zip,
        zipped(LINES, "set/Greek/character01/text.txt"),
    ),
    "checksum missing": (lambda path: registry.verify(path, "0" * 64), lambda path: None),
    "checksum of a folder": (lambda path: registry.verify(path, "0" * 64), lambda p: p.mkdir()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_data_error(name, tmp_path):
    read, write = BROKEN[name]
    path = tmp_path / "the_file"
    write(path)
    with pytest.raises(DataError, match="columns" if name == "table constant" else "the_file"):
        read(path)


def test_whole_files_are_read(tmp_path):
    (tmp_path / "idx").write_bytes(PACKED)
    assert data.read_idx(tmp_path / "idx").flatten().tolist() == list(range(24))
    (tmp_path / "none").write_bytes(gzip.compress(struct.pack(">3I", 0x802, 0, 5)))
    assert data.read_idx(tmp_path / "none").shape == (0, 5)
    NPY(tmp_path / "table")
    assert own(tmp_path / "table").train.isfinite().all()
    zipped(LINES)(tmp_path / "zip")
    assert len(strokes.read_zip(tmp_path / "zip", ["Greek"])) == 1


def test_alphabets_are_whole_names(tmp_path):
    zipped(LINES)(tmp_path / "zip")
    with pytest.raises(TypeError, match="alphabets must be a list"):
        strokes.read_zip(tmp_path / "zip", "Greek")
    with pytest.raises(DataError, match=r"no drawings of Gree$"):
        strokes.read_zip(tmp_path / "zip", ["Gree"])
    with pytest.raises(DataError, match=r"no drawings of Latin$"):
        strokes.read_zip(tmp_path / "zip", ["Greek", "Latin"])


def test_a_checksum_is_text_of_a_known_kind(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(TypeError, match="known must be a checksum"):
        registry.verify(tmp_path / "file", None)
    for wrong in ("crc:12", "", "sha256:"):
        with pytest.raises(ValueError, match="known must be a checksum"):
            registry.verify(tmp_path / "file", wrong)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one's own, one registered file, and no network: nothing answers at that port."""
    import pooch

    folder = tmp_path / "cache"
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    entry = (hashlib.sha256(PACKED).hexdigest(), "http://127.0.0.1:9/none.gz")
    monkeypatch.setattr(registry, "FILES", {"set/file.gz": entry})
    return folder


def test_a_broken_file_in_the_cache_is_not_available(cache):
    path = cache / "set" / "file.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(PACKED)
    assert registry.available("set/file.gz") and registry.fetch("set/file.gz") == path
    path.write_bytes(PACKED[:-4])
    assert not registry.available("set/file.gz")
    with pytest.raises(DataError, match=r"file in the cache is broken.*file\.gz has sha256"):
        registry.fetch("set/file.gz")
    path.write_bytes(PACKED)
    assert registry.available("set/file.gz")


def test_a_cache_that_cannot_be_written_is_named(cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=rf"cannot write set/file.gz to the cache {cache}"):
        registry.fetch("set/file.gz")
    cache.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"cannot write set/file\.gz"):
        registry.fetch("set/file.gz")
    monkeypatch.undo()


def test_shapes_of_the_plane_have_their_orientation():
    """Against a loop over the points with the same draws: which way arms and rolls turn."""
    from nodes_tutorial.data import toy2d

    kind, n = {"dtype": torch.float64}, 50

    def draws(seed=0):
        return torch.Generator().manual_seed(seed)

    g = draws()
    noise = torch.randn(n, 2, generator=g, **kind) * torch.tensor([0.3, 0.1], **kind)
    arms = torch.randint(5, (n,), generator=g)
    for ours, (along, across), arm in zip(
        toy2d.sample("pinwheel", n, draws(), **kind), noise, arms, strict=True
    ):
        angle = 2 * np.pi * arm / 5 + 0.25 * torch.exp(1 + along)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        wanted = 2 * torch.stack([1 + along, across]) @ turn  # a row times R: clockwise
        assert (ours - wanted).abs().max() < 1e-12
        assert (ours - 2 * turn @ torch.stack([1 + along, across])).abs().max() > 1e-3

    g = draws()
    u, jitter = torch.rand(n, generator=g, **kind), torch.randn(n, 2, generator=g, **kind)
    for ours, v, e in zip(toy2d.sample("swissroll", n, draws(), **kind), u, jitter, strict=True):
        angle = 1.5 * np.pi * (1 + 2 * v)  # outwards against the clock
        wanted = (angle * torch.stack([angle.cos(), angle.sin()]) + e) / 5
        assert (ours - wanted).abs().max() < 1e-12

    g = draws()
    u, corner = torch.rand(n, generator=g, **kind), torch.rand(n, 2, generator=g, **kind)
    signs, jitter = torch.randint(2, (n,), generator=g), torch.randn(n, 2, generator=g, **kind)
    for i, ours in enumerate(toy2d.sample("2spirals", n, draws(), **kind)):
        angle = 3 * np.pi * u[i].sqrt()
        arm = torch.stack([-angle.cos() * angle, angle.sin() * angle]) + corner[i] / 2
        wanted = (arm if signs[i] == 0 else -arm) / 3 + 0.1 * jitter[i]
        assert (ours - wanted).abs().max() < 1e-12
