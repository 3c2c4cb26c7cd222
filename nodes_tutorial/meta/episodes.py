"""What a few-shot learner is worth: accuracy over episodes, and how sure that number is."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.checks import check_count, check_filled, check_number, check_points
from nodes_tutorial.data.tasks import Tasks


@torch.no_grad()
def embed(
    encoder: nn.Module, images: Float[Tensor, "images ..."], *, chunk: int = 1000
) -> Float[Tensor, "images features 1 1"]:
    """Features of images, each for itself, in the shape that ``TaskSampler`` takes.

    The encoder is in ``eval()`` mode meanwhile. One with running statistics gives an image the same
    features in every episode, so each drawing is encoded once, however many episodes it is in.

    Args:
        encoder: from ``(batch, ...)`` to ``(batch, features)``.
        images: what to encode.
        chunk: images at a time.

    Returns:
        One row of features an image, with two axes of size 1 behind it.

    Raises:
        TypeError: ``encoder`` is no module, or ``images`` hold integers.
        ValueError: no image, or ``chunk`` below 1.

    >>> import torch
    >>> from nodes_tutorial.meta import embed
    >>> embed(torch.nn.Flatten(), torch.rand(7, 1, 4, 4)).shape
    torch.Size([7, 16, 1, 1])
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder must be a module, got a {type(encoder).__name__}")
    check_points("images", images)
    check_filled("images", images)
    check_count("chunk", chunk, least=1)
    before = [(part, part.training) for part in encoder.modules()]
    encoder.eval()
    try:
        rows = torch.cat([encoder(part) for part in images.split(chunk)])
    finally:
        for part, mode in before:
            part.training = mode
    return rows[..., None, None]


@torch.no_grad()
def episode_accuracies(
    predict: Callable[[tuple[Tensor, Tensor], Tensor], Tensor],
    tasks: Tasks,
    *,
    chunk: int = 50,
    apart: bool = True,
) -> Float[Tensor, " tasks"]:
    """Share of the queries of each episode that are named correctly.

    Args:
        predict: from the support and the query inputs of some tasks to logits of shape
            ``(tasks, queries, ways)``.
        tasks: the episodes.
        chunk: episodes at a time.
        apart: whether to refuse episodes with a query input that is in their support. Not wanted
            where different examples happen to be equal.

    Returns:
        One share an episode, in double precision.

    Raises:
        ValueError: a query that is in the support, with the episode's number; logits of another
            shape; no episode, or ``chunk`` below 1.

    >>> import torch
    >>> from nodes_tutorial.data.tasks import TaskSampler
    >>> from nodes_tutorial.meta import ProtoNet, episode_accuracies
    >>> images, labels = torch.rand(60, 1, 4, 4), torch.arange(6).repeat(10)
    >>> tasks = TaskSampler(images, labels, ways=5, shots=1, queries=3).sample(8)
    >>> episode_accuracies(ProtoNet(torch.nn.Flatten()), tasks).shape
    torch.Size([8])
    """
    check_count("chunk", chunk, least=1)
    check_filled("tasks", tasks.query_x)
    if apart:
        check_apart(tasks)
    shares = []
    for sx, sy, qx, qy in zip(*(part.split(chunk) for part in tasks), strict=True):
        logits = predict((sx, sy), qx)
        if logits.shape[:-1] != qy.shape:
            raise ValueError(
                f"predict must give logits of shape {tuple(qy.shape)} and the ways, "
                f"got {tuple(logits.shape)}"
            )
        shares.append((logits.argmax(-1) == qy).double().mean(-1))
    return torch.cat(shares)


def check_apart(tasks: Tasks) -> None:
    """Refuse episodes that ask for what they have shown; this waits for the device.

    Args:
        tasks: the episodes.

    Raises:
        ValueError: a query input that is in the support of its episode, with the episode's number.

    >>> import torch
    >>> from nodes_tutorial.data.tasks import Tasks
    >>> from nodes_tutorial.meta import check_apart
    >>> y = torch.tensor([[0, 1]])
    >>> check_apart(Tasks(torch.tensor([[0.1, 0.2]]), y, torch.tensor([[0.3, 0.4]]), y))
    """
    for number, (shown, asked) in enumerate(zip(tasks.support_x, tasks.query_x, strict=True)):
        one, other = shown.reshape(len(shown), 1, -1), asked.reshape(1, len(asked), -1)
        same = (one == other).all(-1)
        if bool(same.any()):
            place = int(same.any(0).nonzero()[0])
            raise ValueError(
                f"tasks must have no query that is in the support, but query {place} of episode "
                f"{number} is"
            )


class Interval(NamedTuple):
    """A mean and how far it may be from the truth.

    Attributes:
        mean: mean of the values.
        half: half the width of the interval around it.
        sd: standard deviation of a value, with n - 1 in the denominator.
        n: number of values.
    """

    mean: float
    half: float
    sd: float
    n: int


def interval(values: Float[Tensor, " n"], level: float = 0.95) -> Interval:
    r"""Student's interval for the mean of independent values: :math:`\bar a\pm t\,s/\sqrt n`.

    It speaks of what was drawn anew for each value, and of nothing else. Values of the episodes of
    one training say how sure the accuracy of that training is. For the method, give one value a
    training.

    Args:
        values: independent values of one distribution.
        level: probability with which the interval holds the mean where the values are normal.

    Returns:
        Mean, half the width, standard deviation and number of values.

    Raises:
        TypeError: ``values`` hold integers, or ``level`` is no number.
        ValueError: not one axis with two values or more, or ``level`` not between 0 and 1.

    Chapter: prop-few-two-variances

    References: Student (1908).

    >>> import torch
    >>> from nodes_tutorial.meta import interval
    >>> interval(torch.tensor([0.5, 0.7])).n
    2
    """
    from scipy.special import stdtrit

    check_points("values", values)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must be two or more in one axis, got {tuple(values.shape)}")
    check_number("level", level, "a number between 0 and 1", lambda p: 0 < p < 1)
    n, sd = len(values), float(values.std())
    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    return Interval(float(values.mean()), quantile * sd / math.sqrt(n), sd, n)


class VarianceParts(NamedTuple):
    """Unbiased estimates of the variances of accuracies.

    Attributes:
        trainings: variance of a training's accuracy over infinitely many episodes; the estimate
            can be negative.
        episodes: variance of the episodes of one training.
        mean: variance of the mean of all values.
    """

    trainings: float
    episodes: float
    mean: float


def variance_parts(values: Float[Tensor, "trainings episodes"]) -> VarianceParts:
    r"""Variance of trainings and variance of episodes, told apart.

    With E episodes for each of T trainings, the variance of the row means estimates
    :math:`\sigma_T^2+\sigma_E^2/E`, and the mean variance within a row :math:`\sigma_E^2`.

    Args:
        values: accuracies, with a row for each training, and episodes of its own in each row.

    Returns:
        The two variances, and that of the mean of all values.

    Raises:
        TypeError: ``values`` hold integers.
        ValueError: not two axes with two values or more.

    Chapter: prop-few-two-variances

    References: Fisher (1925), chapter 7.

    >>> import torch
    >>> from nodes_tutorial.meta import variance_parts
    >>> variance_parts(torch.tensor([[0.0, 2.0], [4.0, 6.0]]))
    VarianceParts(trainings=7.0, episodes=2.0, mean=4.0)
    """
    check_points("values", values)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"values must have two axes of two or more, got {tuple(values.shape)}")
    within = values.var(1).mean()
    rows = values.mean(1).var()
    trainings, episodes = values.shape
    return VarianceParts(float(rows - within / episodes), float(within), float(rows / trainings))
