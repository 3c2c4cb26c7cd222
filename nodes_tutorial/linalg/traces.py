"""Traces of Jacobians: exact, and estimated with random probes."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, draw
from nodes_tutorial.linalg.products import covector_products


def exact_trace(
    fun: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*batch dim"],
    *,
    return_value: bool = False,
) -> Float[Tensor, "*batch"] | tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
    r"""Trace of each row's Jacobian, :math:`\sum_i e_i^\top J e_i`, by ``dim`` batched products.

    Args:
        fun: maps (\*batch, dim) to (\*batch, dim), each row by itself.
        x: points at which to differentiate.
        return_value: also return ``fun(x)``, which costs nothing more.

    Returns:
        The traces, of shape (\*batch,); with ``return_value`` the pair (value, traces).

    Raises:
        ValueError: ``fun`` does not keep the shape.

    References: Grathwohl et al. (2019), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import exact_trace
    >>> exact_trace(lambda x: x**2, torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
    tensor([ 6., 10.])
    """
    value, rows = covector_products(fun, x)
    trace = torch.einsum("i...i->...", rows)
    return (value, trace) if return_value else trace


def draw_probes(
    count: int,
    x: Float[Tensor, "*batch dim"],
    noise: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "count *batch dim"]:
    """Draw independent vectors with mean zero and identity covariance, ``count`` for each row.

    Args:
        count: number of probes a row, at least 1.
        x: gives shape, dtype and device.
        noise: ``"rademacher"`` (signs) or ``"gaussian"``.
        generator: source of the numbers; None means PyTorch's global one.

    Returns:
        The probes.

    Raises:
        TypeError: ``count`` is not an integer, or ``generator`` is not a generator.
        ValueError: ``count`` below 1 or unknown ``noise``.

    >>> import torch
    >>> from nodes_tutorial.linalg import draw_probes
    >>> draw_probes(3, torch.zeros(4, 2)).abs().unique()
    tensor([1.])
    """
    check_count("count", count, least=1)
    if noise not in ("rademacher", "gaussian"):
        raise ValueError(f"noise must be 'rademacher' or 'gaussian', got {noise!r}")
    law = torch.rand if noise == "rademacher" else torch.randn
    draws = draw(law, (count, *x.shape), generator, dtype=x.dtype, device=x.device)
    if noise == "gaussian":
        return draws
    signs = draws.sub_(0.5).sign_()
    return signs.masked_fill_(signs == 0, 1)


def hutchinson_trace(
    fun: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*batch dim"],
    probes: int | Float[Tensor, "probes *batch dim"] = 1,
    noise: str = "rademacher",
    generator: torch.Generator | None = None,
    *,
    return_value: bool = False,
) -> Float[Tensor, "*batch"] | tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
    r"""Unbiased estimate of each row's Jacobian trace, the mean of :math:`\epsilon^\top J\epsilon`.

    With :math:`S = (J + J^\top)/2` a Gaussian probe has variance :math:`2\|S\|_F^2` and a
    Rademacher probe :math:`2(\|S\|_F^2 - \sum_i S_{ii}^2)`, which is never larger.

    Args:
        fun: maps (\*batch, dim) to (\*batch, dim), each row by itself.
        x: points at which to differentiate.
        probes: number of probes to draw, or the probes themselves (from ``draw_probes``). Pass them
            when the estimate is a part of a vector field: they must not change during one solve.
        noise: ``"rademacher"`` or ``"gaussian"``; ignored when ``probes`` is a tensor.
        generator: source of the numbers; None means PyTorch's global one.
        return_value: also return ``fun(x)``.

    Returns:
        The estimates, of shape (\*batch,); with ``return_value`` the pair (value, estimates).

    Raises:
        ValueError: ``fun`` does not keep the shape, or as for ``draw_probes``.

    References: Hutchinson (1990); Grathwohl et al. (2019), section 3.1.

    >>> import torch
    >>> from nodes_tutorial.linalg import hutchinson_trace
    >>> hutchinson_trace(lambda x: 3 * x, torch.zeros(2, 4))  # exact when J is diagonal
    tensor([12., 12.])
    """
    if isinstance(probes, int):
        probes = draw_probes(probes, x, noise, generator)
    value, products = covector_products(fun, x, probes)
    trace = (products * probes).sum(-1).mean(0)
    return (value, trace) if return_value else trace
