"""Two unbiased estimates of the gradient of a mean, draw by draw, so that they can be compared."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, vmap

from nodes_tutorial.bayes.weights import checked_values
from nodes_tutorial.checks import check_count, check_generator

BASELINES = ("none", "leave-one-out")


def path_gradients(
    f: Callable[[Tensor], Tensor],
    q: nn.Module,
    n: int,
    *,
    entropy: bool = True,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "n ..."]]:
    r"""Reparametrized gradients of :math:`E_q[f(w) - \log q(w)]`, one for each draw.

    .. math:: \nabla_\phi \bigl[f(t(\phi,\varepsilon_i)) -
        \log q_\phi(t(\phi,\varepsilon_i))\bigr]

    It takes one forward derivative for each parameter: a tool to measure variances, for q with few
    parameters. To train, differentiate ``elbo``.

    Args:
        f: maps draws of shape (n, \*event) to numbers of shape (n,), differentiable.
        q: the law, a module with ``rsample_and_log_prob``.
        n: number of draws.
        entropy: whether :math:`-\log q` belongs to the mean, as it does in the evidence lower
            bound.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        For the name of each parameter of ``q``, the gradients with the draws as first axis.

    Raises:
        TypeError: ``n`` is not an integer, ``generator`` is not a generator, or ``f``
            returns no floating-point tensor.
        ValueError: ``n`` below 1, or ``f`` returns another shape than (n,).

    Chapter: thm-inference-reparam

    References: Kingma and Welling (2014), section 2.4; Mohamed et al. (2020), section 5.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, path_gradients
    >>> q = MeanFieldGaussian(torch.zeros(2))
    >>> path_gradients(lambda w: w.sum(-1), q, 3, entropy=False)["mean"]
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """
    check_count("n", n, least=1)
    check_generator(generator)
    draw = _Method(q, "rsample_and_log_prob")

    def values(parameters: dict[str, Tensor]) -> Tensor:
        w, log_q = functional_call(draw, parameters, (n, generator))
        found = checked_values("f", f, w)
        return found - log_q if entropy else found

    rows = jacfwd(values, randomness="same")(draw.weights())
    return draw.named(rows)


def score_gradients(
    f: Callable[[Tensor], Tensor],
    q: nn.Module,
    n: int,
    *,
    entropy: bool = True,
    baseline: str = "none",
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "n ..."]]:
    r"""Score-function gradients of :math:`E_q[f(w) - \log q(w)]`, one for each draw.

    .. math:: \bigl(f(w_i) - \log q_\phi(w_i) - b_i\bigr)\,\nabla_\phi\log q_\phi(w_i)

    f is never differentiated, so it may have jumps. The baseline ``"leave-one-out"`` is the mean
    over the other draws. It does not depend on the draw, so the mean stays right.

    Args:
        f: maps draws of shape (n, \*event) to numbers of shape (n,).
        q: the law, a module with ``sample`` and ``log_prob``.
        n: number of draws.
        entropy: whether :math:`-\log q` belongs to the mean.
        baseline: ``"none"`` or ``"leave-one-out"``.
        generator: source of the draws; None means PyTorch's global one.

    Returns:
        For the name of each parameter of ``q``, the gradients with the draws as first axis.

    Raises:
        TypeError: as for ``path_gradients``.
        ValueError: as for ``path_gradients``; an unknown ``baseline``, or one draw with
            ``"leave-one-out"``.

    Chapter: prop-inference-score

    References: Williams (1992); Mohamed et al. (2020), section 4.

    >>> import torch
    >>> from nodes_tutorial.bayes import MeanFieldGaussian, score_gradients
    >>> q = MeanFieldGaussian(torch.zeros(2))
    >>> score_gradients(lambda w: w.sum(-1), q, 5)["rho"].shape
    torch.Size([5, 2])
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {BASELINES}, got {baseline!r}")
    check_count("n", n, least=1 if baseline == "none" else 2)
    check_generator(generator)
    w = _Method(q, "sample")(n, generator)
    log_prob = _Method(q, "log_prob")
    with torch.no_grad():
        height = checked_values("f", f, w)
        if entropy:
            height = height - log_prob(w)
    if baseline == "leave-one-out":
        height = (height - height.mean()) * (n / (n - 1))

    def score(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(log_prob, parameters, (point,))

    scores = vmap(torch.func.grad(score), in_dims=(None, 0))(log_prob.weights(), w)
    rows = {name: height.view(-1, *[1] * (row.ndim - 1)) * row for name, row in scores.items()}
    return log_prob.named(rows)


class _Method(nn.Module):
    """A method of a module as a module of its own, which ``functional_call`` wants."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *args: object) -> object:
        return getattr(self.module, self.method)(*args)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.named_parameters()}

    def named(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("module."): row for name, row in rows.items()}
