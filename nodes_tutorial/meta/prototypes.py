"""Prototypes: each class stands for the mean of its support, and the nearest one names a query."""

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nodes_tutorial.checks import check_count, check_points


def class_means(
    features: Float[Tensor, "*tasks support features"],
    labels: Int[Tensor, "*tasks support"],
    ways: int,
    *,
    check: bool = True,
) -> Float[Tensor, "*tasks {ways} features"]:
    r"""Prototypes of the classes of each task: :math:`p_c=\frac1{|S_c|}\sum_{i\in S_c}z_i`.

    Args:
        features: z, one row for each support example.
        labels: class of each row, 0 … ``ways`` - 1; classes may have different numbers of rows.
        ways: classes of a task.
        check: whether to refuse labels out of range and classes without a row. This waits for
            the device and is not possible under ``vmap``; without it such a class becomes NaN.

    Returns:
        One prototype for each class.

    Raises:
        TypeError: ``features`` are no floating-point numbers, ``labels`` no integers.
        ValueError: ``labels`` of another shape or out of range, a class without a row, ``ways``
            below 1.

    Chapter: def-few-prototypes

    References: Snell, Swersky and Zemel (2017), equation 1.

    >>> import torch
    >>> from nodes_tutorial.meta import class_means
    >>> class_means(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]), ways=2)
    tensor([[1.],
            [5.]])
    """
    check_count("ways", ways, least=1)
    check_points("features", features)
    _check_labels("labels", labels, tuple(features.shape[:-1]))
    member = labels.unsqueeze(-2) == torch.arange(ways, device=labels.device).unsqueeze(-1)
    counts = member.sum(-1, keepdim=True)
    if check:
        _check_classes(labels, counts, ways)
    return member.to(features.dtype) @ features / counts


def prototype_logits(
    query: Float[Tensor, "*tasks queries features"],
    means: Float[Tensor, "*tasks ways features"],
) -> Float[Tensor, "*tasks queries ways"]:
    r"""Logits of each query: :math:`-\|z-p_c\|^2`, the squared distance with its sign turned.

    Args:
        query: z, one row for each query.
        means: p, one row for each class.

    Returns:
        One logit for each query and class, up to rounding at most 0.

    Raises:
        TypeError: no floating-point tensors, or of different dtypes or devices.
        ValueError: different numbers of tasks or features.

    Chapter: def-few-prototypes

    References: Snell, Swersky and Zemel (2017), equation 2.

    >>> import torch
    >>> from nodes_tutorial.meta import prototype_logits
    >>> prototype_logits(torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]))
    tensor([[-1., -4.]])
    """
    check_points("query", query)
    check_points("means", means, query.shape[-1:], like=query)
    if query.ndim < 2 or means.shape[:-2] != query.shape[:-2]:
        raise ValueError(
            f"query must have the tasks of means, got {tuple(query.shape)} and {tuple(means.shape)}"
        )
    # one product of matrices; moving the origin to the middle keeps the digits of small distances
    center = means.mean(-2, keepdim=True)
    z, p = query - center, means - center
    lengths = z.square().sum(-1, keepdim=True) + p.square().sum(-1).unsqueeze(-2)
    return 2 * z @ p.mT - lengths


def linear_head(
    means: Float[Tensor, "*tasks ways features"],
) -> tuple[Float[Tensor, "*tasks ways features"], Float[Tensor, "*tasks ways"]]:
    r"""The linear classifier with the probabilities of the prototypes.

    Its logits :math:`w_c^\top z+b_c` with :math:`w_c=2p_c` and :math:`b_c=-\|p_c\|^2` differ from
    ``prototype_logits`` by :math:`\|z\|^2`, the same for every class.

    Args:
        means: p, one row for each class.

    Returns:
        Weights and biases of the classes.

    Raises:
        TypeError: no floating-point tensor.

    Chapter: prop-few-linear

    References: Snell, Swersky and Zemel (2017), equation 8.

    >>> import torch
    >>> from nodes_tutorial.meta import linear_head
    >>> linear_head(torch.tensor([[0.0, 1.0], [3.0, 0.0]]))
    (tensor([[0., 2.],
            [6., 0.]]), tensor([-1., -9.]))
    """
    check_points("means", means)
    return 2 * means, -means.square().sum(-1)


class ProtoNet(nn.Module):
    """An encoder whose features are classified by the nearest prototype of the support.

    Support and queries of all tasks go through the encoder as one batch. An encoder with batch
    statistics (``Conv4`` with ``norm="batch"``, or any batch normalization in ``train()`` mode)
    therefore lets every answer depend on all images of the call. For answers of their own put an
    encoder with running statistics into ``eval()`` mode.

    Args:
        encoder: from images of shape ``(batch, ...)`` to features of shape ``(batch, features)``.
        check: as for ``class_means``.

    Raises:
        TypeError: ``encoder`` is no module.

    Chapter: def-few-prototypes

    References: Snell, Swersky and Zemel (2017).

    >>> import torch
    >>> from nodes_tutorial.meta import ProtoNet
    >>> net = ProtoNet(torch.nn.Flatten())
    >>> support = torch.tensor([[[0.0], [2.0], [5.0]]]), torch.tensor([[0, 0, 1]])
    >>> net(support, torch.tensor([[[4.0]]]))
    tensor([[[-9., -1.]]])
    """

    def __init__(self, encoder: nn.Module, *, check: bool = True) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise TypeError(f"encoder must be a module, got a {type(encoder).__name__}")
        self.encoder, self.check = encoder, check

    def forward(
        self,
        support: tuple[Tensor, Int[Tensor, "*tasks support"]],
        query_x: Tensor,
        ways: int | None = None,
    ) -> Float[Tensor, "*tasks queries ways"]:
        """Logits of the queries.

        Args:
            support: inputs and labels to learn from.
            query_x: inputs to be named.
            ways: classes of a task; None takes the largest label, and waits for the device.

        Raises:
            TypeError: inputs of another type or device, or labels that are no integers.
            ValueError: inputs, labels or queries whose shapes do not fit; a class without support.
        """
        x, labels = support
        check_points("support", x)
        lead = labels.ndim
        _check_labels("support", labels, tuple(x.shape[:lead]))
        check_points("query_x", query_x, x.shape[lead:], like=x)
        if query_x.ndim != x.ndim or query_x.shape[: lead - 1] != x.shape[: lead - 1]:
            raise ValueError(
                f"query_x must have the tasks of support, got {tuple(query_x.shape)} "
                f"and {tuple(x.shape)}"
            )
        if ways is None:
            ways = int(labels.max()) + 1
        rows = prod(x.shape[:lead])
        both = torch.cat([x.flatten(0, lead - 1), query_x.flatten(0, lead - 1)])
        features = self.encoder(both)
        z, query = features[:rows], features[rows:]
        z, query = z.unflatten(0, x.shape[:lead]), query.unflatten(0, query_x.shape[:lead])
        return prototype_logits(query, class_means(z, labels, ways, check=self.check))

    def loss(
        self,
        support: tuple[Tensor, Int[Tensor, "*tasks support"]],
        query: tuple[Tensor, Int[Tensor, "*tasks queries"]],
        ways: int | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the queries in nats.

        Args:
            support: inputs and labels to learn from.
            query: inputs and labels to be judged by.
            ways: as for ``forward``.

        Raises:
            ValueError: as for ``forward``; labels of the queries of another shape.
        """
        x, labels = query
        _check_labels("query", labels, tuple(x.shape[: labels.ndim]))
        logits = self(support, x, ways)
        return cross_entropy(logits.flatten(0, -2), labels.flatten())


def _check_labels(name: str, labels: Tensor, shape: tuple[int, ...]) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must have integers as labels, got {labels.dtype}")
    if labels.ndim == 0 or tuple(labels.shape) != shape:
        raise ValueError(f"{name} must have labels of shape {shape}, got {tuple(labels.shape)}")


def _check_classes(labels: Tensor, counts: Tensor, ways: int) -> None:
    if bool(((labels < 0) | (labels >= ways)).any()):
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"labels must lie in 0 to {ways - 1}, got {low} to {high}")
    if bool((counts == 0).any()):
        *task, missing, _ = (counts == 0).nonzero()[0].tolist()
        place = f" of task {tuple(task)}" if task else ""
        raise ValueError(f"labels must name each class, but class {missing}{place} has no row")
