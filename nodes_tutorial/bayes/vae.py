"""The variational autoencoder with a weight on its rate."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.bayes.rates import gaussian_rates
from nodes_tutorial.checks import check_number, check_points, draw

LIKELIHOODS = ("bernoulli", "gaussian")


class Terms(NamedTuple):
    """What an example costs, in nats.

    Attributes:
        distortion: minus the log-likelihood of the example at one draw of its code.
        rates: divergence of the code's law from the prior, for each latent.
    """

    distortion: Float[Tensor, "..."]
    rates: Float[Tensor, "..."]

    @property
    def rate(self) -> Float[Tensor, "..."]:
        """The divergence over all latents."""
        return self.rates.sum(-1)


class VAE(nn.Module):
    r"""An encoder and a decoder, trained on the distortion plus β times the rate.

    .. math:: -\mathbb E_{q(z\mid x)}\log p(x\mid z) + \beta\,\mathrm{KL}(q(z\mid x)\,\|\,p(z)),
        \qquad q(z\mid x) = N(\mu(x), \operatorname{diag} s(x)^2), \quad p(z) = N(0, I)

    Several autoencoders may share one graph: with a ``Stack`` for both networks every result has
    an axis of copies in front, and ``beta`` may be one number for each.

    Args:
        encoder: maps examples (…, n, dim) to means and logarithms of scales, (…, n, 2 latent).
        decoder: maps codes (…, n, latent) to logits or means, (…, n, dim).
        beta: weight of the rate; one positive number, or one for each copy.
        likelihood: ``"bernoulli"``, for entries in [0, 1], or ``"gaussian"``.
        noise: the fixed standard deviation σ of the Gaussian likelihood.

    Raises:
        TypeError: ``beta`` is no number and no floating-point tensor, or ``noise`` no number.
        ValueError: ``beta`` or ``noise`` not positive and finite; unknown ``likelihood``; a
            ``noise`` for the Bernoulli likelihood, which has none.

    Chapter: def-vae-loss

    References: Kingma and Welling (2014), section 2.3; Higgins et al. (2017), equation 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import VAE
    >>> from nodes_tutorial.nets import Stack
    >>> seeds = lambda: [torch.Generator().manual_seed(s) for s in range(2)]
    >>> vae = VAE(Stack([9, 16, 4], seeds()), Stack([2, 16, 9], seeds()), torch.tensor([1.0, 4.0]))
    >>> x = torch.rand(1, 5, 9, generator=torch.Generator().manual_seed(0))
    >>> vae.loss(x, torch.Generator().manual_seed(1)).shape
    torch.Size([2])
    """

    beta: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        beta: float | int | Tensor = 1.0,
        *,
        likelihood: str = "bernoulli",
        noise: float | int | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {LIKELIHOODS}, got {likelihood!r}")
        if likelihood == "bernoulli" and noise is not None:
            raise ValueError(f"noise belongs to the gaussian likelihood, got {noise!r}")
        if isinstance(beta, Tensor):
            check_points("beta", beta)
            if beta.ndim > 1 or not ((beta > 0) & beta.isfinite()).all():
                raise ValueError(
                    "beta must be a positive number or a vector of them, "
                    f"got shape {tuple(beta.shape)}"
                )
        else:
            beta = torch.tensor(_check_positive("beta", beta), dtype=torch.float64)
        self.noise = _check_positive("noise", 1.0 if noise is None else noise)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.register_buffer("beta", beta.detach().clone())

    def posterior(
        self, x: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Means and scales of the codes, shape (…, n, latent).

        Args:
            x: examples, shape (n, dim); for a stack (1, n, dim) or (copies, n, dim).

        Raises:
            ValueError: ``x`` is a single example, or the encoder's output cannot be halved.
        """
        check_points("x", x)
        if x.ndim < 2:
            raise ValueError(f"x must have an axis of examples, got shape {tuple(x.shape)}")
        out = self.encoder(x)
        if out.shape[-1] % 2:
            raise ValueError(
                f"encoder must return a mean and a log-scale for each latent, got {out.shape[-1]}"
            )
        mean, log_scale = out.chunk(2, -1)
        return mean, log_scale.exp()

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch dim"]:
        """The expected example of each code: probabilities, or means."""
        out = self.decoder(z)
        return out.sigmoid() if self.likelihood == "bernoulli" else out

    def forward(
        self, x: Float[Tensor, "*batch dim"], generator: torch.Generator | None = None
    ) -> Terms:
        """Distortion and rates of each example, at one draw of its code.

        Args:
            x: examples, as for ``posterior``.
            generator: source of the draws; None means PyTorch's global one.

        Raises:
            ValueError: the decoder's output has another last axis than ``x``.
        """
        mean, scale = self.posterior(x)
        noise = draw(torch.randn, mean.shape, generator, dtype=mean.dtype, device=mean.device)
        out = self.decoder(mean + scale * noise)
        if out.shape[-1] != x.shape[-1]:
            raise ValueError(f"decoder must return {x.shape[-1]} entries, got {out.shape[-1]}")
        return Terms(self._distortion(out, x), gaussian_rates(mean, scale))

    def loss(
        self, x: Float[Tensor, "*batch dim"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*copies"]:
        """Mean distortion plus β times the mean rate, for each copy."""
        terms = self(x, generator)
        return terms.distortion.mean(-1) + self.beta * terms.rate.mean(-1)

    def _distortion(self, out: Tensor, x: Tensor) -> Tensor:
        if self.likelihood == "bernoulli":
            return (nn.functional.softplus(out) - x * out).sum(-1)
        constant = x.shape[-1] * math.log(self.noise * math.sqrt(math.tau))
        return ((x - out) / self.noise).square().sum(-1) / 2 + constant


def _check_positive(name: str, value: float | int) -> float:
    return check_number(name, value, "a positive number", lambda number: 0 < number < math.inf)
