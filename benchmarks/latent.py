"""A training step of a latent ODE beside the same model written on torchdiffeq with a union grid.

Both have the same weights (trained a little, so that the fields do something), the same posterior
noise, three samples, `dopri5` at 1e-3 / 1e-4 in the decoder and fused Adam. The peer is the
published structure: all series of the batch walk together along the union of their times, from the
last to the first, with a GRU update where the mask says so. Between two grid times it makes

- "torchdiffeq": one call of `torchdiffeq.odeint` with Euler's method, or
- "torchdiffeq, short": one increment written out where the interval is below a fiftieth of the
  span, as in the program released with the paper, and the call otherwise.

Its GRU is `torch.nn.GRUCell`, its perceptrons are `torch.nn.Linear`; the decoder is one call for
the batch. Ours goes from observation to observation of each series. That gives fewer but longer
steps, so ours must not be less accurate: we take the cheapest of a few methods whose relative error
of the gradient, against a reference at tight tolerances, is no larger than the peer's. With fine
steps in the encoder the two must agree before anything is timed.
"""

import torch
import torchdiffeq
from torch import Tensor, nn

from benchmarks.harness import Row, Times, report
from nodes_tutorial.data.timeseries import Series, collate, observe, periodic
from nodes_tutorial.nets.stack import Stack
from nodes_tutorial.ode.latent.model import ODERNN, LatentODE

torch.set_num_threads(1)
BATCH, SAMPLES, LATENT, HIDDEN, WIDTH, NOISE = 50, 3, 6, 20, 50, 0.1
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
# method and longest step of our encoder, roughly by cost; None is one step for a gap
CHOICES = (("euler", None), ("midpoint", None), ("bosh3", None), ("rk4", None),
           ("midpoint", 0.3), ("rk4", 0.4), ("rk4", 0.2), ("rk4", 0.1))  # fmt: skip


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problems() -> dict[str, tuple[Series, Series]]:
    """What is seen and what is asked, for a grid that all share and for times of their own."""
    shared, _ = periodic(BATCH, rng(0))
    parts = [periodic(1, rng(100 + i), points=20)[0] for i in range(BATCH)]
    own = collate([part.times for part in parts], [part.values[0] for part in parts])
    return {
        "100 shared times, 30 % seen": (observe(shared, 0.3, rng(1)), shared),
        f"20 own times each, {len(own.times)} in all": (observe(own, 0.5, rng(1)), own),
    }


def new_model(method: str = "euler", step_size: float | None = None, **solver) -> LatentODE:
    sizes = {"hidden": HIDDEN, "width": WIDTH}
    encoder = ODERNN(
        1, **sizes, method=method, step_size=step_size, readout=False, generator=rng(0)
    )
    return LatentODE(
        1, LATENT, encoder=encoder, width=WIDTH, speed=5.0, noise=NOISE, generator=rng(1),
        **(TOLERANCE | solver),
    )  # fmt: skip


def trained(updates: int = 300) -> LatentODE:
    """Weights of a short training on sinusoids."""
    model, whole, draws = new_model(), periodic(800, rng(2))[0], rng(3)
    adam = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    for i in range(updates):
        rows = torch.randint(800, (BATCH,), generator=draws)
        target = whole.rows(rows).until(5 * min(1.0, 0.25 + i / updates))
        seen = observe(target, 0.3, draws)
        loss = -model.elbo(seen, target, beta=0.1, generator=draws).mean() / len(target.times)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        adam.step()
    print(f"trained to {loss.item():.2f} nats an observation", flush=True)
    return model


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(*weight.shape[1:])
    layer.weight.data.copy_(weight[0].T)
    layer.bias.data.copy_(bias[0, 0])
    return layer


def perceptron(stack: Stack) -> nn.Sequential:
    first, second = (linear(w, b) for w, b in zip(stack.weights, stack.biases, strict=True))
    return nn.Sequential(first, nn.Tanh(), second)


class Peer(nn.Module):
    """The same model on torchdiffeq, along the union grid."""

    def __init__(self, ours: LatentODE, short: bool, method: str = "euler") -> None:
        super().__init__()
        self.encoder_field = perceptron(ours.encoder.field)
        self.field = perceptron(ours.field)
        self.head, self.emission = perceptron(ours.head), perceptron(ours.emission)
        self.gru = nn.GRUCell(2, HIDDEN)
        for mine, theirs in ((ours.encoder.gru.inputs, "ih"), (ours.encoder.gru.state, "hh")):
            getattr(self.gru, f"weight_{theirs}").data.copy_(mine.weights[0][0].T)
            getattr(self.gru, f"bias_{theirs}").data.copy_(mine.biases[0][0, 0])
        self.short, self.method = short, method
        self.solver = {"method": "dopri5", **TOLERANCE}

    def encode(self, seen: Series) -> tuple[Tensor, Tensor]:
        times, there = seen.times, seen.mask.any(-1)
        begun = there.flip(-1).cumsum(-1).flip(-1).clamp(max=1).to(seen.values.dtype)
        x = torch.cat([seen.values, seen.mask.to(seen.values.dtype)], -1)
        h = x.new_zeros(len(x), HIDDEN)
        least, before = (times[-1] - times[0]) / 50, None
        for i in reversed(range(len(times))):
            if before is not None:
                h = h * begun[:, i + 1, None]  # 0 until something is seen, as ours
                if self.short and before - times[i] < least:
                    h = h + (times[i] - before) * self.encoder_field(h)
                else:
                    ends = torch.stack([before, times[i]])
                    h = torchdiffeq.odeint(
                        lambda t, y: self.encoder_field(y), h, ends, method=self.method
                    )[-1]
            h = torch.where(there[:, i, None], self.gru(x[:, i], h), h)
            before = times[i]
        mean, raw = self.head(h).chunk(2, -1)
        return mean, nn.functional.softplus(raw) + 1e-5

    def elbo(self, seen: Series, target: Series, noise: Tensor) -> Tensor:
        mean, std = self.encode(seen)
        z = (mean + std * noise).flatten(0, 1)
        path = torchdiffeq.odeint(lambda t, y: self.field(y), z, target.times, **self.solver)
        x = self.emission(path).unflatten(1, (SAMPLES, BATCH)).permute(1, 2, 0, 3)
        each = torch.distributions.Normal(x, NOISE).log_prob(target.values)
        likelihood = torch.where(target.mask, each, 0.0).sum((-2, -1)).mean(0)
        law = torch.distributions.Normal(mean, std)
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
        return likelihood - torch.distributions.kl_divergence(law, prior).sum(-1)


class Contender:
    """One training step, and the loss and gradient that it sees."""

    def __init__(self, model: nn.Module, seen: Series, target: Series) -> None:
        self.model, self.seen, self.target = model, seen, target
        self.parameters = list(model.parameters())
        self.adam = torch.optim.Adam(self.parameters, 0.0, fused=True)  # the weights stay equal

    def loss(self) -> Tensor:
        if isinstance(self.model, LatentODE):
            bound = self.model.elbo(self.seen, self.target, samples=SAMPLES, generator=rng(9))
        else:
            noise = torch.randn(SAMPLES, 1, BATCH, LATENT, generator=rng(9))[:, 0]
            bound = self.model.elbo(self.seen, self.target, noise)
        return -bound.mean()

    def step(self) -> None:
        self.adam.zero_grad()
        self.loss().backward()
        self.adam.step()

    def start_gradient(self) -> Tensor:
        """The loss' gradient for the head's last bias: it has passed the decoder and the head."""
        head = self.model.head
        bias = head.biases[-1] if isinstance(head, Stack) else head[-1].bias
        field = self.model.encoder.field if isinstance(head, Stack) else self.model.encoder_field
        first = field.biases[0] if isinstance(head, Stack) else field[0].bias
        found = torch.autograd.grad(self.loss(), [bias, first])
        return torch.cat([part.flatten() for part in found])


def copy(weights: LatentODE, method: str, step_size: float | None = None, **solver) -> LatentODE:
    model = new_model(method, step_size, **solver)
    model.load_state_dict(weights.state_dict())
    return model


def rows(seconds: float = 6.0) -> tuple[list[Row], list[tuple[str, str, float, float]]]:
    """The goals; and for each contender its time and its relative error of the gradient."""
    weights = trained()
    goals: list[Row] = []
    lines: list[tuple[str, str, float, float]] = []
    for name, (seen, target) in problems().items():
        tight = copy(weights, "rk4", 0.02, rtol=1e-6, atol=1e-7)
        exact = Contender(tight, seen, target).start_gradient()

        def error(one: Contender, exact=exact) -> float:
            return float((one.start_gradient() - exact).norm() / exact.norm())

        fine = Peer(weights, short=False, method="rk4")
        fine.solver |= {"rtol": 1e-6, "atol": 1e-7}
        gap = error(Contender(fine, seen, target))
        goals.append(Row(f"{name}: fine steps, gradients differ by", gap, "<=1e-2"))
        work = {
            "torchdiffeq": Contender(Peer(weights, short=False), seen, target),
            "torchdiffeq, short": Contender(Peer(weights, short=True), seen, target),
        }
        errors = {who: error(one) for who, one in work.items()}
        for method, step_size in CHOICES:
            ours = Contender(copy(weights, method, step_size), seen, target)
            errors["ours"] = error(ours)
            if errors["ours"] <= errors["torchdiffeq"]:
                break
        work["ours"] = ours
        times = Times({who: one.step for who, one in work.items()}, seconds=seconds)
        goals.append(Row(f"{name}: over torchdiffeq", times.ratio("torchdiffeq", "ours"), ">=3"))
        goals.append(
            Row(
                f"{name}: over the released form",
                times.ratio("torchdiffeq, short", "ours"),
                ">=2",
                ">=3",
            )
        )
        for who in work:
            longest = "a gap" if step_size is None else f"{step_size}"
            shown = f"ours, {method} to {longest}" if who == "ours" else who
            lines.append((name, shown, times.ms(who), errors[who]))
    return goals, lines


if __name__ == "__main__":
    goals, lines = rows()
    report("make bench RECORD_LATENT=", goals, lines)
