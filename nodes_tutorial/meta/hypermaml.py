"""HyperMAML: a hypernetwork reads the support and moves the head, in place of gradient steps."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_number, check_points
from nodes_tutorial.invariance import DeepSets
from nodes_tutorial.meta.heads import check_labels, head_gradient, head_logits
from nodes_tutorial.meta.hypernetworks import SupportRows
from nodes_tutorial.nets import MLP, reset_parameters

STARTS = ("shared", "per_class")


class HyperMAML(nn.Module):
    r"""A head for each task, :math:`\theta'=\theta-H(\mathrm{support})`, on a common encoder.

    The encoder gives embeddings z. A hypernetwork H makes a row for each class from the support,
    and :math:`\theta'_c` are the weights and the bias of the logit of class c. With a share
    :math:`\lambda` of the gradient step it is
    :math:`\theta'=\theta-\lambda\,a\,g-(1-\lambda)\,H`.

    All tasks are computed at once. The encoder gets the images of all tasks as one batch, those
    of the support and those of the query apart: a batch normalization with batch statistics
    makes them depend on each other.

    Args:
        rows: the hypernetwork; its rows have one number more than an embedding.
        features: numbers of an embedding.
        ways: classes of a task.
        encoder: maps images (batch, ...) to embeddings (batch, features); None takes embeddings.
        start: ``"shared"`` is one row for all classes, as it must be where their numbers mean
            nothing; ``"per_class"`` is a row for each, as in the authors' program.
        step_size: a, of the gradient step.
        generator: source of the initial start; None means PyTorch's global one.
        dtype: dtype of the start; None means PyTorch's default.
        device: device of the start; None means PyTorch's default.

    Attributes:
        head: the start :math:`\theta`, one row or one for each class.

    Raises:
        TypeError: ``features`` or ``ways`` is not an integer, ``step_size`` not a number.
        ValueError: one of them below 1, unknown ``start``, a negative ``step_size``.

    Chapter: def-hypermaml-update

    References: Przewięźlikowski, Przybysz, Tabor, Zięba and Spurek (2022), who add H.

    >>> import torch
    >>> from nodes_tutorial.meta import HyperMAML, support_rows
    >>> net = HyperMAML(support_rows(16, 17), features=16, ways=5)
    >>> support = torch.randn(8, 5, 16), torch.arange(5).expand(8, 5)
    >>> net(support, torch.randn(8, 30, 16)).shape  # eight tasks, 30 queries in each
    torch.Size([8, 30, 5])
    """

    def __init__(
        self,
        rows: SupportRows,
        features: int,
        ways: int,
        *,
        encoder: nn.Module | None = None,
        start: Literal["shared", "per_class"] = "shared",
        step_size: float = 0.1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.features = check_count("features", features, least=1)
        self.ways = check_count("ways", ways, least=1)
        if start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}; got {start!r}")
        wanted = "a number of at least 0"
        self.step_size = check_number("step_size", step_size, wanted, lambda a: a >= 0)
        self.start, self.rows, self.encoder = start, rows, encoder
        count = 1 if start == "shared" else ways
        linear = nn.Linear(features, count, dtype=dtype, device=device)
        reset_parameters(linear, generator)
        self.head = nn.Parameter(torch.cat([linear.weight, linear.bias[:, None]], 1).detach())

    def embed(self, x: Tensor, axes: int) -> Float[Tensor, "*tasks points dim"]:
        """Embeddings of images, or the embeddings themselves where there is no encoder.

        Args:
            x: images or embeddings, behind axes of tasks and one of points.
            axes: number of these axes.

        Returns:
            One row for each point.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: too few axes, or embeddings of another length.
        """
        check_points("x", x)
        if x.ndim <= axes:
            raise ValueError(
                f"x must have axes behind the {axes} of tasks and points, got {tuple(x.shape)}"
            )
        if self.encoder is not None:
            x = self.encoder(x.flatten(0, axes - 1)).unflatten(0, x.shape[:axes])
        check_points("embeddings", x, (self.features,), like=self.head)
        return x

    def adapt(
        self,
        support: tuple[Tensor, Int[Tensor, "*tasks support"]],
        gradient_share: float = 0.0,
        *,
        ways: int | None = None,
    ) -> Float[Tensor, "*tasks ways weights"]:
        """The heads of the tasks.

        Args:
            support: images, or embeddings without an encoder, of shape (\\*tasks, support, ...),
                and their classes.
            gradient_share: share of the gradient step; 0 is the hypernetwork alone.
            ways: classes, if other than those of the constructor; for a shared start only.

        Returns:
            A row of weights and a bias for each class.

        Raises:
            TypeError: no floating-point inputs, no integer labels.
            ValueError: shapes that do not fit, a label that is no class, a support that lacks a
                class, a share outside [0, 1], or rows of another length than the head's.
        """
        wanted = "a number from 0 to 1"
        share = check_number("gradient_share", gradient_share, wanted, lambda p: 0 <= p <= 1)
        ways = self.ways if ways is None else check_count("ways", ways, least=1)
        if ways != self.ways and self.start == "per_class":
            raise ValueError(f"ways must be {self.ways}, with one start row for each; got {ways}")
        x, labels = support
        tensors = isinstance(x, Tensor) and isinstance(labels, Tensor)
        shape = tuple(x.shape[: labels.ndim]) if tensors else ()
        check_labels("labels of support", labels, shape, ways, every=True)
        return self._adapt(self.embed(x, labels.ndim), labels, share, ways)

    def forward(
        self,
        support: tuple[Tensor, Int[Tensor, "*tasks support"]],
        query_x: Tensor,
        gradient_share: float = 0.0,
        *,
        ways: int | None = None,
    ) -> Float[Tensor, "*tasks query ways"]:
        """Logits of the queries after adaptation to the support; arguments as for ``adapt``.

        Raises:
            TypeError: as for ``adapt``.
            ValueError: as for ``adapt``; queries of other tasks than the support.
        """
        head = self.adapt(support, gradient_share, ways=ways)
        query = self.embed(query_x, support[1].ndim)
        if query.shape[:-2] != head.shape[:-2]:
            raise ValueError(
                f"query_x must have the tasks {tuple(head.shape[:-2])} of the support, got shape "
                f"{tuple(query_x.shape)}"
            )
        return head_logits(head, query)

    def _adapt(self, features: Tensor, labels: Tensor, share: float, ways: int) -> Tensor:
        start = self.head.expand(*features.shape[:-2], ways, -1)
        moved = start
        if share > 0:
            moved = moved - share * self.step_size * head_gradient(start, features, labels)
        if share < 1:
            # a constant input: the authors' program takes no gradient through it either
            probabilities = head_logits(start, features).softmax(-1).detach()
            rows = self.rows(features, labels, ways, probabilities)
            if rows.shape[-1] != self.features + 1:
                raise ValueError(
                    f"rows must have {self.features + 1} numbers for each class, got "
                    f"{rows.shape[-1]}"
                )
            moved = moved - (1 - share) * rows
        return moved


def released_hypermaml(
    features: int = 64,
    ways: int = 5,
    hidden: int = 512,
    *,
    encoder: nn.Module | None = None,
    step_size: float = 0.1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HyperMAML:
    """HyperMAML with the sizes and inputs of the authors' program.

    The elements are averaged as they are; a perceptron with two hidden layers makes the row of a
    class from the mean. It sees the number of the class and has a start row for each class, so
    its predictions depend on how the classes are numbered.

    Args:
        features: numbers of an embedding.
        ways: classes of a task.
        hidden: width of the perceptron.
        encoder: as for ``HyperMAML``.
        step_size: as for ``HyperMAML``.
        generator: source of the initial weights; None means PyTorch's global one.
        dtype: dtype of the weights; None means PyTorch's default.
        device: device of the weights; None means PyTorch's default.

    Returns:
        The module.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size below 1, a negative ``step_size``.

    Chapter: prop-hypermaml-symmetry

    References: Przewięźlikowski et al. (2022), their program.

    >>> from nodes_tutorial.meta import released_hypermaml
    >>> net = released_hypermaml()
    >>> net.head.numel(), [tuple(p.shape) for p in net.rows.parameters() if p.ndim == 2]
    (325, [(512, 70), (512, 512), (65, 512)])
    """
    check_count("features", features, least=1)
    check_count("ways", ways, least=1)
    sizes = [features + ways + 1, hidden, hidden, features + 1]
    rho = MLP(sizes, "relu", generator, dtype=dtype, device=device)
    rows = SupportRows(DeepSets(nn.Identity(), rho, "mean"), "released")
    return HyperMAML(
        rows,
        features,
        ways,
        encoder=encoder,
        start="per_class",
        step_size=step_size,
        generator=generator,
        dtype=dtype,
        device=device,
    )
