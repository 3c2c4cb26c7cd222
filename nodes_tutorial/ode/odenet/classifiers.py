"""Image classifiers whose body is an ODE block, and the residual networks beside them.

They are those of the MNIST experiment that made neural ODEs known; smaller ones fit 8×8 digits.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count
from nodes_tutorial.nets import ACTIVATIONS, reset_parameters
from nodes_tutorial.ode.odenet.block import ODEBlock

Images = Float[Tensor, "batch channels height width"]


class ConcatConv2d(nn.Module):
    """A 3×3 convolution that keeps the size and sees the time as one more channel.

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width + 1, width, 3, padding=1)

    def forward(self, t: Float[Tensor, "*times"], x: Images) -> Images:
        """Convolve ``x`` with a channel of constant value ``t`` in front."""
        return self.conv(torch.cat([t.to(x.dtype).expand_as(x[:, :1]), x], 1))


class ConvODEFunc(nn.Module):
    r"""The field of an ODE block, on images of ``width`` channels.

    .. math:: f(t, x) = N_3 C_2(t, \sigma N_2 C_1(t, \sigma N_1 x))

    with group normalizations N and time-concatenating convolutions C.

    Args:
        width: channels of the state.
        groups: groups of a normalization; by default ``min(32, width)``.
        activation: a key of ``nodes_tutorial.nets.ACTIVATIONS``.

    Chapter: prop-odenet-parameters

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), section 3.

    >>> import torch
    >>> from nodes_tutorial.ode.odenet.classifiers import ConvODEFunc
    >>> ConvODEFunc(8)(torch.tensor(0.5), torch.zeros(2, 8, 3, 3)).shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(self, width: int, groups: int | None = None, activation: str = "relu") -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (_norm(width, groups) for _ in range(3))
        self.conv1, self.conv2 = ConcatConv2d(width), ConcatConv2d(width)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, t: Float[Tensor, "*times"], x: Images) -> Images:
        """Evaluate the field at time ``t``, 0-d or one for each image."""
        x = self.conv1(t, self.activation(self.norm1(x)))
        x = self.conv2(t, self.activation(self.norm2(x)))
        return self.norm3(x)


class ResBlock(nn.Module):
    r"""A pre-activation residual block, :math:`x + C_2 \sigma N_2 C_1 \sigma N_1 x`.

    Args:
        width: channels in and out.
        stride: of the first convolution; above 1 the shortcut is a 1×1 convolution of the
            activated input.
        groups: groups of a normalization; by default ``min(32, width)``.
    """

    def __init__(self, width: int, stride: int = 1, groups: int | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width, groups), _norm(width, groups)
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Images) -> Float[Tensor, "batch channels _ _"]:
        """Add the block's update, or halve the size."""
        out = torch.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        return kept + self.conv2(torch.relu(self.norm2(self.conv1(out))))


class Classifier(nn.Module):
    """A downsampling stem, a body that keeps the shape, and a pooled linear head.

    Args:
        body: maps (batch, width, h, w) to the same shape.
        width: channels of the state.
        stem: ``"conv"`` or ``"res"``.
        downsamplings: how often the stem halves the size, after a first 3×3 convolution.
        classes: number of classes.
        groups: groups of a normalization; by default ``min(32, width)``.
        generator: source of the initial weights; None means PyTorch's global one.

    Raises:
        ValueError: unknown ``stem``.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        width: int = 64,
        stem: str = "conv",
        downsamplings: int = 2,
        classes: int = 10,
        groups: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.stem = make_stem(stem, width, downsamplings, groups)
        self.body = body
        self.norm = _norm(width, groups)
        self.linear = nn.Linear(width, classes)
        reset_parameters(self, generator)

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images with one channel."""
        x = torch.relu(self.norm(self.body(self.stem(x))))
        return self.linear(x.mean((-2, -1)))


def make_stem(kind: str, width: int, downsamplings: int, groups: int | None) -> nn.Sequential:
    """Return the layers that turn an image into the state.

    Args:
        kind: ``"conv"`` for convolutions alone, ``"res"`` for residual blocks.
        width: channels of the state.
        downsamplings: how often the size is halved after the first 3×3 convolution.
        groups: groups of a normalization; None means ``min(32, width)``.

    Raises:
        ValueError: unknown ``kind``.
    """
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3)]
    for _ in range(downsamplings):
        if kind == "conv":
            layers += [_norm(width, groups), nn.ReLU(), nn.Conv2d(width, width, 4, 2, 1)]
        elif kind == "res":
            layers += [ResBlock(width, 2, groups)]
        else:
            raise ValueError(f"stem must be 'conv' or 'res', got {kind!r}")
    return nn.Sequential(*layers)


def ODENet(
    width: int = 64,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    method: str = "dopri5",
    gradient: str = "adjoint",
    options: dict[str, Any] | None = None,
    groups: int | None = None,
    activation: str = "relu",
    **layout: Any,
) -> Classifier:
    """Classifier whose body is one adaptive ODE block, trained by the adjoint equation.

    Args:
        width: channels of the state.
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step, in units of the state.
        method: a key of ``METHODS``.
        gradient: as for ``odeint``.
        options: as for ``odeint``.
        groups: groups of a normalization; by default ``min(32, width)``.
        activation: a key of ``nodes_tutorial.nets.ACTIVATIONS``, used in the field.
        **layout: ``stem``, ``downsamplings``, ``classes``, ``generator``, as for ``Classifier``.

    Returns:
        A classifier of images (batch, 1, height, width).

    Raises:
        ValueError: unknown ``stem``, ``width`` below 1, or ``groups`` that do not divide it.

    Chapter: prop-odenet-parameters

    References: Chen, Rubanova, Bettencourt and Duvenaud (2018), table 1.

    >>> from nodes_tutorial.ode import ODENet
    >>> from nodes_tutorial.nets import count_parameters
    >>> count_parameters(ODENet())
    208266
    """
    field = ConvODEFunc(width, groups, activation)
    solver = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    block = ODEBlock(field, gradient=gradient, **solver)
    return Classifier(block, width=width, groups=groups, **layout)


def RKNet(width: int = 64, *, steps: int = 2, **layout: Any) -> Classifier:
    """ODE-Net with ``steps`` equal steps of the classical Runge–Kutta rule and plain backprop.

    Args:
        width: channels of the state.
        steps: number of steps on the unit time interval, at least 1.
        **layout: ``groups``, ``activation``, ``stem``, ``downsamplings``, ``classes`` and
            ``generator``, as for ``ODENet``.

    Returns:
        A classifier of images (batch, 1, height, width).

    >>> import torch
    >>> from nodes_tutorial.ode import RKNet
    >>> RKNet(8, downsamplings=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    options = {"step_size": 1 / check_count("steps", steps, least=1)}
    return ODENet(width, method="rk4", gradient="direct", options=options, **layout)


def ResNet(
    width: int = 64, *, blocks: int = 6, groups: int | None = None, **layout: Any
) -> Classifier:
    """Classifier whose body is a stack of residual blocks; with ``blocks=0`` the stem alone.

    Args:
        width: channels of the state.
        blocks: number of residual blocks of the body, at least 0.
        groups: groups of a normalization; by default ``min(32, width)``.
        **layout: ``stem``, ``downsamplings``, ``classes``, ``generator``, as for ``Classifier``.

    Returns:
        A classifier of images (batch, 1, height, width).

    >>> from nodes_tutorial.ode import ResNet
    >>> from nodes_tutorial.nets import count_parameters
    >>> count_parameters(ResNet())
    576778
    """
    check_count("blocks", blocks)
    body = nn.Sequential(*(ResBlock(width, 1, groups) for _ in range(blocks)))
    return Classifier(body, width=width, groups=groups, **layout)


def _norm(width: int, groups: int | None) -> nn.GroupNorm:
    check_count("width", width, least=1)
    return nn.GroupNorm(min(32, width) if groups is None else groups, width)
