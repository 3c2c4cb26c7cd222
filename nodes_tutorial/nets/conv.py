"""The small convolution network of few-shot learning: four equal blocks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count
from nodes_tutorial.nets.mlp import reset_parameters

POOLS = ("stride", "max")
NORMS = ("batch", "running")
BLOCKS = 4


class BatchNorm(nn.Module):
    """Normalization of each channel by the mean and variance of the images at hand.

    The numbers are those of ``nn.BatchNorm2d(width, track_running_stats=False)``. It is written
    out because PyTorch 2.13 gets second derivatives of its own function wrong under ``vmap``.

    Args:
        width: number of channels.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Attributes:
        eps: what is added to the variance.
        weight: factor of each channel, at first 1.
        bias: shift of each channel, at first 0.

    Raises:
        ValueError: one number for each channel, whose variance is 0.

    References: Ioffe and Szegedy (2015), algorithm 1.

    >>> import torch
    >>> from nodes_tutorial.nets.conv import BatchNorm
    >>> y = BatchNorm(3)(torch.rand(8, 3, 4, 4))
    >>> y.mean((0, 2, 3)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(
        self,
        width: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("width", width, least=1)
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype, device=device))

    def forward(
        self, x: Float[Tensor, "batch width height side"]
    ) -> Float[Tensor, "batch width height side"]:
        """Normalized images; every image's result depends on all of them.

        Raises:
            ValueError: one number for each channel.
        """
        if x[:, 0].numel() == 1:
            raise ValueError(
                f"x must hold more than one number for each channel, got shape {tuple(x.shape)}"
            )
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return (x - mean) * scale + self.bias[:, None, None]


class Conv4(nn.Module):
    """Four blocks of a 3×3 convolution, a batch normalization and a ReLU, each halving the size.

    =================  ==========================================  =============  ==========
    ``pool``           how a block halves                          28×28 becomes  features
    =================  ==========================================  =============  ==========
    ``"stride"``       the convolution takes every second place    2×2            4·width
    ``"max"``          2×2 max pooling after the ReLU              1×1            width
    =================  ==========================================  =============  ==========

    With ``norm="batch"`` the normalization uses mean and variance of the images it gets together,
    in training and at test: the answer for an image depends on the others, so that a batch of
    queries tells something of itself (*transduction*). It keeps no state, so ``torch.func`` can
    map it over tasks. ``"running"`` keeps running statistics, and uses them in ``eval()`` mode.

    Args:
        channels: number of channels of the images.
        width: channels of every block.
        side: pixels along an edge of the images.
        pool: ``"stride"`` or ``"max"``.
        norm: ``"batch"`` or ``"running"``.
        classes: outputs of a linear head; None for the features alone.
        generator: source of the initial weights, as for ``MLP``; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Attributes:
        features: numbers that the last block gives for an image.

    Raises:
        TypeError: ``channels``, ``width``, ``side`` or ``classes`` is not an integer.
        ValueError: one of them below 1, a ``side`` of which the pooling leaves nothing, unknown
            ``pool`` or ``norm``.

    References: Vinyals et al. (2016), section 4.1; Finn, Abbeel and Levine (2017), section 5.2,
        with strides.

    >>> import torch
    >>> from nodes_tutorial.nets import Conv4
    >>> net = Conv4(width=32, generator=torch.Generator().manual_seed(0))
    >>> net.features, net(torch.zeros(5, 1, 28, 28)).shape
    (128, torch.Size([5, 128]))
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        *,
        side: int = 28,
        pool: str = "stride",
        norm: str = "batch",
        classes: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("channels", channels, least=1)
        check_count("width", width, least=1)
        check_count("side", side, least=1 if pool == "stride" else 2**BLOCKS)
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {POOLS}, got {pool!r}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        stride, running = 2 if pool == "stride" else 1, norm == "running"
        layers: list[nn.Module] = []
        for i in range(BLOCKS):
            inputs = width if i else channels
            layers += [
                nn.Conv2d(inputs, width, 3, stride, padding=1, **kind),
                nn.BatchNorm2d(width, **kind) if running else BatchNorm(width, **kind),
                nn.ReLU(),
            ]
            if pool == "max":
                layers += [nn.MaxPool2d(2)]
            side = (side + 1) // 2 if pool == "stride" else side // 2
        self.blocks = nn.Sequential(*layers)
        self.features = width * side * side
        self.head: nn.Module = nn.Identity()
        if classes is not None:
            check_count("classes", classes, least=1)
            self.head = nn.Linear(self.features, classes, **kind)
        reset_parameters(self, generator)

    def embed(
        self, x: Float[Tensor, "batch channels side side"]
    ) -> Float[Tensor, "batch {self.features}"]:
        """Features of images, before the head."""
        return self.blocks(x).flatten(1)

    def forward(self, x: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch _"]:
        """Logits of images, or their features where there is no head."""
        return self.head(self.embed(x))
