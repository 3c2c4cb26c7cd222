"""What is contracted from the gradients of single examples: BackPACK, `torch.func`, JAX.

One network, 784-256-10 with ReLU, 256 examples, float32, and three quantities:

- the diagonal of the empirical Fisher matrix of the cross-entropy;
- the Gram matrix of the gradients of the cross-entropy;
- the neural tangent kernel of all ten outputs, of shape (256, 256, 10, 10).

The peers are `torch.func.vmap` of `grad`, and of `jacrev` with `einsum`; BackPACK with gradients of
single examples (`BatchGrad`) and with its own sum of squares (`SumGradSquared`); JAX, compiled, in
the same literal way as `torch.func`. An ordinary gradient of the mean loss stands beside the first
two.

The references are in float64: gradients of single examples by `vmap`, and the kernel of a network
with one hidden layer written out.
"""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from benchmarks.harness import Row, Times, report
from nodes_tutorial.generalization import categorical, empirical_fisher, empirical_ntk

try:
    import backpack
    from backpack.extensions import BatchGrad, SumGradSquared
except ModuleNotFoundError:  # it is not in the extra: pip install backpack-for-pytorch==1.7.1
    backpack = None

torch.set_num_threads(1)
N, INPUTS, HIDDEN, CLASSES = 256, 784, 256, 10
DIAGONAL, GRAM, KERNEL = "Fisher diagonal", "Gram matrix", "tangent kernel"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


NET, EXTENDED = network(), network()
X = torch.randn(N, INPUTS, generator=torch.Generator().manual_seed(1))
Y = torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(2))
WEIGHTS = {name: p.detach() for name, p in NET.named_parameters()}
LAW = categorical()
if backpack is not None:
    backpack.extend(EXTENDED)
    MEAN_LOSS = backpack.extend(nn.CrossEntropyLoss())


def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(functional_call(NET, weights, (x[None],)), y[None])


def single_gradients(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    return vmap(grad(loss_of), (None, 0, 0))(weights, x, Y)


def flat(parts) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def one_gradient() -> Tensor:
    return flat(torch.autograd.grad(F.cross_entropy(NET(X), Y), list(NET.parameters())))


def diagonal_by_vmap() -> Tensor:
    return flat(g.square().sum(0) for g in single_gradients(WEIGHTS, X).values()) / N


def gram_by_vmap() -> Tensor:
    rows = torch.cat([g.flatten(1) for g in single_gradients(WEIGHTS, X).values()], 1)
    return rows @ rows.T / N


def kernel_by_jacobians() -> Tensor:
    rows = vmap(jacrev(lambda w, x: functional_call(NET, w, (x[None],))[0]), (None, 0))(WEIGHTS, X)
    total = torch.zeros(N, N, CLASSES, CLASSES)
    for part in rows.values():
        total += torch.einsum("nod,mpd->nmop", part.flatten(2), part.flatten(2))
    return total


def with_backpack(extension) -> list[nn.Parameter]:
    """Parameters with what the extension leaves at them; its gradients are those of the mean."""
    parameters = list(EXTENDED.parameters())
    with backpack.backpack(extension):
        MEAN_LOSS(EXTENDED(X), Y).backward(inputs=parameters)
    return parameters


def diagonal_by_squares() -> Tensor:
    return flat(p.sum_grad_squared for p in with_backpack(SumGradSquared())) * N


def diagonal_by_rows() -> Tensor:
    return flat(p.grad_batch.square().sum(0) for p in with_backpack(BatchGrad())) * N


def gram_by_rows() -> Tensor:
    rows = torch.cat([p.grad_batch.flatten(1) for p in with_backpack(BatchGrad())], 1)
    return rows @ rows.T * N


def for_jax() -> dict:
    """Compiled functions of nothing."""
    w = [jnp.asarray(p.detach().numpy()) for p in NET.parameters()]
    x, y = jnp.asarray(X.numpy()), jnp.asarray(Y.numpy())

    def out(w, x):
        return w[2] @ jax.nn.relu(w[0] @ x + w[1]) + w[3]

    def loss(w, x, y):
        return -jax.nn.log_softmax(out(w, x))[y]

    def rows(w):
        return jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, y)

    @jax.jit
    def diagonal(w):
        return jnp.concatenate([jnp.mean(g**2, 0).ravel() for g in rows(w)])

    @jax.jit
    def gram(w):
        return sum(g.reshape(N, -1) @ g.reshape(N, -1).T for g in rows(w)) / N

    @jax.jit
    def kernel(w):
        parts = jax.vmap(jax.jacrev(out), (None, 0))(w, x)
        parts = [part.reshape(N, CLASSES, -1) for part in parts]
        return sum(jnp.einsum("nod,mpd->nmop", part, part) for part in parts)

    return {
        DIAGONAL: lambda: diagonal(w).block_until_ready(),
        GRAM: lambda: gram(w).block_until_ready(),
        KERNEL: lambda: kernel(w).block_until_ready(),
    }


def exact() -> dict[str, Tensor]:
    """The three quantities in float64, none by the package."""
    w = {name: p.double() for name, p in WEIGHTS.items()}
    x = X.double()
    rows = torch.cat([g.flatten(1) for g in single_gradients(w, x).values()], 1)
    first, last = w["0.weight"], w["2.weight"]
    h = x @ first.T + w["0.bias"]
    back = (last * (h > 0)[:, None]).flatten(0, 1)  # a row for each example and output
    inner = (back @ back.T).view(N, CLASSES, N, CLASSES).transpose(1, 2)
    kernel = inner * (x @ x.T + 1)[..., None, None]
    kernel += (h.relu() @ h.relu().T + 1)[..., None, None] * torch.eye(CLASSES)
    return {DIAGONAL: rows.square().mean(0), GRAM: rows @ rows.T / N, KERNEL: kernel}


def work() -> dict[str, dict]:
    compiled = for_jax()
    diagonal = {
        "ours": lambda: empirical_fisher(NET, X, Y, likelihood=LAW).diagonal(),
        "vmap of grad": diagonal_by_vmap,
        "JAX, compiled": compiled[DIAGONAL],
        "one gradient": one_gradient,
    }
    gram = {
        "ours": lambda: empirical_fisher(NET, X, Y, likelihood=LAW).gram(),
        "vmap of grad": gram_by_vmap,
        "JAX, compiled": compiled[GRAM],
        "one gradient": one_gradient,
    }
    if backpack is not None:
        diagonal |= {
            "BackPACK, rows": diagonal_by_rows,
            "BackPACK, squares": diagonal_by_squares,
        }
        gram["BackPACK, rows"] = gram_by_rows
    kernel = {
        "ours": lambda: empirical_ntk(NET, X),
        "jacrev and einsum": kernel_by_jacobians,
        "JAX, compiled": compiled[KERNEL],
    }
    return {DIAGONAL: diagonal, GRAM: gram, KERNEL: kernel}


def main() -> None:
    rows, errors, references = [], [], exact()
    for problem, contenders in work().items():
        long = problem == KERNEL  # half a minute a round
        times = Times(contenders, seconds=0.0 if long else 12.0, least=3 if long else 6)
        for name, run in contenders.items():
            off = float("nan")
            if name != "one gradient":
                found = torch.as_tensor(np.array(run()) if "JAX" in name else run()).double()
                off = float((found - references[problem]).norm() / references[problem].norm())
            errors.append((problem, name, times.ms(name), off))
        if problem == DIAGONAL:
            rows.append(goal(times, problem, "vmap of grad", ">=60", "85"))
            share = times.ratio("ours", "one gradient")
            rows.append(Row(f"{problem}: over one gradient", share, "<=1.3", "1.05"))
            if backpack is not None:
                rows.append(goal(times, problem, "BackPACK, rows", ">=60", "82"))
                rows.append(goal(times, problem, "BackPACK, squares", ">=1.0", ""))
        elif problem == GRAM:
            rows.append(goal(times, problem, "vmap of grad", ">=80", "120"))
            if backpack is not None:
                rows.append(goal(times, problem, "BackPACK, rows", ">=80", "120"))
        else:
            rows.append(goal(times, problem, "jacrev and einsum", ">=50", "74"))
            rows.append(goal(times, problem, "JAX, compiled", ">=40", "60"))
    report("make bench RECORD_PERNET=", rows, errors)


def goal(times: Times, problem: str, peer: str, gate: str, stretch: str) -> Row:
    return Row(f"{problem}: {peer} over ours", times.ratio(peer, "ours"), gate, stretch)


if __name__ == "__main__":
    main()
