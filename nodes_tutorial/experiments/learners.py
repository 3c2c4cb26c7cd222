"""Four few-shot learners of whole networks: what each is trained on, and how it answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nodes_tutorial.data.drawings import Characters
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.meta import (
    Baseline,
    HyperMAML,
    ProtoNet,
    WarmUp,
    adapt,
    embed,
    fit_head,
    maml,
    predict,
    support_rows,
    transfer_logits,
)
from nodes_tutorial.nets import Conv4

if TYPE_CHECKING:
    from nodes_tutorial.experiments.end_to_end import Run

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Predictors = Iterator[tuple[str, str, Predict]]
"""Name of a row, name of a setting, and logits (1, tasks, queries, ways) by flat images."""

TURNS = 4  # a class turned by a quarter is a class of its own
EPISODE_WAYS = 20  # of prototype networks, in fewer episodes
MAML_STEPS = (1, 3, 10)  # inner steps at test
HEAD_STEPS, HEAD_RATES = (5, 20, 100), (0.01, 0.03)  # of Adam, on one support
EPOCHS, WARM_UP = 100, WarmUp(warmup=5, switch=20)  # of HyperMAML: shares of the gradient
FEW = 2000  # drawings that say how long a feature is


class Learner:
    """A network with its way to learn and to answer; all see as many images in an update.

    Args:
        run: what is to be done.
        train: the drawings to learn from.

    Attributes:
        module: the network.
    """

    module: nn.Module
    ways: int | None = None  # of a training task, where not those of the run

    def __init__(self, run: Run, train: Characters) -> None:
        self.run = run
        self.images, self.labels = train.images.to(run.device), train.labels.to(run.device)
        self.classes = TURNS * len(train.names)
        self.generator = torch.Generator().manual_seed(run.seed)  # of the initial weights
        ways = self.ways or run.ways
        self.tasks = run.tasks * run.ways // ways
        self.sampler = TaskSampler(
            self.images,
            self.labels,
            ways=ways,
            shots=run.shots,
            queries=run.queries,
            rotations=True,
        )

    def encoder(self, norm: str, **kind: Any) -> Conv4:
        """The network of all learners, with another normalization or a head."""
        return Conv4(width=self.run.width, norm=norm, generator=self.generator, **kind)

    def draw(self, generator: torch.Generator) -> Tasks:
        """Tasks for one update."""
        return self.sampler.sample(self.tasks, generator)

    def loss(self, generator: torch.Generator, done: float) -> Tensor:
        """The loss of an update; ``done`` is the share of the training before it."""
        raise NotImplementedError

    def slope(self, generator: torch.Generator, done: float) -> Tensor:
        """Put the gradient of an update into the parameters; returns the loss."""
        loss = self.loss(generator, done)
        loss.backward()
        return loss.detach()

    def predictors(self) -> Predictors:
        """The rows and their settings, to be chosen from by validation."""
        raise NotImplementedError


class Prototypes(Learner):
    """A prototype network; running statistics at test."""

    ways = EPISODE_WAYS

    def __init__(self, run: Run, train: Characters) -> None:
        super().__init__(run, train)
        self.net = ProtoNet(self.encoder("running"), check=False)
        self.module = self.net.to(run.device)

    def loss(self, generator: torch.Generator, done: float) -> Tensor:
        tasks = self.draw(generator)
        return self.net.loss(tasks.support, tasks.query, self.ways)

    def predictors(self) -> Predictors:
        def answer(x: Tensor, y: Tensor, q: Tensor) -> Tensor:
            return self.module((_pictures(x), y), _pictures(q), self.run.ways)[None]

        yield "prototypes", "", answer


class Hyper(Learner):
    """HyperMAML with its encoder; running statistics at test."""

    def __init__(self, run: Run, train: Characters) -> None:
        super().__init__(run, train)
        encoder = self.encoder("running")
        width, own = encoder.features, self.generator
        rows = support_rows(width, width + 1, generator=own)
        net = HyperMAML(rows, width, run.ways, encoder=encoder, generator=own)
        self.module = net.to(run.device)

    def loss(self, generator: torch.Generator, done: float) -> Tensor:
        tasks = self.draw(generator)
        logits = self.module(tasks.support, tasks.query_x, WARM_UP(int(EPOCHS * done)))
        return cross_entropy(logits.flatten(0, 1), tasks.query_y.flatten())

    def predictors(self) -> Predictors:
        def answer(x: Tensor, y: Tensor, q: Tensor) -> Tensor:
            return self.module((_pictures(x), y), _pictures(q))[None]

        yield "hypermaml", "", answer


class Maml(Learner):
    """MAML of second order; statistics of the batch, so of the queries of a task together.

    In the row ``maml_alone`` each query is normalized with the support and with no other query.
    """

    def __init__(self, run: Run, train: Characters) -> None:
        super().__init__(run, train)
        self.module = self.encoder("batch", classes=run.ways).to(run.device)

    def slope(self, generator: torch.Generator, done: float) -> Tensor:
        tasks, run = self.draw(generator), self.run
        gradient, report = maml(
            self.module, tasks.support, tasks.query, steps=run.inner_steps, lr=run.inner_lr, order=2
        )
        for name, parameter in self.module.named_parameters():
            parameter.grad = gradient[name]
        return report.val_loss.mean()

    def predictors(self) -> Predictors:
        for steps in MAML_STEPS:

            def weights(x: Tensor, y: Tensor, steps=steps) -> dict[str, Tensor]:
                return adapt(self.module, (x, y), steps=steps, lr=self.run.inner_lr).weights

            def together(x: Tensor, y: Tensor, q: Tensor, weights=weights) -> Tensor:
                end = weights(_pictures(x), y)
                halves = _pictures(q).chunk(2, 1)  # of seen classes, and of others
                return torch.cat([predict(self.module, end, half) for half in halves], 1)[None]

            def alone(x: Tensor, y: Tensor, q: Tensor, weights=weights) -> Tensor:
                support = _pictures(x)
                end = weights(support, y)
                asked = (torch.cat([support, one], 1) for one in _pictures(q).split(1, 1))
                return torch.cat([predict(self.module, end, both)[:, -1:] for both in asked], 1)[
                    None
                ]

            yield "maml", f", {steps} steps", together
            yield "maml_alone", f", {steps} steps", alone


class Transfer(Learner):
    """A classifier of all characters, whose encoder stays: a new head for each support."""

    def __init__(self, run: Run, train: Characters) -> None:
        super().__init__(run, train)
        self.features = self.encoder("running")
        width, own = self.features.features, self.generator
        self.module = Baseline(self.features, width, self.classes, generator=own).to(run.device)

    def loss(self, generator: torch.Generator, done: float) -> Tensor:
        run, device = self.run, self.run.device
        size = run.tasks * run.ways * (run.shots + run.queries) // TURNS
        among = torch.randint(len(self.images), (TURNS, size), generator=generator, device=device)
        images = [self.images[rows].rot90(k, (2, 3)) for k, rows in enumerate(among)]
        labels = [TURNS * self.labels[rows] + k for k, rows in enumerate(among)]
        return cross_entropy(self.module(torch.cat(images)), torch.cat(labels))

    def predictors(self) -> Predictors:
        encoder = self.features
        few = self.images[:: max(1, len(self.images) // FEW)]
        length = embed(encoder, few).square().mean().sqrt()

        def features(flat: Tensor) -> Tensor:
            x = _pictures(flat)
            return encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]) / length

        for steps, rate in itertools.product(HEAD_STEPS, HEAD_RATES):

            def answer(x: Tensor, y: Tensor, q: Tensor, steps=steps, rate=rate) -> Tensor:
                head = fit_head(features(x), y, self.run.ways, steps=steps, rate=rate)
                return transfer_logits(features(q), *head)[None]

            yield "transfer", f", {steps} steps of {rate:g}", answer


METHODS = {"prototypes": Prototypes, "maml": Maml, "hypermaml": Hyper, "transfer": Transfer}


def _pictures(flat: Tensor) -> Tensor:
    side = round(flat.shape[-1] ** 0.5)
    return flat.unflatten(-1, (1, side, side))
