"""Logistic factors of binary images: the same model, learned through three kinds of draws."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nodes_tutorial.bayes import HMCKernel, elbo, hmc, vcd_gradient
from nodes_tutorial.data import mnist
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.nets import MLP
from nodes_tutorial.training import fit

KEY = ("dataset", "method", "factors", "steps", "rate", "seed")  # what tells rows apart
METHODS = ("vi", "moved", "vcd")
PIXELS = 28 * 28
DECAY = 0.9  # of the running means
CHUNK = 20  # test images whose draws are weighted together


@dataclass(frozen=True)
class Run:
    """All that decides a run.

    ``vi`` raises the evidence lower bound. ``moved`` trains q in the same way, and the model with
    draws that Hamiltonian Monte Carlo has moved. ``vcd`` moves them too, and trains q by the
    contrastive divergence.
    """

    method: str = "vcd"
    factors: int = 10
    hidden: int = 200
    images: int = 10_000
    steps: int = 2000
    batch: int = 50
    rate: float = 3e-3
    moves: int = 4
    leapfrog: int = 5
    step_size: float = 0.1
    test_images: int = 1000
    test_draws: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("factors", "hidden", "steps", "batch", "moves", "leapfrog", "test_draws")
        check(self, {"method": METHODS}, (*positive, "images", "test_images"))


class Factors(nn.Module):
    """z ~ N(0, I), and each pixel is 1 with the odds exp(b + w'z)."""

    def __init__(self, mean_image: Tensor, factors: int, generator: torch.Generator) -> None:
        super().__init__()
        draws = torch.randn(factors, PIXELS, generator=generator)
        self.weight = nn.Parameter(0.1 * draws)
        self.bias = nn.Parameter(mean_image.clamp(1e-3, 1 - 1e-3).logit())

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        logits = torch.addmm(self.bias, z, self.weight)
        likelihood = (x * logits - softplus(logits)).sum(-1)
        return likelihood - 0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(math.tau))


class Amortized:
    """q(z | x) for the images of a batch: one draw for each."""

    def __init__(self, encoder: nn.Module, x: Tensor) -> None:
        self.encoder = encoder
        self.mean, rho = encoder(x).chunk(2, -1)
        self.scale = softplus(rho)

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        z = self.mean + self.scale * torch.randn(n, self.mean.shape[1], generator=generator)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        square = ((z - self.mean) / self.scale).square() + math.log(math.tau)
        return -(0.5 * square + self.scale.log()).sum(-1)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.encoder.named_parameters()


class Means:
    """A running mean for each training image, as an entry of ``fit``'s state."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def update(self, rows: Tensor, values: Tensor) -> None:
        self.values[rows] = DECAY * self.values[rows] + (1 - DECAY) * values

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.copy_(state["values"])


def load(images: int, test_images: int) -> tuple[Tensor, Tensor]:
    """The first images of both parts of MNIST, each pixel drawn once with its grey value."""
    parts = []
    for part, count, seed in (("train", images, 0), ("test", test_images, 1)):
        x, _ = mnist(part)
        if count > len(x):
            raise ValueError(f"the {part} part has {len(x)} images, not {count}")
        grey = x[:count].flatten(1)
        generator = torch.Generator().manual_seed(seed)
        parts.append((torch.rand(grey.shape, generator=generator) < grey).float())
    return parts[0], parts[1]


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 200, progress: bool | None = None
) -> tuple[dict[str, Any], Factors]:
    """Train, and measure on the test images; returns the row for the record and the model.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from.
        every: updates between checkpoints.
        progress: as for ``training.fit``.

    Raises:
        ValueError: more images than there are, or a batch larger than the training images.
        DataError: MNIST is not at hand and cannot be had.
    """
    x, test = load(run.images, run.test_images)
    if run.batch > len(x):
        raise ValueError(f"batch must be at most {len(x)}, got {run.batch}")
    generator = torch.Generator().manual_seed(run.seed)
    model = Factors(x.mean(0), run.factors, generator)
    encoder = MLP([PIXELS, run.hidden, 2 * run.factors], "relu", generator=generator)
    adam = torch.optim.Adam([*model.parameters(), *encoder.parameters()], run.rate)
    with torch.no_grad():
        z, log_q = Amortized(encoder, x).rsample_and_log_prob(len(x), generator)
        means = Means(model.log_joint(x, z) - log_q)

    def step(i: int) -> float:
        for group in adam.param_groups:
            group["lr"] = run.rate * (1 + math.cos(math.pi * i / run.steps)) / 2
        rows = torch.randint(len(x), (run.batch,), generator=generator)
        adam.zero_grad()
        loss = _gradients(run, model, encoder, x[rows], means, rows, generator)
        adam.step()
        return loss

    clock = Clock()
    state = {"model": model, "encoder": encoder, "adam": adam, "means": means}
    state |= {"generator": generator, "clock": clock}
    fit(step, steps=run.steps, state=state, checkpoint=checkpoint, every=every, progress=progress)
    seconds = clock.state_dict()
    alone = x.mean(0).clamp(1e-3, 1 - 1e-3)  # every pixel by itself
    alone = (test * alone.log() + (1 - test) * (-alone).log1p()).sum(1)
    row = {
        "dataset": "mnist",
        **asdict(run),
        **measure(run, model, encoder, test),
        "independent_pixels": float(alone.mean()),
        "cpu_seconds": round(seconds["cpu"], 1),
        "wall_seconds": round(seconds["wall"], 1),
        **provenance(),
    }
    return row, model


def _gradients(
    run: Run,
    model: Factors,
    encoder: nn.Module,
    x: Tensor,
    means: Means,
    rows: Tensor,
    generator: torch.Generator,
) -> float:
    """Put the gradients of one batch into the parameters; returns a loss to look at."""

    def log_joint(z: Tensor) -> Tensor:
        return model.log_joint(x, z)

    q = Amortized(encoder, x)
    if run.method == "vi":
        loss = -elbo(log_joint, q, len(x), generator=generator)
        loss.backward()
        return float(loss.detach())
    kernel = HMCKernel(log_joint, run.moves, run.leapfrog, run.step_size)
    if run.method == "moved":
        z, log_q = q.rsample_and_log_prob(len(x), generator)
        loss = (log_q - log_joint(z)).mean()
        trained = list(encoder.parameters())
        for weight, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            weight.grad = gradient
        moved = kernel(z, generator)
    else:
        found = vcd_gradient(
            log_joint, q, kernel, len(x), baseline=means.values[rows], generator=generator
        )
        for name, weight in encoder.named_parameters():
            weight.grad = found.gradient[name]
        means.update(rows, found.values)
        loss, moved = found.loss, found.moved
    (-log_joint(moved).mean()).backward()
    return float(loss.detach())


@torch.no_grad()
def measure(run: Run, model: Factors, encoder: nn.Module, test: Tensor) -> dict[str, float]:
    """Log-likelihood and bound of the test images, and how q compares with the posterior.

    The likelihood is a mean of importance weights. The proposal is a Gaussian at the mode of the
    posterior, with the covariance of Laplace's approximation times 1.2 squared.
    """
    generator = torch.Generator().manual_seed(10**6)
    found: dict[str, list[Tensor]] = {}
    for x in test.split(CHUNK):
        q = Amortized(encoder, x)
        z, log_q = q.rsample_and_log_prob(len(x), generator)
        bound = model.log_joint(x, z) - log_q
        log_z, ess, mean, variance = _weighted(run, model, x, generator)
        new = {"log_likelihood": log_z, "elbo": bound, "ess": ess / run.test_draws}
        new["log_ratio_of_sd"] = (q.scale / variance.sqrt()).log().mean(1)
        new["miss_of_mean"] = ((q.mean - mean).square() / variance).mean(1)
        for name, value in new.items():
            found.setdefault(name, []).append(value.double())
    rows = {name: torch.cat(parts) for name, parts in found.items()}
    result = {name: float(value.mean()) for name, value in rows.items()}
    result["log_likelihood_se"] = float(rows["log_likelihood"].std()) / math.sqrt(len(test))
    result["least_ess"] = float(rows["ess"].min())
    x = test[: run.batch]
    start = Amortized(encoder, x).rsample_and_log_prob(len(x), generator)[0]
    chains = hmc(
        lambda z: model.log_joint(x, z),
        start,
        steps=run.moves,
        leapfrog=run.leapfrog,
        step_size=run.step_size,
        generator=generator,
    )
    result["accept"] = float(chains.accept.mean())
    return result


def _weighted(
    run: Run, model: Factors, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each image the log-evidence, the effective draws, and mean and variance of z."""
    mode, factor = _laplace(model, x)
    noise = torch.randn(run.test_draws, *mode.shape, generator=generator)
    steps = torch.linalg.solve_triangular(factor.mT, noise[..., None], upper=True)[..., 0]
    z = mode + 1.2 * steps
    log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - z.shape[-1] * math.log(1.2)
    square = noise.square().sum(-1) + z.shape[-1] * math.log(math.tau)
    log_q = log_scale - 0.5 * square
    log_p = model.log_joint(x.repeat(run.test_draws, 1), z.flatten(0, 1)).view(log_q.shape)
    log_w = log_p - log_q
    share = log_w.softmax(0)
    mean = (share[..., None] * z).sum(0)
    variance = (share[..., None] * (z - mean).square()).sum(0)
    return log_w.logsumexp(0) - math.log(run.test_draws), 1 / share.square().sum(0), mean, variance


def _laplace(model: Factors, x: Tensor) -> tuple[Tensor, Tensor]:
    """Modes of the posteriors by Newton's method, and Cholesky factors of the curvature there.

    The posterior is log-concave; halving keeps a step from overshooting.
    """
    z = x.new_zeros(len(x), model.weight.shape[0])
    eye = torch.eye(z.shape[1])
    factor = eye.expand(len(x), -1, -1)
    for _ in range(12):
        p = torch.addmm(model.bias, z, model.weight).sigmoid()
        slope = (x - p) @ model.weight.T - z
        curvature = eye + torch.einsum("ip,kp,lp->ikl", p * (1 - p), model.weight, model.weight)
        factor = torch.linalg.cholesky(curvature)
        move = torch.cholesky_solve(slope[..., None], factor)[..., 0]
        best = model.log_joint(x, z + move)
        for share in (0.5, 0.25):
            shorter = model.log_joint(x, z + share * move)
            better = shorter > best
            best = torch.where(better, shorter, best)
            move = torch.where(better[:, None], share * move, move)
        z = z + move
    return z, factor
