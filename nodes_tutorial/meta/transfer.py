"""Feature transfer: train a classifier of all classes, keep its encoder, fit a new head a task."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from nodes_tutorial.checks import check_count, check_number, check_points, draw
from nodes_tutorial.meta.prototypes import class_means

HEADS = ("linear", "cosine")


class Baseline(nn.Module):
    r"""An encoder with one head for all training classes: no episodes.

    The logits are :math:`w_c^\top z+b_c`, or with a cosine head
    :math:`s\,w_c^\top z/(\|w_c\|\|z\|)`. For a new task ``fit_head`` trains a new head on the
    features of the support, and the encoder stays.

    Args:
        encoder: from images of shape ``(batch, ...)`` to features of shape ``(batch, features)``.
        features: numbers that the encoder gives for an image.
        classes: classes of the training set.
        head: ``"linear"`` or ``"cosine"``.
        scale: s, the largest logit of a cosine head.
        generator: source of the head's initial weights; None means PyTorch's global one.

    Attributes:
        weight: w, one row for each training class.
        bias: b, at first 0; a cosine head has none.

    Raises:
        TypeError: ``features`` or ``classes`` is not an integer, ``encoder`` no module.
        ValueError: one of them below 1, unknown ``head``, ``scale`` not above 0.

    References: Chen, Liu, Kira, Wang and Huang (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.meta import Baseline
    >>> net = Baseline(torch.nn.Flatten(), 16, classes=7, head="cosine")
    >>> net(torch.rand(3, 1, 4, 4)).abs().max() <= 10
    tensor(True)
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        classes: int,
        *,
        head: str = "linear",
        scale: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise TypeError(f"encoder must be a module, got a {type(encoder).__name__}")
        check_count("features", features, least=1)
        check_count("classes", classes, least=1)
        _check_head(head, scale)
        self.encoder, self.head, self.scale = encoder, head, float(scale)
        like = next(encoder.parameters(), torch.zeros(()))
        start = draw(
            torch.rand, (classes, features), generator, dtype=like.dtype, device=like.device
        )
        self.weight = nn.Parameter((2 * start - 1) / features**0.5)
        self.bias = None if head == "cosine" else nn.Parameter(self.weight.new_zeros(classes))

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of the training classes."""
        return transfer_logits(self.encoder(x), self.weight, self.bias, scale=self.scale)


def transfer_logits(
    features: Float[Tensor, "*tasks points features"],
    weight: Float[Tensor, "*tasks classes features"],
    bias: Float[Tensor, "*tasks classes"] | None,
    *,
    scale: float = 10.0,
) -> Float[Tensor, "*tasks points classes"]:
    r"""Logits :math:`w_c^\top z+b_c`; without a bias :math:`s\,w_c^\top z/(\|w_c\|\|z\|)`.

    Args:
        features: z, one row for each point.
        weight: w, one row for each class.
        bias: b; None means a cosine head.
        scale: s, for a cosine head.

    Returns:
        One row for each point.

    Raises:
        TypeError: no floating-point tensors, or of different dtypes or devices.
        ValueError: rows of different lengths.

    >>> import torch
    >>> from nodes_tutorial.meta import transfer_logits
    >>> transfer_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), None)
    tensor([[8.]])
    """
    check_points("features", features)
    check_points("weight", weight, features.shape[-1:], like=features)
    if bias is None:
        return scale * normalize(features, dim=-1) @ normalize(weight, dim=-1).mT
    return features @ weight.mT + bias.unsqueeze(-2)


def fit_head(
    features: Float[Tensor, "*tasks support features"],
    labels: Int[Tensor, "*tasks support"],
    ways: int,
    *,
    head: str = "linear",
    steps: int = 100,
    rate: float = 0.03,
    penalty: float = 0.0,
    scale: float = 10.0,
) -> tuple[Float[Tensor, "*tasks {ways} features"], Float[Tensor, "*tasks {ways}"] | None]:
    r"""Heads for the supports of some tasks, trained together without mixing.

    Adam minimizes the mean cross-entropy of each support plus
    :math:`\tfrac\alpha2\|w\|^2`. A linear head starts at 0, a cosine head at the class means of the
    features of length 1. The features get no gradient.

    Args:
        features: z, one row for each support example.
        labels: class of each row, 0 … ``ways`` - 1.
        ways: classes of a task.
        head: ``"linear"`` or ``"cosine"``.
        steps: updates, each with the whole support.
        rate: learning rate of Adam.
        penalty: alpha, for a linear head.
        scale: s, for a cosine head.

    Returns:
        Weights and biases of each task; no biases for a cosine head.

    Raises:
        TypeError: as for ``class_means``; ``steps`` is not an integer.
        ValueError: as for ``class_means``; unknown ``head``, ``steps`` below 0, ``rate`` or
            ``scale`` not above 0, ``penalty`` below 0.

    References: Chen, Liu, Kira, Wang and Huang (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.meta import fit_head, transfer_logits
    >>> z, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
    >>> transfer_logits(z, *fit_head(z, labels, 2)).argmax(-1)
    tensor([0, 1])
    """
    _check_head(head, scale)
    check_count("steps", steps)
    check_number("rate", rate, "a positive number", lambda r: r > 0)
    check_number("penalty", penalty, "a number of at least 0", lambda a: a >= 0)
    z = features.detach()
    means = class_means(normalize(z, dim=-1), labels, ways)
    weight = nn.Parameter(means.clone() if head == "cosine" else torch.zeros_like(means))
    bias = None if head == "cosine" else nn.Parameter(torch.zeros_like(means[..., 0]))
    parts = [weight] if bias is None else [weight, bias]
    adam = torch.optim.Adam(parts, rate)
    shots = labels.shape[-1]
    with torch.enable_grad():
        for _ in range(steps):
            logits = transfer_logits(z, weight, bias, scale=scale)
            # a sum over tasks: the gradient of a head comes from its own task alone
            loss = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum") / shots
            if penalty and bias is not None:
                loss = loss + penalty / 2 * weight.square().sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return weight.detach(), None if bias is None else bias.detach()


def _check_head(head: str, scale: float) -> None:
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
    check_number("scale", scale, "a positive number", lambda s: s > 0)
