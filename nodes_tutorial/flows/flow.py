"""Invertible maps that know their volume change, and the densities made of them."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_generator, check_points
from nodes_tutorial.flows.density import Density


class Transform(nn.Module):
    r"""An invertible differentiable map between spaces of one dimension.

    ``forward(z)`` returns x and :math:`\log|\det\partial x/\partial z|`; ``inverse(x)`` returns z
    and :math:`\log|\det\partial z/\partial x|`: always of the map that was just applied. In a
    ``Flow`` z is noise and x is data. Any number of leading batch axes is allowed, also none.

    Attributes:
        event_dims: number of axes of one point: 1 for vectors, 3 for images.

    Chapter: thm-normalizing-change

    References: Papamakarios et al. (2021), section 2.1.
    """

    event_dims: int = 1

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data.

        Args:
            z: points, of shape (\\*batch, \\*event).

        Returns:
            x, of the shape of ``z``, and the log-determinants, of shape (\\*batch,).
        """
        raise NotImplementedError

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise.

        Args:
            x: points, of shape (\\*batch, \\*event).

        Returns:
            z, of the shape of ``x``, and the log-determinants, of shape (\\*batch,).
        """
        raise NotImplementedError

    def push(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``forward`` without the log-determinant; overridden where that is cheaper."""
        return self(z)[0]

    def pull(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``inverse`` without the log-determinant; overridden where that is cheaper."""
        return self.inverse(x)[0]


class Inverse(Transform):
    """A transform run the other way: its ``forward`` is the inverse of the given one.

    Args:
        transform: the transform, whose parameters are shared.

    Chapter: thm-normalizing-change

    References: Papamakarios et al. (2021), section 2.1.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.event_dims = transform.event_dims

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """The given transform's ``inverse``."""
        return self.transform.inverse(z)

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """The given transform's ``forward``."""
        return self.transform(x)

    def push(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The given transform's ``pull``."""
        return self.transform.pull(z)

    def pull(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The given transform's ``push``."""
        return self.transform.push(x)


class Flow(nn.Module):
    r"""The density of :math:`x = T_K \circ\dots\circ T_1(z)` for z drawn from a base density.

    .. math:: \log p(x) = \log p_0(z) + \sum_{k=1}^K \log\Bigl|\det\frac{\partial z_{k-1}}
        {\partial z_k}\Bigr|, \qquad z_K = x,\quad z_{k-1} = T_k^{-1}(z_k),\quad z = z_0

    Args:
        base: a ``Density``, such as ``StandardNormal``; a module, so that it moves along.
        transforms: :math:`T_1,\dots,T_K`; sampling applies the first one first.

    Raises:
        TypeError: ``base`` is not a density or not a module, or an entry is no ``Transform``.
        ValueError: transforms whose ``event_dims`` differ, or are not the axes of the base.

    Chapter: cor-normalizing-composition

    References: Rezende and Mohamed (2015); Papamakarios et al. (2021), section 2.1.

    >>> import torch
    >>> from nodes_tutorial.flows import Flow
    >>> from nodes_tutorial.flows import StandardNormal
    >>> Flow(StandardNormal(2), []).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    def __init__(self, base: nn.Module, transforms: Iterable[Transform]) -> None:
        super().__init__()
        if not isinstance(base, Density) or not isinstance(base, nn.Module):
            raise TypeError(f"base must be a Density and a module, got {type(base).__name__}")
        transforms = list(transforms)
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise TypeError(
                    f"transforms must hold Transform objects, got {type(transform).__name__}"
                )
        if len({transform.event_dims for transform in transforms}) > 1:
            kinds = [transform.event_dims for transform in transforms]
            raise ValueError(f"transforms must have one number of event_dims, got {kinds}")
        shape = getattr(base, "event_shape", None)
        if transforms and shape is not None and transforms[0].event_dims != len(shape):
            raise ValueError(
                f"transforms must act on the axes {shape} of the base, "
                f"got event_dims = {transforms[0].event_dims}"
            )
        self.base = base
        self.transforms = nn.ModuleList(transforms)

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one point; None where the base does not know it."""
        return getattr(self.base, "event_shape", None)

    def log_prob(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The log-density in nats, shape (\\*batch,); it is NaN where x has NaN.

        Raises:
            TypeError: x is not a floating-point tensor of the weights' dtype and device.
            ValueError: x does not end in the axes of one point.
        """
        check_points("x", x, self.event_shape, next(self.transforms.parameters(), None))
        total: Tensor | float = 0.0
        for transform in reversed(self.transforms):
            x, ladj = transform.inverse(x)
            total = total + ladj
        return self.base.log_prob(x) + total

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n ..."]:
        """Draw n points, without a graph.

        Raises:
            TypeError: n is not an integer, or ``generator`` is not a generator.
            ValueError: n is negative.
        """
        _check_draw(n, generator)
        with torch.no_grad():
            x = self.base.sample(n, generator)
            for transform in self.transforms:
                x = transform.push(x)
        return x

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
        """Draw n points with gradients to the parameters, and return their log-densities too.

        Raises:
            TypeError: as for ``sample``.
            ValueError: as for ``sample``.
        """
        _check_draw(n, generator)
        x, log_prob = self.base.rsample_and_log_prob(n, generator)
        for transform in self.transforms:
            x, ladj = transform(x)
            log_prob = log_prob - ladj
        return x, log_prob


def _check_draw(n: int, generator: torch.Generator | None) -> None:
    check_count("n", n)
    check_generator(generator)
