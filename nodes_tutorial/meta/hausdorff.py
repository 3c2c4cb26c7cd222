"""Drawings as sets of points, and a distance between such sets that needs no training."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nodes_tutorial.checks import check_filled, check_points


def ink_points(
    ink: Bool[Tensor, "drawings height width"],
) -> tuple[Float[Tensor, "drawings points 2"], Bool[Tensor, "drawings points"]]:
    """Places of the ink of each drawing, moved so that their mean is 0.

    Args:
        ink: where a drawing is black.

    Returns:
        Row and column of each point, in pixels and in double precision, with zeros behind the
        last point of a drawing; and a mask that says which rows are points.

    Raises:
        TypeError: ``ink`` holds no booleans.
        ValueError: not three axes, or a drawing without ink.

    Chapter: def-few-hausdorff

    >>> import torch
    >>> from nodes_tutorial.meta import ink_points
    >>> points, mask = ink_points(torch.tensor([[[True, False, True]]]))
    >>> points[0].tolist(), mask[0].tolist()
    ([[0.0, -1.0], [0.0, 1.0]], [True, True])
    """
    if ink.dtype != torch.bool:
        raise TypeError(f"ink must hold booleans, got {ink.dtype}")
    if ink.ndim != 3 or not bool(ink.flatten(1).any(1).all()):
        raise ValueError(f"ink must be drawings with ink in each, got shape {tuple(ink.shape)}")
    places = [drawing.nonzero().double() for drawing in ink]
    centered = [points - points.mean(0) for points in places]
    sizes = torch.tensor([len(points) for points in places], device=ink.device)
    rows = torch.arange(int(sizes.max()), device=ink.device)
    return torch.nn.utils.rnn.pad_sequence(centered, batch_first=True), rows < sizes[:, None]


def modified_hausdorff(
    a: Float[Tensor, "*batch n dim"],
    b: Float[Tensor, "*batch m dim"],
    a_mask: Bool[Tensor, "*batch n"] | None = None,
    b_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Modified Hausdorff distance :math:`\max\{d(A,B),d(B,A)\}` of two sets of points.

    Here :math:`d(A,B)=\frac1{|A|}\sum_{x\in A}\min_{y\in B}\|x-y\|`. It is symmetric, and 0 only
    for equal sets, but the triangle inequality fails.

    Args:
        a: points of the first set.
        b: points of the second set.
        a_mask: which rows of ``a`` are points; None means all.
        b_mask: likewise for ``b``.

    Returns:
        One distance for each pair of sets.

    Raises:
        TypeError: no floating-point tensors, or of different dtypes or devices.
        ValueError: points of different dimensions.

    Chapter: def-few-hausdorff

    References: Dubuisson and Jain (1994), distance 22.

    >>> import torch
    >>> from nodes_tutorial.meta import modified_hausdorff
    >>> modified_hausdorff(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]]))
    tensor(0.5000)
    """
    check_points("a", a)
    check_points("b", b, a.shape[-1:], like=a)
    far = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.maximum(_one_way(far, a_mask, b_mask), _one_way(far.mT, b_mask, a_mask))


def hausdorff_table(
    queries: Sequence[Float[Tensor, "_ dim"]], supports: Sequence[Float[Tensor, "_ dim"]]
) -> Float[Tensor, "queries supports"]:
    """``modified_hausdorff`` of each pair of sets, by search trees on the host.

    A tree finds the nearest of n points in about log n steps, which is faster on a CPU for a
    thousand points than all distances, and keeps none of them.

    Args:
        queries: points of each set that asks.
        supports: points of each set that is asked about.

    Returns:
        One row for each query, in double precision.

    Raises:
        ValueError: a set without points, or points of different dimensions.

    Chapter: def-few-hausdorff

    >>> import torch
    >>> from nodes_tutorial.meta import hausdorff_table
    >>> hausdorff_table([torch.tensor([[0.0], [1.0]])], [torch.tensor([[0.0]])])
    tensor([[0.5000]], dtype=torch.float64)
    """
    from scipy.spatial import KDTree

    for name, sets in (("queries", queries), ("supports", supports)):
        for points in sets:
            check_points(name, points, queries[0].shape[1:])
            check_filled(name, points)
    asking, asked = ([points.double().cpu().numpy() for points in s] for s in (queries, supports))
    trees = [KDTree(b) for b in asked]
    table = torch.empty(len(asking), len(asked), dtype=torch.float64)
    for i, a in enumerate(asking):
        tree = KDTree(a)
        for j, b in enumerate(asked):
            table[i, j] = max(trees[j].query(a)[0].mean(), tree.query(b)[0].mean())
    return table


def _one_way(far: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Mean over the points of one set of the distance to the nearest point of the other."""
    if columns is not None:
        far = torch.where(columns.unsqueeze(-2), far, torch.inf)
    nearest = far.amin(-1)
    if rows is None:
        return nearest.mean(-1)
    return torch.where(rows, nearest, 0).sum(-1) / rows.sum(-1)
