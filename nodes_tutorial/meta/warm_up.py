"""The way from the gradient step to the hypernetwork, as a function of the epoch."""

from dataclasses import dataclass

from nodes_tutorial.checks import check_count


@dataclass(frozen=True)
class WarmUp:
    r"""From the gradient step to the hypernetwork: the share of the gradient in each epoch.

    .. math:: \lambda(e)=1\ (e<W),\qquad\lambda(e)=\frac{S+W-e}{S+1}\ (W\le e<W+S),\qquad
        \lambda(e)=0\ (e\ge W+S)

    Attributes:
        warmup: epochs W of the gradient step alone.
        switch: epochs S in which the share falls; 0 jumps.

    Raises:
        TypeError: one is not an integer, or an epoch is not.
        ValueError: one is below 0, or an epoch is.

    Chapter: def-hypermaml-update

    >>> from nodes_tutorial.meta import WarmUp
    >>> share = WarmUp(warmup=2, switch=3)
    >>> [share(epoch) for epoch in range(7)]
    [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    warmup: int
    switch: int

    def __post_init__(self) -> None:
        check_count("warmup", self.warmup)
        check_count("switch", self.switch)

    def __call__(self, epoch: int) -> float:
        """The share of an epoch, counted from 0."""
        check_count("epoch", epoch)
        if epoch < self.warmup:
            return 1.0
        return max(self.switch + self.warmup - epoch, 0) / (self.switch + 1)
