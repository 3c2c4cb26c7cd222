"""Optimal pairing of two samples, their distance, and how straight a flow's paths are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, check_filled
from nodes_tutorial.ode import odeint


def optimal_pairs(x0: Float[Tensor, "n *event"], x1: Float[Tensor, "..."]) -> Int[Tensor, " n"]:
    r"""The permutation that pairs two samples at the least total squared distance.

    .. math:: \pi = \operatorname*{arg\,min}_{\pi}\ \sum_i \|x_1^{(\pi(i))} - x_0^{(i)}\|^2

    The assignment problem is solved exactly, on the host: the distances are computed where the
    points are, moved to the CPU in double precision, and handed to SciPy, which needs
    :math:`O(n^3)` operations at worst. A GPU waits for it.

    Args:
        x0: n points, shape (n, \*event).
        x1: n points of the same shape.

    Returns:
        The permutation π, on the device of ``x1``. Row i of ``x1[π]`` is paired with row i of
        ``x0``.

    Raises:
        ValueError: the samples differ in shape or are empty, or a distance is not finite.

    Chapter: prop-matching-ot

    References: Crouse (2016); Tong et al. (2024), section 3.2.

    >>> import torch
    >>> from nodes_tutorial.flows import optimal_pairs
    >>> optimal_pairs(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.1], [0.2]]))
    tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    cost = _costs(x0, x1)
    _, columns = linear_sum_assignment(cost)
    return torch.as_tensor(columns, device=x1.device)


def wasserstein2(x: Float[Tensor, "n *event"], y: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    r"""The 2-Wasserstein distance of two samples of one size.

    .. math:: W_2 = \Bigl(\min_\pi \frac1n\sum_i \|y_{\pi(i)} - x_i\|^2\Bigr)^{1/2}

    Between two samples of one and the same law it is not 0 but shrinks with n, so a number is
    read beside that of two samples of the truth. Runs on the host, as ``optimal_pairs``.

    Args:
        x: n points, shape (n, \*event).
        y: n points of the same shape.

    Returns:
        The distance, a number without a graph, in the dtype of ``x``; in PyTorch's default one
        for points of integers.

    Raises:
        ValueError: as for ``optimal_pairs``.

    Chapter: prop-matching-ot

    References: Peyré and Cuturi (2019), section 2.2.

    >>> import torch
    >>> from nodes_tutorial.flows import wasserstein2
    >>> wasserstein2(torch.zeros(3, 2), torch.ones(3, 2))
    tensor(1.4142)
    """
    from scipy.optimize import linear_sum_assignment

    cost = _costs(x, y)
    rows, columns = linear_sum_assignment(cost)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    mean = float(np.sqrt(cost[rows, columns].mean()))
    return torch.tensor(mean, dtype=dtype, device=x.device)


def straightness(
    field: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "n *event"],
    *,
    nodes: int = 16,
    **solver: Any,
) -> Float[Tensor, ""]:
    r"""How far a flow's paths are from straight lines at constant speed; 0 if they are.

    .. math:: S = \int_0^1 \frac1n\sum_i \|f(t, z_i(t)) - (z_i(1) - z_i(0))\|^2\,\mathrm dt,
        \qquad \dot z_i = f(t, z_i),\quad z_i(0) = x_0^{(i)}

    The integral is Gauss and Legendre's rule.

    Args:
        field: the field ``f(t, z)``.
        x0: points at time 0, where the paths start.
        nodes: evaluation points in time.
        **solver: keyword arguments of ``odeint``, such as ``rtol`` or ``method``.

    Returns:
        S, in squared units of the state, without a graph.

    Raises:
        TypeError: ``nodes`` is not an integer.
        ValueError: ``nodes`` below 1, no points, or as for ``odeint``.

    Chapter: thm-matching-budget

    References: Liu, Gong and Liu (2023), section 2.2.

    >>> import torch
    >>> from nodes_tutorial.flows import straightness
    >>> f"{straightness(lambda t, z: torch.ones_like(z), torch.zeros(4, 2)).item():.6f}"
    '0.000000'
    """
    check_count("nodes", nodes, least=1)
    check_filled("x0", x0)
    where, weights = np.polynomial.legendre.leggauss(nodes)
    # the solver reads its times on the host; the field gets them where the points are
    times = torch.tensor([0.0, *((where + 1) / 2), 1.0], dtype=torch.float64)
    with torch.no_grad():
        z = odeint(field, x0, times, **solver)
        chord = z[-1] - z[0]
        speeds = zip(times[1:-1].to(x0), z[1:-1], strict=True)
        gaps = torch.stack([(field(t, y) - chord).square().flatten(1).sum(-1) for t, y in speeds])
    return gaps.mean(1) @ torch.as_tensor(weights / 2, dtype=x0.dtype, device=x0.device)


def _costs(x0: Tensor, x1: Tensor) -> np.ndarray:
    """Squared distances of all pairs, in double precision on the host."""
    if x0.shape != x1.shape or x0.ndim == 0 or len(x0) == 0:
        raise ValueError(
            "x0 and x1 must be two samples of one size and shape, got "
            f"{tuple(x0.shape)} and {tuple(x1.shape)}"
        )
    a, b = (x.detach().flatten(1) if x.ndim > 1 else x.detach()[:, None] for x in (x0, x1))
    cost = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    cost = cost.square_().cpu().numpy()
    if not np.isfinite(cost).all():
        raise ValueError("x0 and x1 must be finite")
    return cost
