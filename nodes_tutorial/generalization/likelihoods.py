"""What the outputs of a network say about a target, and the Fisher matrix of the outputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from nodes_tutorial.checks import check_number


@dataclass(frozen=True)
class Likelihood:
    r"""A law :math:`p(y\mid f)` of targets y, given outputs f of a network, one row each.

    Attributes:
        name: its name.
        loss: from outputs (n, out) and targets to :math:`-\log p(y\mid f)` for each row, up to a
            constant.
        root: from outputs (n, out) to matrices S of shape (n, out, k) with
            :math:`SS^\top=\mathrm E_{y\sim p(\cdot\mid f)}\nabla_f\log p\,(\nabla_f\log p)^\top`.
        sample: from outputs and a generator to a target for each row.
        check: raises where outputs and targets do not fit; the targets may be None.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    root: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator | None], Tensor]
    check: Callable[[Tensor, Tensor | None], None]


def gaussian(variance: float | int = 1.0) -> Likelihood:
    r"""Targets with independent Gaussian errors of one variance: :math:`y\sim N(f,\sigma^2I)`.

    Args:
        variance: the variance :math:`\sigma^2` of each target.

    Returns:
        The likelihood; targets have the shape of the outputs.

    Raises:
        ValueError: ``variance`` is not positive.

    Chapter: thm-fisher-ggn

    >>> import torch
    >>> from nodes_tutorial.generalization import gaussian
    >>> gaussian(4.0).loss(torch.zeros(1, 2), torch.tensor([[2.0, 4.0]]))
    tensor([2.5000])
    """
    check_number("variance", variance, "a positive number", lambda v: 0 < v < math.inf)

    def root(f: Tensor) -> Tensor:
        unit = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
        return (unit / math.sqrt(variance)).expand(len(f), -1, -1)

    def sample(f: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(f.shape, generator=generator, dtype=f.dtype, device=f.device)
        return f + math.sqrt(variance) * noise

    return Likelihood(
        "gaussian", lambda f, y: (f - y).square().sum(1) / (2 * variance), root, sample, _like
    )


def bernoulli() -> Likelihood:
    r"""Targets 0 or 1, each output the logarithm of its odds.

    Returns:
        The likelihood; targets have the shape of the outputs.

    Chapter: thm-fisher-ggn

    >>> import torch
    >>> from nodes_tutorial.generalization import bernoulli
    >>> bernoulli().root(torch.zeros(1, 1))
    tensor([[[0.5000]]])
    """

    def root(f: Tensor) -> Tensor:
        return torch.diag_embed((f.sigmoid() * (-f).sigmoid()).sqrt())

    def sample(f: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn = torch.rand(f.shape, generator=generator, dtype=f.dtype, device=f.device)
        return (drawn < f.sigmoid()).to(f.dtype)

    return Likelihood("bernoulli", lambda f, y: (softplus(f) - y * f).sum(1), root, sample, _bits)


def categorical() -> Likelihood:
    r"""Targets are classes, outputs their logits: :math:`p(y\mid f)=\mathrm{softmax}(f)_y`.

    Returns:
        The likelihood; targets are integers, one for each row.

    Chapter: thm-fisher-ggn

    >>> import torch
    >>> from nodes_tutorial.generalization import categorical
    >>> root = categorical().root(torch.zeros(1, 2))
    >>> root @ root.mT
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])
    """

    def loss(f: Tensor, y: Tensor) -> Tensor:
        return -f.log_softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)

    def root(f: Tensor) -> Tensor:
        p = f.softmax(1)
        return torch.diag_embed(p.sqrt()) - p.unsqueeze(2) * p.sqrt().unsqueeze(1)

    def sample(f: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.multinomial(f.softmax(1), 1, generator=generator).squeeze(1)

    return Likelihood("categorical", loss, root, sample, _classes)


def gaussian_scale() -> Likelihood:
    r"""A target with a mean and a logarithm of its standard deviation: :math:`N(f_1,e^{2f_2})`.

    Returns:
        The likelihood; two outputs a row, and targets of shape (n, 1).

    Chapter: thm-fisher-ggn

    >>> import torch
    >>> from nodes_tutorial.generalization import gaussian_scale
    >>> gaussian_scale().root(torch.zeros(1, 2))
    tensor([[[1.0000, 0.0000],
             [0.0000, 1.4142]]])
    """

    def loss(f: Tensor, y: Tensor) -> Tensor:
        return f[:, 1] + (y[:, 0] - f[:, 0]).square() * (-2 * f[:, 1]).exp() / 2

    def root(f: Tensor) -> Tensor:
        return torch.diag_embed(
            torch.stack([(-f[:, 1]).exp(), torch.full_like(f[:, 1], 2**0.5)], 1)
        )

    def sample(f: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn((len(f), 1), generator=generator, dtype=f.dtype, device=f.device)
        return f[:, :1] + f[:, 1:].exp() * noise

    return Likelihood("gaussian_scale", loss, root, sample, _mean_and_scale)


def _like(f: Float[Tensor, "n out"], y: Tensor | None) -> None:
    if y is not None and (y.shape != f.shape or not y.is_floating_point()):
        raise ValueError(
            f"y must be floating-point numbers of shape {tuple(f.shape)}, got {tuple(y.shape)} of "
            f"{y.dtype}"
        )


def _bits(f: Tensor, y: Tensor | None) -> None:
    _like(f, y)
    if y is not None and not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"y must lie in [0, 1], got {float(y.min()):g} to {float(y.max()):g}")


def _classes(f: Tensor, y: Tensor | None) -> None:
    if y is None:
        return
    if y.is_floating_point() or y.shape != f.shape[:1]:
        raise ValueError(
            f"y must be one class for each of the {len(f)} rows, got shape {tuple(y.shape)} "
            f"of {y.dtype}"
        )
    if not ((y >= 0) & (y < f.shape[1])).all():
        raise ValueError(
            f"y must be classes from 0 to {f.shape[1] - 1}, got {int(y.min())} to {int(y.max())}"
        )


def _mean_and_scale(f: Tensor, y: Tensor | None) -> None:
    if f.shape[1] != 2:
        raise ValueError(f"module must have two outputs, mean and log scale, got {f.shape[1]}")
    _like(f[:, :1], y)
