"""Dual averaging: a step size that moves until paths are accepted as often as is wanted."""

import math

import torch
from torch import Tensor

_SHRINKAGE, _DELAY, _FORGETTING = 0.05, 10, 0.75  # as published


class DualAveraging:
    r"""Nesterov's dual averaging of the logarithm of the step size.

    Args:
        h: the step size to start from, a 0-d tensor; the first steps try ten times as much.
        target: mean acceptance probability that is wanted.

    Attributes:
        h: the step size to use next.

    References: Hoffman and Gelman (2014), section 3.2.
    """

    def __init__(self, h: Tensor, target: float) -> None:
        self.h, self.target = h, target
        self.centre = math.log(10) + h.log()  # tries large steps first
        self.missing, self.log_mean, self.count = torch.zeros_like(h), torch.zeros_like(h), 0

    def update(self, accept: Tensor) -> None:
        """Take note of the acceptance probability of the last step."""
        self.count += 1
        share = 1 / (self.count + _DELAY)
        self.missing = (1 - share) * self.missing + share * (self.target - accept)
        log_h = self.centre - math.sqrt(self.count) / _SHRINKAGE * self.missing
        weight = self.count**-_FORGETTING
        self.log_mean = weight * log_h + (1 - weight) * self.log_mean
        self.h = log_h.exp()

    def averaged(self) -> Tensor:
        """Return the step size to keep, a mean over the steps."""
        return self.log_mean.exp()
