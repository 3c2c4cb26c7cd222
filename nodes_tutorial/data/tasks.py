"""Tasks for meta-learning, many at once: few-shot episodes of images.

A *task* is a small data set of its own. Its *support* is what a learner adapts to, its *query*
what the adapted learner is judged by. ``data.sinusoids`` has tasks of regression.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nodes_tutorial.checks import check_count, draw


class Tasks(NamedTuple):
    """Tasks of one size, along the first axis.

    Attributes:
        support_x: inputs to adapt to.
        support_y: targets of the support inputs.
        query_x: inputs to be judged by.
        query_y: targets of the query inputs.
    """

    support_x: Float[Tensor, "tasks support ..."]
    support_y: Tensor
    query_x: Float[Tensor, "tasks query ..."]
    query_y: Tensor

    @property
    def support(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets to adapt to."""
        return self.support_x, self.support_y

    @property
    def query(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets to be judged by."""
        return self.query_x, self.query_y


class TaskSampler:
    """Episodes: ``ways`` classes at random, ``shots`` images of each to learn from.

    A task's classes are distinct, and so are the images of a class: support and query share none.
    Labels are 0 … ``ways`` - 1, in the order of the draw. The images stay where they are, and one
    index operation takes those of all tasks.

    Args:
        images: all of them.
        labels: class of each image, 0 … classes - 1; in any order.
        ways: classes of a task.
        shots: images of a class in the support.
        queries: images of a class in the query.
        rotations: whether a class turned by 90, 180 or 270 degrees is a further class.

    Raises:
        TypeError: ``ways``, ``shots`` or ``queries`` is not an integer; ``images`` hold integers.
        ValueError: one of them is below 1, there are fewer than ``ways`` classes, or a class with
            fewer than ``shots + queries`` images; ``labels`` of another length, or with a number
            that no image has; images that are not square and ``rotations``.

    References: Vinyals et al. (2016), section 2.2; Santoro et al. (2016) for the rotations.

    >>> import torch
    >>> from nodes_tutorial.data.tasks import TaskSampler
    >>> images, labels = torch.rand(60, 1, 4, 4), torch.arange(6).repeat(10)
    >>> sampler = TaskSampler(images, labels, ways=5, shots=1, queries=3)
    >>> tasks = sampler.sample(8, torch.Generator().manual_seed(0))
    >>> tasks.support_x.shape, tasks.query_x.shape
    (torch.Size([8, 5, 1, 4, 4]), torch.Size([8, 15, 1, 4, 4]))
    >>> tasks.query_y[0].tolist()
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    """

    def __init__(
        self,
        images: Float[Tensor, "images channels height width"],
        labels: Int[Tensor, " labels"],
        *,
        ways: int,
        shots: int,
        queries: int,
        rotations: bool = False,
    ) -> None:
        self.ways = check_count("ways", ways, least=1)
        self.shots = check_count("shots", shots, least=1)
        self.queries = check_count("queries", queries, least=1)
        if not images.is_floating_point():
            raise TypeError(f"images must hold floating-point numbers, got {images.dtype}")
        if len(labels) != len(images) or len(labels) == 0:
            raise ValueError(
                f"labels must be one for each of the {len(images)} images, got {len(labels)}"
            )
        if bool((labels < 0).any()):
            raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
        if rotations and images.shape[-1] != images.shape[-2]:
            raise ValueError(f"images must be square to be turned, got {tuple(images.shape[-2:])}")
        labels = labels.to(images.device)
        self.images, self.counts = images, labels.bincount()
        few, wanted = int(self.counts.min()), self.shots + self.queries
        if few < wanted:
            place = int(self.counts.argmin())
            raise ValueError(
                f"shots + queries must be at most the {few} images of class {place}, got {wanted}"
            )
        self.turns = 4 if rotations else 1
        self.classes = self.turns * len(self.counts)
        if self.classes < self.ways:
            raise ValueError(f"ways must be at most the {self.classes} classes, got {self.ways}")
        # self.rows[c, j] is the j-th image of class c; behind the last one stands any number
        width = torch.arange(int(self.counts.max()), device=images.device)
        self._there = width < self.counts[:, None]
        self.rows = torch.zeros_like(self._there, dtype=torch.long)
        self.rows[self._there] = labels.argsort(stable=True)
        places = torch.arange(images[0, 0].numel(), device=images.device)
        square = places.view(images.shape[-2:])
        self._pixels = torch.stack([torch.rot90(square, k).flatten() for k in range(self.turns)])

    def sample(self, tasks: int, generator: torch.Generator | None = None) -> Tasks:
        """Draw tasks.

        Args:
            tasks: how many.
            generator: source of the draw; None means PyTorch's global one.

        Returns:
            Images of shape (tasks, ways·shots, channels, height, width) and integer labels of
            shape (tasks, ways·shots), class after class; likewise with queries for the query.

        Raises:
            TypeError: ``tasks`` is not an integer, ``generator`` is none.
            ValueError: ``tasks`` below 1.
        """
        check_count("tasks", tasks, least=1)
        classes, index = self.indices(tasks, generator)
        if self.turns == 1:
            images = self.images[index]
        else:
            pixels = self._pixels[classes % self.turns][:, :, None, None]
            channels = torch.arange(self.images.shape[1], device=index.device)[:, None]
            images = self.images.flatten(2)[index[..., None, None], channels, pixels]
            images = images.unflatten(-1, self.images.shape[-2:])
        label = torch.arange(self.ways, device=index.device)[:, None].expand(index.shape)
        parts = [
            (images[:, :, part].flatten(1, 2), label[:, :, part].flatten(1, 2))
            for part in (slice(None, self.shots), slice(self.shots, None))
        ]
        return Tasks(*parts[0], *parts[1])

    def indices(
        self, tasks: int, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "tasks ways"], Int[Tensor, "tasks ways images"]]:
        """Which classes and which images ``sample`` takes.

        The largest of independent uniform numbers are at places drawn without repetition, each
        set of places equally likely.

        Args:
            tasks: how many tasks.
            generator: as for ``sample``.

        Returns:
            Classes, with rotations four times the label plus the number of quarter turns, and
            rows of ``images``, for each class those of the support first.
        """
        device = self.images.device
        some = draw(torch.rand, (tasks, self.classes), generator, device=device)
        classes = some.topk(self.ways).indices
        original = classes // self.turns
        shape = (tasks, self.ways, self.rows.shape[1])
        some = draw(torch.rand, shape, generator, device=device)
        some = some.masked_fill(~self._there[original], -1)
        chosen = some.topk(self.shots + self.queries).indices
        return classes, self.rows[original].gather(-1, chosen)
