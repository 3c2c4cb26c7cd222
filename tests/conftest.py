"""What every test may use: the `claim` mark's bookkeeping and the `measured` fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
from torch import Tensor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        labels = []
        for mark in item.iter_markers("claim"):
            if not mark.args or not all(isinstance(label, str) for label in mark.args):
                raise pytest.UsageError(f"{item.nodeid}: claim() takes the labels of statements")
            labels += mark.args
        if labels:
            item.user_properties.append(("claim", labels))


@pytest.fixture
def as_at_the_users() -> Iterator[None]:
    """The checks of annotations run in the tests alone; a user has none."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[float, str], float]:
    """Record an error that the test measured; the largest is shown on the page of statements.

    Use it as `error = measured((a - b).abs().max(), "gradient")` and then assert the bound.
    """
    largest: dict[str, float] = {}

    def record(value: float, what: str) -> float:
        number = float(value.detach() if isinstance(value, Tensor) else value)
        largest[what] = max(number, largest.get(what, 0.0))
        record_property("measured", dict(largest))
        return number

    return record
