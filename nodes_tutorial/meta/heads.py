"""Linear heads, one for each task: their logits, and the gradient of their loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.ode.solvers.problem import under_transform


def head_logits(
    head: Float[Tensor, "*_ classes weights"], features: Float[Tensor, "*_ points dim"]
) -> Float[Tensor, "*_ points classes"]:
    r"""Logits :math:`w_c^\top z+b_c` of points, with the row :math:`(w_c, b_c)` for class c.

    Args:
        head: one row for each class, the bias last: one more number than ``features`` have.
        features: one row for each point; the axes of tasks broadcast.

    Returns:
        One row for each point.

    Raises:
        TypeError: no floating-point tensors, or of different dtypes or devices.
        ValueError: rows of another length.

    Chapter: def-hypermaml-update

    >>> import torch
    >>> from nodes_tutorial.meta import head_logits
    >>> head_logits(torch.tensor([[2.0, 1.0], [0.0, 5.0]]), torch.tensor([[3.0]]))
    tensor([[7., 5.]])
    """
    check_points("features", features)
    check_points("head", head, (features.shape[-1] + 1,), like=features)
    return features @ head[..., :-1].mT + head[..., -1].unsqueeze(-2)


def head_gradient(
    head: Float[Tensor, "*tasks classes weights"],
    features: Float[Tensor, "*tasks points dim"],
    labels: Int[Tensor, "*tasks points"],
) -> Float[Tensor, "*tasks classes weights"]:
    r"""The gradient of the mean cross-entropy with respect to the head, for each task.

    .. math:: g_c=\frac1N\sum_{i=1}^N\bigl(p_{ic}-[y_i=c]\bigr)\,(z_i,1)

    Args:
        head: as for ``head_logits``.
        features: one row for each of the N points.
        labels: class of each point.

    Returns:
        One row for each class.

    Raises:
        TypeError: as for ``head_logits``; ``labels`` that are no integers.
        ValueError: as for ``head_logits``; a label outside 0 … classes - 1, or as many labels as
            there are no points.

    Chapter: prop-hypermaml-step

    References: Bishop (2006), equation 4.109.

    >>> import torch
    >>> from nodes_tutorial.meta import head_gradient
    >>> head_gradient(torch.zeros(2, 2), torch.tensor([[3.0]]), torch.tensor([0]))
    tensor([[-1.5000, -0.5000],
            [ 1.5000,  0.5000]])
    """
    check_labels("labels", labels, features.shape[:-1], head.shape[-2])
    error = head_logits(head, features).softmax(-1) - indicators(labels, head.shape[-2], features)
    rows = torch.cat([error.mT @ features, error.sum(-2).unsqueeze(-1)], -1)
    return rows / features.shape[-2]


class GradientHead(nn.Module):
    r"""A head that adapts by gradient steps, with a step size for each number of a row.

    .. math:: \theta\leftarrow\theta-e^s\,g(\theta),\qquad\theta=0\text{ at first}

    The vector s is learned. All classes begin with the same row, so it may be 0: a row that is
    added to all classes changes no probability, and no later step either.

    Args:
        features: numbers of an embedding.
        ways: classes of a task.
        steps: gradient steps.
        size: step size at first.
        dtype: dtype of the step sizes; None means PyTorch's default.
        device: device of the step sizes; None means PyTorch's default.

    Attributes:
        log_size: s, one number for each weight of a row and one for its bias.

    Raises:
        TypeError: ``features``, ``ways`` or ``steps`` is not an integer, ``size`` not a number.
        ValueError: one of them below 1, or a ``size`` that is not positive.

    Chapter: prop-hypermaml-step

    References: Li, Zhou, Chen and Li (2017), Meta-SGD, on the head alone.

    >>> import torch
    >>> from nodes_tutorial.meta import GradientHead
    >>> net = GradientHead(16, ways=5)
    >>> support = torch.randn(8, 5, 16), torch.arange(5).expand(8, 5)
    >>> net(support, torch.randn(8, 30, 16)).shape
    torch.Size([8, 30, 5])
    """

    def __init__(
        self,
        features: int,
        ways: int,
        steps: int = 5,
        size: float = 0.135,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_count("features", features, least=1)
        self.ways = check_count("ways", ways, least=1)
        self.steps = check_count("steps", steps, least=1)
        size = check_number("size", size, "a positive number", lambda a: a > 0)
        log_size = torch.full((features + 1,), size, dtype=dtype, device=device).log()
        self.log_size = nn.Parameter(log_size)

    def forward(
        self,
        support: tuple[Float[Tensor, "*tasks support dim"], Int[Tensor, "*tasks support"]],
        query: Float[Tensor, "*tasks query dim"],
    ) -> Float[Tensor, "*tasks query ways"]:
        """Logits of the queries after the steps.

        Args:
            support: embeddings and their classes.
            query: embeddings to be named.

        Raises:
            TypeError: as for ``head_gradient``.
            ValueError: as for ``head_gradient``.
        """
        features, labels = support
        head = features.new_zeros(*features.shape[:-2], self.ways, features.shape[-1] + 1)
        for _ in range(self.steps):
            head = head - self.log_size.exp() * head_gradient(head, features, labels)
        return head_logits(head, query)


def indicators(
    labels: Int[Tensor, "*tasks points"], classes: int, like: Tensor
) -> Float[Tensor, "*tasks points classes"]:
    """1 where a point is of a class, else 0, with the dtype of another tensor."""
    every = torch.arange(classes, device=labels.device)
    return (labels.unsqueeze(-1) == every).to(like.dtype)


def check_labels(
    name: str, labels: Tensor, shape: tuple[int, ...], classes: int, *, every: bool = False
) -> None:
    """Refuse labels that do not belong to the points; their values only where looking is free.

    On a GPU and under ``torch.func`` transforms the values are not looked at.

    Args:
        name: name of the argument, for the message.
        labels: what it got.
        shape: axes of the points.
        classes: how many there are.
        every: whether each class must have a point in each task.

    Raises:
        TypeError: no integers.
        ValueError: other axes, a label outside 0 … classes - 1, or a class without a point.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} must hold integers, got {kind}")
    if labels.shape != shape:
        raise ValueError(
            f"{name} must have one label for each of the points, of shape {tuple(shape)}; "
            f"got shape {tuple(labels.shape)}"
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or under_transform():
        return
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"{name} must be between 0 and {classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    if every:
        there = (labels.unsqueeze(-1) == torch.arange(classes)).any(-2)
        if not bool(there.all()):
            lacks = int((~there).nonzero()[0, -1])
            raise ValueError(f"{name} must have each class in each task; one lacks class {lacks}")
