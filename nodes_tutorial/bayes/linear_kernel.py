"""The variational contrastive divergence in closed form: Gaussian target, linear kernel."""

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_number, check_points


def isotropic_vcd(
    scale: float | Tensor,
    eigenvalues: Float[Tensor, " dim"],
    mixing: Float[Tensor, " dim"],
    stationary: Float[Tensor, " dim"] | None = None,
) -> Tensor:
    r"""The divergence of N(0, s²I) from a Gaussian, for a linear Gaussian kernel.

    .. math:: L_t(s) = \frac12\sum_i c_i\,
        \frac{(\tilde\lambda_i - s^2)(\lambda_i - s^2)}{\lambda_i s^2}

    Args:
        scale: the standard deviation s; several may be tried at once.
        eigenvalues: variances :math:`\lambda_i` of the target along its axes.
        mixing: :math:`c_i = 1 - a_i^{2t}` with the autocorrelation a of one step of the kernel.
        stationary: variances :math:`\tilde\lambda_i` that the kernel leaves invariant; None
            means those of the target.

    Returns:
        The divergence in nats, of the shape of ``scale``.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: shapes that differ, or variances or a scale that are not positive.

    Chapter: thm-vcd-gaussian

    >>> import torch
    >>> from nodes_tutorial.bayes import isotropic_vcd
    >>> isotropic_vcd(1.0, torch.tensor([2.0, 0.5]), torch.ones(2))
    tensor(0.5000)
    """
    stationary = _check_axes(eigenvalues, mixing, stationary)
    square = torch.as_tensor(scale, dtype=eigenvalues.dtype, device=eigenvalues.device).square()
    if not (square > 0).all():
        raise ValueError("scale must be positive, got 0 or no number")
    u = square[..., None]
    return 0.5 * (mixing * (stationary - u) * (eigenvalues - u) / (eigenvalues * u)).sum(-1)


def isotropic_vcd_scale(
    eigenvalues: Float[Tensor, " dim"],
    mixing: Float[Tensor, " dim"],
    stationary: Float[Tensor, " dim"] | None = None,
) -> Float[Tensor, ""]:
    r"""The standard deviation at which ``isotropic_vcd`` is smallest.

    .. math:: s^4 = \frac{\sum_i c_i\tilde\lambda_i}{\sum_i c_i/\lambda_i}

    Args:
        eigenvalues: variances of the target along its axes.
        mixing: one minus the squared autocorrelation of the chain, not all 0.
        stationary: variances that the kernel leaves invariant; None means those of the target.

    Returns:
        The best s.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: shapes that differ, variances that are not positive, or a kernel that never
            moves.

    Chapter: thm-vcd-gaussian

    >>> import torch
    >>> from nodes_tutorial.bayes import isotropic_vcd_scale
    >>> isotropic_vcd_scale(torch.tensor([1.95, 0.05]), torch.ones(2))
    tensor(0.5588)
    """
    stationary = _check_axes(eigenvalues, mixing, stationary)
    if not (mixing > 0).any():
        raise ValueError("mixing must be positive along some axis, got a kernel that never moves")
    return ((mixing * stationary).sum() / (mixing / eigenvalues).sum()) ** 0.25


def leapfrog_mixing(
    eigenvalues: Float[Tensor, " dim"], *, steps: int, leapfrog: int, step_size: float
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    r"""How ``HMCKernel`` without its decision acts on a Gaussian, along each axis.

    .. math:: a_i = \cos m\theta_i, \qquad \cos\theta_i = 1 - \frac{h^2}{2\lambda_i},
        \qquad c_i = 1 - a_i^{2t}, \qquad
        \tilde\lambda_i = \frac{\lambda_i}{1 - h^2/(4\lambda_i)}

    Args:
        eigenvalues: variances of the target along its axes.
        steps: number of steps t.
        leapfrog: steps m of the integrator in one path.
        step_size: step h of the integrator, below :math:`2\sqrt{\lambda_i}` for all i.

    Returns:
        The mixing c and the variances that stay invariant.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range, or a step size at which the paths are not stable.

    Chapter: prop-vcd-leapfrog

    References: Neal (2011), section 5.2.3.

    >>> import torch
    >>> from nodes_tutorial.bayes import leapfrog_mixing
    >>> leapfrog_mixing(torch.tensor([1.0]), steps=1, leapfrog=3, step_size=0.5)
    (tensor([0.9970]), tensor([1.0667]))
    """
    check_count("steps", steps, least=1)
    check_count("leapfrog", leapfrog, least=1)
    _check_axes(eigenvalues, eigenvalues, None)
    bound = 2 * float(eigenvalues.min().sqrt())
    check_number("step_size", step_size, f"positive and below {bound:.4g}", lambda h: 0 < h < bound)
    angle = (1 - step_size**2 / (2 * eigenvalues)).arccos()
    mixing = 1 - (leapfrog * angle).cos() ** (2 * steps)
    return mixing, eigenvalues / (1 - step_size**2 / (4 * eigenvalues))


def _check_axes(eigenvalues: Tensor, mixing: Tensor, stationary: Tensor | None) -> Tensor:
    stationary = eigenvalues if stationary is None else stationary
    check_points("eigenvalues", eigenvalues)
    if eigenvalues.ndim != 1 or not (eigenvalues > 0).all():
        raise ValueError("eigenvalues must be a vector of positive numbers")
    for name, each in (("mixing", mixing), ("stationary", stationary)):
        check_points(name, each, like=eigenvalues)
        if each.shape != eigenvalues.shape:
            raise ValueError(
                f"{name} must have a number for each of the {len(eigenvalues)} axes, "
                f"got shape {tuple(each.shape)}"
            )
    if not (stationary > 0).all():
        raise ValueError("stationary must hold positive numbers")
    return stationary
