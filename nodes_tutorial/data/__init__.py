"""Data that the chapters use: generators of their own, and files behind a checksum."""

from nodes_tutorial.data import (
    labelled2d,
    nested,
    registry,
    spirals,
    strokes,
    tabular,
    timeseries,
    toy2d,
)
from nodes_tutorial.data.images import digits, have_mnist10k, mnist10k, read_idx
from nodes_tutorial.data.registry import DataError

__all__ = [
    "DataError",
    "digits",
    "have_mnist10k",
    "labelled2d",
    "mnist10k",
    "nested",
    "read_idx",
    "registry",
    "spirals",
    "strokes",
    "tabular",
    "timeseries",
    "toy2d",
]
