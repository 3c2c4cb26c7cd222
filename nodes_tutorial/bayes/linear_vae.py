"""The linear autoencoder with a weight on its rate: what it costs, and its optimum."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.bayes.rates import gaussian_rates
from nodes_tutorial.checks import check_count, check_number, check_points

TOLERANCE = 1e-6  # asymmetry, and negative eigenvalue, relative to the largest, that is rounding


class LinearTerms(NamedTuple):
    """Means over the data of what a linear autoencoder costs.

    Attributes:
        error: mean squared error, :math:`\\mathbb E\\|x - Wz\\|^2`.
        rates: mean divergence from the prior for each latent, in nats.
    """

    error: Float[Tensor, "..."]
    rates: Float[Tensor, "..."]

    @property
    def rate(self) -> Float[Tensor, "..."]:
        """The mean divergence over all latents."""
        return self.rates.sum(-1)

    def loss(self, dim: int, beta: float | Tensor, noise: float | Tensor) -> Float[Tensor, "..."]:
        """Mean distortion plus β times the mean rate, for x with ``dim`` entries."""
        kind = {"dtype": self.error.dtype, "device": self.error.device}
        variance = torch.as_tensor(noise, **kind).square()
        distortion = self.error / (2 * variance) + dim / 2 * (math.tau * variance).log()
        return distortion + beta * self.rate


class LinearVAE(NamedTuple):
    """A linear autoencoder: :math:`q(z\\mid x) = N(Vx, \\operatorname{diag}s^2)`, decoder Wz.

    Attributes:
        decoder: the matrix W, shape (…, dim, latent).
        encoder: the matrix V, shape (…, latent, dim).
        scale: the standard deviations s, shape (…, latent).
    """

    decoder: Float[Tensor, "..."]
    encoder: Float[Tensor, "..."]
    scale: Float[Tensor, "..."]

    def terms(self, covariance: Float[Tensor, "*batch dim dim"]) -> LinearTerms:
        r"""Error and rates for centred data with this covariance, in closed form.

        .. math:: \operatorname{tr}(I - WV)\,S\,(I - WV)^\top + \sum_j s_j^2\|w_j\|^2, \qquad
            \tfrac12\bigl((VSV^\top)_{jj} + s_j^2 - 1 - \log s_j^2\bigr)

        Args:
            covariance: the matrix S.
        """
        miss = torch.eye(covariance.shape[-1]).to(covariance) - self.decoder @ self.encoder
        kept = ((miss @ covariance) * miss).sum((-1, -2))
        drawn = (self.scale.square() * self.decoder.square().sum(-2)).sum(-1)
        second = ((self.encoder @ covariance) * self.encoder).sum(-1)
        rates = gaussian_rates(torch.zeros_like(second), self.scale) + second / 2
        return LinearTerms(kept + drawn, rates)


def best_linear_vae(
    covariance: Float[Tensor, "dim dim"],
    latent: int,
    beta: float | int | Float[Tensor, "*batch"] = 1.0,
    noise: float | int = 1.0,
) -> LinearVAE:
    r"""The best linear autoencoder with a Gaussian decoder of fixed noise.

    With the eigenvalues :math:`\gamma_1\ge\gamma_2\ge\dots` and unit eigenvectors
    :math:`u_1,u_2,\dots` of the covariance, and the level :math:`\tau = \beta\sigma^2`,

    .. math:: w_j = \sqrt{(\gamma_j - \tau)_+}\;u_j, \qquad
        s_j^2 = \frac{\tau}{\max(\gamma_j, \tau)}, \qquad
        v_j = \frac{w_j}{\max(\gamma_j, \tau)}

    Other optima differ by the order and the signs of the latents where eigenvalues differ.

    Args:
        covariance: covariance S of centred data, symmetric and positive semidefinite.
        latent: number of latents, at most dim.
        beta: weight of the rate; one positive number, or a batch of them.
        noise: standard deviation σ of the decoder.

    Returns:
        The optimum; with a batch of β the axes of the batch are in front.

    Raises:
        TypeError: ``covariance`` is no floating-point tensor, or ``latent`` not an integer.
        ValueError: ``covariance`` not square, symmetric and positive semidefinite; ``latent``
            below 1 or above dim; ``beta`` or ``noise`` not positive and finite.

    Chapter: thm-vae-linear

    References: Tipping and Bishop (1999), section 3; Lucas et al. (2019), section 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import best_linear_vae
    >>> covariance = torch.diag(torch.tensor([4.0, 2.0, 0.5]))
    >>> best = best_linear_vae(covariance, 3, beta=torch.tensor([1.0, 4.0]), noise=0.5)
    >>> best.terms(covariance).rate
    tensor([2.7726, 1.0397])
    """
    check_points("covariance", covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be square, got shape {tuple(covariance.shape)}")
    values, vectors = torch.linalg.eigh(covariance)
    bound = TOLERANCE * values.abs().max()
    if (covariance - covariance.mT).abs().max() > bound or values[0] < -bound:
        raise ValueError("covariance must be symmetric and positive semidefinite")
    dim = len(values)
    if check_count("latent", latent, least=1) > dim:
        raise ValueError(f"latent must be at most {dim}, the number of entries, got {latent}")
    _check_positive("noise", noise)
    if isinstance(beta, Tensor):
        check_points("beta", beta, like=covariance)
        if not ((beta > 0) & beta.isfinite()).all():
            raise ValueError("beta must be a positive number, or hold such numbers only")
    else:
        _check_positive("beta", beta)
        beta = torch.as_tensor(beta, dtype=covariance.dtype, device=covariance.device)
    level = (beta * noise**2)[..., None]
    top, axes = values.flip(0)[:latent], vectors.flip(1)[:, :latent]
    kept = torch.maximum(top, level)
    decoder = axes * (kept - level).sqrt()[..., None, :]
    return LinearVAE(decoder, (decoder / kept[..., None, :]).mT, (level / kept).sqrt())


def _check_positive(name: str, value: float | int) -> None:
    check_number(name, value, "a positive number", lambda number: 0 < number < math.inf)
