"""Data that the chapters use: generators of their own, and files behind a checksum."""

from nodes_tutorial.data import (
    drawings,
    labelled2d,
    nested,
    pages,
    registry,
    sinusoids,
    spirals,
    strokes,
    tabular,
    tasks,
    timeseries,
    toy2d,
)
from nodes_tutorial.data.images import digits, have_mnist, have_mnist10k, mnist, mnist10k, read_idx
from nodes_tutorial.data.registry import DataError

__all__ = [
    "DataError",
    "digits",
    "drawings",
    "have_mnist",
    "have_mnist10k",
    "labelled2d",
    "mnist",
    "mnist10k",
    "nested",
    "pages",
    "read_idx",
    "registry",
    "sinusoids",
    "spirals",
    "strokes",
    "tabular",
    "tasks",
    "timeseries",
    "toy2d",
]
