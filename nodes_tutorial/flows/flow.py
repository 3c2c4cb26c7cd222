"""Invertible maps that know their volume change, and the densities made of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_generator, check_points
from nodes_tutorial.flows.conditional import check_context
from nodes_tutorial.flows.density import Density


class Transform(nn.Module):
    r"""An invertible differentiable map between spaces of one dimension.

    ``forward(z)`` returns x and :math:`\log|\det\partial x/\partial z|`; ``inverse(x)`` returns z
    and :math:`\log|\det\partial z/\partial x|`: always of the map that was just applied. In a
    ``Flow`` z is noise and x is data. Any number of leading batch axes is allowed, also none.

    A map that hangs on a context takes it as ``context=…`` in all four methods: one for all points,
    of shape (c,), or one for each, of shape (\\*batch, c).

    Attributes:
        event_dims: number of axes of one point: 1 for vectors, 3 for images.
        context: entries c of the context; 0 for a map that takes none.

    Chapter: thm-normalizing-change

    References: Papamakarios et al. (2021), section 2.1.
    """

    event_dims: int = 1
    context: int = 0

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

    def push(self, z: Float[Tensor, "*shape"], **given: Tensor) -> Float[Tensor, "*shape"]:
        """``forward`` without the log-determinant; overridden where that is cheaper."""
        return self(z, **given)[0]

    def pull(self, x: Float[Tensor, "*shape"], **given: Tensor) -> Float[Tensor, "*shape"]:
        """``inverse`` without the log-determinant; overridden where that is cheaper."""
        return self.inverse(x, **given)[0]


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
        self.event_dims, self.context = transform.event_dims, transform.context

    def forward(
        self, z: Float[Tensor, "*shape"], **given: Tensor
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """The given transform's ``inverse``."""
        return self.transform.inverse(z, **given)

    def inverse(
        self, x: Float[Tensor, "*shape"], **given: Tensor
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """The given transform's ``forward``."""
        return self.transform(x, **given)

    def push(self, z: Float[Tensor, "*shape"], **given: Tensor) -> Float[Tensor, "*shape"]:
        """The given transform's ``pull``."""
        return self.transform.pull(z, **given)

    def pull(self, x: Float[Tensor, "*shape"], **given: Tensor) -> Float[Tensor, "*shape"]:
        """The given transform's ``push``."""
        return self.transform.push(x, **given)


class Flow(nn.Module):
    r"""The density of :math:`x = T_K \circ\dots\circ T_1(z)` for z drawn from a base density.

    .. math:: \log p(x) = \log p_0(z) + \sum_{k=1}^K \log\Bigl|\det\frac{\partial z_{k-1}}
        {\partial z_k}\Bigr|, \qquad z_K = x,\quad z_{k-1} = T_k^{-1}(z_k),\quad z = z_0

    If some transforms take a context c, then this is the conditional density
    :math:`p(x\mid c)`, and every method wants ``context``. It has shape (c,), one context for all
    points, or (\*batch, c), one for each.

    Args:
        base: a ``Density``, such as ``StandardNormal``; a module, so that it moves along.
        transforms: :math:`T_1,\dots,T_K`; sampling applies the first one first.

    Attributes:
        context: entries of a context; 0 for a flow that takes none.

    Raises:
        TypeError: ``base`` is not a density or not a module, or an entry is no ``Transform``.
        ValueError: transforms whose ``event_dims`` differ, or are not the axes of the base, or that
            take contexts of different sizes.

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
        self.context = common_context(transforms)
        self.event_dims = transforms[0].event_dims if transforms else len(shape or ())
        self.base = base
        self.transforms: Any = nn.ModuleList(transforms)

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one point; None where the base does not know it."""
        return getattr(self.base, "event_shape", None)

    def log_prob(
        self, x: Float[Tensor, "..."], context: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """The log-density in nats, shape (\\*batch,); it is NaN where x has NaN.

        Raises:
            TypeError: x or context is not a floating-point tensor of the weights' dtype and device.
            ValueError: x does not end in the axes of one point; a context that is missing, not
                asked for, of another size or for another number of points, or not finite.
        """
        like = next(self.transforms.parameters(), None)
        check_points("x", x, self.event_shape, like)
        given = self._given(context, x.shape[: x.ndim - self.event_dims])
        total: Tensor | float = 0.0
        for transform in reversed(self.transforms):
            x, ladj = transform.inverse(x, **(given if transform.context else {}))
            total = total + ladj
        return self.base.log_prob(x) + total

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        context: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Draw n points, without a graph.

        Raises:
            TypeError: n is not an integer, or ``generator`` is not a generator.
            ValueError: n is negative, or ``context`` as for ``log_prob``.
        """
        with torch.no_grad():
            return self.rsample(n, generator, context=context)

    def rsample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        context: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Draw n points with gradients to the parameters and the context; as ``sample``."""
        given = self._given_to_draw(n, generator, context)
        x = self.base.rsample(n, generator)
        for transform in self.transforms:
            x = transform.push(x, **(given if transform.context else {}))
        return x

    def rsample_and_log_prob(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        context: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
        """As ``rsample``, and return the log-densities of the points too.

        Raises:
            TypeError: as for ``sample``.
            ValueError: as for ``sample``.
        """
        given = self._given_to_draw(n, generator, context)
        x, log_prob = self.base.rsample_and_log_prob(n, generator)
        for transform in self.transforms:
            x, ladj = transform(x, **(given if transform.context else {}))
            log_prob = log_prob - ladj
        return x, log_prob

    def _given_to_draw(
        self, n: int, generator: torch.Generator | None, context: Tensor | None
    ) -> dict[str, Tensor]:
        check_count("n", n)
        check_generator(generator)
        return self._given(context, (n,))

    def _given(self, context: Tensor | None, batch: Sequence[int]) -> dict[str, Tensor]:
        """What the transforms that take a context are called with beside the points."""
        if context is None and not self.context:
            return {}
        like = next(self.transforms.parameters(), None)
        return {"context": check_context(context, self.context, batch, like, look=True)}


def common_context(transforms: Iterable[Transform]) -> int:
    """Entries of the context of a sequence of transforms.

    Args:
        transforms: the transforms, some of which may take a context.

    Returns:
        The number that they agree on; 0 if none takes a context.

    Raises:
        ValueError: contexts of several sizes.

    >>> from nodes_tutorial.flows import Diagonal
    >>> from nodes_tutorial.flows.flow import common_context
    >>> common_context([Diagonal(2)])
    0
    """
    sizes = {transform.context for transform in transforms} - {0}
    if len(sizes) > 1:
        raise ValueError(f"transforms must take contexts of one size, got {sorted(sizes)}")
    return max(sizes, default=0)
