"""Symmetric polynomials of a set: power sums, and the way back by Newton's identities."""

import torch
from jaxtyping import Float
from torch import Tensor

from nodes_tutorial.checks import check_count, check_points


def power_sums(
    x: Float[Tensor, "*batch elements"], count: int | None = None
) -> Float[Tensor, "*batch count"]:
    r"""The power sums :math:`p_k=\sum_ix_i^k` for k from 1 to ``count``.

    Args:
        x: the numbers of each set.
        count: how many sums; None means as many as there are numbers.

    Returns:
        The sums, in the order of their powers.

    Raises:
        TypeError: ``x`` holds no floating-point numbers.
        ValueError: ``count`` is below 1.

    Chapter: thm-sets-power

    References: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov and Smola (2017), theorem 9.

    >>> import torch
    >>> from nodes_tutorial.invariance import power_sums
    >>> power_sums(torch.tensor([1.0, 2.0, 3.0]))
    tensor([ 6., 14., 36.])
    """
    check_points("x", x)
    count = check_count("count", x.shape[-1] if count is None else count, least=1)
    powers = torch.arange(1, count + 1, device=x.device)
    return (x.unsqueeze(-2) ** powers.unsqueeze(-1)).sum(-1)


def elementary(p: Float[Tensor, "*batch count"]) -> Float[Tensor, "*batch count"]:
    r"""Elementary symmetric polynomials, by :math:`ke_k=\sum_{i=1}^k(-1)^{i-1}e_{k-i}p_i`.

    Args:
        p: power sums :math:`p_1,\dots,p_M` of M numbers.

    Returns:
        The polynomials :math:`e_1,\dots,e_M`.

    Raises:
        TypeError: ``p`` holds no floating-point numbers.

    Chapter: thm-sets-power

    References: Macdonald (1995), equation I.2.11'.

    >>> import torch
    >>> from nodes_tutorial.invariance import elementary
    >>> elementary(torch.tensor([6.0, 14.0, 36.0]))  # of 1, 2, 3
    tensor([ 6., 11.,  6.])
    """
    check_points("p", p)
    found = [torch.ones_like(p[..., 0])]
    for k in range(1, p.shape[-1] + 1):
        terms = [(-1) ** (i - 1) * found[k - i] * p[..., i - 1] for i in range(1, k + 1)]
        found.append(torch.stack(terms).sum(0) / k)
    return torch.stack(found[1:], -1)


def from_power_sums(p: Float[Tensor, "*batch count"]) -> Float[Tensor, "*batch count"]:
    r"""The M real numbers with power sums :math:`p_1,\dots,p_M`, sorted.

    They are the roots of :math:`t^M-e_1t^{M-1}+e_2t^{M-2}-\dots`, found as eigenvalues of its
    companion matrix. An error :math:`\varepsilon` in p can move numbers that are equal by about
    :math:`\varepsilon^{1/M}`; roots farther than 100 times that from the real line are refused.

    Args:
        p: as many power sums as there are numbers.

    Returns:
        The numbers of each set, in rising order.

    Raises:
        TypeError: ``p`` holds no floating-point numbers.
        ValueError: they are not the power sums of real numbers.

    Chapter: thm-sets-power

    >>> import torch
    >>> from nodes_tutorial.invariance import from_power_sums
    >>> from_power_sums(torch.tensor([6.0, 14.0, 36.0], dtype=torch.float64)).round(decimals=9)
    tensor([1., 2., 3.], dtype=torch.float64)
    """
    e = elementary(p)
    M = p.shape[-1]
    signs = (-1.0) ** torch.arange(M, dtype=p.dtype, device=p.device)
    below = torch.eye(M - 1, M, dtype=p.dtype, device=p.device).expand(*p.shape[:-1], -1, -1)
    roots = torch.linalg.eigvals(torch.cat([(signs * e).unsqueeze(-2), below], -2))
    allowed = 100 * torch.finfo(p.dtype).eps ** (1 / M) * roots.abs().amax(-1)
    if bool((roots.imag.abs().amax(-1) > allowed).any()):
        raise ValueError("p must be power sums of real numbers, and these belong to complex ones")
    return roots.real.sort(-1).values
