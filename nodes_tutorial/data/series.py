"""Irregular time series: a batch on the union of all times, with masks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Series(NamedTuple):
    """A batch of series on the union of their times.

    Attributes:
        times: the union grid, increasing; its first entry is where the latent state starts.
        values: measured values, zero where ``mask`` is False.
        mask: which entries were measured.
    """

    times: Float[Tensor, " grid"]
    values: Float[Tensor, "... n grid dim"]
    mask: Bool[Tensor, "... n grid dim"]

    def rows(self, index: Tensor | slice) -> "Series":
        """Some of the series.

        Args:
            index: which, along the axis n.
        """
        return Series(self.times, self.values[..., index, :, :], self.mask[..., index, :, :])

    def window(self, start: float | None = None, stop: float | None = None) -> "Series":
        """The same series on the same grid, with what lies outside [start, stop] masked."""
        inside = torch.ones_like(self.times, dtype=torch.bool)
        if start is not None:
            inside &= self.times >= start
        if stop is not None:
            inside &= self.times <= stop
        return self.keep(inside[:, None].expand_as(self.mask))

    def until(self, stop: float) -> "Series":
        """The same series on the part of the grid that ends at ``stop``."""
        count = int((self.times <= stop).sum())
        parts = (part[..., :count, :] for part in (self.values, self.mask))
        return Series(self.times[:count], *parts)

    def keep(self, chosen: Bool[Tensor, "*batch n grid dim"]) -> "Series":
        """The same series with what is not chosen masked."""
        mask = self.mask & chosen
        return Series(self.times, torch.where(mask, self.values, 0.0), mask)


def collate(
    times: Sequence[Float[Tensor, "_"]],
    values: Sequence[Float[Tensor, "_ dim"]],
    resolution: float | None = None,
) -> Series:
    """Put series with times of their own on one grid, the sorted union of all times.

    Args:
        times: increasing times of each series.
        values: values of each series, one row a time.
        resolution: round times to multiples of this, which keeps the grid small; values that fall
            on the same grid time are averaged.

    Returns:
        The batch, with a mask of what was observed.

    Raises:
        ValueError: no series, lengths that differ, values without an axis of features, times not
            increasing, ``resolution`` not positive.

    Chapter: prop-latent-padding

    >>> import torch
    >>> from nodes_tutorial.data.series import collate
    >>> a, b = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.4, 2.0])
    >>> batch = collate([a, b], [torch.ones(2, 1), torch.ones(3, 1)])
    >>> batch.times, batch.mask[..., 0].int()
    (tensor([0.0000, 0.4000, 1.0000, 2.0000]), tensor([[1, 0, 1, 0],
            [1, 1, 0, 1]], dtype=torch.int32))
    """
    if not times or len(times) != len(values):
        raise ValueError(f"times and values must be as many, got {len(times)} and {len(values)}")
    if resolution is not None and not resolution > 0:
        raise ValueError(f"resolution must be positive, got {resolution}")
    for i, (t, x) in enumerate(zip(times, values, strict=True)):
        if x.dim() != 2:
            raise ValueError(
                f"values[{i}] must have two axes, times and features, got shape {tuple(x.shape)}"
            )
        if len(t) != len(x) or not bool((t.diff() > 0).all()):
            raise ValueError(f"times[{i}] must increase and have one row of values each")
    lengths = torch.tensor([len(t) for t in times], device=times[0].device)
    series = torch.repeat_interleave(torch.arange(len(times), device=lengths.device), lengths)
    flat, rows = torch.cat(list(times)), torch.cat(list(values))
    ticks = flat if resolution is None else (flat / resolution).round()
    grid, place = torch.unique(ticks, return_inverse=True)
    shape = (len(times), len(grid), rows.shape[-1])
    total = rows.new_zeros(shape).index_put((series, place), rows, accumulate=True)
    count = rows.new_zeros(shape).index_put((series, place), torch.ones_like(rows), accumulate=True)
    return Series(grid * (resolution or 1.0), total / count.clamp(min=1), count > 0)


def observe(series: Series, fraction: float, generator: torch.Generator | None = None) -> Series:
    """Keep a random share of the observed times of each series, at least one.

    Args:
        series: the batch to choose from.
        fraction: share to keep, the number rounded to the nearest.
        generator: source of the choice; None means PyTorch's global one.

    Returns:
        The same series with fewer observations, on the same grid.

    Raises:
        ValueError: ``fraction`` not in (0, 1].

    References: Rubanova, Chen and Duvenaud (2019), section 4.1.

    >>> import torch
    >>> from nodes_tutorial.data.series import observe
    >>> from nodes_tutorial.data.timeseries import periodic
    >>> whole, _ = periodic(3, torch.Generator().manual_seed(0))
    >>> observe(whole, 0.1, torch.Generator().manual_seed(1)).mask.sum((1, 2))
    tensor([10, 10, 10])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    there = series.mask.any(-1)
    kind = {"dtype": series.values.dtype, "device": series.values.device}
    draw = torch.rand(there.shape, generator=generator, **kind).masked_fill(~there, 2.0)
    rank = draw.argsort(-1).argsort(-1)
    count = (fraction * there.sum(-1, keepdim=True)).round().clamp(min=1)
    return series.keep((rank < count).unsqueeze(-1).expand_as(series.mask))


def compact(series: Series, *, backwards: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Each series' own observations one after the other, without the gaps of the union grid.

    Args:
        series: the batch on its union grid.
        backwards: whether to go from the last observation to the first.

    Returns:
        Times (..., n, m), values and mask (..., n, m, dim), with m the largest number of
        observations of a series. Behind its last one a series repeats that time with nothing
        observed; a series without any has the grid's first time.

    Chapter: prop-latent-padding

    >>> import torch
    >>> from nodes_tutorial.data.series import collate, compact
    >>> batch = collate([torch.tensor([0.0, 3.0]), torch.tensor([1.0])], [torch.ones(2, 1)] * 1
    ...                 + [torch.ones(1, 1)])
    >>> compact(batch)[0]
    tensor([[0., 3.],
            [1., 1.]])
    """
    there = series.mask.any(-1)
    count = there.sum(-1, keepdim=True)
    most = max(1, int(count.max()))
    there, key = (x.flip(-1) if backwards else x for x in (there, torch.arange(there.shape[-1])))
    key = key.to(there.device)
    order = (~there).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]
    index = key[order]
    last = index.gather(-1, (count - 1).clamp(min=0))
    inside = torch.arange(most, device=index.device) < count
    index = torch.where(inside, index, torch.where(count > 0, last, 0))
    pick = index.unsqueeze(-1).expand(*index.shape, series.values.shape[-1])
    mask = series.mask.gather(-2, pick) & inside.unsqueeze(-1)
    values = torch.where(mask, series.values.gather(-2, pick), 0.0)
    return series.times[index], values, mask
