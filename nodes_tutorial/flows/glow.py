"""Glow: squeeze an image, mix its channels, couple their halves, and go on with one half."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nodes_tutorial.checks import check_count
from nodes_tutorial.flows.actnorm import ActNorm
from nodes_tutorial.flows.coupling import AffineCoupling
from nodes_tutorial.flows.density import StandardNormal
from nodes_tutorial.flows.flow import Flow, Inverse, Transform, common_context
from nodes_tutorial.flows.linear import InvertibleLinear
from nodes_tutorial.flows.masks import half_mask
from nodes_tutorial.nets import reset_parameters

__all__ = ["ActNorm", "Chain", "ConvNet", "Glow", "InvertibleLinear", "OnChannels", "Squeezed"]


class Chain(Transform):
    """Transforms one after the other, as one; the first one acts first.

    Args:
        transforms: one transform or more, all with the same ``event_dims``, and with the same
            ``context`` where they take one.

    Raises:
        ValueError: none, or some of another ``event_dims`` or ``context``.

    Chapter: cor-normalizing-composition

    References: Papamakarios et al. (2021), section 2.1.

    >>> import torch
    >>> from nodes_tutorial.flows import ActNorm, Chain
    >>> Chain([ActNorm(2), ActNorm(2)])(torch.zeros(5, 2))[1].shape
    torch.Size([5])
    """

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms: Any = nn.ModuleList(transforms)
        kinds = [transform.event_dims for transform in self.transforms]
        if len(set(kinds)) != 1:
            raise ValueError(
                f"transforms must be one or more of one number of event_dims, got {kinds}"
            )
        self.event_dims, self.context = kinds[0], common_context(self.transforms)

    def forward(
        self, z: Float[Tensor, "*shape"], **given: Tensor
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data."""
        total: Tensor | float = 0.0
        for transform in self.transforms:
            z, ladj = transform(z, **(given if transform.context else {}))
            total = total + ladj
        return z, total

    def inverse(
        self, x: Float[Tensor, "*shape"], **given: Tensor
    ) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise: the last one is undone first."""
        total: Tensor | float = 0.0
        for transform in reversed(self.transforms):
            x, ladj = transform.inverse(x, **(given if transform.context else {}))
            total = total + ladj
        return x, total


class Squeezed(Transform):
    """Apply a transform to an image whose 2×2 pixels have become four channels.

    Squeezing only moves numbers, so the volume change is that of the transform.

    Args:
        transform: acts on (4c, h, w) where the image is (c, 2h, 2w).

    Chapter: prop-coupling-lu

    References: Dinh, Sohl-Dickstein and Bengio (2017), section 3.6.

    >>> import torch
    >>> from nodes_tutorial.flows import ActNorm, Squeezed
    >>> Squeezed(ActNorm(4, event_dims=3))(torch.zeros(1, 6, 6))[0].shape
    torch.Size([1, 6, 6])
    """

    event_dims = 3

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data."""
        x, ladj = self.transform(F.pixel_unshuffle(z, 2))
        return F.pixel_shuffle(x, 2), ladj

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise."""
        z, ladj = self.transform.inverse(F.pixel_unshuffle(x, 2))
        return F.pixel_shuffle(z, 2), ladj


class OnChannels(Transform):
    """Apply a transform to the first channels and leave the others as they are.

    This is how a multi-scale flow sets part of an image aside: what a deeper level does not touch
    is noise already.

    Args:
        transform: keeps the shape of what it is given.
        channels: number of channels that the transform sees.

    Raises:
        TypeError: ``channels`` is not an integer.
        ValueError: ``channels`` below 1, a transform that is not of images, or an image of fewer
            channels.

    Chapter: prop-coupling-lu

    References: Dinh, Sohl-Dickstein and Bengio (2017), section 3.6.
    """

    event_dims = 3

    def __init__(self, transform: Transform, channels: int) -> None:
        super().__init__()
        if transform.event_dims != 3:
            raise ValueError(f"transform must have event_dims = 3, got {transform.event_dims}")
        self.transform, self.channels = transform, check_count("channels", channels, least=1)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 3 or x.shape[-3] < self.channels:
            raise ValueError(
                f"an image must have at least {self.channels} channels, got shape {tuple(x.shape)}"
            )

    def forward(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map noise to data."""
        self._check(z)
        x, ladj = self.transform(z[..., : self.channels, :, :])
        return torch.cat([x, z[..., self.channels :, :, :]], -3), ladj

    def inverse(self, x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Tensor]:
        """Map data to noise."""
        self._check(x)
        z, ladj = self.transform.inverse(x[..., : self.channels, :, :])
        return torch.cat([z, x[..., self.channels :, :, :]], -3), ladj


class ConvNet(nn.Module):
    """Three convolutions, 3×3, 1×1 and 3×3, that keep height and width.

    Args:
        inputs: channels of the input.
        width: channels of the two hidden layers.
        outputs: channels of the output.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    References: Kingma and Dhariwal (2018), section 3.3.

    >>> import torch
    >>> from nodes_tutorial.flows import ConvNet
    >>> ConvNet(2, 8, 4)(torch.zeros(5, 2, 6, 6)).shape
    torch.Size([5, 4, 6, 6])
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        like = {"dtype": dtype, "device": device}
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1, **like),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, **like),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 3, padding=1, **like),
        )
        reset_parameters(self, generator)

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch k h w"]:
        """Apply the network; any number of batch axes."""
        y = self.layers(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*x.shape[:-3], *y.shape[-3:])


class Glow(Flow):
    r"""A multi-scale flow on images.

    A level squeezes 2×2 pixels into channels and applies ``steps`` times, from data to noise, an
    actnorm, an invertible 1×1 convolution and an affine coupling. The next level sees half of the
    channels. The other half is set aside as noise, so noise has the shape of the image.

    Args:
        shape: channels, height and width; the last two divisible by two once a level.
        levels: number of levels.
        steps: steps in each level.
        width: channels between the convolutions of a coupling.
        generator: source of the initial weights; None means PyTorch's global one.
        bound: largest absolute log-scale of a coupling.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Raises:
        TypeError: ``levels``, ``steps`` or ``width`` is not an integer.
        ValueError: one of these below 1, ``bound`` not positive, or a height or width that cannot
            be halved ``levels`` times.

    Chapter: prop-coupling-lu

    References: Kingma and Dhariwal (2018), section 3 and figure 2.

    >>> from nodes_tutorial.flows import Glow
    >>> Glow((1, 8, 8), width=8).sample(3).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 2,
        steps: int = 4,
        width: int = 32,
        generator: torch.Generator | None = None,
        *,
        bound: float | int = 2.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        like = {"dtype": dtype, "device": device}
        for name, count in (("levels", levels), ("steps", steps), ("width", width)):
            check_count(name, count, least=1)
        channels, height, side = shape
        if height % 2**levels or side % 2**levels:
            raise ValueError(f"shape must be divisible by {2**levels} in h and w, got {shape}")
        level: Transform | None = None
        for depth in reversed(range(levels)):  # the deepest level first
            c = 4 * channels * 2**depth
            parts: list[Transform] = [OnChannels(level, c // 2)] if level else []
            for step in range(steps):
                mask = half_mask(c, step % 2).to(device)
                net = ConvNet(c // 2, width, c, generator, **like)
                mix = InvertibleLinear(c, event_dims=3, generator=generator, **like)
                parts += [AffineCoupling(mask, net, event_dims=3, bound=bound), Inverse(mix)]
                parts += [ActNorm(c, event_dims=3, **like)]
            level = Squeezed(Chain(parts))
        super().__init__(StandardNormal(tuple(shape), **like), [level])
