"""The rows of the table of heads: what each one trains, and how it answers a support."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import cross_entropy, normalize

from nodes_tutorial.data.tasks import Tasks
from nodes_tutorial.experiments.meta import Features, Run, flat, sampler
from nodes_tutorial.experiments.meta_scores import Predict
from nodes_tutorial.meta import (
    DKT,
    BayesianHyperMAML,
    HyperMAML,
    adapt_further,
    bayesian_maml,
    bayesian_meta_loss,
    class_means,
    head_gradient,
    head_logits,
    prototype_logits,
    support_rows,
    svgd,
)

RATE = 1e-3  # of Adam, over the tasks; 3e-3 was worse on validation tasks of a trial encoder
DKT_RATE = 1e-2  # two numbers are all that is learned
HEAD_RATES, HEAD_STEPS = (0.01, 0.1), (1, 5, 20, 100)  # of gradient descent on one support
FURTHER_RATES, FURTHER_STEPS = (0.003, 0.03), (2, 10)  # of "+ ada."
QUERIES = 5  # of a class, in training
CLIP = 5.0
CNF_SHARE = 2  # a flow gets this many times fewer tasks an update
PARTICLES, PARTICLE_UPDATES = 5, 200
PARTICLE_STEPS, PARTICLE_RATE = 5, 0.01  # of Stein's method, on one support
COSINE_SCALE, COSINE_RATES = 10.0, (1.0, 10.0)

Found = Iterator[tuple[str, Predict, dict[str, Any]]]
"""Name of a setting, what it predicts, and what it got; "+" begins the name of more steps."""


class GradientHead(nn.Module):
    """A head that is a few steps of descent away from a learned start, with a learned step size."""

    def __init__(self, weights: int, steps: int = 5) -> None:
        super().__init__()
        self.steps = steps
        self.start = nn.Parameter(torch.zeros(1, weights))
        self.log_rate = nn.Parameter(torch.tensor(-3.0))

    def forward(self, x: Tensor, y: Tensor, ways: int) -> Tensor:
        """The heads of tasks."""
        return descend(self.start.expand(len(x), ways, -1), x, y, self.steps, self.log_rate.exp())


def descend(head: Tensor, x: Tensor, y: Tensor, steps: int, rate: float | Tensor) -> Tensor:
    """Gradient descent on the supports of tasks, which can be differentiated."""
    for _ in range(steps):
        head = head - rate * head_gradient(head, x, y)
    return head


def train(
    run: Run, parts: Features, module: nn.Module, rate: float, loss: Callable[[Tasks], Tensor],
    tasks: int, generator: torch.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Adam on tasks of Omniglot; returns what the module got."""
    adam = torch.optim.Adam(module.parameters(), rate)
    source = sampler(parts.train, run, run.ways, QUERIES)
    for _ in range(run.updates):
        value = loss(flat(source.sample(tasks, generator)))
        adam.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        adam.step()
    weights = sum(p.numel() for p in module.parameters())
    return {"updates": run.updates, "tasks_an_update": tasks, "weights": weights}


def _none(run: Run, parts: Features) -> Found:
    """A head that does not look at the support."""
    got = {"updates": 0, "tasks_an_update": 0, "weights": 0}
    yield "", lambda x, y, q: q.new_zeros(1, *q.shape[:2], run.ways), got


def _prototypes(run: Run, parts: Features) -> Found:
    got = {"updates": 0, "tasks_an_update": 0, "weights": 0}
    yield "", lambda x, y, q: prototype_logits(q, class_means(x, y, run.ways))[None], got


def _linear(run: Run, parts: Features) -> Found:
    """A linear head that is fitted to each support from zero."""
    got = {"updates": 0, "tasks_an_update": 0, "weights": 0}
    for rate, steps in itertools.product(HEAD_RATES, HEAD_STEPS):

        def predict(x: Tensor, y: Tensor, q: Tensor, rate=rate, steps=steps) -> Tensor:
            start = x.new_zeros(len(x), run.ways, x.shape[-1] + 1)
            return head_logits(descend(start, x, y, steps, rate), q)[None]

        yield f"{steps} steps of {rate:g}", predict, got


def _cosine(run: Run, parts: Features) -> Found:
    """A head of cosines that is fitted to each support from the class means."""
    got = {"updates": 0, "tasks_an_update": 0, "weights": 0}
    for rate, steps in itertools.product(COSINE_RATES, (0, *HEAD_STEPS[:-1])):

        def predict(x: Tensor, y: Tensor, q: Tensor, rate=rate, steps=steps) -> Tensor:
            head = class_means(x, y, run.ways)
            for _ in range(steps):
                with torch.enable_grad():
                    leaf = head.requires_grad_()
                    loss = cross_entropy(_cosines(leaf, x).flatten(0, 1), y.flatten())
                    (slope,) = torch.autograd.grad(len(x) * loss, leaf)
                head = (leaf - rate * slope).detach()
            return _cosines(head, q)[None]

        yield f"{steps} steps of {rate:g}", predict, got


def _cosines(head: Tensor, x: Tensor) -> Tensor:
    return COSINE_SCALE * normalize(x, dim=-1) @ normalize(head, dim=-1).mT


def _gradient(run: Run, parts: Features) -> Found:
    """MAML on the head alone: the start and the step size are learned."""
    model = GradientHead(_width(parts) + 1)

    def loss(tasks: Tasks) -> Tensor:
        return _loss(head_logits(model(*tasks.support, run.ways), tasks.query_x), tasks)

    got = train(run, parts, model, RATE, loss, run.tasks, _generator(run))
    got |= {"step_size": round(float(model.log_rate.detach().exp()), 4)}
    yield "", lambda x, y, q: head_logits(model(x, y, run.ways), q)[None], got


def _particles(run: Run, parts: Features) -> Found:
    """Bayesian MAML on the head alone: particles with learned starts, one row for all classes."""
    generator, size = _generator(run), _width(parts) + 1
    start = 0.1 * torch.randn(PARTICLES, size, generator=generator)
    adam = torch.optim.Adam([start], RATE)
    source = sampler(parts.train, run, run.ways, QUERIES)
    how = {"steps": PARTICLE_STEPS, "lr": PARTICLE_RATE}

    def log_posterior(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = head_logits(w.view(run.ways, size), x)
        return -cross_entropy(logits, y, reduction="sum") - 0.5 * w.square().sum()

    for _ in range(PARTICLE_UPDATES):
        tasks = flat(source.sample(run.tasks, generator))
        rows = start.repeat(1, run.ways)
        slope, _ = bayesian_maml(
            log_posterior, rows, tasks.support, tasks.query, leader_steps=1, **how
        )
        start.grad = slope.unflatten(-1, (run.ways, size)).sum(-2)
        adam.step()

    def predict(x: Tensor, y: Tensor, q: Tensor) -> Tensor:
        rows = start.repeat(1, run.ways)
        ends = vmap(lambda x, y: svgd(log_posterior, rows, x, y, **how))(x, y)
        heads = ends.movedim(1, 0).unflatten(-1, (run.ways, size))
        return head_logits(heads, q.expand(PARTICLES, *q.shape))

    got = {"updates": PARTICLE_UPDATES, "tasks_an_update": run.tasks, "weights": start.numel()}
    yield "", predict, got


def _dkt(run: Run, parts: Features) -> Found:
    """Gaussian processes; scale and noise of the kernel are learned."""
    for kernel in ("cosine", "linear"):
        model = DKT(kernel)

        def loss(tasks: Tasks, model=model) -> Tensor:
            x, y = (torch.cat(pair, 1) for pair in zip(tasks.support, tasks.query, strict=True))
            return -model.log_evidence(x, y, run.ways).mean() / y.shape[1]

        got = train(run, parts, model, DKT_RATE, loss, run.tasks, _generator(run))
        learned = {"scale": float(model.scale.detach()), "noise": float(model.noise.detach())}

        def predict(x: Tensor, y: Tensor, q: Tensor, model=model) -> Tensor:
            return model(x, y, q, run.ways).mean[None]

        yield kernel, predict, got | {name: round(value, 4) for name, value in learned.items()}


def _hypermaml(run: Run, parts: Features) -> Found:
    width, generator = _width(parts), _generator(run)
    rows = support_rows(width, width + 1, generator=generator)
    model = HyperMAML(rows, width, run.ways, generator=generator)

    def loss(tasks: Tasks) -> Tensor:
        return _loss(model(tasks.support, tasks.query_x), tasks)

    got = train(run, parts, model, RATE, loss, run.tasks, generator)
    yield "", lambda x, y, q: model((x, y), q)[None], got


def _bayesian(posterior: str) -> Callable[[Run, Features], Found]:
    """Bayesian HyperMAML, and if the run wants it, more steps on the support."""

    def make(run: Run, parts: Features) -> Found:
        tasks = run.tasks if posterior == "gaussian" else max(1, run.tasks // CNF_SHARE)
        generator = _generator(run)
        model = BayesianHyperMAML(_width(parts), posterior, generator=generator)

        def loss(batch: Tasks) -> Tensor:
            given = {"ways": run.ways, "gamma": run.gamma, "draws": run.draws}
            return bayesian_meta_loss(model, batch, generator=generator, **given).total

        got = train(run, parts, model, RATE, loss, tasks, generator) | _law(run, parts, model)
        yield "", _predictor(run, model, 0, 0.0), got
        if run.further:
            for steps, lr in itertools.product(FURTHER_STEPS, FURTHER_RATES):
                yield f"+{steps} steps of {lr:g}", _predictor(run, model, steps, lr), got

    return make


def _predictor(run: Run, model: BayesianHyperMAML, steps: int, lr: float) -> Predict:
    """Draws of heads; the same noise whenever it is asked."""

    def predict(x: Tensor, y: Tensor, q: Tensor) -> Tensor:
        generator = _generator(run)
        law = adapt_further(
            model(x, y, run.ways), x, y, steps=steps, lr=lr, draws=run.draws, generator=generator
        )
        return head_logits(
            law.rsample(run.test_draws, generator), q.expand(run.test_draws, *q.shape)
        )

    return predict


@torch.no_grad()
def _law(run: Run, parts: Features, model: BayesianHyperMAML) -> dict[str, float]:
    """Divergence and standard deviation of heads on tasks like those of the training."""
    generator = _generator(run)
    tasks = flat(sampler(parts.train, run, run.ways, 1).sample(50, generator))
    weights, kl = model(*tasks.support, run.ways).rsample_and_kl(20, generator)
    spread = weights.std(0).mean()
    return {"kl": round(float(kl.sum(-1).mean()), 3), "weight_spread": round(float(spread), 5)}


def _loss(logits: Tensor, tasks: Tasks) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), tasks.query_y.flatten())


def _generator(run: Run) -> torch.Generator:
    return torch.Generator().manual_seed(run.seed)


def _width(parts: Features) -> int:
    return parts.train[0][0].numel()


ROWS: dict[str, Callable[[Run, Features], Found]] = {
    "none": _none,
    "prototypes": _prototypes,
    "linear": _linear,
    "cosine": _cosine,
    "gradient": _gradient,
    "particles": _particles,
    "dkt": _dkt,
    "hypermaml": _hypermaml,
    "gaussian": _bayesian("gaussian"),
    "cnf": _bayesian("cnf"),
}
