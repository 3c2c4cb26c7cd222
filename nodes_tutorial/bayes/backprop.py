"""A draw of the weights and the divergence from a normal prior, with one backward pass for both."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from nodes_tutorial.bayes.gaussians import MeanFieldGaussian
from nodes_tutorial.bayes.priors import NormalPrior
from nodes_tutorial.checks import check_count, draw


def draw_with_divergence(
    q: MeanFieldGaussian, prior: NormalPrior, n: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, ""]]:
    r"""``q.rsample`` and ``prior.kl`` at once: the same numbers, in fewer passes over the weights.

    With the slope g of the loss in the draw and the weight c of the divergence,

    .. math:: \Delta\mu = g + c\,\frac{\mu}{s^2},\qquad
        \Delta\rho = \Bigl(g\varepsilon + c\,\frac{\sigma}{s^2} - \frac c\sigma\Bigr)
        \frac{1}{1+e^{-\rho}}.

    Args:
        q: the law of the weights.
        prior: the prior, with its deviation s.
        n: number of draws.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        The draws, one a row, and the divergence in nats.

    Raises:
        TypeError: ``n`` is no integer.
        ValueError: ``n`` below 1.

    Chapter: prop-networks-bbb

    References: Blundell et al. (2015), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, NormalPrior
    >>> from nodes_tutorial.bayes.backprop import draw_with_divergence
    >>> w, kl = draw_with_divergence(MeanFieldGaussian(torch.zeros(3)), NormalPrior(), 5)
    >>> w.shape, kl.shape
    (torch.Size([5, 3]), torch.Size([]))
    """
    check_count("n", n, least=1)
    like = {"dtype": q.mean.dtype, "device": q.mean.device}
    noise = draw(torch.randn, (n, len(q.mean)), generator, **like)
    w, kl, _ = _DrawWithDivergence.apply(q.mean, q.rho, noise, prior.scale)
    return w, kl


class _DrawWithDivergence(torch.autograd.Function):
    """σ is an output, so that the backward pass can be differentiated through it again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, rho: Tensor, noise: Tensor, prior: float) -> tuple[Tensor, ...]:
        scale = softplus(rho)
        squares = (mean.dot(mean) + scale.dot(scale)) / (2 * prior**2)
        kl = squares - scale.log().sum() + len(mean) * (math.log(prior) - 0.5)
        return torch.addcmul(mean, scale, noise), kl, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        mean, _, noise, ctx.prior = inputs
        ctx.save_for_backward(mean, noise, output[2])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        along_w, along_kl, along_scale = slopes
        mean, noise, scale = ctx.saved_tensors
        precision = ctx.prior**-2
        in_mean = torch.addcmul(along_w.sum(0), mean, along_kl * precision)
        in_scale = torch.addcmul(
            (along_w * noise).sum(0) + along_scale, scale * precision - scale.reciprocal(), along_kl
        )
        return in_mean, in_scale * -torch.expm1(-scale), None, None
