"""Slow feature analysis: the projections of a sequence that change least from frame to frame."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points


class SlowFeatures(NamedTuple):
    """Projections in the order of their slowness, and what is subtracted before."""

    weights: Float[Tensor, "features count"]
    """One column for each slow feature."""
    mean: Float[Tensor, " features"]
    """The mean of the frames."""
    slowness: Float[Tensor, " count"]
    """Mean square of the change of each feature, in units of its variance; small is slow."""

    def __call__(
        self, x: Float[Tensor, "*batch frames features"]
    ) -> Float[Tensor, "*batch frames count"]:
        """The slow features of a sequence.

        Args:
            x: frames, with the features that the analysis saw.

        Returns:
            One row for each frame.
        """
        return (x - self.mean) @ self.weights


def sfa(x: Float[Tensor, "*batch frames features"], count: int | None = None) -> SlowFeatures:
    r"""Projections of variance 1, uncorrelated, with the least mean square change.

    They solve :math:`\mathrm{Cov}(\dot x)\,w=\lambda\,\mathrm{Cov}(x)\,w` for the smallest
    :math:`\lambda`, the slowness, with :math:`\dot x_t=x_t-x_{t-1}`. Several sequences are one
    sample: changes are taken within each.

    Args:
        x: sequences of frames.
        count: how many features; None means all.

    Returns:
        The weights, the mean and the slowness.

    Raises:
        TypeError: ``x`` holds no floating-point numbers.
        ValueError: fewer than two frames, a ``count`` outside 1 to the number of features, or
            features that are constant or depend linearly on each other.

    Chapter: prop-straightening-slow

    References: Wiskott and Sejnowski (2002).

    >>> import torch
    >>> from nodes_tutorial.invariance import sfa
    >>> t = torch.arange(2000, dtype=torch.float64)
    >>> x = torch.stack([(0.01 * torch.pi * t).cos(), (0.2 * torch.pi * t).sin()], 1)
    >>> sfa(x @ torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)).slowness
    tensor([0.0010, 0.3818], dtype=torch.float64)
    """
    check_points("x", x)
    if x.ndim < 2 or x.shape[-2] < 2:
        raise ValueError(f"x must have two or more frames, got shape {tuple(x.shape)}")
    size = x.shape[-1]
    count = check_count("count", size if count is None else count, least=1)
    if count > size:
        raise ValueError(f"count must be at most {size}, got {count}")
    rows, changes = x.reshape(-1, size), x.diff(dim=-2).reshape(-1, size)
    mean = rows.mean(0)
    centered = rows - mean
    values, vectors = torch.linalg.eigh(centered.mT @ centered / len(rows))
    if bool(values[0] <= size * torch.finfo(x.dtype).eps * values[-1]):
        raise ValueError(
            "x must have features that are neither constant nor linearly dependent: project it to "
            "its principal components first"
        )
    white = vectors / values.sqrt()
    moved = changes @ white
    slowness, turned = torch.linalg.eigh(moved.mT @ moved / len(changes))
    return SlowFeatures((white @ turned)[:, :count], mean, slowness[:count])
