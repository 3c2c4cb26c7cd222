"""Laplace's approximation: a Gaussian around a mode, of all weights or of the last layer."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import hessian

from nodes_tutorial.bayes.gaussians import FullRankGaussian, MeanFieldGaussian
from nodes_tutorial.checks import check_count, check_filled, check_number, check_points, draw

STRUCTURES = ("dense", "diagonal", "kronecker")


def laplace(
    log_joint: Callable[[Tensor], Tensor],
    mode: Float[Tensor, "*batch dim"],
    structure: str = "dense",
) -> FullRankGaussian | MeanFieldGaussian:
    r"""The Gaussian that agrees with a joint to second order at its maximum.

    .. math:: q = N(\hat w, A^{-1}),\qquad A = -\nabla^2\log p(D, \hat w)

    ``"diagonal"`` keeps the diagonal of A, so that its variances are :math:`1/A_{jj}`.

    Args:
        log_joint: maps one vector of weights to :math:`\log p(D, w)`.
        mode: a maximum of ``log_joint``.
        structure: ``"dense"`` or ``"diagonal"``.

    Returns:
        The Gaussian, with parameters that can be trained further.

    Raises:
        TypeError: ``mode`` is no floating-point tensor.
        ValueError: unknown ``structure``, or ``mode`` where A is not positive definite.

    Chapter: prop-networks-laplace

    References: MacKay (1992).

    >>> import torch
    >>> from nodes_tutorial.bayes.laplace import laplace
    >>> laplace(lambda w: -2 * w.square().sum(), torch.zeros(2)).covariance
    tensor([[0.2500, 0.0000],
            [0.0000, 0.2500]], ...)
    """
    check_points("mode", mode)
    if mode.ndim != 1:
        raise ValueError(f"mode must be one vector, got shape {tuple(mode.shape)}")
    if structure not in STRUCTURES[:2]:
        raise ValueError(f"structure must be dense or diagonal, got {structure!r}")
    curvature = -hessian(log_joint)(mode)
    if structure == "diagonal":
        diagonal = curvature.diagonal()
        if not bool((diagonal > 0).all()):
            raise ValueError("mode must be a maximum, got a curvature that is not positive")
        return MeanFieldGaussian(mode, diagonal.rsqrt())
    factor, failed = torch.linalg.cholesky_ex(curvature)
    if bool(failed) or not bool(factor.isfinite().all()):
        raise ValueError("mode must be a maximum, got a curvature that is not positive definite")
    return FullRankGaussian(mode, torch.cholesky_inverse(factor))


def softmax_curvature(logits: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k k"]:
    r"""Curvature :math:`\mathrm{diag}(p) - pp^\top` of the cross-entropy in the logits.

    Args:
        logits: the logits of each example.

    Returns:
        One matrix for each example.

    Raises:
        TypeError: ``logits`` is no floating-point tensor.

    Chapter: prop-networks-laplace

    >>> import torch
    >>> from nodes_tutorial.bayes import softmax_curvature
    >>> softmax_curvature(torch.zeros(2))
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    check_points("logits", logits)
    p = logits.softmax(-1)
    return p.diag_embed() - p[..., :, None] * p[..., None, :]


class LastLayerLaplace:
    r"""Laplace's approximation of the last layer, whose inputs are features φ(x).

    The logits are linear in that layer, so the curvature of the loss has no part from the
    network's own curvature:

    .. math:: A = \sum_i C_i\otimes\varphi_i\varphi_i^\top + \tau I

    ``"kronecker"`` replaces the sum by :math:`\bar C\otimes\sum_i\varphi_i\varphi_i^\top` with
    the mean curvature :math:`\bar C`, which is exact where all :math:`C_i` are equal.
    ``"diagonal"`` keeps the diagonal of A.

    Args:
        features: inputs of the last layer at the data; a 1 for the bias is appended.
        curvature: the matrices C of the loss in the outputs, such as ``softmax_curvature``.
        precision: the precision τ of the prior of that layer, positive.
        structure: one of ``STRUCTURES``.

    Raises:
        TypeError: ``features`` or ``curvature`` is no floating-point tensor, their dtypes
            differ, or ``precision`` is no number.
        ValueError: shapes that do not fit, no example, ``precision`` not positive, unknown
            ``structure``, or a curvature that is not positive semidefinite.

    Chapter: prop-networks-laplace

    References: Ritter, Botev and Barber (2018); Kristiadi, Hein and Hennig (2020).

    >>> import torch
    >>> from nodes_tutorial.bayes import LastLayerLaplace, softmax_curvature
    >>> last = LastLayerLaplace(torch.ones(3, 2), softmax_curvature(torch.zeros(3, 2)), 1.0)
    >>> last.covariance(torch.ones(5, 2)).shape
    torch.Size([5, 2, 2])
    """

    def __init__(
        self,
        features: Float[Tensor, "n f"],
        curvature: Float[Tensor, "n2 k k"],
        precision: float | int,
        structure: str = "dense",
    ) -> None:
        check_points("features", features)
        check_points("curvature", curvature, like=features)
        check_filled("features", features)
        if features.ndim != 2 or curvature.ndim != 3 or len(curvature) != len(features):
            raise ValueError(
                "curvature must hold one matrix for each row of features, "
                f"got shapes {tuple(curvature.shape)} and {tuple(features.shape)}"
            )
        if structure not in STRUCTURES:
            raise ValueError(f"structure must be one of {STRUCTURES}, got {structure!r}")
        self.precision = check_number("precision", precision, "a positive number", lambda t: t > 0)
        self.structure, self.width = structure, features.shape[1]
        phi = _with_one(features)
        if structure == "diagonal":
            diagonal = curvature.diagonal(dim1=-2, dim2=-1)
            self._variance = 1 / (diagonal.mT @ phi.square() + self.precision)
        elif structure == "kronecker":
            self._inputs = _Spectrum(phi.mT @ phi)
            self._outputs = _Spectrum(curvature.mean(0))
        else:
            self._dense = self._inverse(_gram(phi, curvature))

    def covariance(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m k k"]:
        """Covariance of the outputs at each example."""
        check_points("features", features, (self.width,))
        phi = _with_one(features)
        if self.structure == "diagonal":
            return (phi.square() @ self._variance.mT).diag_embed()
        if self.structure == "kronecker":
            grid = self._outputs.values[:, None] * self._inputs.values + self.precision
            share = (phi @ self._inputs.vectors).square() @ (1 / grid).mT
            return (self._outputs.vectors * share[:, None, :]) @ self._outputs.vectors.mT
        return torch.einsum("mf,kflg,mg->mkl", phi, self._dense, phi)

    def sample(
        self,
        features: Float[Tensor, "m f"],
        outputs: Float[Tensor, "m k"],
        n: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n m k"]:
        """Draw n outputs for each example, given those of the mode; examples are independent."""
        check_count("n", n, least=1)
        values, vectors = torch.linalg.eigh(self.covariance(features))
        root = vectors * values.clamp_min(0).sqrt()[:, None, :]
        like = {"dtype": outputs.dtype, "device": outputs.device}
        noise = draw(torch.randn, (n, *outputs.shape), generator, **like)
        return outputs + (root @ noise[..., None])[..., 0]

    def _inverse(self, gram: Tensor) -> Tensor:
        outputs, inputs = gram.shape[:2]
        size = outputs * inputs
        matrix = gram.reshape(size, size)
        eye = torch.eye(size, dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(matrix + self.precision * eye)
        if bool(failed):
            raise ValueError("curvature must be positive semidefinite, got one that is not")
        return torch.cholesky_inverse(factor).reshape(outputs, inputs, outputs, inputs)


class _Spectrum:
    """Eigenvalues and eigenvectors of a positive semidefinite matrix."""

    def __init__(self, matrix: Tensor) -> None:
        values, self.vectors = torch.linalg.eigh(matrix)
        slack = 1e-4 if matrix.dtype == torch.float32 else 1e-10
        if bool(values[0] < -slack * values[-1].abs()):
            raise ValueError("curvature must be positive semidefinite, got one that is not")
        self.values = values.clamp_min(0)


def _gram(phi: Tensor, curvature: Tensor, chunk: int = 1000) -> Tensor:
    """The sum over the examples of C ⊗ φφ', with axes (k, f, k, f)."""
    parts = zip(phi.split(chunk), curvature.split(chunk), strict=True)
    total = sum(
        torch.einsum("nkl,nfg->klfg", c, part[:, :, None] * part[:, None, :]) for part, c in parts
    )
    return torch.as_tensor(total).permute(0, 2, 1, 3)


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], -1)
