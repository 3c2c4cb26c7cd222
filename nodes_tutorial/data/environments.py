"""Data of several environments: a two-bit model, a linear causal model, and colored digits."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points, draw

SCALES = (0.2, 2.0, 5.0)  # the environments of the linear model in the paper
COLOR_FLIPS = (0.2, 0.1, 0.9)  # two environments to train on, and the one of the test
LABEL_FLIP = 0.25


def two_bit(
    label_flip: float,
    color_flips: Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "envs 2 2 2"]:
    r"""Probabilities of two binary features and a binary label in each environment.

    The label :math:`Y` is a fair coin. The feature :math:`X_1` is Y flipped with probability
    :math:`\alpha` in every environment, and :math:`X_2` is Y flipped with :math:`\beta_e`.

    Args:
        label_flip: the probability α, in [0, 1].
        color_flips: the probability β of each environment, in [0, 1].
        dtype: of the result; None means PyTorch's default.
        device: of the result.

    Returns:
        The table p[e, x₁, x₂, y] with indices 0 and 1; each environment sums to 1.

    Raises:
        TypeError: a probability is no number.
        ValueError: a probability outside [0, 1], or no environment.

    Chapter: invariance/irm, def-irm-two-bit

    References: Kamath, Tangella, Sutherland and Srebro (2021), section 3.

    >>> from nodes_tutorial.data.environments import two_bit
    >>> two_bit(0.25, [0.1, 0.2])[0].sum((0, 2))  # the second feature is a fair coin
    tensor([0.5000, 0.5000])
    """
    alpha = _probability("label_flip", label_flip)
    betas = _probabilities("color_flips", color_flips)
    kind = {"dtype": dtype or torch.get_default_dtype(), "device": device}
    same = torch.eye(2, **kind)
    first = alpha + (1 - 2 * alpha) * same  # [x1, y]
    beta = torch.tensor(betas, **kind)[:, None, None]
    second = beta + (1 - 2 * beta) * same  # [e, x2, y]
    return first[None, :, None] * second[:, None] / 2


def linear_sem(
    samples: int,
    scale: float,
    *,
    dims: int = 5,
    heteroskedastic: bool = True,
    hidden: bool = False,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Float[Tensor, "samples twice"], Float[Tensor, " samples"]]:
    r"""Draws of a linear causal model :math:`x\to y\to z` in the environment of one scale e.

    In each dimension :math:`x = e(n_0 + n_1)`, :math:`y = x + c\,e\,n_0 + s\,n_2`,
    :math:`z = y + c\,e\,n_0 + t\,n_3` with standard normal noises, which are not observed. The
    target is the sum of all y. Where ``heteroskedastic``, s = e and t = 1; otherwise s = 1 and
    t = e. Where ``hidden``, c = 1: then :math:`n_0` confounds; otherwise c = 0.

    Args:
        samples: number of rows.
        scale: the positive number e.
        dims: number of dimensions of x, and of z.
        heteroskedastic: whether the noise of y changes with the environment.
        hidden: whether there is a confounder.
        generator: source of the draws.
        dtype: of the result; None means PyTorch's default.

    Returns:
        Features, the columns of x before those of z, and the target.

    Raises:
        TypeError: a count is no integer, or ``scale`` no number.
        ValueError: a count below 1, or ``scale`` not positive.

    Chapter: invariance/irm

    References: Arjovsky, Bottou, Gulrajani and Lopez-Paz (2019), section 5.1. The weights of the
        confounder are 1 here, where theirs are random.

    >>> import torch
    >>> from nodes_tutorial.data.environments import linear_sem
    >>> x, y = linear_sem(100, 2.0, generator=torch.Generator().manual_seed(0))
    >>> x.shape, y.shape
    (torch.Size([100, 10]), torch.Size([100]))
    """
    check_count("samples", samples, least=1)
    check_count("dims", dims, least=1)
    e = check_number("scale", scale, "a positive number", lambda s: s > 0)
    noise = draw(torch.randn, (4, samples, dims), generator, dtype=dtype)
    of_y, of_z = (e, 1.0) if heteroskedastic else (1.0, e)
    confounder = e * noise[0] if hidden else torch.zeros_like(noise[0])
    x = e * (noise[0] + noise[1])
    y = x + confounder + of_y * noise[2]
    z = y + confounder + of_z * noise[3]
    return torch.cat([x, z], 1), y.sum(1)


def colored_digits(
    images: Float[Tensor, "images 1 height width"],
    labels: Int[Tensor, " images"],
    *,
    color_flip: float,
    label_flip: float = LABEL_FLIP,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "images 2 height width"], Float[Tensor, " images"]]:
    r"""Colored MNIST in one environment: noisy labels, and colors that follow the noisy label.

    The label is whether the digit is below 5, flipped with the probability ``label_flip``. The
    color is that label, flipped with ``color_flip``. The picture stands in the channel of its
    color, and the other channel is 0.

    Args:
        images: gray pictures.
        labels: their digits.
        color_flip: the probability that tells environments apart.
        label_flip: the same in all environments.
        generator: source of the flips.

    Returns:
        Pictures of two channels, and labels 0 and 1.

    Raises:
        TypeError: images are no floating-point tensor, or a probability is no number.
        ValueError: a probability outside [0, 1], or other shapes.

    Chapter: invariance/irm

    References: Arjovsky, Bottou, Gulrajani and Lopez-Paz (2019), section 5.2.

    >>> import torch
    >>> from nodes_tutorial.data.environments import colored_digits
    >>> x, y = colored_digits(torch.ones(3, 1, 4, 4), torch.tensor([0, 7, 4]), color_flip=0.0)
    >>> (x.mean((2, 3)).argmax(1) == y).all()  # without flips the color is the label
    tensor(True)
    """
    _check_digits(images, labels)
    flips = draw(torch.rand, (2, len(labels)), generator, device=images.device)
    wrong = flips[0] < _probability("label_flip", label_flip)
    other = flips[1] < _probability("color_flip", color_flip)
    y = (labels < 5) ^ wrong
    color = (y ^ other).long()
    x = images.new_zeros(len(images), 2, *images.shape[2:])
    x[torch.arange(len(images), device=images.device), color] = images[:, 0]
    return x, y.to(images.dtype)


def color_weights(
    labels: Int[Tensor, " images"],
    *,
    color_flips: Sequence[float],
    label_flip: float = LABEL_FLIP,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "envs images 2 2"]:
    r"""What ``colored_digits`` does in the mean: the exact weights of colors and noisy labels.

    .. math:: w[e, i, c, y] = \frac1n\,p(y\mid \text{digit}_i)\,p(c\mid y, e)

    Args:
        labels: digits of n pictures.
        color_flips: of each environment.
        label_flip: the same in all environments.
        dtype: of the result; None means PyTorch's default.

    Returns:
        The weights; each environment sums to 1.

    Raises:
        TypeError: a probability is no number, or labels are no integers.
        ValueError: a probability outside [0, 1], no environment or no picture.

    Chapter: invariance/irm

    >>> import torch
    >>> from nodes_tutorial.data.environments import color_weights
    >>> color_weights(torch.tensor([3]), color_flips=[0.1], dtype=torch.float64)[0, 0]
    tensor([[0.2250, 0.0750],
            [0.0250, 0.6750]], dtype=torch.float64)
    """
    _check_labels(labels)
    alpha = _probability("label_flip", label_flip)
    betas = _probabilities("color_flips", color_flips)
    kind = {"dtype": dtype or torch.get_default_dtype(), "device": labels.device}
    same = torch.eye(2, **kind)
    below = (labels < 5).long()
    label = (alpha + (1 - 2 * alpha) * same)[below]  # [i, y]
    beta = torch.tensor(betas, **kind)[:, None, None]
    color = beta + (1 - 2 * beta) * same  # [e, c, y]
    return color[:, None] * label[None, :, None] / len(labels)


def _check_digits(images: Tensor, labels: Tensor) -> None:
    check_points("images", images)
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(
            f"images must have the axes (images, 1, height, width), got {tuple(images.shape)}"
        )
    _check_labels(labels)
    if len(labels) != len(images):
        raise ValueError(f"labels must be {len(images)}, as images are, got {len(labels)}")


def _check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise TypeError("labels must be a tensor of integers")
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must be one row of digits, got shape {tuple(labels.shape)}")


def _probability(name: str, value: float) -> float:
    return check_number(name, value, "a probability in [0, 1]", lambda p: 0 <= p <= 1)


def _probabilities(name: str, values: Sequence[float]) -> list[float]:
    if len(values) == 0:
        raise ValueError(f"{name} must have an entry for each environment, got none")
    return [_probability(name, value) for value in values]
