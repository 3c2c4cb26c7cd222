"""Hypergradients beside TorchOpt and JAX: 10,000 log weight decays, the inner optimum given.

Two problems in float32: ridge regression (1,000 rows, 10,000 columns) and softmax regression (1,000
columns, 10 classes). Everyone solves with the Hessian by 30 iterations of conjugate gradients, from
the same optimum. The peers are

- TorchOpt: `custom_root` with `solve_cg`, and with `solve_normal_cg`, its default;
- JAX: `jax.scipy.sparse.linalg.cg` with products by `jax.jvp` of the gradient, compiled;
- PyTorch, literal: `torch.func.jvp` of `torch.func.grad`, traced at each iteration.

The reference is a solve in float64, of the ridge by the matrix of the rows, of the softmax by
conjugate gradients to 1e-12. A Neumann series with the same number of products stands beside them.
The weights of the softmax are (classes, columns) for all. TorchOpt is also run with (columns,
classes), as a product `x @ w` is usually written: the same mathematics, but slower products.
"""

from benchmarks import single  # noqa: F401, I001  before jax and torch
import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, Times, report
from nodes_tutorial.implicit import hypergradient, newton_cg
from nodes_tutorial.linalg import cg

try:
    import torchopt
except ModuleNotFoundError:  # it is not in the extra: pip install torchopt==0.7.3
    torchopt = None

torch.set_num_threads(1)
K = 30
RIDGE, SOFTMAX = "ridge 1000 x 10000", "softmax 1000 x 1000 x 10"


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Ridge:
    """Half the squared error in the mean, and a decay for each weight."""

    def __init__(self, rows: int = 1000, columns: int = 10_000) -> None:
        self.lam = 0.35 * torch.randn(columns, generator=rng(0))
        self.x, self.held = (
            torch.randn(n, columns, generator=rng(s)) / columns**0.5
            for n, s in ((rows, 1), (200, 2))
        )
        truth = torch.randn(columns, generator=rng(3))
        self.y, self.answers = (x @ truth + 0.1 * torch.randn(len(x), generator=rng(4))
                                for x in (self.x, self.held))  # fmt: skip
        inverse = (-self.lam.double()).exp()
        x = self.x.double()
        inner = torch.eye(rows, dtype=torch.float64) + (x * inverse) @ x.T

        def solve(b: Tensor) -> Tensor:
            b = inverse * b
            return b - inverse * (x.T @ torch.linalg.solve(inner, x @ b))

        w = solve(x.T @ self.y.double())
        g = self.held.double().T @ (self.held.double() @ w - self.answers.double())
        self.exact = -self.lam.double().exp() * w * solve(g)
        self.w = w.float()

    def train(self, w: Tensor, lam: Tensor) -> Tensor:
        return ((self.x @ w - self.y).square().sum() + (lam.exp() * w.square()).sum()) / 2

    def val(self, w: Tensor, lam: Tensor) -> Tensor:
        return (self.held @ w - self.answers).square().sum() / 2

    def for_jax(self):
        def train(data, w, lam):
            return (jnp.sum((data[0] @ w - data[1]) ** 2) + jnp.sum(jnp.exp(lam) * w**2)) / 2

        def val(data, w):
            return jnp.sum((data[2] @ w - data[3]) ** 2) / 2

        return train, val, (self.x, self.y, self.held, self.answers)


class Softmax:
    """The mean cross-entropy, and a decay for each weight; weights are (classes, columns)."""

    def __init__(self, rows: int = 2000, columns: int = 1000, classes: int = 10) -> None:
        self.lam = -4.5 + 0.35 * torch.randn(classes, columns, generator=rng(0))
        centers = torch.randn(classes, columns, generator=rng(1))
        self.labels, self.names = (
            torch.randint(classes, (n,), generator=rng(s)) for n, s in ((rows, 2), (500, 3))
        )
        self.x, self.held = (
            (0.2 * centers[c] + torch.randn(len(c), columns, generator=rng(4))) / columns**0.5
            for c in (self.labels, self.names)
        )
        self.make(torch.float64)
        w = newton_cg(lambda w: self.train(w, self.lam), torch.zeros(classes, columns).double(),
                      tol=1e-10)  # fmt: skip
        self.exact, _ = hypergradient(self.train, self.val, w, self.lam, rtol=1e-12)
        self.make(torch.float32)
        self.w, self.exact = w.float(), self.exact.flatten()

    def make(self, dtype: torch.dtype) -> None:
        self.x, self.held, self.lam = (t.to(dtype) for t in (self.x, self.held, self.lam))

    def train(self, w: Tensor, lam: Tensor) -> Tensor:
        decay = (lam.exp() * w.square()).sum() / 2
        return F.cross_entropy(F.linear(self.x, w), self.labels) + decay

    def val(self, w: Tensor, lam: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(self.held, w), self.names)

    def for_jax(self):
        def entropy(z, c):
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), c[:, None], 1))

        def train(data, w, lam):
            return entropy(data[0] @ w.T, data[1]) + jnp.sum(jnp.exp(lam) * w**2) / 2

        def val(data, w):
            return entropy(data[2] @ w.T, data[3])

        return train, val, (self.x, self.labels, self.held, self.names)


def ours(problem, solver: str = "cg", terms: int = K) -> Tensor:
    found, _ = hypergradient(
        problem.train, problem.val, problem.w, problem.lam,
        solver=solver, terms=terms, stationary=None, rtol=0.0,
    )  # fmt: skip
    return found


def with_torchopt(problem, solve) -> Tensor:
    lam, w = problem.lam.clone().requires_grad_(), problem.w

    @torchopt.diff.implicit.custom_root(torch.func.grad(problem.train), argnums=1, solve=solve)
    def optimum(start, lam):
        return w

    return torch.autograd.grad(problem.val(optimum(w, lam), lam), lam)[0]


class Columns:
    """The softmax with weights (columns, classes)."""

    def __init__(self, problem: Softmax) -> None:
        self.base, self.w, self.lam = problem, problem.w.T.contiguous(), problem.lam.T.contiguous()

    def train(self, w: Tensor, lam: Tensor) -> Tensor:
        decay = (lam.exp() * w.square()).sum() / 2
        return F.cross_entropy(self.base.x @ w, self.base.labels) + decay

    def val(self, w: Tensor, lam: Tensor) -> Tensor:
        return F.cross_entropy(self.base.held @ w, self.base.names)


def literal(problem) -> Tensor:
    """A product by forward over reverse, traced anew at each iteration."""
    w, lam = problem.w, problem.lam
    slope = torch.func.grad(problem.train)
    g = torch.func.grad(problem.val)(w, lam)

    def product(v: Tensor) -> Tensor:
        along = v.view_as(w)
        return torch.func.jvp(lambda w: slope(w, lam), (w,), (along,))[1].flatten()

    v = cg(product, g.flatten(), rtol=0.0, max_iterations=K).x.view_as(w)
    return -torch.func.vjp(lambda lam: slope(w, lam), lam)[1](v)[0]


def with_jax(problem):
    train, val, data = problem.for_jax()

    @jax.jit
    def run(data, w, lam):
        def slope(w, lam):
            return jax.grad(train, 1)(data, w, lam)

        def product(v):
            return jax.jvp(lambda w: slope(w, lam), (w,), (v,))[1]

        g = jax.grad(val, 1)(data, w)
        v, _ = jax.scipy.sparse.linalg.cg(product, g, tol=0.0, maxiter=K)
        return -jax.vjp(lambda lam: slope(w, lam), lam)[1](v)[0]

    arguments = jax.tree.map(jnp.asarray, (data, problem.w, problem.lam))
    return lambda: run(*arguments).block_until_ready()


def analytic(problem: Ridge) -> Tensor:
    """What K products with the Hessian cost by themselves."""
    v, decay = problem.w, problem.lam.exp()
    for _ in range(K):
        v = torch.addcmul((problem.x @ v) @ problem.x, decay, v)
    return v


def torchopt_work(problem) -> dict:
    plain = torchopt.linear_solve.solve_cg(maxiter=K, atol=0.0, rtol=0.0)
    normal = torchopt.linear_solve.solve_normal_cg(maxiter=K, atol=0.0, rtol=0.0)
    work = {
        "TorchOpt, CG": lambda: with_torchopt(problem, plain),
        "TorchOpt, normal CG": lambda: with_torchopt(problem, normal),
    }
    if isinstance(problem, Softmax):
        turned = Columns(problem)
        work["TorchOpt, CG, x @ w"] = lambda: with_torchopt(turned, plain).T
    return work


def needed(problem, solver: str, candidates: range) -> int:
    """Fewest products of the candidates with an error below 1e-3."""
    return next(k for k in candidates if error(problem, ours(problem, solver, k)) < 1e-3)


def error(problem, found) -> float:
    found = torch.as_tensor(jnp.asarray(found).tolist() if not isinstance(found, Tensor) else found)
    exact = problem.exact.flatten()
    return float((found.double().flatten() - exact).norm() / exact.norm())


def main() -> None:
    rows, errors = [], []
    for name, problem in ((RIDGE, Ridge()), (SOFTMAX, Softmax())):
        work = {
            "ours, CG": lambda p=problem: ours(p),
            "ours, Neumann": lambda p=problem: ours(p, "neumann"),
            "JAX, compiled": with_jax(problem),
            "jvp of grad": lambda p=problem: literal(p),
        }
        if name == RIDGE:
            work["products alone"] = lambda p=problem: analytic(p)
        if torchopt is not None:
            work |= torchopt_work(problem)
        times = Times(work, seconds=10.0)
        for contender in work:
            found = work[contender]()
            off = float("nan") if contender == "products alone" else error(problem, found)
            errors.append((name, contender, times.ms(contender), off))
        off = error(problem, ours(problem))
        rows.append(Row(f"{name}: error at {K} products", off, "<=1e-5", "3e-6"))
        if torchopt is not None:
            over = times.ratio("TorchOpt, CG", "ours, CG")
            rows.append(Row(f"{name}: over TorchOpt", over, ">=1.0", "1.08"))
        if name == RIDGE:
            share = times.ratio("ours, CG", "products alone")
            rows.append(Row(f"{name}: over {K} products alone", share, "<=1.3", "1.1"))
        elif torchopt is not None:
            over = times.ratio("TorchOpt, CG, x @ w", "ours, CG")
            rows.append(Row(f"{name}: over TorchOpt with x @ w", over, ">=2.2", "2.5"))
        least, most = (
            needed(problem, "cg", range(1, 40)),
            needed(problem, "neumann", range(20, 400, 5)),
        )
        rows.append(
            Row(f"{name}: products to 1e-3, CG over Neumann", least / most, "<=0.2", "0.14")
        )
    report("make bench RECORD_IMPLICIT=", rows, errors)


if __name__ == "__main__":
    main()
