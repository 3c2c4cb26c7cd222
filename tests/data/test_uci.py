"""Tables of the UCI repository: real counts where they are at hand, others refused."""

import hashlib

import numpy as np
import pytest
import torch

from nodes_tutorial.data import DataError, registry
from nodes_tutorial.data.uci import INPUTS, have_uci, random_splits, uci

ROWS = {"concrete": 1030, "energy": 768, "yacht": 308}


@pytest.mark.parametrize("name", INPUTS)
def test_real_tables(name):
    if not have_uci(name):
        pytest.skip(f"{name} is not at hand")
    x, y = uci(name, torch.float64)
    assert x.shape == (ROWS[name], INPUTS[name]) and y.shape == (ROWS[name],)
    assert x.dtype == torch.float64 and y.isfinite().all()


def put(folder, monkeypatch, rows):
    path = folder / "uci" / "yacht" / "data.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv(registry.ENVIRONMENT, str(folder))
    return known


def test_columns_go_where_they_belong_and_others_are_refused(tmp_path, monkeypatch):
    rows = np.arange(21.0).reshape(3, 7)
    known = put(tmp_path, monkeypatch, rows)
    with pytest.raises(DataError):
        uci("yacht")
    monkeypatch.setitem(registry.FILES, "uci/yacht/data.txt", (known, "http://127.0.0.1:9/x"))
    x, y = uci("yacht")
    assert x[1].tolist() == list(range(7, 13)) and y.tolist() == [6, 13, 20]
    known = put(tmp_path, monkeypatch, rows[:, :5])
    monkeypatch.setitem(registry.FILES, "uci/yacht/data.txt", (known, "http://127.0.0.1:9/x"))
    with pytest.raises(DataError, match="columns"):
        uci("yacht")


def test_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        uci("boston")
    with pytest.raises(ValueError, match="splits"):
        random_splits(10, 0, 1)
    with pytest.raises(ValueError, match="n must be"):
        random_splits(3, 1, 3)
