"""From the features of a set's elements to one vector: sums, means, maxima, and attention."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nodes_tutorial.checks import check_points

POOLS = ("sum", "mean", "max", "logsumexp")


def pool(
    x: Float[Tensor, "*batch elements features"],
    how: str = "sum",
    mask: Bool[Tensor, "*batch elements"] | None = None,
) -> Float[Tensor, "*batch features"]:
    r"""Pool the elements of each set: :math:`\sum_i x_i`, mean, max or log-sum-exp.

    What the mask hides is not read: a NaN there changes neither the value nor a gradient. With a
    mask all but the sum wait for the device, because they ask whether a set is empty.

    Args:
        x: one row for each element.
        how: one of ``POOLS``; ``"logsumexp"`` is :math:`\ln\sum_ie^{x_i}` for each feature.
        mask: which rows belong to the set; None means all.

    Returns:
        One row for each set. The sum of an empty set is 0.

    Raises:
        TypeError: ``x`` is no floating-point tensor, or ``mask`` holds no booleans.
        ValueError: unknown ``how``, a mask of another shape, or an empty set where ``how`` is not
            ``"sum"``.

    Chapter: def-sets-decomposition

    References: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov and Smola (2017), equation 4.

    >>> import torch
    >>> from nodes_tutorial.invariance import pool
    >>> x = torch.tensor([[1.0], [2.0], [6.0]])
    >>> pool(x, "mean"), pool(x, "mean", torch.tensor([True, True, False]))
    (tensor([3.]), tensor([1.5000]))
    """
    _check(x, how, mask)
    kept = None if mask is None else mask.unsqueeze(-1)
    if how in ("sum", "mean"):
        total = hidden(x, mask).sum(-2)
        if how == "sum":
            return total
        return total / (x.shape[-2] if kept is None else kept.sum(-2))
    if kept is not None:
        x = torch.where(kept, x, -torch.inf)
    return x.amax(-2) if how == "max" else x.logsumexp(-2)


def attend(
    query: Float[Tensor, "*batch queries dim"],
    keys: Float[Tensor, "*batch elements dim"],
    values: Float[Tensor, "*batch elements features"],
    mask: Bool[Tensor, "*batch elements"] | None = None,
) -> Float[Tensor, "*batch queries features"]:
    r"""Average values with softmax weights: :math:`\sum_iw_iv_i` for each query q.

    Here :math:`w_i\propto e^{q^\top k_i/\sqrt d}` with keys k of size d, and the weights sum to 1.
    With constant keys they are equal, and the result is the mean.

    Args:
        query: one row for each wanted average.
        keys: one row for each element.
        values: what is averaged.
        mask: which elements belong to the set; None means all.

    Returns:
        One row for each query.

    Raises:
        TypeError: no floating-point tensors, or ``mask`` holds no booleans.
        ValueError: ``query`` and ``keys`` of different sizes, a mask of another shape, or an
            empty set.

    Chapter: prop-sets-pools

    References: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin (2017),
        equation 1.

    >>> import torch
    >>> from nodes_tutorial.invariance import attend
    >>> values = torch.tensor([[1.0], [2.0], [6.0]])
    >>> attend(torch.ones(1, 4), torch.zeros(3, 4), values)
    tensor([[3.]])
    """
    check_points("query", query)
    check_points("keys", keys, query.shape[-1:], like=query)
    _check(values, "mean", mask, "values")
    scores = query @ keys.mT / query.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask.unsqueeze(-2), scores, -torch.inf)
    return scores.softmax(-1) @ hidden(values, mask)


def hidden(
    x: Float[Tensor, "*batch elements features"], mask: Bool[Tensor, "*batch elements"] | None
) -> Float[Tensor, "*batch elements features"]:
    """Put zeros where no element is, whatever stood there.

    Args:
        x: one row for each element.
        mask: which rows belong to the set; None means all.

    Returns:
        The rows, of the shape of ``x``.
    """
    return x if mask is None else torch.where(mask.unsqueeze(-1), x, 0)


def pad(
    sets: list[Float[Tensor, "_ features"]],
) -> tuple[Float[Tensor, "sets elements features"], Bool[Tensor, "sets elements"]]:
    """Put sets of different sizes into one batch, with a mask that says what is padding.

    Args:
        sets: one tensor for each set, one row for each element; a set may have no rows.

    Returns:
        The rows, with zeros behind the last element of each set, and the mask.

    Raises:
        ValueError: no set, or sets with different numbers of features.

    Chapter: def-sets-decomposition

    >>> import torch
    >>> from nodes_tutorial.invariance import pad
    >>> x, mask = pad([torch.ones(1, 2), torch.ones(3, 2)])
    >>> x.shape, mask.sum(1)
    (torch.Size([2, 3, 2]), tensor([1, 3]))
    """
    if len(sets) == 0:
        raise ValueError("sets must hold at least one set, got none")
    for rows in sets:
        check_points("sets", rows, sets[0].shape[1:], like=sets[0])
    sizes = torch.tensor([len(rows) for rows in sets], device=sets[0].device)
    x = torch.nn.utils.rnn.pad_sequence(sets, batch_first=True)
    places = torch.arange(x.shape[1], device=x.device)
    return x, places < sizes.unsqueeze(1)


def _check(x: Tensor, how: str, mask: Tensor | None, name: str = "x") -> None:
    if how not in POOLS:
        raise ValueError(f"how must be one of {', '.join(POOLS)}; got {how!r}")
    check_points(name, x)
    check_mask(x, mask, name)
    if how == "sum":
        return
    if x.shape[-2] == 0 or (mask is not None and not bool(mask.any(-1).all())):
        raise ValueError(f"{name} must have no empty set: an empty set has no {how}")


def check_mask(x: Tensor, mask: Tensor | None, name: str = "x") -> None:
    """Refuse what does not say of each row whether it belongs to its set.

    Args:
        x: rows with an axis of elements and one of features.
        mask: what the argument got.
        name: name of the rows, for the message.

    Raises:
        TypeError: no booleans.
        ValueError: another shape, or ``x`` has no axis of elements.
    """
    if x.ndim < 2:
        raise ValueError(f"{name} must have axes of elements and features, got {tuple(x.shape)}")
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a tensor of booleans, got {getattr(mask, 'dtype', mask)}")
    if mask.shape != x.shape[:-1]:
        raise ValueError(f"mask must have the shape {tuple(x.shape[:-1])}, got {tuple(mask.shape)}")
