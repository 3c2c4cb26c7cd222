"""Networks that say how sure they are, on small regression tables: 20 splits trained at once."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nodes_tutorial.bayes import coverage, mixture_moments
from nodes_tutorial.data.uci import INPUTS, random_splits, uci
from nodes_tutorial.experiments.record import Clock, check, provenance
from nodes_tutorial.training import fit

METHODS = ("linear", "single", "ensemble", "dropout", "bbb")
EPOCHS = {"concrete": 40, "energy": 60, "yacht": 200}
KEY = ("dataset", "method", "seed")
RATES = (0.01, 0.03, 0.1)
LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class Run:
    """All that decides a run. The width is the published one."""

    dataset: str = "yacht"
    method: str = "ensemble"
    width: int = 50
    members: int = 5
    batch: int = 100
    drop: float = 0.05
    start_scale: float = 0.02
    draws: int = 50
    splits: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("width", "members", "batch", "draws", "splits")
        check(self, {"dataset": INPUTS, "method": METHODS}, positive)


class _Nets(nn.Module):
    """Two-layer networks in a batch, each with a mean and a raw variance as its outputs."""

    def __init__(self, nets: int, inputs: int, run: Run, generator: torch.Generator) -> None:
        super().__init__()
        self.run = run

        def uniform(*size: int, fan: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(size, generator=generator) - 1) / math.sqrt(fan))

        self.v, self.b = (uniform(nets, k, run.width, fan=inputs) for k in (inputs, 1))
        self.w, self.c = (uniform(nets, k, 2, fan=run.width) for k in (run.width, 1))
        if run.method == "bbb":
            rho = math.log(math.expm1(run.start_scale))
            shapes = {name: p.shape for name, p in self.named_parameters()}
            for name, shape in shapes.items():
                self.register_parameter(f"rho_{name}", nn.Parameter(torch.full(shape, rho)))

    def layer(self, h: Tensor, weight: str, bias: str, generator: torch.Generator) -> Tensor:
        """An affine map; for Bayes by Backprop with noise of the pre-activations."""
        center = torch.baddbmm(getattr(self, bias), h, getattr(self, weight))
        if self.run.method != "bbb":
            return center
        sd = {name: softplus(getattr(self, f"rho_{name}")) for name in (weight, bias)}
        variance = torch.baddbmm(sd[bias].square(), h.square(), sd[weight].square())
        return center + variance.sqrt() * torch.randn(center.shape, generator=generator)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean and variance at the inputs of each network, with one draw of all that is random."""
        h = self.layer(x, "v", "b", generator).relu()
        if self.run.method == "dropout":
            kept = torch.rand(h.shape, generator=generator) >= self.run.drop
            h = h * kept / (1 - self.run.drop)
        mean, raw = self.layer(h, "w", "c", generator).unbind(-1)
        return mean, softplus(raw) + 1e-6

    def kl(self) -> Tensor:
        """Divergence from the standard normal prior, summed over all networks."""
        if self.run.method != "bbb":
            return torch.zeros(())
        parts = []
        for name in ("v", "b", "w", "c"):
            mean, sd = getattr(self, name), softplus(getattr(self, f"rho_{name}"))
            parts.append((0.5 * (mean.square() + sd.square() - 1) - sd.log()).sum())
        return torch.stack(parts).sum()


def gaussian_log_lik(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log-density of y in nats."""
    return -0.5 * ((y - mean).square() / variance + variance.log() + math.log(math.tau))


def execute(
    run: Run, *, checkpoint: str | None = None, every: int = 500, progress: bool | None = None
) -> dict[str, Any]:
    """Choose a rate by a ninth of the training rows, train on all of them, and test.

    Args:
        run: what to do.
        checkpoint: file to write and to resume from; each rate has one of its own.
        every: steps between checkpoints.
        progress: as for ``training.fit``.

    Returns:
        The row for the record.

    Raises:
        DataError: the table is not at hand and cannot be had.
    """
    table = uci(run.dataset)
    held = round(0.1 * len(table.y))
    order = random_splits(len(table.y), run.splits, held, run.seed)
    clock = Clock()
    how = {"checkpoint": checkpoint, "every": every, "progress": progress}
    test, rest, validate = order[:, :held], order[:, held:], order[:, held : 2 * held]
    found: dict[float, float] = {}
    if run.method == "linear":
        scores, rate = _linear(table, rest, test), None
    else:
        for rate in RATES:
            part = _train(run, table, order[:, 2 * held :], validate, rate, "choice", **how)
            found[rate] = float(part["log_lik"].mean())
        rate = max(found, key=lambda r: found[r])
        scores = _train(run, table, rest, test, rate, "final", **how)
    seconds = clock.state_dict()
    row: dict[str, Any] = {name: getattr(run, name) for name in KEY}
    for name, values in scores.items():
        row[name] = round(float(values.mean()), 4)
        row[f"{name}_se"] = round(float(values.std() / math.sqrt(len(values))), 4)
        row[f"{name}_splits"] = [round(float(v), 4) for v in values]
    return {
        **row,
        "rate": rate,
        "validation": {f"{r:g}": round(v, 4) for r, v in found.items()},
        "epochs": None if run.method == "linear" else EPOCHS[run.dataset],
        "cpu_seconds": round(seconds["cpu"], 1),
        "settings": {n: v for n, v in asdict(run).items() if n not in KEY},
        **provenance(),
    }


def _train(
    run: Run,
    table: Any,
    train: Tensor,
    test: Tensor,
    rate: float,
    stage: str,
    *,
    checkpoint: str | None,
    every: int,
    progress: bool | None,
) -> dict[str, Tensor]:
    members = run.members if run.method == "ensemble" else 1
    x, y, new, target, center, scale = _standardized(table, train, test)
    x, y = (part.repeat_interleave(members, 0) for part in (x, y))
    generator = torch.Generator().manual_seed(run.seed)
    nets = _Nets(len(x), x.shape[-1], run, generator)
    total, batch = x.shape[1], min(run.batch, x.shape[1])
    steps = EPOCHS[run.dataset] * math.ceil(total / batch)
    adam = torch.optim.Adam(nets.parameters(), rate)

    def step(i: int) -> Tensor:
        for group in adam.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * i / steps)) / 2
        rows = torch.randint(total, (len(x), batch), generator=generator)
        mean, variance = nets(x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1])), generator)
        log_lik = gaussian_log_lik(y.gather(1, rows), mean, variance)
        loss = nets.kl() / total - log_lik.mean(-1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss / len(x)

    path = None if checkpoint is None else f"{checkpoint}.{stage}.{rate:g}"
    state = {"nets": nets, "adam": adam, "draws": generator}
    fit(step, steps=steps, state=state, checkpoint=path, every=every, progress=progress)
    new = new.repeat_interleave(members, 0)
    random = run.method in ("dropout", "bbb")
    with torch.no_grad():
        draws = [nets(new, generator) for _ in range(run.draws if random else 1)]
    mean, variance = (torch.stack(part) for part in zip(*draws, strict=True))
    # the networks of a split become draws: (draws members, splits, rows)
    mean, variance = (
        part.unflatten(1, (-1, members)).movedim(2, 1).flatten(0, 1) for part in (mean, variance)
    )
    return _scores(target, mean * scale + center, variance * scale**2)


def _standardized(table: Any, train: Tensor, test: Tensor) -> tuple[Tensor, ...]:
    """Inputs and targets with mean 0 and deviation 1 in each training part; raw test targets."""
    x, y = table.x[train], table.y[train]
    spread = x.std(1, keepdim=True).clamp_min(1e-6)
    center, scale = y.mean(1, keepdim=True), y.std(1, keepdim=True)
    new = (table.x[test] - x.mean(1, keepdim=True)) / spread
    x = (x - x.mean(1, keepdim=True)) / spread
    return x, (y - center) / scale, new, table.y[test], center, scale


def _scores(y: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Scores of equal mixtures of Gaussians, one for each split."""
    log_lik = gaussian_log_lik(y, mean, variance).logsumexp(0) - math.log(len(mean))
    cdf = torch.special.ndtr((y - mean) / variance.sqrt()).mean(0)
    inside = torch.stack([coverage(row.clamp(0, 1), torch.tensor(LEVELS)) for row in cdf])
    center, _ = mixture_moments(mean, variance)
    return {
        "rmse": (y - center).square().mean(-1).sqrt(),
        "log_lik": log_lik.mean(-1),
        "inside_50": inside[:, 0],
        "inside_90": inside[:, 1],
    }


def _linear(table: Any, train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Least squares, with the variance of its residuals."""
    x, y, new, target, center, scale = (part.double() for part in _standardized(table, train, test))
    ones = torch.ones_like(x[..., :1])
    x, new = torch.cat([x, ones], -1), torch.cat([new, ones[:, : new.shape[1]]], -1)
    weights = torch.linalg.lstsq(x, y[..., None], driver="gelsd").solution
    variance = (x @ weights - y[..., None]).square().mean(1, keepdim=True)
    mean = (new @ weights)[..., 0] * scale + center
    return _scores(target, mean[None], (variance[..., 0] * scale**2).expand_as(mean)[None])
