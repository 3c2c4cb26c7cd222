"""The variational contrastive divergence: a law that a Markov kernel cannot improve."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nodes_tutorial.bayes.weights import checked_values
from nodes_tutorial.checks import check_count, check_generator, check_points

BASELINES = ("none", "leave-one-out")

Kernel = Callable[[Tensor, torch.Generator | None], Tensor]


@runtime_checkable
class TrainedLaw(Protocol):
    """What can be trained here: the Gaussians of this part, and every flow."""

    def rsample_and_log_prob(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]: ...

    def log_prob(self, x: Tensor, /) -> Tensor: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


class VCDGradient(NamedTuple):
    """An estimate of the gradient of the divergence, and what it was made of.

    Chapter: thm-vcd-gradient
    """

    gradient: dict[str, Tensor]
    """For the name of each trained parameter of q, the estimate."""
    loss: Float[Tensor, ""]
    """Estimate of the divergence itself, in nats; a single one may be negative."""
    moved: Float[Tensor, "n ..."]
    """The draws of q after the kernel; a model's own parameters can learn from them."""
    values: Float[Tensor, " n"]
    """log p(D, z) - log q(z) at the moved draws; the mean of earlier ones is a baseline."""


def vcd_gradient(
    log_joint: Callable[[Tensor], Tensor],
    q: TrainedLaw,
    kernel: Kernel,
    n: int,
    *,
    baseline: str | Tensor = "leave-one-out",
    generator: torch.Generator | None,
) -> VCDGradient:
    r"""Estimate the gradient of the variational contrastive divergence from n draws of q.

    .. math:: -\nabla_\phi f_\phi(t(\phi, \varepsilon)) + \nabla_\phi f_\phi(z_t)
        + (f_\phi(z_t) - b)\,\nabla_\phi\log q_\phi(z_0), \qquad
        f_\phi(z) = \log p(D, z) - \log q_\phi(z)

    Here :math:`z_0 = t(\phi, \varepsilon)` is a draw of q, and :math:`z_t` is where the kernel
    takes it. The first term is the path gradient of the evidence lower bound, and the last one
    is a score gradient with the baseline b.

    Args:
        log_joint: maps points of shape (n, \*event) to :math:`\log p(D, z)`, of shape (n,).
        q: the law to be trained, a module with ``rsample_and_log_prob`` and ``log_prob``.
        kernel: maps points and a generator to new points, each row for itself, such as
            ``HMCKernel``. It leaves the posterior invariant and must not depend on q.
        n: number of draws.
        baseline: ``"leave-one-out"``, the mean of f over the other draws; ``"none"``; or a
            tensor that does not depend on the draws, one number or one for each draw.
        generator: source of the draws and of the kernel's; None means PyTorch's global one.

    Returns:
        The estimate, with the loss, the moved draws and the values of f there.

    Raises:
        TypeError: ``n`` is not an integer, ``generator`` is not a generator, ``q`` lacks a
            method, or ``log_joint`` or ``kernel`` returns no floating-point tensor.
        ValueError: ``n`` too small, an unknown ``baseline`` or one of another shape, another
            shape from ``log_joint`` or ``kernel``, or a ``q`` with a parameter that its density
            does not depend on, or with none.

    Chapter: thm-vcd-gradient

    References: Ruiz and Titsias (2019), section 3.

    >>> import torch
    >>> from nodes_tutorial.bayes import HMCKernel, MeanFieldGaussian, vcd_gradient
    >>> log_joint = lambda z: -0.5 * z.square().sum(-1)
    >>> kernel = HMCKernel(log_joint, steps=3, leapfrog=5, step_size=0.2)
    >>> q = MeanFieldGaussian(torch.zeros(2), 0.5)
    >>> found = vcd_gradient(log_joint, q, kernel, 100, generator=torch.Generator().manual_seed(0))
    >>> found.gradient["rho"] < 0  # the scales should grow
    tensor([True, True])
    """
    least = 2 if isinstance(baseline, str) and baseline == "leave-one-out" else 1
    check_count("n", n, least=least)
    check_generator(generator)
    if not isinstance(q, TrainedLaw):
        raise TypeError(
            f"q must be a module with rsample_and_log_prob and log_prob, got {type(q).__name__}"
        )
    weights = {name: each for name, each in q.named_parameters() if each.requires_grad}
    if not weights:
        raise ValueError("q must have a parameter to be trained, got none")
    with torch.enable_grad():
        start, log_q = q.rsample_and_log_prob(n, generator)
        before = checked_values("log_joint", log_joint, start) - log_q
        start = start.detach()
        moved = _moved(kernel, start, generator)
        after = checked_values("log_joint", log_joint, moved) - q.log_prob(moved)
        height = after.detach() - _baseline(baseline, after.detach())
        score = q.log_prob(start)
        total = (after - before + height * score).mean()
        rows = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    gradient = {}
    for name, row in zip(weights, rows, strict=True):
        if row is None:
            raise ValueError(f"q must depend on all its parameters, got none of {name} in it")
        gradient[name] = row
    return VCDGradient(gradient, (after - before).detach().mean(), moved, after.detach())


def _moved(kernel: Kernel, start: Tensor, generator: torch.Generator | None) -> Tensor:
    moved = kernel(start, generator)
    check_points("the value of kernel", moved, like=start)
    if moved.shape != start.shape:
        raise ValueError(
            f"kernel must return points of shape {tuple(start.shape)}, got {tuple(moved.shape)}"
        )
    return moved.detach()


def _baseline(baseline: str | Tensor, values: Tensor) -> Tensor | float:
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {BASELINES} or a tensor, got {baseline!r}")
        n = len(values)
        return 0.0 if baseline == "none" else (values.sum() - values) / (n - 1)
    check_points("baseline", baseline, like=values)
    if baseline.shape not in ((), values.shape):
        raise ValueError(
            f"baseline must be one number or one for each of the {len(values)} draws, "
            f"got shape {tuple(baseline.shape)}"
        )
    return baseline.detach()
