"""Meta-gradients beside higher, TorchOpt and JAX: sinusoids, and four blocks of convolutions.

Everyone computes the gradient of second order through the same inner steps, from the same weights
and tasks, in float32. The peers are

- higher: `innerloop_ctx` with `DifferentiableOptimizer` of SGD, one task after the other;
- TorchOpt: `MetaSGD`, one task after the other, its state extracted and recovered;
- JAX: `jit` of `grad` of `vmap`;
- PyTorch, literal: a plain loop with `functional_call`.

The reference is the same gradient in float64. learn2learn's wheel does not build with Python 3.11;
a run of its `clone` and `adapt` elsewhere was recorded at 1.01 of the plain loop for convolutions.
"""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import jax
import jax.numpy as jnp
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy, mse_loss

from benchmarks.harness import Row, Times, report
from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import Tasks, TaskSampler
from nodes_tutorial.meta import ProtoNet, maml, unrolled_loss
from nodes_tutorial.nets import MLP, Conv4

try:
    import higher
    import torchopt
except ModuleNotFoundError:  # they are not in the extra: pip install torchopt==0.7.3 higher==0.2.1
    higher = torchopt = None

torch.set_num_threads(1)
STEPS = 5
WAVES, BLOCKS = "sinusoids, 25 tasks, 5 steps", "conv-4, 32 channels, 16 tasks, 5 steps"


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perceptron() -> tuple[nn.Module, Tasks]:
    net = MLP([1, 40, 40, 1], "relu", generator=rng(0))
    return net, Sinusoids(10, 10).sample(25, rng(1))


def twin(net: nn.Module, width: int = 32) -> nn.Module:
    """The package's network, whose normalization ``vmap`` can differentiate twice."""
    same = Conv4(width=width, pool="max", classes=5)
    with torch.no_grad():
        for ours, other in zip(same.parameters(), net.parameters(), strict=True):
            ours.copy_(other)
    return same


def convolutions(width: int = 32) -> tuple[nn.Module, Tasks]:
    """The net of mini-ImageNet for pictures of 28×28, with statistics of each batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [
            nn.Conv2d(width if i else 1, width, 3, padding=1),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 5))
    images = torch.rand(100 * 10, 1, 28, 28, generator=rng(2))
    labels = torch.arange(100).repeat(10)
    return net, TaskSampler(images, labels, ways=5, shots=1, queries=5).sample(16, rng(1))


class Problem:
    """A network, its tasks and the step size; the loss is that of the targets."""

    def __init__(self, net: nn.Module, tasks: Tasks, lr: float) -> None:
        self.net, self.tasks, self.lr = net, tasks, lr
        self.loss = mse_loss if tasks.query_y.is_floating_point() else cross_entropy
        wide = [part.double() if part.is_floating_point() else part for part in tasks]
        net.double()
        self.exact = self.ours(Tasks(*wide), batching="loop")
        net.float()

    def ours(self, tasks: Tasks | None = None, **options) -> list[Tensor]:
        tasks = self.tasks if tasks is None else tasks
        found, _ = maml(
            self.net, tasks.support, tasks.query, steps=STEPS, lr=self.lr, order=2, **options
        )
        return list(found.values())

    def literal(self) -> list[Tensor]:
        weights = dict(self.net.named_parameters())
        total = torch.zeros(())
        for sx, sy, qx, qy in zip(*self.tasks, strict=True):
            own = weights
            for _ in range(STEPS):
                value = self.loss(functional_call(self.net, own, (sx,)), sy)
                slopes = torch.autograd.grad(value, list(own.values()), create_graph=True)
                own = {n: w - self.lr * s for (n, w), s in zip(own.items(), slopes, strict=True)}
            total = total + self.loss(functional_call(self.net, own, (qx,)), qy)
        return list(torch.autograd.grad(total / len(self.tasks.query_y), list(weights.values())))

    def with_higher(self) -> list[Tensor]:
        sgd = torch.optim.SGD(self.net.parameters(), self.lr)
        self.net.zero_grad()
        for sx, sy, qx, qy in zip(*self.tasks, strict=True):
            with higher.innerloop_ctx(self.net, sgd, copy_initial_weights=False) as (net, steps):
                for _ in range(STEPS):
                    steps.step(self.loss(net(sx), sy))
                (self.loss(net(qx), qy) / len(self.tasks.query_y)).backward()
        return [p.grad for p in self.net.parameters()]

    def with_torchopt(self) -> list[Tensor]:
        sgd = torchopt.MetaSGD(self.net, lr=self.lr)
        self.net.zero_grad()
        start = torchopt.extract_state_dict(self.net, by="reference")
        first = torchopt.extract_state_dict(sgd, by="reference")
        leaves = list(self.net.parameters())
        for sx, sy, qx, qy in zip(*self.tasks, strict=True):
            for _ in range(STEPS):
                sgd.step(self.loss(self.net(sx), sy))
            (self.loss(self.net(qx), qy) / len(self.tasks.query_y)).backward()
            torchopt.recover_state_dict(self.net, start)
            torchopt.recover_state_dict(sgd, first)
        return [p.grad for p in leaves]

    def compiled_by_task(self):
        """One compiled function, called for one task after the other."""
        mean_loss = unrolled_loss(self.net, steps=STEPS, order=2, loss=self.loss)
        gradient = torch.compile(grad(mean_loss))
        weights = {name: p.detach() for name, p in self.net.named_parameters()}
        own = [((sx[None], sy[None]), (qx[None], qy[None]))
               for sx, sy, qx, qy in zip(*self.tasks, strict=True)]  # fmt: skip

        def mean() -> list[Tensor]:
            found = [gradient(weights, self.lr, *pair) for pair in own]
            return [sum(part[name] for part in found) / len(own) for name in weights]

        return mean

    def compiled(self):
        mean_loss = unrolled_loss(self.net, steps=STEPS, order=2, loss=self.loss)
        gradient = torch.compile(grad(mean_loss))
        weights = {name: p.detach() for name, p in self.net.named_parameters()}
        tasks = self.tasks
        return lambda: list(gradient(weights, self.lr, tasks.support, tasks.query).values())


def with_jax(problem: Problem):
    """The perceptron alone."""
    start = [jnp.asarray(p.detach().numpy()) for p in problem.net.parameters()]
    data = [jnp.asarray(part.numpy()) for part in problem.tasks]

    def loss(weights, x, y):
        for i in range(0, len(weights), 2):
            x = (jnp.maximum(x, 0) if i else x) @ weights[i].T + weights[i + 1]
        return jnp.mean((x - y) ** 2)

    def of_task(weights, sx, sy, qx, qy):
        for _ in range(STEPS):
            slopes = jax.grad(loss)(weights, sx, sy)
            weights = [w - problem.lr * s for w, s in zip(weights, slopes, strict=True)]
        return loss(weights, qx, qy)

    def mean_loss(weights, *data):
        return jnp.mean(jax.vmap(of_task, (None, 0, 0, 0, 0))(weights, *data))

    gradient = jax.jit(jax.grad(mean_loss))
    return lambda: jax.block_until_ready(gradient(start, *data))


def error(problem: Problem, found) -> float:
    parts = [p if isinstance(p, Tensor) else torch.tensor(jnp.asarray(p).tolist()) for p in found]
    flat = torch.cat([p.double().flatten() for p in parts])
    exact = torch.cat([p.flatten() for p in problem.exact])
    return float((flat - exact).norm() / exact.norm())


def measured(name: str, problem: Problem, work: dict, seconds: float) -> tuple[Times, list]:
    times = Times(work, seconds=seconds, least=3)
    lines = [(name, who, times.ms(who), error(problem, run())) for who, run in work.items()]
    return times, lines


def peers(problem: Problem) -> dict:
    found = {"plain loop": problem.literal}
    if higher is not None:
        found |= {"higher": problem.with_higher, "TorchOpt": problem.with_torchopt}
    return found


def sampling() -> Row:
    """The share of the draw in the cheapest step: a prototype network, one episode of 20 ways."""
    images = torch.rand(1600 * 20, 1, 28, 28, generator=rng(3))
    labels = torch.arange(1600).repeat_interleave(20)
    sampler = TaskSampler(images, labels, ways=20, shots=1, queries=5, rotations=True)
    net, draws = ProtoNet(Conv4(width=32, norm="running"), check=False), rng(4)
    adam = torch.optim.Adam(net.parameters())
    tasks = sampler.sample(1, draws)

    def step() -> None:
        adam.zero_grad()
        net.loss(tasks.support, tasks.query, 20).backward()
        adam.step()

    times = Times({"draw": lambda: sampler.sample(1, draws), "step": step}, seconds=3.0)
    return Row("sampling: share of a step of a prototype network", times.ratio("draw", "step"),
               "<=0.05")  # fmt: skip


def main() -> None:
    waves = Problem(*perceptron(), 0.01)
    work = {
        "ours": waves.ours,
        "ours, vmap": lambda: waves.ours(batching="vmap"),
        "ours, compiled": waves.compiled(),
        "JAX, compiled": with_jax(waves),
        **peers(waves),
    }
    times, errors = measured(WAVES, waves, work, 8.0)
    best = min(peers(waves), key=times.ms)
    rows = [
        Row("sinusoids: over the fastest peer in PyTorch", times.ratio(best, "ours"), ">=10", "13"),
        Row("sinusoids, compiled: over it", times.ratio(best, "ours, compiled"), ">=25", "31"),
        Row("sinusoids, compiled: over JAX", times.ratio("ours, compiled", "JAX, compiled"),
            "<=1.7", "1.5"),
    ]  # fmt: skip

    net, tasks = convolutions()
    ours = Problem(twin(net), tasks, 0.01)
    blocks = Problem(net, tasks, 0.01)
    work = {
        "ours": blocks.ours,
        "ours, compiled": ours.compiled_by_task(),
        **peers(blocks),
    }
    times, found = measured(BLOCKS, blocks, work, 4.0)
    best = min(peers(blocks), key=times.ms)
    rows += [
        Row("conv-4: over the fastest peer", times.ratio(best, "ours"), ">=1.0", "1.1"),
        Row("conv-4, compiled: over it", times.ratio(best, "ours, compiled"), ">=1.2"),
    ]
    rows.append(sampling())
    report("make bench RECORD_META=", rows, errors + found)


if __name__ == "__main__":
    main()
